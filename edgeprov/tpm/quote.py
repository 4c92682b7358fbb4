# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring, attesting and signing: the commands of one kit, and of one activation.

Spec: TPM 2.0 Library, Part 3: TPM2_PCR_Event, TPM2_Quote, TPM2_Certify, TPM2_Sign, TPM2_ReadClock.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import TpmError
from edgeprov.formats.ecdsa import encode_ecdsa_der
from edgeprov.formats.tpmt import Attestation, parse_signature
from edgeprov.tpm.esys import Connection, tss

_TIME_INFO: Final = struct.Struct(">QQIIB")
_EVENT_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmClock:
    """TPMS_CLOCK_INFO. ``clock_ms`` counts milliseconds while powered; after a power cut it may repeat a little."""

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool


def pcr_event(connection: Connection, pcr: int, data: bytes) -> None:
    """Extend all banks of a PCR with data that the TPM itself hashes, so that no bank stays free to forge.

    Raises:
        TpmError: The TPM refused, or ``data`` is longer than 1,024 bytes.
    """
    if len(data) > _EVENT_BYTES:
        raise TpmError(f"an event has {len(data)} bytes, more than a TPM takes")

    def command() -> None:
        connection.esys.pcr_event(tss.ESYS_TR(pcr), data)

    connection.run(f"extend PCR {pcr}", command)


def read_pcr(connection: Connection, pcr: int) -> bytes:
    """The SHA-256 value of a PCR, 32 bytes.

    Raises:
        TpmError: The TPM refused, or has no SHA-256 bank.
    """

    def command() -> bytes:
        answer = connection.esys.pcr_read(f"sha256:{pcr}")
        return bytes(answer[2].marshal())

    raw = connection.run(f"read PCR {pcr}", command)
    if len(raw) != 4 + 2 + 32:
        raise TpmError(f"PCR {pcr} has no SHA-256 bank", advice="Enable the SHA-256 PCR bank in the firmware set-up.")
    return raw[6:]


def quote(connection: Connection, ak: Any, pcrs: Sequence[int], qualifying: bytes) -> Attestation:
    """Have the AK attest PCRs of the SHA-256 bank.

    Raises:
        TpmError: The TPM refused.
    """
    selection = "sha256:" + ",".join(str(pcr) for pcr in sorted(pcrs))

    def command() -> Attestation:
        answer = connection.esys.quote(ak, selection, tss.TPM2B_DATA(qualifying), _no_scheme())
        return attestation(answer)

    return connection.run("quote its PCRs", command)


def certify(connection: Connection, ak: Any, key: Any, qualifying: bytes) -> Attestation:
    """Have the AK attest that another key is in this TPM.

    Raises:
        TpmError: The TPM refused.
    """

    def command() -> Attestation:
        answer = connection.esys.certify(key, ak, tss.TPM2B_DATA(qualifying), _no_scheme())
        return attestation(answer)

    return connection.run("certify a key", command)


def sign_digest(connection: Connection, key: Any, digest: bytes) -> bytes:
    """Sign a SHA-256 digest with an unrestricted key; an ECDSA signature in DER.

    Raises:
        TpmError: The TPM refused.
    """

    def command() -> bytes:
        ticket = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
        answer = connection.esys.sign(key, tss.TPM2B_DIGEST(digest), _no_scheme(), validation=ticket)
        return bytes(answer.marshal())

    return encode_ecdsa_der(*parse_signature(connection.run("sign", command)))


def read_clock(connection: Connection) -> TpmClock:
    """The TPM's clock and its counts of resets.

    Raises:
        TpmError: The TPM refused.
    """

    def command() -> bytes:
        answer = connection.esys.read_clock()
        return bytes(answer.marshal())

    _, clock, resets, restarts, safe = _TIME_INFO.unpack(connection.run("tell its clock", command))
    return TpmClock(clock_ms=clock, reset_count=resets, restart_count=restarts, safe=bool(safe))


def attestation(answer: Sequence[Any]) -> Attestation:
    """TPM2B_ATTEST and TPMT_SIGNATURE as bytes; ``answer`` is bound here while its fields are read."""
    return Attestation(attest=bytes(answer[0].marshal())[2:], signature=bytes(answer[1].marshal()))


def _no_scheme() -> Any:
    return tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
