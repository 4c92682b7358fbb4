# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The log behind PCR 14: one entry per model activated or refused in this boot, and its replay.

The verifier never takes an entry's digest on trust: the measured bytes are rebuilt from the entry's
content, hashed, and compared. JSON text sequences, so that a reader of systemd's measurement log
finds known fields.

Spec: RFC 7464 (framing); FORMAT.md "Event log".
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import encode_json, get_int, get_list, get_object, get_str, parse_json_object
from edgeprov.limits import LIMITS

EventType = Literal["activate", "refused"]
EVENT_TYPES: Final = ("activate", "refused")
CONTENT_TYPE: Final = "edgeprov"
PCR_START: Final = bytes(32)

_START = b"\x1e"
_END = b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One measurement: ``model`` became active in ``slot``, or was refused there."""

    number: int
    pcr: int
    type: EventType
    slot: str
    model: Digest

    @property
    def data(self) -> bytes:
        """The bytes that TPM2_PCR_Event hashes."""
        return event_data(self.type, self.slot, self.model)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the data (32 bytes): what the SHA-256 bank is extended with."""
        return hashlib.sha256(self.data).digest()


def event_data(event_type: EventType, slot: str, model: Digest) -> bytes:
    """What is measured: label, NUL, slot, NUL, 32 bytes of the model's manifest digest."""
    return b"edgeprov." + event_type.encode() + b"\0" + slot.encode() + b"\0" + model.raw


def encode_event(event: Event) -> bytes:
    """One record of the log, framed."""
    return (
        _START
        + encode_json(
            {
                "recnum": event.number,
                "pcr": event.pcr,
                "digests": [{"hashAlg": "sha256", "digest": event.digest.hex()}],
                "content_type": CONTENT_TYPE,
                "content": {"type": event.type, "slot": event.slot, "model": str(event.model)},
            }
        )
        + _END
    )


def parse_event_log(raw: bytes) -> tuple[Event, ...]:
    """Read a whole log; every digest is recomputed from the content.

    Raises:
        LimitError: Too long.
        FormatError: Broken framing, an entry of another kind, numbers out of order, or a digest
            that is not the content's.
    """
    if len(raw) > LIMITS.event_log_bytes:
        raise LimitError(f"event log has {len(raw)} bytes, more than {LIMITS.event_log_bytes}")
    if not raw:
        return ()
    if not raw.startswith(_START) or not raw.endswith(_END):
        raise FormatError("event log is not a JSON text sequence")
    records = raw[1:].split(_START)
    if len(records) > LIMITS.event_log_entries:
        raise LimitError(f"event log has {len(records)} entries, more than {LIMITS.event_log_entries}")
    return tuple(_parse_entry(record, number) for number, record in enumerate(records))


def replay(events: tuple[Event, ...], start: bytes = PCR_START) -> bytes:
    """The value (32 bytes) that the PCR must have after these events."""
    value = start
    for event in events:
        value = hashlib.sha256(value + event.digest).digest()
    return value


def active_model(events: tuple[Event, ...], slot: str) -> Digest | None:
    """The model of the last activation of a slot; a later refusal there leaves nothing active."""
    for event in reversed(events):
        if event.slot == slot:
            return event.model if event.type == "activate" else None
    return None


def _parse_entry(record: bytes, number: int) -> Event:
    what = f"event {number}"
    if not record.endswith(_END):
        raise FormatError(f"{what} is cut short")
    obj = parse_json_object(record, what)
    if get_int(obj, "recnum", what) != number:
        raise FormatError(f"{what} carries another record number")
    if get_str(obj, "content_type", what) != CONTENT_TYPE:
        raise FormatError(f"{what} is not an edgeprov measurement")
    content = get_object(obj, "content", what)
    event_type = get_str(content, "type", what)
    if event_type not in EVENT_TYPES:
        raise FormatError(f"{what} has the unknown type {event_type[:40]!r}")
    slot = get_str(content, "slot", what)
    if "\0" in slot or not 0 < len(slot.encode()) <= LIMITS.slot_bytes:
        raise FormatError(f"{what} names no slot")
    event = Event(
        number=number,
        pcr=get_int(obj, "pcr", what, maximum=23),
        type="activate" if event_type == "activate" else "refused",
        slot=slot,
        model=parse_digest(get_str(content, "model", what)),
    )
    if _sha256(get_list(obj, "digests", what, maximum=8), what) != event.digest.hex():
        raise FormatError(f"{what}: the digest is not that of the content")
    return event


def _sha256(digests: list[object], what: str) -> str:
    found = [item.get("digest") for item in digests if isinstance(item, dict) and item.get("hashAlg") == "sha256"]
    if len(found) != 1 or not isinstance(found[0], str):
        raise FormatError(f"{what} does not have exactly one SHA-256 digest")
    return found[0]
