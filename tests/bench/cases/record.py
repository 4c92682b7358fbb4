# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded inference against the bare interpreter, for three models; digests; bytes in the spool; recovery."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprov.device.context import Context
from edgeprov.device.recorder import Recorder
from edgeprov.formats.segment import RuntimeInfo, Tensor
from tests.bench.harness import Figure, alternate, cpu_s, figure, main, micro, milli, ratios
from tests.support.site import DIGITS, MODELS, WDBC, Site

GROUP = "recorded inference"
BATCH = 2_000
ROUNDS = 9
RUNTIME = RuntimeInfo(name="bench", version="0", threads=1, delegate="")


def make_site(work: Path, name: str, settings: str, weights: bytes | None = None) -> Site:
    folder = work / name
    folder.mkdir(parents=True)
    site = Site(folder, settings=settings)
    Context.tpm = Context.boot_tpm = lambda context: site.open_tpm(context)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    site.install_identity()
    site.install(site.publish(weights, name=name))
    return site


def small_model(args: argparse.Namespace, name: str, weights: bytes) -> Figure:
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
            for _ in range(BATCH):
                run(x)

        def peer() -> None:
            for _ in range(BATCH):
                bare_call(x)

        samples = alternate(ROUNDS, {"bare": lambda: cpu_s(peer) / BATCH, "ours": lambda: cpu_s(ours) / BATCH})
        extra = [a - b for a, b in zip(samples["ours"], samples["bare"], strict=True)]
        return figure(
            GROUP, f"over the bare invoke, {name} ({len(weights) / 1e3:,.0f} kB)", [v * 1e6 for v in extra], "us", "<=", 6.0, headline="" if name != "digits" else f"recording one inference, {name}, over the bare invoke",
            ours=f"bare {micro(samples['bare'])}, recorded {micro(samples['ours'])}",
            note="Bound by Python calls: checks of shape and dtype, the copy of the outputs, one packed row into memory. "
            "No system call and no hash per record, a group goes to the disk at once; what is left is the interpreter's own get_tensor.",
        )  # fmt: skip


def large_model(args: argparse.Namespace, name: str, weights: bytes, calls: int) -> Figure:
    """What lies outside the interpreter's own invoke, which at 100 ms would hide it: timed apart, in the real loop."""
    from edgeprov import open_device

    site = make_site(args.work, name, '[record]\nsync = "interval"\ncapture = "none"\n', weights)
    with open_device(site.config_file) as device:
        model = device.load_model()
        tensor = model.inputs[0]
        x = np.random.default_rng(1).integers(-128, 127, tensor.shape, dtype=np.int8).astype(tensor.dtype)
        engine: Any = model._engine
        invoke, inside = engine._run, [0.0]

        def timed_invoke() -> None:
            start = time.process_time()
            invoke()
            inside[0] += time.process_time() - start

        engine._run = timed_invoke
        bare_call = bare(model, timed_invoke)
        samples: dict[str, list[float]] = {"ours": [], "bare": [], "invoke": []}
        for _ in range(calls):
            for who, call in (("bare", bare_call), ("ours", model.run)):
                inside[0] = 0.0
                whole = cpu_s(lambda call=call: call(x))  # type: ignore[misc]
                samples[who].append(whole - inside[0])
            samples["invoke"].append(inside[0])
        engine._run = invoke
    extra = [(a - b) / c * 100 for a, b, c in zip(samples["ours"], samples["bare"], samples["invoke"], strict=True)]
    return figure(
        GROUP, f"over the bare invoke, {name} ({len(weights) / 1e3:,.0f} kB)", extra, "%", "<=", 0.5,
        ours=f"around invoke: bare {micro(samples['bare'])}, recorded {micro(samples['ours'])}; invoke {milli(samples['invoke'])}",
        note="The same work as for a small model, but after 100 ms of arithmetic it finds its code and data gone from the processor's "
        "caches, and a thousand output bytes to copy. Two thousandths of the inference: nothing worth the work is left.",
    )  # fmt: skip


