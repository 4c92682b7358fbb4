# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One attestation by one AK: what steps 3, 4 and 8 ask of it, wherever it is found.

Spec: TPM 2.0 Library, Part 1, 31 "Attestation"; FORMAT.md "Verification".
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from edgeprov.errors import EdgeprovError, EvidenceInvalid
from edgeprov.formats import tpmt
from edgeprov.formats.ecdsa import encode_ecdsa_der
from edgeprov.formats.tpmt import Attest, Attestation, NvCertify, PublicArea
from edgeprov.verify.public_keys import verify_ecdsa

_RH_ENDORSEMENT: Final = 0x4000000B
AK_REQUIRED: Final = tpmt.FIXED_TPM | tpmt.FIXED_PARENT | tpmt.SENSITIVE_DATA_ORIGIN | tpmt.RESTRICTED | tpmt.SIGN
SK_REQUIRED: Final = tpmt.FIXED_TPM | tpmt.FIXED_PARENT | tpmt.SENSITIVE_DATA_ORIGIN | tpmt.SIGN


def attestation_key_fault(ak: PublicArea) -> str | None:
    """Why a key cannot attest, or None. An unrestricted key would also sign a TPMS_ATTEST that somebody forged."""
    if ak.attributes & AK_REQUIRED != AK_REQUIRED:
        return f"the attestation key's attributes 0x{ak.attributes:x} lack restricted, sign or TPM origin"
    if ak.attributes & tpmt.DECRYPT:
        return "the attestation key may also decrypt"
    return None


def device_keys_fault(ak: PublicArea, sk: PublicArea) -> str | None:
    """Why two keys cannot be a device's AK and SK, or None: they have exactly the attributes of the template.

    A key without noDA would lock the TPM after some power cuts. With an authorized policy the authValue alone
    must not do (userWithAuth clear); without one it is the only guard (userWithAuth set).
    """
    for name, key, attributes in (("attestation", ak, tpmt.AK_ATTRIBUTES), ("signing", sk, tpmt.SK_ATTRIBUTES)):
        if len(key.auth_policy) not in (0, hashlib.sha256().digest_size):
            return f"the {name} key's policy is not a SHA-256 digest"
        wanted = attributes & ~tpmt.USER_WITH_AUTH if key.auth_policy else attributes
        if key.attributes != wanted:
            return f"the {name} key's attributes are 0x{key.attributes:x}, not 0x{wanted:x}"
    return None


def signing_key_fault(sk: PublicArea) -> str | None:
    """Why a key cannot sign kits, or None. A restricted key signs no digest from outside of the TPM."""
    if sk.attributes & SK_REQUIRED != SK_REQUIRED:
        return f"the signing key's attributes 0x{sk.attributes:x} do not show that the TPM made it"
    if sk.attributes & (tpmt.RESTRICTED | tpmt.DECRYPT):
        return "the signing key is restricted, or may also decrypt"
    return None


def qualified_name(name: bytes) -> bytes:
    """The qualified Name of a primary key of the endorsement hierarchy: the one whose clock values are clear."""
    return tpmt.name_of(struct.pack(">I", _RH_ENDORSEMENT) + name)


def verify_attestation(ak: PublicArea, attestation: Attestation, attest: Attest, kind: int, what: str) -> None:
    """Verify that this AK signed an attestation of this type.

    Args:
        ak: Enrolled attestation key, whose attributes were judged.
        attestation: Structure and signature.
        attest: The structure, parsed.
        kind: Expected type, one of tpmt.ST_ATTEST_*.
        what: Named in errors.

    Raises:
        EvidenceInvalid: Another type, another key, or a signature that does not fit.
    """
    if attest.type != kind:
        raise EvidenceInvalid(f"{what} is an attestation of type 0x{attest.type:04x}, not 0x{kind:04x}", step=4)
    if attest.qualified_signer != qualified_name(ak.name):
        raise EvidenceInvalid(f"{what} names another signer than the enrolled attestation key", step=4)
    try:
        r, s = tpmt.parse_signature(attestation.signature)
        digest = hashlib.sha256(attestation.attest).digest()
        verify_ecdsa(ak.x + ak.y, encode_ecdsa_der(r, s), digest, f"{what}'s signature")
    except EdgeprovError as error:
        raise EvidenceInvalid(error.message, step=4) from error


def verify_extra_data(attest: Attest, expected: bytes, what: str) -> None:
    """The attestation was made for exactly this.

    Raises:
        EvidenceInvalid: It was made for something else.
    """
    if attest.extra_data != expected:
        raise EvidenceInvalid(
            f"{what} was made for {attest.extra_data.hex() or 'nothing'}, not for {expected.hex()}", step=3
        )


def verify_counter(attest: Attest, index: int, value: int) -> None:
    """NV_Certify of the kit counter shows this value.

    Raises:
        EvidenceInvalid: Another index, an ordinary index posing as the counter, or another value.
    """
    nv = attest.info
    if not isinstance(nv, NvCertify):
        raise EvidenceInvalid("the counter's attestation is not of an NV index", step=8)
    if nv.index_name != tpmt.nv_name(index):
        raise EvidenceInvalid(f"the certified NV index is not the written counter 0x{index:08x}", step=8)
    if nv.offset != 0 or len(nv.contents) != tpmt.COUNTER_BYTES:
        raise EvidenceInvalid("the counter was not certified as a whole", step=8)
    actual = int.from_bytes(nv.contents, "big")
    if actual != value:
        raise EvidenceInvalid(f"the counter stood at {actual}, not at the claimed {value}", step=8)
