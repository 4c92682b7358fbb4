# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of the one counter: which are accounted for, and which a tombstone has to name.

Kits, tombstones and segments take their numbers from one TPM counter. Whoever takes one holds COUNTER_LOCK from
its intent (a document, or a segment's header without a quote) to the end of its work, so an intent that is found
under the lock belongs to a process that died. ``reconcile`` then explains every number up to the counter's value:
by a kit or tombstone, by a quoted header, by an intent (``crash``), or not at all (``unknown``: an older copy of
the disk was put back, or somebody else moved the counter).

A header that was written and never quoted keeps its number for whoever takes the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass, field, replace
from edgeprov.device.identity import counter_base
from edgeprov.device.lost import noted_headers
from edgeprov.device.series_state import INTENT, load_head
from edgeprov.errors import FormatError, TpmError
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.tombstone import NumberEntry
from edgeprov.store.spool import SegmentInfo, read_segment

if TYPE_CHECKING:
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm

COUNTER_LOCK: Final = "counter"
OPENINGS_A_DAY: Final = 40
"""Numbers that boots may take in a day; reboot loops share the last segment number beyond that."""

_DOCUMENT: Final = "counter"
_DAY_NS: Final = 86_400_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterState:
    """What the device knows of its numbers.

    Attributes:
        known: Every number up to here is accounted for, or stands in ``owed``.
        newest: SHA-256 of the header that was opened last on the device.
        segment: The last number that a segment took.
        slots: The number of each slot's last segment.
        day: Day (since 1970) of the latest opening by a boot.
        openings: Openings by boots on that day that took a number.
        owed: Numbers that no tombstone names yet.
        tracked: Segments that have to be on the disk: number and header hash by ``slot/file``.
    """

    known: int
    newest: bytes | None = None
    segment: int | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    day: int = 0
    openings: int = 0
    owed: tuple[NumberEntry, ...] = ()
    tracked: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)

    def opened(self, name: str, header: SegmentHeader) -> CounterState:
        """The state after a quoted header is on the disk."""
        digest = header.sha256
        return replace(
            self,
            known=max(self.known, header.number),
            newest=digest,
            segment=header.number,
            slots={**self.slots, header.slot: header.number},
            tracked={**self.tracked, name: (header.number, digest)},
        )

    def without(self, names: Iterable[str]) -> CounterState:
        """The state after segments went into a kit."""
        gone = set(names)
        return replace(self, tracked={name: item for name, item in self.tracked.items() if name not in gone})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """The state of the numbers beside the TPM's counter.

    Attributes:
        state: As it was saved.
        counter: The counter's value: ``state.known``, or one more where a header waits for its quote.
        unquoted: Headers without a quote, by slot; their number is the next one.
    """

    state: CounterState
    counter: int
    unquoted: tuple[tuple[str, SegmentInfo], ...]

    @property
    def number(self) -> int:
        """The number that is taken next."""
        return self.state.known + 1

    @property
    def half_taken(self) -> bool:
        """The next number was taken from the counter, and nothing stands under it yet."""
        return self.counter > self.state.known


def load_counter_state(state: State) -> CounterState:
    """The document; without one, that of a device which has taken no number.

    Raises:
        IdentityError: No enrollment.
        StoreError: The state cannot be read.
    """
    document = state.load_document(_DOCUMENT)
    try:
        return _parse(document) if document is not None else CounterState(known=counter_base(state))
    except (KeyError, TypeError, ValueError):
        return CounterState(known=counter_base(state))


def save_counter_state(state: State, counter: CounterState) -> None:
    """Replace the document; under COUNTER_LOCK.

    Raises:
        StoreError: It cannot be written.
    """
    state.save_document(
        _DOCUMENT,
        {
            "known": counter.known,
            "newest": counter.newest.hex() if counter.newest else None,
            "segment": counter.segment,
            "slots": dict(counter.slots),
            "day": counter.day,
            "openings": counter.openings,
            "owed": [[item.number, item.reason, item.header.hex() if item.header else None] for item in counter.owed],
            "tracked": {name: [number, digest.hex()] for name, (number, digest) in counter.tracked.items()},
        },
    )


def _parse(document: Mapping[str, Any]) -> CounterState:
    newest = document["newest"]
    return CounterState(
        known=int(document["known"]),
        newest=bytes.fromhex(newest) if newest else None,
        segment=None if document["segment"] is None else int(document["segment"]),
        slots={str(slot): int(number) for slot, number in document["slots"].items()},
        day=int(document["day"]),
        openings=int(document["openings"]),
        owed=tuple(
            NumberEntry(number=int(number), reason=reason, header=bytes.fromhex(header) if header else None)
            for number, reason, header in document["owed"]
        ),
        tracked={
            str(name): (int(number), bytes.fromhex(digest)) for name, (number, digest) in document["tracked"].items()
        },
    )


