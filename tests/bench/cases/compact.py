# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes of records in a kit against Parquet with delta encoding and zstd, and reading them against reading Parquet."""

from __future__ import annotations

import argparse
import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edgeprov.fleet.dataset import arrow_columns
from edgeprov.formats.block import join_blocks
from edgeprov.formats.datakit import parse_part
from edgeprov.formats.record import encode_record, parse_record
from edgeprov.formats.segment import Tensor
from edgeprov.store.compress import compress, decompress
from tests.bench.harness import Figure, alternate, cpu_s, figure, main, micro, ratios
from tests.support.kits import START_NS, encode_record_parts, segment_header

GROUP = "records in a kit"
ROWS = 100_000


def make_rows(*, digests: bool) -> list[bytes]:
    rng = random.Random(1)
    wall, mono, rows = START_NS, 10**10, []
    for n in range(1, ROWS + 1):
        step = int(rng.gauss(10**9, 10**6))
        wall, mono = wall + step + rng.randrange(2000), mono + step
        outputs = (bytes(rng.choices(range(256), weights=[40 if v < 8 else 1 for v in range(256)], k=10)),)
        rows.append(
            encode_record(n, wall, mono, int(rng.gauss(15_000, 900)), outputs, rng.randbytes(32) if digests else None)
        )
    return rows


def table(rows: list[bytes], *, digests: bool) -> pa.Table:
    records = [parse_record(row) for row in rows]
    columns: dict[str, Any] = {
        "n": pa.array([r.n for r in records], pa.int64()),
        "recorded_at": pa.array([r.recorded_at_ns for r in records], pa.int64()),
        "mono": pa.array([r.mono_ns for r in records], pa.int64()),
        "duration": pa.array([r.duration_ns for r in records], pa.int64()),
        "out": pa.array([r.outputs[0] for r in records], pa.binary(10)),
    }
    if digests:
        columns["input"] = pa.array([r.input_digest for r in records], pa.binary(32))
    return pa.table(columns)


def parquet(data: pa.Table) -> bytes:
    sink = io.BytesIO()
    encodings = dict.fromkeys(("n", "recorded_at", "mono", "duration"), "DELTA_BINARY_PACKED")
    names = list(encodings)
    dictionary = [name for name in data.column_names if name not in names]
    pq.write_table(
        data, sink, compression="zstd", compression_level=1, use_dictionary=dictionary, column_encoding=encodings
    )
    return sink.getvalue()


def to_arrow(packed: tuple[bytes, bytes]) -> int:
    """As collect does: decompress, decode, hand the columns over without a copy."""
    evidence, content = (parse_part(decompress(part, 1 << 26)) for part in packed)
    blocks = join_blocks(evidence.blocks, content.outputs)
    rows = sum(block.count for block in blocks)
    arrow_columns.numbers_of(blocks)
    for name in ("recorded_at", "mono"):
        arrow_columns.sums(blocks, name)
    arrow_columns.int64s(b"".join([block.evidence.columns["duration"] for block in blocks]), rows)
    outputs = b"".join([block.content.output(0) for block in blocks])
    pa.Array.from_buffers(pa.binary(10), rows, [None, pa.py_buffer(outputs)])
    for block in blocks:
        columns = block.content.columns
        if "in" in columns:
            pa.Array.from_buffers(pa.binary(32), block.count, [None, pa.py_buffer(columns["in"])])
    return rows


def measure(_args: argparse.Namespace) -> list[Figure]:
    figures = []
    header = segment_header(outputs=[Tensor(name="y", shape=(1, 10), dtype="int8")])
    for digests in (False, True):
        rows = make_rows(digests=digests)
        plain = encode_record_parts(rows, header)
        packed = compress(plain["records"], 1), compress(plain["outputs"], 1)
        size, peer = sum(map(len, packed)), parquet(table(rows, digests=digests))
        what = "with input digests" if digests else "without input digests"
        figures.append(
            Figure(
                GROUP, f"bytes per record {what}, to delta-encoded Parquet with zstd", size / len(peer), "x", "<=", 1.1,
                ours=f"{size / ROWS:.1f} bytes, Parquet {len(peer) / ROWS:.1f}",
                note="Bound by what is random: outputs, jitter of the clocks, digests. Parquet packs deltas to bits, "
                "columns of int64 deltas leave that to zstd.",
            )
        )  # fmt: skip
        samples = alternate(
            7,
            {
                "ours": lambda packed=packed: cpu_s(lambda: to_arrow(packed)) / ROWS,
                "zstd": lambda packed=packed: cpu_s(lambda: [decompress(part, 1 << 26) for part in packed]) / ROWS,
                "peer": lambda peer=peer: cpu_s(lambda: pq.read_table(pa.BufferReader(peer), use_threads=False)) / ROWS,
            },
        )
        figures.append(
            figure(
                GROUP, f"read into Arrow {what}, to reading that Parquet", ratios(samples["ours"], samples["peer"]), "x", "<=", 1.0,
                ours=f"ours {micro(samples['ours'])}, Parquet {micro(samples['peer'])} a record",
                note="Bound by zstd, the checks of each block and the calls into Arrow; columns are handed over as views. "
                "Parquet is read without checking anything; what is left is those checks.",
            )
        )  # fmt: skip
        figures.append(
            figure(
                GROUP, f"floor of that {what}: zstd of the kit's parts alone", ratios(samples["zstd"], samples["peer"]), "x",
                ours=f"zstd {micro(samples['zstd'])} a record",
                note="Deltas as int64 are three times the bytes of Parquet's packed ones once they are plain: half of the reading is "
                "done before the first column is looked at. Packed deltas would need a version 2 of the column block.",
            )
        )  # fmt: skip
    return figures


if __name__ == "__main__":
    main(measure)
