# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Outputs that vary, and what ran the model: from the kit into the data set, and two model versions read together."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from edgeprov.fleet.dataset.arrow_columns import params_column
from edgeprov.formats.label import Label
from edgeprov.formats.record import encode_record
from edgeprov.formats.segment import RuntimeInfo, Tensor
from tests.support.fleet import push_kit
from tests.support.kits import START_NS, blocks_of
from tests.support.readers import readers_python

BOXES = Tensor(name="boxes", shape=(-1, 4), dtype="float32")
GRID = Tensor(name="grid", shape=(1, -1, -1), dtype="int8", scale=(0.5,), zero_point=(-1,))
COUNT = Tensor(name="count", shape=(), dtype="int32")
DETECTOR = (BOXES, GRID, COUNT)


def detected(n: int, boxes: int, grid: tuple[int, int], **more: Any) -> bytes:
    values = struct.pack(f"<{4 * boxes}f", *(n + i / 4 for i in range(4 * boxes)))
    cells = bytes(range(grid[0] * grid[1]))
    shapes = [(boxes, 4), (1, *grid), None]
    outputs = (values, cells, struct.pack("<i", boxes))
    return encode_record(n, START_NS + n * 10**9, 10**9 + n, 5, outputs, shapes=shapes, **more)


def seal(unit: Any, rows: list[bytes], *, labels: Any = (), model: Any = None, **header: Any) -> Any:
    digest = (model or unit.world.model).digest
    segment = unit.open_segment(model=digest, **header)
    unit.next_n += len(rows)
    return unit.seal(rows=rows, segments=[segment], labels=labels, model=model)


def collected(hub: Any, folder: Path, *argv: object) -> list[dict[str, Any]]:
    hub.sync()
    assert hub.run("verify", "--records").code == 0
    run = hub.run("collect", "-o", folder, *argv)
    assert run.code == 0, run.err
    table = ds.dataset(folder, partitioning="hive").to_table().sort_by([("n", "ascending")])
    for name in ("recorded_at", "labelled_at"):  # nanoseconds, which Python's own times do not hold
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    return table.to_pylist()


def test_a_detectors_results_come_with_their_actual_shapes(hub: Any, tmp_path: Path) -> None:
    unit = hub.device("a1")
    first = unit.next_n
    found = [(3, (2, 3)), (0, (0, 5)), (1, (3, 2)), (8, (1, 1))]
    push_kit(hub.registry, unit, seal(unit, [detected(first + i, *of) for i, of in enumerate(found)], outputs=DETECTOR))
    rows = collected(hub, tmp_path / "set", "--dequantise")
    assert [row["output_0_shape"] for row in rows] == [[boxes, 4] for boxes, _ in found]
    assert [row["output_1_shape"] for row in rows] == [[1, *grid] for _, grid in found]
    assert [row["output_2_shape"] for row in rows] == [[]] * 4
    for n, (row, (boxes, grid)) in enumerate(zip(rows, found, strict=True), first):
        assert row["output_0"] == [n + i / 4 for i in range(4 * boxes)]
        assert row["output_1"] == list(range(grid[0] * grid[1]))
        assert row["output_1_real"] == [0.5 * (value + 1) for value in row["output_1"]]
        assert row["output_2"] == [boxes]


