# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Judge a head: is this the device's fresh word on how far its series goes?

Spec: FORMAT.md "Head".
"""

from __future__ import annotations

from edgeprov._dataclass import dataclass
from edgeprov.errors import EdgeprovError, EvidenceInvalid
from edgeprov.formats import tpmt
from edgeprov.formats.digest import Digest
from edgeprov.formats.head import Head, head_qualifying
from edgeprov.formats.tpmt import NvCertify
from edgeprov.verify.attestation import verify_attestation, verify_counter, verify_extra_data
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.measured_boot import verify_pcrs
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHead:
    """The counter's value and the newest artifact at the time of the nonce."""

    device: str
    seq: int
    newest: Digest | None
    reset_count: int
    clock_ms: int


def verify_head(head: Head, nonce: bytes, device: VerifiedDevice, policy: TrustPolicy) -> VerifiedHead:
    """Steps 3 to 6 and 8 on a head.

    Args:
        head: The answer.
        nonce: What the auditor asked with; an old answer has another.
        device: After step 1.
        policy: The same as for kits.

    Raises:
        EvidenceInvalid: Not a fresh answer of this device.
    """
    record = device.record
    if head.device != record.device:
        raise EvidenceInvalid(f"the head is of {head.device}, not of {record.device}", step=1)
    if head.nonce != nonce:
        raise EvidenceInvalid("the head answers another nonce", step=3)
    try:
        quote, counter = tpmt.parse_attest(head.quote.attest), tpmt.parse_attest(head.counter.attest)
        expected = head_qualifying(nonce, head.newest)
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
    return VerifiedHead(
        device=record.device,
        seq=seq,
        newest=head.newest,
        reset_count=quote.reset_count,
        clock_ms=quote.clock_ms,
    )
