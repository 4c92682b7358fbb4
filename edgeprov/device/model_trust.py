# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The decision that a model may run on this device: publisher's signature, trust policy, security floor.

Made at install before any layer is fetched, and again at each boot: a publisher whose anchor was
removed from trust.d in between is not trusted any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.errors import RegistryError, Rollback, SignatureInvalid, VerificationError
from edgeprov.verify.signature import verify_model_signature

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.signature_reading import FoundSignatures
    from edgeprov.formats.manifest import Manifest
    from edgeprov.formats.modelkit import ModelKit
    from edgeprov.verify.signer_identity import SignerIdentity


def verify_publisher(context: Context, manifest: Manifest, found: FoundSignatures) -> SignerIdentity:
    """Require one signature of a trusted publisher over this very manifest; one good signature is enough.

    Damaged signatures beside a good one are reported to the journal and change nothing.

    Raises:
        SignatureInvalid: None, or none that fits.
        RegistryError: None that fits, and the registry does not give one that it lists.
        SignerUntrusted: None by a publisher that trust.d names.
        PolicyDenied: The policy forbids it.
    """
    try:
        identity = verify_model_signature(manifest, found.artifacts, context.policy(), context.now())
    except VerificationError as error:
        if not found.damaged:
            raise
        if isinstance(error, SignatureInvalid):
            for damage in found.damaged:
                if isinstance(damage, RegistryError):
                    raise damage from error  # the registry lost it: nothing was judged, so nobody is accused
        unread = f"{len(found.damaged)} signatures could not be read, the first: {found.damaged[0].message}"
        raise type(error)(f"{error.message}; {unread}", advice=error.advice) from error
    for damage in found.damaged:
        journal.event(
            "signature-damaged",
            f"model {manifest.digest}: a signature cannot be read: {damage.message}",
            priority=journal.WARNING,
            to_stderr=False,
            model_digest=manifest.digest,
        )
    return identity


def verify_floor(kit: ModelKit, floor: int) -> None:
    """Require that the kit's securityVersion does not lie below the floor in the TPM.

    Raises:
        Rollback: It does.
    """
    if kit.security_version < floor:
        raise Rollback(f"the model has securityVersion {kit.security_version}, below this device's floor {floor}")