def test_two_versions_with_other_shapes_are_read_together(hub: Any, tmp_path: Path) -> None:
    """[1, 2], then [1, 3], then [1, -1], each way round of their digests: no row and no column is lost."""
    unit = hub.device("a1")
    expected: dict[int, tuple[list[float], list[int]]] = {}
    for place, shape in enumerate([(1, 2), (1, 3), (1, -1)]):
        model = hub.world.model if place == 0 else hub.world.make_model("detector", f"version {place}".encode())
        unit.measure(model.digest)
        rows = []
        for n in range(unit.next_n, unit.next_n + 4):
            size = abs(shape[1]) if shape[1] > 0 else n % 3
            values = [float(n + i) for i in range(size)]
            shapes = [(1, size)] if -1 in shape else None
            rows.append(encode_record(n, START_NS + n, n, 1, [struct.pack(f"<{size}f", *values)], shapes=shapes))
            expected[n] = (values, [1, size])
        push_kit(
            hub.registry, unit, seal(unit, rows, model=model, outputs=[Tensor(name="p", shape=shape, dtype="float32")])
        )
    rows = collected(hub, tmp_path / "set")
    assert {row["n"]: (row["output_0"], row["output_0_shape"]) for row in rows} == expected
    files = sorted((tmp_path / "set").glob("model=*/device=*/*.parquet"))
    assert len(files) == 3
    schemas = [pq.read_schema(path) for path in files]
    assert all(
        dict(zip(one.names, one.types, strict=True)) == dict(zip(schemas[0].names, schemas[0].types, strict=True))
        for one in schemas
    )


READ_ALL = """
import json, sys
import duckdb, pandas, polars
files = sys.argv[1] + "/model=*/device=*/*.parquet"
columns = ["n", "output_0", "output_0_shape"]
frame = pandas.read_parquet(sys.argv[1])[columns]
told = {
    "pandas": [[int(n), list(map(float, o)), list(map(int, s))] for n, o, s in frame.itertuples(index=False)],
    "polars": [list(row) for row in polars.scan_parquet(files, hive_partitioning=True).select(columns).collect().rows()],
    "duckdb": [list(row) for row in duckdb.sql(f"SELECT n, output_0, output_0_shape FROM '{files}'").fetchall()],
}
print(json.dumps({name: sorted(rows) for name, rows in told.items()}))
"""


