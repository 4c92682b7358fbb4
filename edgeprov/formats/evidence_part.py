# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Evidence part of a data kit: segments with their quotes, the device's standing, events since its last kit.

Spec: FORMAT.md sections "Evidence part", "Standing" and "Events".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.fields import binary_member, check_keys, list_member, number_ranges
from edgeprov.formats.packing import Buffer, pack, unpack
from edgeprov.formats.record import INT_MAX
from edgeprov.formats.segment import check_slot
from edgeprov.formats.standing import DOUBTFUL, Standing, standing_map, standing_of
from edgeprov.formats.tpmt import Attestation, parse_pcr_values
from edgeprov.limits import LIMITS

EVIDENCE_NAME: Final = "evidence"
EVIDENCE_PATH: Final = "evidence/evidence.msgpack.zst"

_VERSION: Final = 1
_KEYS: Final = frozenset(("v", "segments", "standing", "events"))
_SEGMENT_KEYS: Final = frozenset(("header", "log", "quote", "ranges", "unused"))
_QUOTE_KEYS: Final = frozenset(("attest", "signature", "pcrs"))
_KIND = re.compile(r"[a-z0-9-]{1,64}")

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEvidence:
    """The evidence for one segment: its header, the quote over it, the event log of that boot, and its record numbers.

    Attributes:
        header: Exact bytes.
        log: Event log of the boot as of the quote.
        quote: None where the TPM did not answer at the opening: no verifier accepts such a segment, but
            its records are not lost.
        ranges: Numbers of its records in this kit, as ranges with first and last included; empty without records.
        unused: Numbers of its blocks that were never given to a record.
    """

    header: bytes
    log: bytes
    quote: Attestation | None
    ranges: Ranges = ()
    unused: Ranges = ()

    @property
    def records(self) -> int:
        """Number of its records in this kit."""
        return sum(last - first + 1 for first, last in self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """An act of the device: activation, refusal, install, clock step, unclean stop, storage fault and others.

    Attributes:
        kind: 1 to 64 of ``a-z0-9-``. A reader shows a kind that it does not know.
        at_ns: Wall clock, nanoseconds since 1970.
        mono_ns: Nanoseconds since boot.
        flags: Bit 0: the clock was doubtful.
        slot: The slot that it belongs to, or None.
        details: Of the kind.
    """

    kind: str
    at_ns: int
    mono_ns: int
    flags: int = 0
    slot: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePart:
    """A parsed evidence part. ``segments`` stand in the order of the kit's records."""

    segments: tuple[SegmentEvidence, ...] = ()
    standing: Standing
    events: tuple[DeviceEvent, ...] = ()


def encode_evidence(
    segments: Sequence[SegmentEvidence], standing: Standing, events: Sequence[DeviceEvent] = ()
) -> bytes:
    """The evidence part, not compressed. parse_evidence tells what is wrong with it."""
    return pack({
        "v": _VERSION,
        "segments": [
            {
                "header": segment.header,
                "log": segment.log,
                "quote": segment.quote and {
                    "attest": segment.quote.attest,
                    "signature": segment.quote.signature,
                    "pcrs": segment.quote.pcrs,
                },
                "ranges": segment.ranges,
                "unused": segment.unused,
            }
            for segment in segments
        ],
        "standing": standing_map(standing),
        "events": list(map(_event_row, events)),
    })  # fmt: skip


def parse_evidence(raw: Buffer) -> EvidencePart:
    """Read a decompressed evidence part. Headers, quotes and logs in it are the verifier's business.

    Raises:
        LimitError: Too long, or more segments, ranges or events than a kit may have.
        FormatError: Not an evidence part, or record numbers of two of its segments overlap.
    """
    what = "evidence"
    obj = check_keys(unpack(raw, max_bytes=LIMITS.part_plain_bytes, what=what), _KEYS, what)
    if obj["v"] != _VERSION:
        raise FormatError(f"{what} has version {str(obj['v'])[:40]!r}, this reader knows {_VERSION}")
    segments = tuple(map(_segment, list_member(obj, "segments", what, LIMITS.kit_segments)))
    _verify_disjoint(sorted(bounds for segment in segments for bounds in segment.ranges))
    return EvidencePart(
        segments=segments,
        standing=standing_of(obj["standing"]),
        events=_events(list_member(obj, "events", what, LIMITS.kit_events)),
    )


def _segment(item: object) -> SegmentEvidence:
    what = "evidence of a segment"
    obj = check_keys(item, _SEGMENT_KEYS, what)
    segment = SegmentEvidence(
        header=binary_member(obj, "header", what, LIMITS.segment_header_bytes),
        log=binary_member(obj, "log", what, LIMITS.event_log_bytes),
        quote=None if obj["quote"] is None else _quote(obj["quote"]),
        ranges=number_ranges(list_member(obj, "ranges", what, LIMITS.segment_ranges), what),
        unused=number_ranges(list_member(obj, "unused", what, LIMITS.segment_ranges), what),
    )
    _verify_disjoint(sorted(segment.ranges + segment.unused))
    return segment


def _verify_disjoint(ranges: Sequence[tuple[int, int]]) -> None:
    for (_, last), (first, _) in pairwise(ranges):
        if first <= last:
            raise FormatError(f"evidence names record number {first} twice")


def _quote(value: object) -> Attestation:
    what = "quote of a segment"
    obj = check_keys(value, _QUOTE_KEYS, what)
    return Attestation(
        attest=binary_member(obj, "attest", what, LIMITS.attestation_bytes),
        signature=binary_member(obj, "signature", what, LIMITS.attestation_bytes),
        pcrs=parse_pcr_values(obj["pcrs"], what),
    )


def _event_row(event: DeviceEvent) -> list[Any]:
    return [event.kind, event.at_ns, event.mono_ns, event.flags, event.slot, event.details]


def _events(rows: list[Any]) -> tuple[DeviceEvent, ...]:
    events = tuple(map(_event, rows))
    if (size := len(pack(rows))) > LIMITS.kit_events_bytes:
        raise LimitError(f"events have {size} bytes, more than {LIMITS.kit_events_bytes}")
    return events


def _event(row: object) -> DeviceEvent:
    if not isinstance(row, list) or len(row) != 6:
        raise FormatError("an event is not an array of 6")
    kind, at_ns, mono_ns, flags, slot, details = row
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise FormatError("the kind of an event is not 1 to 64 lower-case letters, digits or '-'")
    if not all(type(value) is int and 0 <= value <= INT_MAX for value in (at_ns, mono_ns)):
        raise FormatError("event: a time is not an integer from 0 to 2**63-1")
    if type(flags) is not int or flags not in (0, DOUBTFUL):
        raise FormatError("event: unknown flags")
    if not (slot is None or isinstance(slot, str)):
        raise FormatError("event: the slot is not a string")
    if not isinstance(details, dict):
        raise FormatError("event: details are not a map")
    return DeviceEvent(
        kind=kind,
        at_ns=at_ns,
        mono_ns=mono_ns,
        flags=flags,
        slot=None if slot is None else check_slot(slot),
        details=details,
    )
