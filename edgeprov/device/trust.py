# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a stored model may run here: publisher's signature, trust policy and security floor.

Used at install before any layer is fetched, and again at each boot: a publisher whose anchor was
removed from trust.d in between is not trusted any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgeprov.errors import FormatError, NotStored, Rollback
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import (
    COSIGN_SIMPLE_SIGNING,
    JOSE,
    OCI_INDEX,
    SIGSTORE_BUNDLE,
)
from edgeprov.limits import LIMITS
from edgeprov.store.layout import Layout
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.modelkit import ModelKit
    from edgeprov.verify.signer_identity import SignerIdentity

SIGNATURE_LAYERS = frozenset((SIGSTORE_BUNDLE, JOSE, COSIGN_SIMPLE_SIGNING))


def verify_publisher(context: Context, manifest: Manifest, signatures: Sequence[SignatureArtifact]) -> SignerIdentity:
    """One of the signatures must be the publisher's and cover this very manifest.

    Raises:
        SignatureInvalid: None, or none that fits.
        SignerUntrusted: None by a publisher that trust.d names.
        PolicyDenied: The policy forbids it.
    """
    return verify_model_signature(manifest, signatures, context.policy(), context.now())


def verify_floor(kit: ModelKit, floor: int) -> None:
    """The kit's securityVersion must not lie below the floor in the TPM.

    Raises:
        Rollback: It does.
    """
    if kit.security_version < floor:
        raise Rollback(f"the model has securityVersion {kit.security_version}, below this device's floor {floor}")


def read_signatures(
    manifests: Sequence[Manifest], load_blob: Callable[[Descriptor], bytes]
) -> Iterator[SignatureArtifact]:
    """Pair each signature manifest with its signature blobs; what is no signature is passed over.

    Args:
        manifests: Candidates: referrers of the model, and the manifest of cosign's ``.sig`` tag.
        load_blob: Gives the verified bytes of a small blob.
    """
    for manifest in manifests:
        for layer in manifest.layers:
            if layer.media_type in SIGNATURE_LAYERS and layer.size <= LIMITS.signature_blob_bytes:
                yield SignatureArtifact(manifest=manifest, blob=load_blob(layer))


def load_signatures(layout: Layout, model: Digest) -> list[SignatureArtifact]:
    """The stored signatures of a model. Damaged ones are passed over: another may still be good."""
    wanted = [entry for entry in layout.referrers(model) if entry.media_type != OCI_INDEX]
    wanted += [entry for ref, entry in layout.refs().items() if ref.endswith(classic_tag(model))]
    manifests = [layout.load_manifest(entry.digest) for entry in wanted]
    found = read_signatures(
        manifests[: LIMITS.signatures_per_artifact],
        lambda blob: layout.load_blob(blob, max_bytes=LIMITS.signature_blob_bytes),
    )
    result = []
    while True:
        try:
            result.append(next(found))
        except StopIteration:
            return result
        except (NotStored, FormatError):
            return result


def classic_tag(model: Digest) -> str:
    """The tag that cosign 2 gives to for the signatures of a manifest."""
    return f"sha256-{model.hex}.sig"