def reconcile(state: State, tpm: Tpm) -> Reconciled:
    """Account for every number that the counter has reached; under COUNTER_LOCK.

    An intent whose kit or tombstone became the head of the series has to be finished before (see seal_recovery).

    Raises:
        TpmError: The TPM failed, or its counter is below a number that this device has used.
        StoreError: The state cannot be read or written.
    """
    known = load_counter_state(state)
    now = known
    head = load_head(state)
    if head is not None:
        now = replace(now, known=max(now.known, head.seq))
    found, unquoted = _segments(state, now.tracked)
    now = _adopt(now, found)
    now = _miss(state, now, {name for name, _ in found})
    counter = tpm.read_counter()
    if counter < now.known:
        raise TpmError(
            f"the TPM's kit counter is at {counter}, and this device has used number {now.known}",
            advice="Its TPM was cleared or replaced, or the state belongs to another device: enroll it anew.",
        )
    intent = state.load_document(INTENT)
    if intent is not None:
        number = int(intent["number"])
        if now.known < number <= counter:
            now = _owe(now, range(now.known + 1, number), "unknown")
            now = _owe(now, (number,), "crash")
    waiting = tuple(item for item in unquoted if item[2].number == now.known + 1)
    if counter > now.known + (1 if waiting else 0):
        now = _owe(now, range(now.known + 1, counter + 1), "unknown")
        waiting = ()
        journal.event(
            "numbers-unknown",
            f"the kit counter is at {counter} and this device cannot explain it: "
            "was an older copy of its state put back?",
            priority=journal.ERROR,
        )
    if now != known:
        save_counter_state(state, now)
    if intent is not None:
        state.remove_document(INTENT)
    for slot, info, _ in unquoted:
        if (slot, info) not in {item[:2] for item in waiting}:
            state.spool(slot).drop_unquoted(info.path)
    return Reconciled(state=now, counter=counter, unquoted=tuple(item[:2] for item in waiting))


def take_number(tpm: Tpm, found: Reconciled) -> int:
    """Take the next number from the counter, unless that was done before; its intent is on the disk.

    Raises:
        TpmError: The TPM failed, or somebody else moved its counter.
    """
    if found.half_taken:
        return found.number
    value = tpm.increment_counter()
    if value != found.number:
        raise TpmError(
            f"the kit counter went from {found.counter} to {value} in one step",
            advice="Another program uses this TPM's counter: stop it. What is missing is signed at the next start.",
        )
    return value


def choose_number(
    found: Reconciled, head_seq: int | None, slot: str, *, after_kit: bool, now_ns: int
) -> tuple[int, bool, CounterState]:
    """The number of a segment that is opened now.

    Args:
        found: The numbers.
        head_seq: Number of the newest kit or tombstone.
        slot: Slot of the segment.
        after_kit: A kit ends the segment before it.
        now_ns: Wall clock.

    Returns:
        The number; whether it is shared with the segment that took it; the state with the opening counted.
    """
    known = found.state
    last = known.slots.get(slot)
    if after_kit or (last is not None and head_seq is not None and head_seq > last):
        return found.number, False, known
    day = max(known.day, now_ns // _DAY_NS)
    openings = known.openings if day == known.day else 0
    if openings >= OPENINGS_A_DAY and known.segment is not None and not found.half_taken:
        return known.segment, True, known
    return found.number, False, replace(known, day=day, openings=openings + 1)


def tracked_name(slot: str, info: SegmentInfo) -> str:
    """The name of a segment among ``tracked``."""
    return f"{slot}/{info.path.name}"


def _segments(
    state: State, tracked: Collection[str]
) -> tuple[list[tuple[str, SegmentHeader]], list[tuple[str, SegmentInfo, SegmentHeader]]]:
    """Quoted headers by ``slot/file``, and those without a quote.

    A tracked segment was quoted, whatever can be read of its evidence now.
    """
    found: list[tuple[str, SegmentHeader]] = []
    unquoted: list[tuple[str, SegmentInfo, SegmentHeader]] = []
    for slot in state.slots():
        for info, header, quoted in _headers(state, slot):
            if quoted or info.closed or tracked_name(slot, info) in tracked:
                found.append((tracked_name(slot, info), header))
            else:
                unquoted.append((slot, info, header))
    return found, unquoted


def _headers(state: State, slot: str) -> Iterator[tuple[SegmentInfo, SegmentHeader, bool]]:
    for info in state.spool(slot).segments():
        segment = read_segment(info.path)
        if not segment.header:
            continue
        try:
            yield info, parse_segment_header(segment.header), bool(segment.evidence)
        except FormatError:
            continue


def _adopt(now: CounterState, found: list[tuple[str, SegmentHeader]]) -> CounterState:
    """Take in headers whose opening ended before the document said so: at most one, were it not for damage."""
    new = sorted(
        ((name, header) for name, header in found if name not in now.tracked and header.number > now.known),
        key=lambda item: item[1].number,
    )
    for name, header in new:
        now = _owe(now, range(now.known + 1, header.number), "unknown").opened(name, header)
    for name, header in found:  # a shared number: the chain of headers tells
        if name not in now.tracked and header.shared and header.prev == now.newest:
            now = now.opened(name, header)
    return now


def _miss(state: State, now: CounterState, found: set[str]) -> CounterState:
    """Owe the numbers of segments that are not on the disk any more, unless the loss is noted already."""
    missing = [name for name in now.tracked if name not in found]
    if not missing:
        return now
    noted = noted_headers(state)
    for name in missing:
        number, digest = now.tracked[name]
        if digest not in noted:
            now = replace(now, owed=(*now.owed, NumberEntry(number=number, reason="damaged", header=digest)))
            journal.event(
                "segment-missing",
                f"segment {number} ({name}) is not on the disk any more: its records are lost",
                priority=journal.ERROR,
            )
    return now.without(missing)


def _owe(now: CounterState, numbers: Iterable[int], reason: Any) -> CounterState:
    added = tuple(NumberEntry(number=number, reason=reason) for number in numbers)
    if not added:
        return now
    return replace(now, known=max(now.known, added[-1].number), owed=(*now.owed, *added))
