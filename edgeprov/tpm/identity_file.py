# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What `identity create` wrote down about this device's TPM and its keys; readable without the TPM library."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.jsonx import get_str
from edgeprov.formats.mediatypes import ASSURANCES
from edgeprov.formats.tpmt import PublicArea, parse_public
from edgeprov.tpm.saved_documents import load_document, save_document, set_aside

IDENTITY_FILE: Final = "identity.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIdentity:
    """By these public parts the TPM is known again; what it says of itself is asked once.

    Attributes:
        ak: Attestation key.
        sk: Signing key.
        counter_base: Value of the kit counter at creation.
        simulated: The TPM was a simulator of ours.
        manufacturer: Maker's id and model.
        assurance: ``dev``, ``firmware`` or ``hardware``, as the device sees it.
        protected: Passwords of owner and lockout were set: each boot check closes the platform hierarchy.
    """

    ak: PublicArea
    sk: PublicArea
    counter_base: int
    simulated: bool
    manufacturer: str
    assurance: str
    protected: bool = False


def load_identity(state_dir: Path) -> StoredIdentity | None:
    """The identity of this device; None when there is none (a damaged file is moved aside).

    Raises:
        StoreError: The file cannot be read.
    """
    path = state_dir / IDENTITY_FILE
    document = load_document(path)
    if document is None:
        return None
    try:
        base, simulated = document.get("counter_base"), document.get("simulated")
        if document.get("v") != 1 or type(base) is not int or not isinstance(simulated, bool):
            raise FormatError(f"{path}: a member is missing")  # noqa: TRY301 - one handler for all damage
        assurance = get_str(document, "assurance", path.name)
        if assurance not in ASSURANCES:
            raise FormatError(f"{path}: assurance {assurance!r}")  # noqa: TRY301
        return StoredIdentity(
            ak=parse_public(get_b64(document, "ak", path.name)),
            sk=parse_public(get_b64(document, "sk", path.name)),
            counter_base=base,
            simulated=simulated,
            manufacturer=get_str(document, "manufacturer", path.name),
            assurance=assurance,
            protected=document.get("protected") is True,
        )
    except FormatError:
        set_aside(path)
        return None


def save_identity(state_dir: Path, identity: StoredIdentity) -> None:
    """Write the identity down, durably.

    Raises:
        StoreError: The folder cannot be written.
    """
    save_document(
        state_dir / IDENTITY_FILE,
        {
            "v": 1,
            "ak": b64(identity.ak.raw),
            "sk": b64(identity.sk.raw),
            "counter_base": identity.counter_base,
            "simulated": identity.simulated,
            "manufacturer": identity.manufacturer,
            "assurance": identity.assurance,
            "protected": identity.protected,
        },
    )
