# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Counts over finished Parquet files, one row group in memory at a time: what drift.py compares."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_TIME: Final = pa.timestamp("ns", tz="UTC")


def summarise(
    file: BinaryIO, since: str | None, to: str | None, *, bins: int, classes: int
) -> Iterator[dict[str, Any]]:
    """Counts of each row group of a finished file, for drift: spread of the first output, and agreement with labels.

    A vector output decides for its largest element; one number is put into ``bins`` over the tensor's range, and
    decides for class 1 above the middle.
    """
    with pq.ParquetFile(file) as parquet:
        field = parquet.schema_arrow.field("output_0") if "output_0" in parquet.schema_arrow.names else None
        if field is None:
            return
        tensor = json.loads(field.metadata[b"tensor"])
        if -1 in tensor["shape"]:
            return
        width = math.prod(tensor["shape"]) * (2 if tensor["dtype"] == "complex64" else 1)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=["recorded_at", "output_0", "label"])
            for text, keep in ((since, pc.greater_equal), (to, pc.less)):
                if text:
                    table = table.filter(
                        keep(table["recorded_at"], pa.scalar(text.rstrip("Z")).cast(pa.timestamp("ns")).cast(_TIME))
                    )
            if len(table):
                yield _summary(table, tensor, width, bins, classes)


def _summary(table: Any, tensor: dict[str, Any], width: int, bins: int, classes: int) -> dict[str, Any]:
    values = table["output_0"].combine_chunks()
    flat = values.flatten().cast(pa.float64())
    low, high = _range(tensor)
    if 1 < width <= classes:
        columns = [flat.take(pa.array(range(k, len(flat), width), pa.int64())) for k in range(width)]
        best = pc.max_element_wise(*columns)
        decided = pa.nulls(len(values), pa.int64())
        for k in range(width - 1, -1, -1):
            decided = pc.if_else(pc.equal(columns[k], best), pa.scalar(k, pa.int64()), decided)
        spread, kind = decided, "class"
    else:
        first = flat if width == 1 else flat.take(pa.array(range(0, len(flat), width), pa.int64()))
        place = pc.floor(pc.multiply(pc.divide(pc.subtract(first, low), (high - low) or 1.0), float(bins)))
        spread = pc.max_element_wise(pc.min_element_wise(place.cast(pa.int64()), bins - 1), 0)
        decided, kind = pc.greater(first, (low + high) / 2).cast(pa.int64()), "value"
    label = _whole_numbers(table["label"].combine_chunks())
    pairs = pa.table({"label": label, "decided": decided}).filter(pc.is_valid(label))
    times = pc.min_max(table["recorded_at"])
    grouped = pairs.group_by(["label", "decided"]).aggregate([([], "count_all")])
    return {
        "kind": kind, "edges": _real(tensor, low, high), "rows": len(table),
        "labelled": len(table) - table["label"].null_count, "compared": len(pairs),
        "right": pc.sum(pc.equal(pairs["label"], pairs["decided"])).as_py() or 0,
        "spread": {row["values"].as_py(): row["counts"].as_py() for row in pc.value_counts(spread)},
        "confusion": {(row["label"], row["decided"]): row["count_all"] for row in grouped.to_pylist()},
        "first": _text(times["min"]), "last": _text(times["max"]),
    }  # fmt: skip


def _whole_numbers(label: Any) -> Any:
    """Labels that can be compared with a decision, as int64: whole numbers, truth values, text of whole numbers."""
    if pa.types.is_string(label.type):
        whole = pc.match_substring_regex(label, r"^-?[0-9]{1,18}$")
        return pc.if_else(whole, label, pa.scalar(None, pa.string())).cast(pa.int64())
    if pa.types.is_floating(label.type):
        whole = pc.and_(pc.equal(pc.floor(label), label), pc.less(pc.abs(label), 2.0**53))
        return pc.if_else(whole, label, pa.scalar(None, label.type)).cast(pa.int64())
    if pa.types.is_integer(label.type) or pa.types.is_boolean(label.type):
        return label.cast(pa.int64())
    return pa.nulls(len(label), pa.int64())


def _real(tensor: dict[str, Any], low: float, high: float) -> list[float]:
    """Ends of the range as real values, where the tensor is quantised as a whole."""
    if len(tensor.get("scale") or ()) != 1:
        return [low, high]
    zero = (tensor.get("zero_point") or [0])[0]
    return [tensor["scale"][0] * (value - zero) for value in (low, high)]


def _range(tensor: dict[str, Any]) -> tuple[float, float]:
    bounds = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
    low, high = bounds.get(tensor["dtype"], (0, 1))
    return float(low), float(high)


def _text(moment: Any) -> str:
    return str(pc.strftime(moment.cast(pa.timestamp("ms", tz="UTC"), safe=False), format="%Y-%m-%dT%H:%M:%SZ").as_py())
