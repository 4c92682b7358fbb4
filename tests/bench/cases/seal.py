# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Sealing: CPU per record, against tar | zstd with both digests, against kit pack; memory; fixed cost; TPM work."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from edgeprov.device.context import Context
from edgeprov.device.seal import seal
from tests.bench.harness import (
    Figure,
    alternate,
    children_cpu_s,
    cpu_s,
    figure,
    main,
    milli,
    missing,
    ratios,
    tool,
)
from tests.support.site import Site

GROUP = "seal"
SMALL = 100_000
MB = 1_000_000
INPUT_BYTES = 10_000


def make_site(folder: Path, capture: str) -> Site:
    """One signature form, as the design counts it."""
    folder.mkdir(parents=True)
    big = "part_bytes = 1048576\nmax_records = 100000000\nmax_bytes = 100000000000\nmax_age_s = 1000000"
    site = Site(
        folder,
        settings=f'[record]\nsync = "seal"\ncapture = "{capture}"\nquota_bytes = 100000000000\n[seal]\nsignatures = ["cosign"]\n{big}\n',
    )
    Context.tpm = Context.boot_tpm = lambda context: site.open_tpm(context)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    site.install_identity()
    site.install()
    return site


def record_small(site: Site, count: int) -> None:
    from tests.bench.cases.record import make_recorder

    with make_recorder(site.context) as recorder:
        for number in range(count):
            recorder.append((number.to_bytes(10, "little"),), duration_ns=15_000 + number % 977)


def record_large(site: Site, total: int, blob: bytes) -> int:
    """Records with captured inputs of 10 kB from ``blob``, at changing places."""
    from tests.bench.cases.record import make_recorder

    count = total // INPUT_BYTES
    view = memoryview(blob)
    with make_recorder(site.context, INPUT_BYTES) as recorder:
        for number in range(count):
            start = number * INPUT_BYTES % (len(blob) - INPUT_BYTES)
            recorder.append(
                (number.to_bytes(10, "little"),), duration_ns=15_000, inputs=(view[start : start + INPUT_BYTES],)
            )
    return count


def soft_tpm_s(site: Site) -> float:
    """What the software TPM of the bench takes for one kit; a chip has its own clock."""

    def work() -> None:
        site.tpm.increment_counter()
        site.tpm.quote(bytes(32))
        site.tpm.certify_counter(bytes(32))
        site.tpm.sign_digest(bytes(32))
        site.tpm.sign_digest(bytes(32))

    counter = site.tpm.counter
    try:
        return cpu_s(lambda: [work() for _ in range(20)]) / 20
    finally:
        site.tpm.counter = counter  # or the next seal owes a tombstone for these numbers


def small(args: argparse.Namespace) -> list[Figure]:
    site = make_site(args.work / "small", "none")
    per_record, fixed = [], []
    for number in range(6):
        record_small(site, 1)
        one = cpu_s(lambda: seal(site.context)) - soft_tpm_s(site)
        record_small(site, SMALL)
        many = cpu_s(lambda: seal(site.context))
        if number:
            fixed.append(one)
            per_record.append((many - one) / SMALL)
    site.tpm.calls.clear()
    counted = count_tpm(site)
    return [
        figure(
            GROUP, f"CPU per small record ({SMALL:,} records, 10 bytes each)", [v * 1e6 for v in per_record], "us", "<=", 8,
            note="Bound by reading frames, unpacking rows, two SHA-256 per Merkle leaf and zstd level 1. Rows are turned into columns "
            "and hashed a block at a time, without Python code per value.",
        ),
        figure(
            GROUP, "fixed cost of a kit, TPM apart", [v * 1e3 for v in fixed], "ms CPU", "<=", 50, ours=f"{milli(fixed)}",
            note="One kit of one record: JSON, two signatures' envelopes, about thirty durable small files. What is left is their syncs, which are what "
            "a power cut asks for.",
        ),
        Figure(
            GROUP, "TPM signatures per kit", float(counted["quote"] + counted["certify_counter"] + counted["sign_digest"]), "", "<=", 3,
            ours=", ".join(f"{name} {times}" for name, times in sorted(counted.items())),
            note="NV_Increment, Quote, NV_Certify and one signature per signature form; with notation on there is one more.",
        ),
    ]  # fmt: skip


def count_tpm(site: Site) -> Counter[str]:
    calls: Counter[str] = Counter()
    record_small(site, 1)
    names = ("quote", "certify_counter", "sign_digest", "increment_counter")
    for name in names:
        original = getattr(site.tpm, name)

        def counting(*items: Any, _name: str = name, _call: Any = original, **more: Any) -> Any:
            calls[_name] += 1
            return _call(*items, **more)

        setattr(site.tpm, name, counting)
    seal(site.context)
    for name in names:
        delattr(site.tpm, name)
    return calls


