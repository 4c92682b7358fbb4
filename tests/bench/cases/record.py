# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded inference against the bare interpreter, JSON lines and SQLite; digests; bytes in the spool."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprov.device.context import Context
from edgeprov.device.recorder import Recorder
from edgeprov.formats.segment import RuntimeInfo, Tensor
from tests.bench.harness import Figure, alternate, cpu_s, figure, main, micro, ratios
from tests.support.site import DIGITS, MODELS, WDBC, Site

GROUP = "recorded inference"
BATCH = 2_000
ROUNDS = 9
RUNTIME = RuntimeInfo(name="bench", version="0", threads=1, delegate="")


def make_site(work: Path, name: str, settings: str, weights: bytes | None = None) -> Site:
    folder = work / name
    folder.mkdir(parents=True)
    site = Site(folder, settings=settings)
    Context.tpm = lambda context: site.open_tpm(context)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    site.install_identity()
    site.install(site.publish(weights, name=name))
    return site


def inference(args: argparse.Namespace, name: str, weights: bytes, batch: int, limit: float | None) -> Figure:
    from edgeprov import open_device

    site = make_site(args.work, name, '[record]\nsync = "interval"\ncapture = "none"\n', weights)
    with open_device(site.config_file) as device:
        model = device.load_model()
        tensor = model.inputs[0]
        rng = np.random.default_rng(1)
        x = rng.integers(-128, 127, tensor.shape, dtype=np.int8).astype(tensor.dtype)
        bare_call = bare(model)

        def ours() -> None:
            run = model.run
            for _ in range(batch):
                run(x)

        def peer() -> None:
            for _ in range(batch):
                bare_call(x)

        samples = alternate(
            ROUNDS if batch > 200 else 5,
            {"bare": lambda: cpu_s(peer) / batch, "ours": lambda: cpu_s(ours) / batch},
        )
        extra = [a - b for a, b in zip(samples["ours"], samples["bare"], strict=True)]
        return figure(
            GROUP, f"over the bare invoke, {name}", [v * 1e6 for v in extra], "us", "<=" if limit else "info", limit,
            ours=f"bare {micro(samples['bare'])}, recorded {micro(samples['ours'])}",
            note="Bound by Python calls: checks of shape and dtype, the copy of the outputs, one packed row into memory. "
            "No system call and no hash per record; a group goes to the disk at once.",
        )  # fmt: skip


def logging(args: argparse.Namespace) -> list[Figure]:
    site = make_site(args.work, "log", '[record]\nsync = "interval"\ncapture = "none"\n')
    recorder = make_recorder(site)
    output = b"0123456789"
    jsonl, sqlite = json_lines(args.work / "log.jsonl"), sqlite_wal(args.work / "log.db")

    def repeat(call: Callable[[bytes], object]) -> Callable[[], float]:
        def once() -> float:
            return cpu_s(lambda: [call(output) for _ in range(BATCH)]) / BATCH

        return once

    samples = alternate(
        ROUNDS,
        {
            "ours": repeat(lambda data: recorder.append((data,), duration_ns=15_000)),
            "jsonl": repeat(jsonl),
            "sqlite": repeat(sqlite),
        },
    )
    recorder.close()
    return [
        figure(
            GROUP, f"one record, {label} to ours", ratios(samples[key], samples["ours"]), "x", ">=", share,
            ours=f"{label} {micro(samples[key])}, ours {micro(samples['ours'])}",
            note="The peer logs the same facts, one write or one transaction per record, without fsync. "
            "Ours packs into memory and writes in groups of 32 KiB or each second.",
        )
        for key, share, label in (("jsonl", 4, "JSON lines"), ("sqlite", 8, "SQLite WAL"))
    ]  # fmt: skip


def bare(model: Any) -> Callable[[Any], Any]:
    interpreter = model._engine._interpreter
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    set_tensor, invoke, get_tensor = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor

    def call(x: Any) -> Any:
        set_tensor(source, x)
        invoke()
        return get_tensor(target)

    return call


COMMON = {
    "model": "sha256:" + "5" * 64,
    "device": "urn:edgeprov:device:unit-1",
    "slot": "default",
    "boot": "4b1f5c2a-0000-4000-8000-000000000001",
}


def json_lines(path: Path) -> Callable[[bytes], None]:
    stream = open(path, "ab", buffering=0)  # noqa: SIM115
    number = iter(range(10**9))

    def log(output: bytes) -> None:
        row = {
            "n": next(number),
            "recorded_at": time.time_ns(),
            "mono": time.monotonic_ns(),
            "duration": 15000,
            **COMMON,
            "out": list(output),
        }
        stream.write(json.dumps(row).encode() + b"\n")

    return log


