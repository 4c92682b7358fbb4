# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Answers of `edgeprov attest`: they tell how far a device's series really goes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from edgeprov.errors import EvidenceInvalid, UsageError
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.verification.device_records import verified_devices
from edgeprov.formats.head import parse_head
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.head_check import VerifiedHead, verify_head


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
