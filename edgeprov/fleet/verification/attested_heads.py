# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of devices, asked for with `edgeprov attest` or left in the registry: how far each series really goes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeprov.errors import EdgeprovError, EvidenceInvalid, UsageError
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.verification.device_records import verified_devices
from edgeprov.formats.head import parse_head
from edgeprov.formats.rfc3339 import ns_of_rfc3339
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.head_check import VerifiedHead, verify_head


@dataclass(frozen=True, slots=True)
class ClosingHead:
    """A verified head, and the moment when sync first saw it; None for an answer to an auditor's nonce."""

    head: VerifiedHead
    found_at: str | None = None

    def closes(self, to: str) -> bool:
        """Tell if nothing of the time before ``to`` (RFC 3339) can come after this head.

        An answer to a nonce is of the time of the audit. The time of another one is the device's word, which
        neither a doubtful clock nor a sighting before ``to`` may carry, and no open segment may hold records of
        the time before.
        """
        if self.found_at is None:
            return True
        standing, end_ns = self.head.standing, ns_of_rfc3339(to)
        return (
            not standing.doubt
            and min(ns_of_rfc3339(self.head.at), ns_of_rfc3339(self.found_at)) >= end_ns
            and all(segment.least_ns is None or segment.least_ns >= end_ns for segment in standing.open)
        )


def verify_heads(
    index: Index, files: Iterable[bytes], nonce: str, trust: Trust, at: dt.datetime
) -> dict[str, VerifiedHead]:
    """Verify heads against the device records of the index.

    Raises:
        UsageError: The nonce is not hex.
        EvidenceInvalid: A head is not a fresh answer of its device.
        FormatError: Not a head.
    """
    try:
        asked = bytes.fromhex(nonce)
    except ValueError as error:
        raise UsageError("--nonce is not hex") from error
    records = verified_devices(index, trust, at)
    result = {}
    for raw in files:
        head = parse_head(raw)
        record = records.get(head.device)
        if not isinstance(record, VerifiedDevice):
            raise EvidenceInvalid(f"{head.device} has no valid device record", step=1)
        result[head.device] = verify_head(head, asked, record, trust.policy)
    return result


def left_heads(
    index: Index, records: Mapping[str, VerifiedDevice | EdgeprovError], trust: Trust
) -> dict[str, ClosingHead]:
    """Verify the newest head that each device left in a registry without being asked, by device URN.

    Heads that do not verify are passed over: anybody can push one, so they change no answer.

    Args:
        index: With heads that sync kept.
        records: The devices, after step 1.
        trust: Gives the policy.
    """
    result = {}
    for device, record in records.items():
        if not isinstance(record, VerifiedDevice):
            continue
        for row in index.rows(
            "SELECT layer, found_at FROM heads WHERE enrollment = ? ORDER BY counter DESC, created DESC",
            (record.record.enrollment.hex(),),
        ):
            try:
                head = verify_head(parse_head(row["layer"]), None, record, trust.policy)
            except EdgeprovError:
                continue
            result[device] = ClosingHead(head, row["found_at"])
            break
    return result
