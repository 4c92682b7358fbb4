# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels of one slot, joined to the numbers of its records.

Spec: FLEET.md section "Data set"; FORMAT.md section "Label".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from edgeprov.fleet.dataset.arrow_columns import LABEL_TYPES, int_column, label_column
from edgeprov.fleet.dataset.label_types import LabelType
from edgeprov.formats.label import LabelColumns, label_rank

TIME: Final = pa.timestamp("ns", tz="UTC")
_LABEL: Final = ("value", "source", "at")


@dataclass(slots=True)
class LabelSet:
    """Labels of one slot, by record number; of several the one of the highest rank counts. 40 bytes a label."""

    label_type: LabelType
    _parts: list[Any] = field(default_factory=list)
    _sources: dict[str, int] = field(default_factory=dict)
    _table: Any = None
    _numbers: Any = None

    def add(self, labels: LabelColumns, seq: int, place: int) -> None:
        """Take the labels of a part of kit number ``seq``; the first is number ``place`` (from 0) of the kit."""
        count = len(labels)
        names = [name for name in dict.fromkeys(labels.sources) if name is not None]
        places: dict[str | None, int] = {name: self._sources.setdefault(name, len(self._sources)) for name in names}
        if len(places) == 1:
            source = pa.repeat(pa.scalar(next(iter(places.values())), pa.int32()), count)
        else:
            source = pa.array([places.get(name, 0) for name in labels.sources], pa.int32())
        rank = label_rank(seq, place)
        part = pa.table(
            {
                "n": int_column(labels.numbers),
                "at": int_column(labels.labelled_at_ns),
                "rank": pa.arange(rank, rank + count),
                "source": source,
                "value": label_column(labels.values, self.label_type),
            }
        )
        self._parts.append(part)

    def finish(self) -> None:
        """Sort, and keep the label that counts for each record, if that is not withdrawn."""
        if not any(len(part) for part in self._parts):
            return
        table = pa.concat_tables(self._parts).combine_chunks()
        self._parts = []
        n = table["n"].combine_chunks()
        if not pc.all(pc.greater(n[1:], n[:-1])).as_py() and len(n) > 1:
            table = table.sort_by([("n", "ascending"), ("rank", "ascending")])
            n = table["n"].combine_chunks()
            newest = pa.concat_arrays([pc.not_equal(n[1:], n[:-1]), pa.array([True])])
            table = table.filter(newest).combine_chunks()
        if table["value"].null_count:
            table = table.filter(table["value"].is_valid()).combine_chunks()
        if not len(table):
            return
        self._table = table
        self._numbers = memoryview(table["n"].chunk(0).buffers()[1]).cast("q")[: len(table)]

    def join(self, numbers: Any, first: int, last: int) -> tuple[Any, Any, Any]:
        """Label, source and time of each record number (int64, rising from first to last), null where there is none."""
        count = len(numbers)
        empty = (
            pa.nulls(count, LABEL_TYPES[self.label_type]),
            pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string())),
            pa.nulls(count, TIME),
        )
        if self._table is None or not count:
            return empty
        start, end = bisect_left(self._numbers, first), bisect_right(self._numbers, last)
        if start == end:
            return empty
        part = self._table.slice(start, end - start)
        labelled = part["n"].combine_chunks()
        if last - first + 1 == count:  # nearly always: no number is left out, so a label's place is known
            places = pc.subtract(labelled, pa.scalar(first, pa.int64()))
            columns = [pc.scatter(part[name].combine_chunks(), places, max_index=count - 1) for name in _LABEL]
        else:
            where = pc.index_in(numbers, value_set=labelled)
            columns = [part[name].combine_chunks().take(where) for name in _LABEL]
        value, source, at = columns
        names = pa.array(list(self._sources), pa.string())
        return value, pa.DictionaryArray.from_arrays(source, names), at.cast(TIME)
