# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Judge a head: the device's attested word on how far its series goes.

Spec: FORMAT.md "Head".
"""

from __future__ import annotations

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import EdgeprovError, EvidenceInvalid
from edgeprov.formats import tpmt
from edgeprov.formats.digest import Digest
from edgeprov.formats.head import Head, head_qualifying
from edgeprov.formats.standing import Standing
from edgeprov.formats.tpmt import NvCertify
from edgeprov.verify.attestation import verify_attestation, verify_counter, verify_extra_data
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.measured_boot import verify_pcrs
from edgeprov.verify.place import STEP, verify_standing
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHead:
    """The counter's value, the newest item and the open segments when the head was made.

    ``nonce`` is the auditor's, None for a head that nobody asked for: its time is the device's clock.
    """

    device: str
    enrollment: bytes
    seq: int
    newest: Digest | None
    reset_count: int
    clock_ms: int
    nonce: bytes | None
    at: str
    standing: Standing = field(repr=False)


def verify_head(head: Head, nonce: bytes | None, device: VerifiedDevice, policy: TrustPolicy) -> VerifiedHead:
    """Steps 3 to 6 and 8 on a head, and its standing.

    Args:
        head: The answer.
        nonce: The auditor's; an old answer has another. None for a head that nobody asked for.
        device: After step 1.
        policy: The same as for kits.

    Raises:
        EvidenceInvalid: Not a fresh answer of this device.
    """
    record = device.record
    if head.device != record.device:
        raise EvidenceInvalid(f"the head is of {head.device}, not of {record.device}", step=1)
    if head.enrollment != record.enrollment:
        raise EvidenceInvalid(
            f"the head belongs to enrollment {head.enrollment.hex()}, the record to {record.enrollment.hex()}", step=1
        )
    if head.nonce != nonce:
        raise EvidenceInvalid("the head answers another nonce", step=3)
    try:
        quote, counter = tpmt.parse_attest(head.quote.attest), tpmt.parse_attest(head.counter.attest)
        expected, standing = head_qualifying(head), head.parsed_standing()
    except EdgeprovError as error:
        raise EvidenceInvalid(error.message, step=3) from error
    verify_extra_data(quote, expected, "the quote")
    verify_extra_data(counter, expected, "the counter's certification")
    verify_attestation(record.ak, head.quote, quote, tpmt.ST_ATTEST_QUOTE, "the quote")
    verify_attestation(record.ak, head.counter, counter, tpmt.ST_ATTEST_NV, "the counter's certification")
    if (quote.reset_count, quote.restart_count) != (counter.reset_count, counter.restart_count):
        raise EvidenceInvalid("quote and counter were not attested in the same boot", step=5)
    verify_pcrs(head.quote, quote, head.log, policy, "the quote")
    seq = int.from_bytes(counter.info.contents, "big") if isinstance(counter.info, NvCertify) else -1
    verify_counter(counter, record.counter_index, seq)
    if seq < record.counter_base:
        raise EvidenceInvalid(f"the counter stood at {seq}, below the enrollment's base", step=STEP)
    verify_standing(standing, record.counter_base, seq + 1)
    return VerifiedHead(
        device=record.device,
        enrollment=record.enrollment,
        seq=seq,
        newest=head.newest,
        reset_count=quote.reset_count,
        clock_ms=quote.clock_ms,
        nonce=head.nonce,
        at=head.at,
        standing=standing,
    )
