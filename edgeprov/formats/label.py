# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Labels: ground truth that comes later than its record, and the one order in which labels of a record count.

A label log and the Merkle tree hold whole rows. A kit holds numbers and times in one part, values and
sources in another one, row by row in step.

Spec: FORMAT.md section "Label".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError, SubjectMismatch
from edgeprov.formats.label_runs import read_number_runs, read_value_runs
from edgeprov.formats.packing import Buffer, Cursor, pack, pack_plain, unpack, unpack_rows
from edgeprov.formats.record import INT_MAX
from edgeprov.limits import LIMITS

Scalar = None | bool | int | float | str | bytes
LabelValue = Scalar | tuple[Scalar, ...]

_PLAIN_TYPES: Final = frozenset((type(None), bool, int, str, bytes))
_PLACES: Final = 2**27
"""More labels than a kit may hold (limits.kit_records)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Ground truth for record ``n`` of the same device and slot.

    ``value`` and ``source`` are None together: the label is withdrawn, the record has none from then on.
    """

    n: int
    value: LabelValue
    source: str | None
    labelled_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNumbers:
    """Labels without their values, by column: what a ``labels`` part holds."""

    numbers: Sequence[int] = ()
    labelled_at_ns: Sequence[int] = ()
    withdrawn: Sequence[bool] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelValues:
    """Values and sources of labels, by column: what a ``label-values`` part holds."""

    values: Sequence[LabelValue] = ()
    sources: Sequence[str | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Whole labels by column, one after the other as in their parts: no object per label."""

    keys: LabelNumbers = field(default_factory=LabelNumbers)
    content: LabelValues = field(default_factory=LabelValues)

    @property
    def numbers(self) -> Sequence[int]:
        """Record numbers."""
        return self.keys.numbers

    @property
    def withdrawn(self) -> Sequence[bool]:
        """Whether the label takes an earlier one back."""
        return self.keys.withdrawn

    @property
    def values(self) -> Sequence[LabelValue]:
        """Values, None where a label is withdrawn."""
        return self.content.values

    @property
    def sources(self) -> Sequence[str | None]:
        """Sources, None where a label is withdrawn."""
        return self.content.sources

    @property
    def labelled_at_ns(self) -> Sequence[int]:
        """Times, device clock, nanoseconds."""
        return self.keys.labelled_at_ns

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[Label]:
        """The labels one by one."""
        for n, value, source, at in zip(self.numbers, self.values, self.sources, self.labelled_at_ns, strict=True):
            yield Label(n=n, value=value, source=source, labelled_at_ns=at)

    def rows(self) -> list[bytes]:
        """The canonical bytes of each label: the leaves of the kit's tree of labels."""
        return list(map(pack_plain, zip(self.numbers, self.values, self.sources, self.labelled_at_ns, strict=True)))


def label_rank(seq: int, place: int) -> int:
    """The place of a label among all labels of a device: of several of one record the highest counts.

    By kit number, then by place in the kit; never by time, which the device's clock gives.

    Args:
        seq: Number of the kit, at most ten digits.
        place: Place of the label among the labels of the kit, from 0.
    """
    return seq * _PLACES + place


def encode_label(label: Label) -> bytes:
    """The canonical bytes of a label row.

    Raises:
        FormatError: The value is none of those that a label can have.
        LimitError: Too long.
    """
    value = list(label.value) if isinstance(label.value, tuple | list) else label.value
    row = [label.n, value, label.source, label.labelled_at_ns]
    label_of(row)
    raw = pack(row)
    if len(raw) > LIMITS.label_bytes:
        raise LimitError(f"label has {len(raw)} bytes, more than {LIMITS.label_bytes}")
    return raw


def parse_label(raw: Buffer) -> Label:
    """Read a label row.

    Raises:
        LimitError: Too long.
        FormatError: Not a canonical label row.
    """
    return label_of(unpack(raw, max_bytes=LIMITS.label_bytes, what="label"))


def label_of(row: Any) -> Label:
    """Check a decoded label row."""
    if not isinstance(row, list) or len(row) != 4:
        raise FormatError("label is not an array of 4")
    n, value, source, labelled_at = row
    _verify_numbers((n,), (labelled_at,))
    _verify_values((value,), (source,))
    return Label(
        n=n, value=tuple(value) if isinstance(value, list) else value, source=source, labelled_at_ns=labelled_at
    )


def split_labels(rows: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Row of the ``labels`` part and row of the ``label-values`` part of some whole labels.

    Raises:
        FormatError: Not canonical label rows.
    """
    decoded = unpack_rows(rows, width=4, what="label")
    return [(pack([n, at, value is None]), pack([value, source])) for n, value, source, at in decoded]


def join_labels(keys: LabelNumbers, content: LabelValues) -> LabelColumns:
    """Whole labels of a labels part and of the label-values part of the same number.

    Raises:
        SubjectMismatch: The two do not belong together.
    """
    if len(keys.numbers) != len(content.values):
        raise SubjectMismatch(
            f"a labels part has {len(keys.numbers)} rows, its label-values part {len(content.values)}"
        )
    some = True in keys.withdrawn or None in content.sources
    if some and [source is None for source in content.sources] != list(keys.withdrawn):
        raise SubjectMismatch("a labels part and its label-values part differ in which labels are withdrawn")
    return LabelColumns(keys=keys, content=content)


def read_label_numbers(cursor: Cursor) -> LabelNumbers:
    """Read all rows ``[n, labelled_at_ns, withdrawn]`` that follow in a part."""
    columns: tuple[Sequence[Any], ...] | None = read_number_runs(bytes(cursor.rest()))
    if columns is not None:
        cursor.skip_rest()
    else:
        columns = tuple(zip(*cursor.rows(3, LIMITS.label_bytes), strict=True))
        _verify_numbers(*columns[:2])
        if set(map(type, columns[2])) != {bool}:
            raise FormatError("label: it is not said whether it is withdrawn")
    numbers, times, withdrawn = columns
    return LabelNumbers(numbers=numbers, labelled_at_ns=times, withdrawn=withdrawn)


def read_label_values(cursor: Cursor) -> LabelValues:
    """Read all rows ``[value, source]`` that follow in a part."""
    runs = read_value_runs(bytes(cursor.rest()))
    if runs is not None:
        cursor.skip_rest()
        return LabelValues(values=runs[0], sources=runs[1])
    values, sources = zip(*cursor.rows(2, LIMITS.label_bytes), strict=True)
    _verify_values(values, sources)
    return LabelValues(values=values, sources=sources)


def _verify_numbers(numbers: Sequence[Any], times: Sequence[Any]) -> None:
    for column in (numbers, times):
        if set(map(type, column)) != {int} or min(column) < 0 or max(column) > INT_MAX:
            raise FormatError("label: number and time must be integers from 0 to 2**63-1")


def _verify_values(values: Sequence[Any], sources: Sequence[Any]) -> None:
    if set(map(type, sources)) - {str, type(None)}:
        raise FormatError("label: the source is not a string")
    # Only floats and arrays need a look at each value.
    if set(map(type, values)) - _PLAIN_TYPES and not all(map(_is_value, values)):
        raise FormatError("label: the value is neither a scalar nor an array of scalars, or not finite")
    if any((value is None) is not (source is None) for value, source in zip(values, sources, strict=True)):
        raise FormatError("label: a withdrawn label has neither value nor source, every other has both")


def _is_value(value: object) -> bool:
    return all(map(_is_scalar, value)) if isinstance(value, tuple | list) else _is_scalar(value)


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes)