def test_other_peoples_readers_read_two_versions_as_one(hub: Any, tmp_path: Path) -> None:
    python = readers_python()
    unit = hub.device("a1")
    expected = []
    for place, width in enumerate((2, 3, -1)):
        model = hub.world.model if place == 0 else hub.world.make_model("detector", f"version {place}".encode())
        unit.measure(model.digest)
        n, size = unit.next_n, abs(width)
        row = encode_record(
            n, n, n, 1, [struct.pack(f"<{size}f", *range(size))], shapes=[(1, size)] if width < 0 else None
        )
        tensor = Tensor(name="p", shape=(1, width), dtype="float32")
        push_kit(hub.registry, unit, seal(unit, [row], model=model, outputs=[tensor]))
        expected.append([n, [float(value) for value in range(size)], [1, size]])
    collected(hub, tmp_path / "set")
    done = subprocess.run(
        [python, "-c", READ_ALL, tmp_path / "set"], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == dict.fromkeys(("pandas", "polars", "duckdb"), expected)


def test_segments_of_one_model_that_describe_an_output_otherwise_are_one_file(hub: Any, tmp_path: Path) -> None:
    """Another name, a fixed shape and one that varies, another spelling of the scale: the rows are all there."""
    unit = hub.device("a1")
    for tensor in (
        Tensor(name="p", shape=(1, 2), dtype="int8", scale=(1 / 256,), zero_point=(-128,)),
        Tensor(name="StatefulPartitionedCall:0", shape=(1, 2), dtype="int8", scale=(1 / 256,), zero_point=(-128,)),
        Tensor(name="p", shape=(1, -1), dtype="int8", scale=(0.00390625001,), zero_point=(-128,)),
    ):
        n = unit.next_n
        shapes = [(1, 2)] if -1 in tensor.shape else None
        push_kit(hub.registry, unit, seal(unit, [encode_record(n, n, n, 1, [b"ab"], shapes=shapes)], outputs=[tensor]))
    rows = collected(hub, tmp_path / "set", "--dequantise")
    assert [row["output_0"] for row in rows] == [[97, 98]] * 3
    assert [row["output_0_shape"] for row in rows] == [[1, 2]] * 3
    for row in rows:
        assert row["output_0_real"] == pytest.approx([(97 + 128) / 256, (98 + 128) / 256])


def test_what_ran_the_model_reaches_the_data_set(hub: Any, tmp_path: Path) -> None:
    unit = hub.device("a1")
    cpu = RuntimeInfo(name="tflite-runtime", version="2.14.0", threads=4, delegate="default")
    npu = RuntimeInfo(name="vendor", version="9", threads=1, delegate="ethos-u")
    for runtime, common in ((cpu, {"threshold": 0.5, "camera": "left"}), (npu, {})):
        n = unit.next_n
        rows = [
            encode_record(n, n, n, 1, [b"ab"]),
            encode_record(n + 1, n, n, 1, [b"ab"], None, {"threshold": 0.7, "key": b"\x00"}),
            encode_record(n + 2, n, n, 1, [b"ab"], flags=1),
        ]
        push_kit(hub.registry, unit, seal(unit, rows, runtime=runtime, params=common))
    rows = collected(hub, tmp_path / "set")
    names = ("runtime", "runtime_version", "delegate", "threads")
    assert [tuple(row[name] for name in names) for row in rows] == [
        *[("tflite-runtime", "2.14.0", "default", 4)] * 3,
        *[("vendor", "9", "ethos-u", 1)] * 3,
    ]
    assert [row["params"] and json.loads(row["params"]) for row in rows] == [
        {"camera": "left", "threshold": 0.5},
        {"camera": "left", "threshold": 0.7, "key": "AA=="},
        {"camera": "left", "threshold": 0.5},
        None,
        {"threshold": 0.7, "key": "AA=="},
        None,
    ]
    assert [row["clock_doubtful"] for row in rows] == [False, False, True] * 2
    schema = pq.read_schema(next((tmp_path / "set").glob("model=*/device=*/*.parquet")))
    assert schema.field("params").type == pa.dictionary(pa.int32(), pa.string())


LATER = 10**18


@pytest.mark.parametrize("value", [1, 0.5, True, "malignant", b"x", (1, 2)])
def test_a_withdrawn_label_is_gone_and_a_corrected_one_counts_whatever_the_clock_said(
    hub: Any, tmp_path: Path, value: Any
) -> None:
    """By the number of the kit and the place in it: the device's clock went back before the second kit."""
    unit = hub.device("a1")
    first = unit.next_n

    def label(n: int, value: Any, at: int) -> Label:
        return Label(n=first + n, value=value, source=None if value is None else "lab", labelled_at_ns=at)

    kits = [
        [label(0, value, LATER), label(1, value, LATER), label(2, None, LATER), label(3, value, LATER)],
        [label(0, None, 5), label(1, value, 5), label(2, value, 5), label(3, value, 9), label(3, None, 8)],
        [label(4, value, 7), label(4, None, 6), label(4, value, 5), label(1, None, 4), label(1, value, 3)],
    ]
    for labels in kits:
        push_kit(hub.registry, unit, unit.seal(records=5, labels=labels))
    rows = collected(hub, tmp_path / "set")[:5]
    assert [row["label"] is not None for row in rows] == [False, True, True, False, True]
    for row in rows:
        assert (row["label"] is None) == (row["label_source"] is None) == (row["labelled_at"] is None)
    assert [row["labelled_at"] for row in rows[1:3]] == [3, 5]
    audit = hub.run("audit", "--from", "2026-01", "--to", "2026-12", "--json").last("audit")
    assert (audit["models"][0]["labels"], audit["models"][0]["labels_exact"]) == (3, True)
    statement = json.loads((tmp_path / "set" / "_edgeprov" / "statement.json").read_bytes())
    assert statement["predicate"]["labelled"] == 3


def test_parameters_are_overlaid_row_by_row() -> None:
    from edgeprov.formats.block import encode_block
    from tests.support.kits import decode_block, segment_header

    header = segment_header(params={"a": 1})
    rows = [encode_record(n, n, n, n, (b"abc",), None, {"b": n} if n in (1, 4) else None) for n in range(1, 6)]
    column = params_column([decode_block(encode_block(rows, 0, header), [header])])
    assert [json.loads(text) for text in column.to_pylist()] == [
        {"a": 1} | ({"b": n} if n in (1, 4) else {}) for n in range(1, 6)
    ]
    assert blocks_of([]) == []
