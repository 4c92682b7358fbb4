# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Attesting and signing: the commands that use a key.

Spec: TPM 2.0 Library, Part 3: TPM2_Quote, TPM2_Certify, TPM2_NV_Certify, TPM2_Sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeprov.formats.ecdsa import encode_ecdsa_der
from edgeprov.formats.tpmt import COUNTER_BYTES, Attestation, parse_signature
from edgeprov.tpm.esys import Connection, tss


def quote(connection: Connection, ak: Any, pcrs: Sequence[int], qualifying: bytes) -> Attestation:
    """Have the AK attest PCRs of the SHA-256 bank. Called within `Client.run`.

    Raises:
        TpmResponse: The TPM refused.
    """
    selection = "sha256:" + ",".join(str(pcr) for pcr in sorted(pcrs))
    answer = connection.esys.quote(ak, selection, tss.TPM2B_DATA(qualifying), _no_scheme())
    return attestation(answer)


def certify(connection: Connection, ak: Any, key: Any, qualifying: bytes) -> Attestation:
    """Have the AK attest that another key is in this TPM. Called within `Client.run`.

    Raises:
        TpmResponse: The TPM refused.
    """
    answer = connection.esys.certify(key, ak, tss.TPM2B_DATA(qualifying), _no_scheme())
    return attestation(answer)


def certify_counter(connection: Connection, ak: Any, index: Any, qualifying: bytes) -> Attestation:
    """Have the AK attest the value of the kit counter. Called within `Client.run`.

    Raises:
        TpmResponse: The TPM refused.
    """
    answer = connection.esys.nv_certify(ak, index, tss.TPM2B_DATA(qualifying), _no_scheme(), COUNTER_BYTES)
    return attestation(answer)


def sign_digest(connection: Connection, key: Any, digest: bytes) -> bytes:
    """Sign a SHA-256 digest with an unrestricted key; an ECDSA signature in DER. Called within `Client.run`.

    Raises:
        TpmResponse: The TPM refused.
    """
    ticket = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
    answer = connection.esys.sign(key, tss.TPM2B_DIGEST(digest), _no_scheme(), validation=ticket)
    return encode_ecdsa_der(*parse_signature(bytes(answer.marshal())))


def attestation(answer: Sequence[Any]) -> Attestation:
    """TPM2B_ATTEST and TPMT_SIGNATURE as bytes; ``answer`` is bound here while its fields are read."""
    return Attestation(attest=bytes(answer[0].marshal())[2:], signature=bytes(answer[1].marshal()))


def _no_scheme() -> Any:
    return tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