def text(size: int) -> bytes:
    """Compressible bytes without long repeats, like sensor logs."""
    import random

    rng = random.Random(1)
    line = b""
    while len(line) < size:
        line += b"".join(b"%d,%d,%.3f\n" % (i, rng.randrange(1000), rng.random()) for i in range(20_000))
    return line[:size]


def large(args: argparse.Namespace) -> list[Figure]:
    total = (200 if args.full else 60) * MB
    figures = []
    for name, blob in (("incompressible", os.urandom(20 * MB)), ("text", text(20 * MB))):
        site = make_site(args.work / name, "full")
        folder = args.work / f"{name}-files"
        folder.mkdir()
        pieces = [blob[i % len(blob) : i % len(blob) + 10 * MB] for i in range(0, total, 10 * MB)]
        for number, piece in enumerate(pieces):
            (folder / f"{number}.bin").write_bytes(piece)

        def ours(site: Site = site, blob: bytes = blob) -> float:
            record_large(site, total, blob)
            used = cpu_s(lambda: seal(site.context))
            shutil.rmtree(site.root / "state" / "outbox", ignore_errors=True)
            return used

        def peer(folder: Path = folder) -> float:
            # Named pipes, so that both digests are waited for and counted.
            script = (
                "rm -f ../a ../b; mkfifo ../a ../b; openssl dgst -sha256 <../a >/dev/null & "
                "openssl dgst -sha256 <../b >/dev/null & tar cf - . | tee ../a | zstd -1 -q -c | tee ../b >../layer.zst; wait"
            )
            return children_cpu_s(lambda: subprocess.run(["bash", "-c", script], cwd=folder, check=True))

        calls = {"ours": ours, "peer": peer}
        kit = tool("kit")
        if kit and name == "text":
            calls["kit"] = lambda folder=folder, kit=kit: kit_pack(kit, folder, args.work)
        samples = alternate(3, calls)
        figures.append(
            figure(
                GROUP, f"10 kB inputs, {name}, to tar | zstd -1 with both SHA-256", ratios(samples["ours"], samples["peer"]), "x", "<=", 1.0,
                ours=f"{total // MB} MB: ours {milli(samples['ours'])}, peer {milli(samples['peer'])} CPU",
                note="Bound by SHA-256 of what is stored, and by zstd where the data compresses. Incompressible parts are stored: "
                "a probe of the first bytes decides.",
            )
        )  # fmt: skip
        if name == "text":
            if kit:
                figures.append(
                    figure(
                        GROUP,
                        "kit pack with gzip, to ours",
                        ratios(samples["kit"], samples["ours"]),
                        "x",
                        ">=",
                        3,
                        ours=f"kit {milli(samples['kit'])}",
                        note="kit pack compresses with gzip and hashes what it wrote; ours uses zstd level 1 and keeps each part in memory until its "
                        "digest is known. Bound by the compressor on both sides.",
                    )
                )
            else:
                figures.append(missing(GROUP, "kit pack with gzip, to ours", "x", ">=", 3, "kit is not installed"))
        if name == "incompressible":
            stored = sum(p.stat().st_size for p in (site.root / "state").rglob("blobs/sha256/*"))
            figures.append(
                Figure(
                    GROUP, "kits of incompressible inputs, to the bytes of the inputs", stored / (4 * total), "x", "<=", 1.02,
                    note="Bound by the inputs, which are stored as they are. What is left are rows, digests, headers and signatures beside them.",
                )
            )  # fmt: skip
        shutil.rmtree(folder)
        shutil.rmtree(site.root)
    return figures


def kit_pack(kit: str, folder: Path, work: Path) -> float:
    home = work / "kit-home"
    shutil.rmtree(home, ignore_errors=True)
    (folder / "Kitfile").write_text("manifestVersion: 1.0.0\npackage: {name: x}\ndatasets:\n  - {name: d, path: .}\n")
    argv = [
        kit,
        "--config",
        str(home),
        "--progress",
        "none",
        "pack",
        str(folder),
        "-t",
        "x/y:z",
        "--compression",
        "gzip",
    ]
    used = children_cpu_s(lambda: subprocess.run(argv, check=True, capture_output=True))
    (folder / "Kitfile").unlink()
    return used


def measure(args: argparse.Namespace) -> list[Figure]:
    return small(args) + large(args)


if __name__ == "__main__":
    main(measure)
