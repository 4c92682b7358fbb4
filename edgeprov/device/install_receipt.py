# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The way back of a stick: a signed receipt says which exported kits arrived, and only those are freed.

Spec: FORMAT.md section "Receipt".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.device.context import UPLOAD_LOCK
from edgeprov.device.proved_time import raise_floor
from edgeprov.device.upload import collect_garbage, free_artifact
from edgeprov.errors import SubjectMismatch
from edgeprov.formats.rfc3339 import ns_of_rfc3339
from edgeprov.verify.receipt_check import verify_receipt

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.receipt import Receipt
    from edgeprov.store.state import OutboxEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What a receipt freed; ``unknown`` counts kits that are not on this device (freed before)."""

    receipt: Receipt
    entries: tuple[OutboxEntry, ...]
    unknown: int
    freed_bytes: int


def install_receipt(context: Context, raw: bytes) -> Freed:
    """Verify a receipt and free what it names. Doing it again changes nothing.

    Raises:
        FormatError: Not a receipt.
        VerificationError: Not signed by a trusted enroller, or for another device.
        StoreBusy: An upload is going on.
        StoreError: The state cannot be changed.
    """
    receipt = verify_receipt(raw, context.policy(), context.now())
    if receipt.device != context.urn:
        raise SubjectMismatch(
            f"the receipt is for {receipt.device}, this is {context.urn}",
            advice="Each device has its own file on the stick: SERIAL.receipt.json.",
        )
    state = context.state()
    with state.lock(UPLOAD_LOCK):
        named = set(receipt.digests)
        entries = tuple(entry for entry in state.outbox() if entry.digest in named)
        for entry in entries:
            free_artifact(context, state, entry)
        freed = collect_garbage(state) if entries else 0
        raise_floor(state, ns_of_rfc3339(receipt.at))
    journal.event(
        "receipt-installed",
        f"receipt of {receipt.at} frees {len(entries)} artifacts",
        count=len(entries),
        registry=receipt.registry,
    )
    return Freed(receipt=receipt, entries=entries, unknown=len(named) - len(entries), freed_bytes=freed)