def sqlite_wal(path: Path) -> Callable[[bytes], None]:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(
        "CREATE TABLE r (n INTEGER PRIMARY KEY, at INTEGER, mono INTEGER, duration INTEGER, segment INTEGER, out BLOB)"
    )

    def log(output: bytes) -> None:
        db.execute(
            "INSERT INTO r (at, mono, duration, segment, out) VALUES (?,?,?,?,?)",
            (time.time_ns(), time.monotonic_ns(), 15000, 1, output),
        )

    return log


def digests(args: argparse.Namespace) -> list[Figure]:
    site = make_site(args.work, "digest", '[record]\nsync = "interval"\ncapture = "digest"\n')
    figures = []
    for size, batch, limit in ((10_000, 500, 1.5), (150_000, 100, 1.15)):
        data = memoryview(os.urandom(size))
        recorder = make_recorder(site, size)
        samples = alternate(
            ROUNDS,
            {
                "hash": lambda data=data, batch=batch: (
                    cpu_s(lambda: [hashlib.sha256(data).digest() for _ in range(batch)]) / batch
                ),
                "ours": lambda data=data, batch=batch: (
                    cpu_s(
                        lambda: [
                            recorder.append((b"0123456789",), duration_ns=15_000, inputs=(data,)) for _ in range(batch)
                        ]
                    )
                    / batch
                ),
            },
        )
        recorder.close()
        figures.append(
            figure(
                GROUP, f"with the keyed digest of {size // 1000} kB of input", ratios(samples["ours"], samples["hash"]), "x hash", "<=", limit,
                ours=f"hash {micro(samples['hash'])}, record {micro(samples['ours'])}",
                note="Bound by SHA-256 of the input, once. The rest is the cost of a record.",
            )
        )  # fmt: skip
    return figures


def make_recorder(site: Site, size: int = 30) -> Recorder:
    from edgeprov.device.measure import verified_model

    context = site.context
    return Recorder(
        context,
        context.state(),
        slot="default",
        model=verified_model(context, "default"),
        inputs=[Tensor(name="x", shape=(1, size), dtype="uint8")],
        outputs=[Tensor(name="y", shape=(1, 10), dtype="int8")],
        runtime=RUNTIME,
    )


def spool_bytes(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for capture in ("none", "digest"):
        site = make_site(args.work, f"bytes-{capture}", f'[record]\nsync = "interval"\ncapture = "{capture}"\n')
        recorder = make_recorder(site)
        count = 50_000
        x = memoryview(os.urandom(30))
        before = io_bytes()
        start = time.perf_counter()
        for _ in range(count):
            recorder.append((b"0123456789",), duration_ns=15_000, inputs=(x,))
        recorder.sync()
        seconds = time.perf_counter() - start
        written = io_bytes() - before
        recorder.close()
        size = sum(path.stat().st_size for path in (site.root / "state").rglob("*.seg"))
        extra = (32 + 2) if capture == "digest" else 0
        figures.append(
            Figure(
                GROUP, f"bytes in the spool over the tensors, capture {capture}", size / count - 10 - extra, "bytes", "<=", 64,
                ours=f"{size / count:.1f} bytes a record" + (", 34 of them the digest" if extra else ""),
                note="A packed array of seven, and nine bytes of frame: length, checksum, kind.",
            )
        )  # fmt: skip
        if capture == "none":
            figures.append(
                Figure(
                    GROUP, "bytes written to the disk per record (flash wear)", written / count, "bytes",
                    ours=f"{count} records in {seconds:.1f} s, synced each second",
                    note="From /proc/self/io; whole pages at each sync, so it falls with the rate.",
                )
            )  # fmt: skip
    return figures


def io_bytes() -> int:
    text = Path("/proc/self/io").read_text()
    return int(text.split("write_bytes:")[1].split()[0])


def recovery(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for count in (1_000, 10_000, 100_000):
        site = make_site(args.work, f"recover-{count}", '[record]\nsync = "seal"\ncapture = "none"\n')
        pid = os.fork()
        if pid == 0:  # the process that is cut off in the middle
            recorder = make_recorder(site)
            for _ in range(count):
                recorder.append((b"0123456789",), duration_ns=15_000)
            recorder.sync()
            os._exit(9)
        os.waitpid(pid, 0)
        spool = site.context.state().spool("default")
        seconds = cpu_s(spool.recover)
        figures.append(
            Figure(
                GROUP,
                f"recovery after a crash, {count} records in the spool",
                seconds * 1e3,
                "ms CPU",
                note="Every frame's checksum is read once; the tail is cut where it is torn.",
            )
        )
    return figures


def measure(args: argparse.Namespace) -> list[Figure]:
    mobilenet = MODELS / "mobilenetv2_224_untrained_int8.tflite"
    figures = [
        inference(args, "wdbc", WDBC.read_bytes(), BATCH, 6.0),
        inference(args, "digits", DIGITS.read_bytes(), BATCH, 6.0),
        inference(args, "mobilenet", mobilenet.read_bytes(), 10 if args.full else 3, None),
    ]
    return figures + logging(args) + digests(args) + spool_bytes(args) + recovery(args)


if __name__ == "__main__":
    main(measure)
