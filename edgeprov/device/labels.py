# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Ground truth for records, even weeks later: which model made the labelled record decides its kit.

Labels are durable when add_labels returns. A label log may hold labels of several models; each model
gets its own kit, and what is done is noted, so a crash between two kits repeats nothing.

Spec: FORMAT.md section "Label".
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from edgeprov._dataclass import dataclass
from edgeprov.device.series_state import load_numbers
from edgeprov.errors import StoreCorrupt, UsageError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.label import Label, encode_label, parse_label
from edgeprov.formats.names import is_number, is_slot
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.frames import ranges_of
from edgeprov.store.spool import END, LABEL, SegmentInfo, read_segment
from edgeprov.store.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

LabelValue = bool | int | float | str | bytes | list[Any] | None


def parse_record(text: str, slot: str) -> tuple[str, int]:
    """Slot and number of a record that is named ``SLOT:N``, or ``N`` for ``slot``.

    Raises:
        UsageError: Neither.
    """
    name, _, number = text.rpartition(":")
    if not is_number(number) or not is_slot(name or slot):
        raise UsageError(f"{text[:80]!r} is not a record", advice="Give N or SLOT:N, as `edgeprov infer` printed it.")
    return name or slot, int(number)


class NumberMap:
    """Which model made record ``n`` of a slot, from the spool and from what was freed."""

    def __init__(self, state: State, slot: str) -> None:
        """Read headers and intervals once. What still waits in a ring is not known.

        Args:
            state: The state folder.
            slot: The slot.

        Raises:
            StoreError: The state cannot be read.
        """
        ranges = list(load_numbers(state, slot))
        for info in state.spool(slot).segments():
            segment = read_segment(info.path)
            if not segment.header:
                continue
            model = parse_segment_header(segment.header).model
            held = info.ranges if info.closed else ranges_of(segment.frames())
            ranges.extend((first, last, model) for first, last in held)
        self._ranges = sorted(ranges, key=lambda item: item[:2])
        self._firsts = [first for first, _, _ in self._ranges]

    def model(self, n: int) -> Digest | None:
        """The model, or None when this slot has no such record."""
        index = bisect.bisect_right(self._firsts, n) - 1
        if index < 0 or n > self._ranges[index][1]:
            return None
        return self._ranges[index][2]


def add_labels(
    state: State,
    slot: str,
    labels: Iterable[tuple[int, LabelValue]],
    *,
    source: str,
    write_out: Callable[[], None] = lambda: None,
) -> int:
    """Append ground truth; all numbers are checked before the first is written.

    Args:
        state: State folder, opened for writing.
        slot: Slot of the records.
        labels: Record number and value; the value None withdraws the labels that the record has.
        source: Who says so, for instance ``pathology`` or an operator's id.
        write_out: Has sessions of other processes put what they recorded into their segments; called once, where a
            number is not known yet.

    Returns:
        How many were added.

    Raises:
        UsageError: A number that no record of this slot has.
        FormatError: A value that a label cannot hold.
        StoreError: The disk failed.
    """
    labels = list(labels)
    numbers = NumberMap(state, slot)
    if any(numbers.model(n) is None for n, _ in labels):
        write_out()
        numbers = NumberMap(state, slot)
    now_ns = max(time.time_ns(), 0)
    rows = []
    for n, value in labels:
        if numbers.model(n) is None:
            raise UsageError(f"slot {slot} has no record {n}", advice="Use the number that the inference returned.")
        held = tuple(value) if isinstance(value, list) else value
        said_by = None if value is None else source  # a withdrawn label leaves no source either
        rows.append(encode_label(Label(n=n, value=held, source=said_by, labelled_at_ns=now_ns)))
    return state.labels(slot).append(rows)


@dataclass(frozen=True, slots=True)
class SlotLabels:
    """The closed label logs of a slot, by model."""

    state: State
    slot: str
    logs: tuple[SegmentInfo, ...]
    model_of: Callable[[int], Digest | None]

    def names(self) -> list[str]:
        """File names of the logs."""
        return [info.path.name for info in self.logs]

    def rows(self, model: Digest) -> Iterator[bytes]:
        """Canonical rows of one model's labels that are in no kit yet."""
        done = self._done()
        for info in self.logs:
            if str(model) in done.get(info.path.name, ()):
                continue
            for payload in _rows(info):
                if self.model_of(parse_label(payload).n) == model:
                    yield payload

    def models(self) -> list[Digest]:
        """Models that have labels in no kit yet, in order of appearance."""
        done = self._done()
        found: dict[Digest, None] = {}
        for info in self.logs:
            for payload in _rows(info):
                model = self.model_of(parse_label(payload).n)
                if model is not None and str(model) not in done.get(info.path.name, ()):
                    found[model] = None
        return list(found)

    def done(self, model: Digest, names: Sequence[str]) -> None:
        """Note that the model's labels in these logs are in a kit."""
        document = self._done()
        for name in names:
            document[name] = sorted({*document.get(name, ()), str(model)})
        kept = {info.path.name for info in self.state.labels(self.slot).segments()}
        self.state.save_document(self._document, {name: models for name, models in document.items() if name in kept})

    def is_done(self, info: SegmentInfo) -> bool:
        """Whether every label of the log is in a kit."""
        done = {parse_digest(text) for text in self._done().get(info.path.name, ())}
        for payload in _rows(info):
            model = self.model_of(parse_label(payload).n)
            if model is not None and model not in done:
                return False
        return True

    @property
    def _document(self) -> str:
        return f"labels-{self.slot}"

    def _done(self) -> dict[str, list[str]]:
        return dict(self.state.load_document(self._document) or {})


def is_damaged(info: SegmentInfo) -> bool:
    """Whether a closed label log does not give back all that was written to it."""
    try:
        for _ in read_segment(info.path).rows():
            pass
    except StoreCorrupt:
        return True
    return False


def _rows(info: SegmentInfo) -> Iterator[bytes]:
    """The labels of a closed log: of a damaged one, those that still verify."""
    segment = read_segment(info.path)
    count = 0
    for kind, payload in segment.frames():
        if kind == END:
            return
        count += 1
        if kind == LABEL:
            yield payload
    from edgeprov.store.salvage import salvaged_frames

    for kind, payload in islice(salvaged_frames(segment, search=False), count, None):
        if kind == LABEL:
            yield payload


def model_labels(state: State, slot: str) -> SlotLabels:
    """The slot's closed label logs.

    Raises:
        StoreError: The state cannot be read.
    """
    logs = tuple(info for info in state.labels(slot).segments() if info.closed)
    return SlotLabels(state, slot, logs, NumberMap(state, slot).model)


def label_models(state: State, slot: str) -> list[Digest]:
    """Models of the slot with labels that wait to be sealed."""
    return model_labels(state, slot).models()