def bare(model: Any, invoke: Callable[[], object] | None = None) -> Callable[[Any], Any]:
    interpreter = model._engine._interpreter
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    set_tensor, get_tensor = interpreter.set_tensor, interpreter.get_tensor
    invoke = invoke or interpreter.invoke

    def call(x: Any) -> Any:
        set_tensor(source, x)
        invoke()
        return get_tensor(target)

    return call


def digests(args: argparse.Namespace) -> list[Figure]:
    site = make_site(args.work, "digest", '[record]\nsync = "interval"\ncapture = "digest"\n')
    figures = []
    for size, batch, limit in ((10_000, 500, 1.5), (150_000, 100, 1.15)):
        data = memoryview(os.urandom(size))
        recorder = make_recorder(site.context, size)
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
                note="Bound by SHA-256 of the input, once. The rest is the cost of a record, and nothing of it grows with the input.",
            )
        )  # fmt: skip
    return figures


def make_recorder(context: Context, size: int = 30) -> Recorder:
    from edgeprov.device.boot_stamp import verified_model

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
        recorder = make_recorder(site.context)
        count = 50_000
        x = memoryview(os.urandom(30))
        for _ in range(count):
            recorder.append((b"0123456789",), duration_ns=15_000, inputs=(x,))
        recorder.sync()
        recorder.close()
        size = sum(path.stat().st_size for path in (site.root / "state").rglob("*.seg"))
        extra = (32 + 2) if capture == "digest" else 0
        figures.append(
            Figure(
                GROUP, f"bytes in the spool over the tensors, capture {capture}", size / count - 10 - extra, "bytes", "<=", 64,
                ours=f"{size / count:.1f} bytes a record" + (", 34 of them the digest" if extra else ""),
                note="A packed array of seven, and nine bytes of frame: length, checksum, kind. What is common to the rows stands in the segment's header; "
                "two clocks are what is left.",
            )
        )  # fmt: skip
    return figures


def recovery(args: argparse.Namespace) -> list[Figure]:
    """A process that is cut off in the middle of a segment, and the next start."""
    counts = (1_000, 10_000, 100_000, 1_000_000) if args.full else (1_000, 10_000, 100_000)
    figures, used = [], []
    note = "Bound by one checksum of each frame, read once; the tail is cut where it is torn, so nothing else is left to do."
    for count in counts:
        site = make_site(args.work, f"recover-{count}", '[record]\nsync = "seal"\ncapture = "none"\n')
        pid = os.fork()
        if pid == 0:
            recorder = make_recorder(site.context)
            for _ in range(count):
                recorder.append((b"0123456789",), duration_ns=15_000)
            recorder.sync()
            os._exit(9)
        os.waitpid(pid, 0)
        size = sum(path.stat().st_size for path in (site.root / "state").rglob("*.seg"))
        used.append(cpu_s(site.context.state().spool("default").recover))
        name = f"recovery after a crash, {count:,} records in the spool"
        figures.append(Figure(GROUP, name, used[-1] * 1e3, "ms CPU", ours=f"{size / 1e3:,.0f} kB", note=note))
    exponent = math.log(used[-1] / used[1]) / math.log(counts[-1] / counts[1])
    name = f"growth of recovery from {counts[1]:,} to {counts[-1]:,} records"
    return [
        *figures,
        Figure(GROUP, name, exponent, "exponent", "<=", 1.05, ours="CPU time ~ records ** exponent", note=note),
    ]


def measure(args: argparse.Namespace) -> list[Figure]:
    mobilenet = MODELS / "mobilenetv2_224_untrained_int8.tflite"
    figures = [
        small_model(args, "wdbc", WDBC.read_bytes()),
        small_model(args, "digits", DIGITS.read_bytes()),
        large_model(args, "mobilenet", mobilenet.read_bytes(), 60 if args.full else 20),
    ]
    return figures + digests(args) + spool_bytes(args) + recovery(args)


if __name__ == "__main__":
    main(measure)
