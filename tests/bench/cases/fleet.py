# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The fleet side on folders of 1k, 5k (and 90k with --full or --fleet) kits: sync, query, verify, collect, audit; how they grow.

Starts programs only, so that their peak memory is their own. All sizes take turns, and the quickest of a step's
rounds counts: what else the machine does makes CPU time dearer by half, and must not pass for growth.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from tests.bench.cases import duckdb_peer
from tests.bench.harness import Figure, Usage, figure, main, missing, run_process, spread

GROUP = "fleet"
WHOLE = 90_000
ROUNDS = 2
_VERIFICATIONS = 1_000
SIZES = {"start": (2, 5), "1k": (20, 40), "5k": (50, 80), "90k": (500, 180)}  # devices and days
STEPS = {"sync": "sync", "query": "query", "verify": "evidence", "collect": "collect", "audit": "audit"}
PROGRAM = Path(sys.executable).with_name("edgeprov-fleet")


@dataclass
class Run:
    """One size: its folder, where its fleet lies, its kits, and what each step took at best."""

    name: str
    folder: Path
    source: Path
    kits: int
    devices: int
    model: str
    page_mb: float = math.nan
    used: dict[str, Usage] = field(default_factory=dict)

    def keep(self, step: str, used: Usage) -> None:
        before = self.used.get(step)
        if before is None or cost_s(step, used) < cost_s(step, before):
            self.used[step] = used


def cost_s(step: str, used: Usage) -> float:
    return spread(query_s(used))[0] if step == "query" else used.cpu_s


def fleet(*words: str | Path, check: bool = True) -> Usage:
    used = run_process([PROGRAM, *words], check=False)
    print(f"{words[0]}: {used.cpu_s:.1f} s CPU, {used.wall_s:.1f} s, exit {used.code}", file=sys.stderr)
    if check and used.code not in (0, 10, 100):  # 10: forged kits were planted, and refused
        raise RuntimeError(f"edgeprov-fleet {' '.join(map(str, words))}: exit {used.code}\n{used.out[-2000:]}")
    return used


def generate(folder: Path, devices: int, days: int, records: int, *more: str) -> None:
    sizes = ["--devices", str(devices), "--days", str(days), "--records", str(records), "--workers", "2"]
    run_process([sys.executable, "-m", "tests.bench.fleetgen", folder, *sizes, *more])


def sources(folder: Path) -> list[str]:
    return [f"oci:{path}" for path in sorted(folder.glob("registry*"))]


def made(args: argparse.Namespace, name: str, given: Path | None = None) -> Run:
    folder = args.work / name
    folder.mkdir(parents=True)
    source = given or folder / "made"
    if given is None:
        generate(source, *SIZES[name], 40)
    truth = json.loads((source / "truth.json").read_text())
    return Run(
        name=name,
        folder=folder,
        source=source,
        kits=sum(item["good"] + len(item["voided"]) + len(item["refused"]) for item in truth["devices"]),
        devices=truth["settings"]["devices"],
        model=truth["models"][1]["digest"],
    )


def once(run: Run) -> None:
    """Every step, from an empty index on."""
    index, data, page = (run.folder / name for name in ("index", "data", "audit.html"))
    trust = run.source / "trust.d"
    for stale in (index, data):
        shutil.rmtree(stale, ignore_errors=True)
    where = ["--fleet", str(index)]
    # One worker is the program itself: the CPU time of a pool's processes is nobody's in the end.
    alone = ["--trust", str(trust), "--workers", "1"]
    period = ["--from", "2026-01-01", "--to", "2026-01-31", "--no-verify", "--html", page]
    run.keep("sync", fleet("sync", *sources(run.source), *where))
    if run.name not in ("start", "1k"):
        shutil.copytree(index, run.folder / "unjudged")
    run.keep("sync again", fleet("sync", *where))
    run.keep("evidence", fleet("verify", *where, *alone, "--evidence-only"))
    run.keep("evidence again", fleet("verify", *where, *alone, "--evidence-only"))
    run.keep("verify", fleet("verify", *where, *alone))
    if run.name != "start":
        run.keep(
            "query",
            run_process(
                [sys.executable, "-m", "tests.bench.cases.fleet_query", index, run.model, run.folder / "index.parquet"]
            ),
        )
    run.keep("collect", fleet("collect", *where, *alone, "-o", data))
    run.keep("audit", fleet("audit", *where, "--trust", trust, *period, check=False))
    run.keep("audit again", fleet("audit", *where, "--trust", trust, *period, check=False))
    if run.name not in ("start", "1k"):
        unjudged = ["--fleet", str(run.folder / "unjudged"), "--trust", str(trust)]
        run.keep("two workers", fleet("verify", *unjudged, "--workers", "2", "--evidence-only"))
    run.page_mb = page.stat().st_size / 1e6 if page.exists() else math.nan


def floor_s() -> float:
    """CPU of one ECDSA verification, P-256, by the same library."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest, public, scheme = b"\0" * 32, key.public_key(), ec.ECDSA(Prehashed(SHA256()))
    signature = key.sign(digest, scheme)
    start = time.process_time()
    for _ in range(_VERIFICATIONS):
        public.verify(signature, digest, scheme)
    return (time.process_time() - start) / _VERIFICATIONS


def query_s(used: Usage) -> list[float]:
    found: list[float] = json.loads(used.out)["model"][1:]
    return found


def seconds(run: Run, step: str, start: Run) -> float:
    """CPU of a step without what a fleet of ten kits costs already; of a query that in an open index."""
    own = cost_s(step, run.used[step])
    return own if step == "query" else max(own - start.used[step].cpu_s, 1e-3)


def growth(runs: list[Run], step: str, start: Run) -> Figure:
    """Exponent of CPU time over kits, from the smallest to the largest size."""
    small, large = runs[0], runs[-1]
    # The audit, too: each device's whole series is judged, whatever the period.
    sizes = [run.kits for run in (small, large)]
    used = [seconds(run, STEPS[step], start) for run in (small, large)]
    exponent = math.log(used[1] / used[0]) / math.log(sizes[1] / sizes[0])
    return Figure(
        GROUP, f"growth of {step} from {sizes[0]:,} to {sizes[1]:,} kits", exponent, "exponent", "<=", 1.05,
        ours=", ".join(f"{run.kits:,} kits {seconds(run, STEPS[step], start):.3g} s" for run in runs),
        note="Time ~ size ** exponent, less what ten kits cost (the start of the program); the quickest of the rounds, in which the sizes take turns. Bound by work per "
        "kit that does not look at other kits: what is left is the depth of the index's trees, and pages of it that no longer fit the processor's cache.",
    )  # fmt: skip


def big_kits(args: argparse.Namespace, start_s: float) -> list[Figure]:
    """Collect at full speed: few kits of many records, so that the fixed cost of a kit does not show."""
    folder = args.work / "big"
    days = 25 if args.full else 10
    generate(folder, 8, days, 10_000, "--no-faults")
    index, trust = folder / "index", folder / "trust.d"
    fleet("sync", *sources(folder), "--fleet", index)
    fleet("verify", "--fleet", index, "--trust", trust, "--workers", "1")
    truth = json.loads((folder / "truth.json").read_text())
    rows = sum(count for item in truth["devices"] for count in item["records"].values())
    # One run is a second of CPU on a shared machine: the median of three.
    places = [folder / "data", *(folder / f"data-{number}" for number in range(2))]
    runs = [fleet("collect", "--fleet", index, "--trust", trust, "-o", place, "--workers", "1") for place in places]
    used = sorted(runs, key=lambda run: run.cpu_s)[len(runs) // 2]
    floor = run_process([sys.executable, "-m", "tests.bench.cases.collect_floor", folder / "registry", folder / "data"])
    floor_s = float(floor.out)
    model = truth["models"][1]["digest"]
    options = ["--fleet", index, "--trust", trust, "--model", model, "--workers", "1"]
    compared = duckdb_peer.collect(
        GROUP, folder / "data", folder / "raw", model, lambda target: fleet("collect", *options, "-o", target)
    )
    shutil.rmtree(folder)
    return [
        Figure(
            GROUP, "collect, records per CPU second (10,000 to a kit)", rows / (used.cpu_s - start_s) / 1e6, "M/s", ">=", 1.5,
            ours=f"{rows:,} records in {used.cpu_s:.1f} s CPU, {used.wall_s:.1f} s; without what ten small kits cost",
            note="Bound by digests, zstd and writing Parquet (the floor below); columns go to Arrow as views. What is left is the "
            "checks of each block and label, and putting labels in their places.",
        ),
        Figure(
            GROUP, "floor of that: digests, zstd and the same Parquet files, nothing checked or joined", rows / floor_s / 1e6, "M/s",
            ours=f"floor {floor_s:.2f} s CPU, collect {used.cpu_s - start_s:.2f} s",
            note="What nobody can leave out who reads these kits and writes these files. Nothing is left but another codec or another format.",
        ),
        Figure(
            GROUP, "collect, peak memory of one process", used.rss_mb, "MB", "<=", 256,
            note="Bound by one part and one row group, and by the table library itself. Parts are read one after the other, whatever the fleet's size.",
        ),
        *compared,
    ]  # fmt: skip


def slope_s(runs: list[Run], step: str) -> float:
    """CPU seconds per kit, the start of the program apart."""
    small, large = runs[0], runs[-1]
    return (large.used[step].cpu_s - small.used[step].cpu_s) / (large.kits - small.kits)


def whole_s(runs: list[Run], step: str) -> float:
    """CPU seconds for 90,000 kits, from the line through the sizes that were run."""
    return runs[-1].used[step].cpu_s + slope_s(runs, step) * (WHOLE - runs[-1].kits)


def figures_of(start: Run, runs: list[Run], floor: float) -> list[Figure]:
    last = runs[-1]
    used, kits = last.used, last.kits
    said = f"{kits:,} kits: "
    devices = 500 / last.devices
    query_ms = [item * 1e3 for item in query_s(used["query"])]
    in_proportion = "" if kits > 80_000 else "; in proportion"
    from_line = "" if kits > 80_000 else "; from the line through both sizes"

    def one(name: str, step: str, sense: Any = "info", limit: float | None = None, note: str = "") -> Figure:
        ours = f"{said}{used[step].cpu_s:.1f} s CPU, {used[step].rss_mb:.0f} MB"
        return Figure(GROUP, name, slope_s(runs, step) * 1e3, "ms CPU", sense, limit, ours=ours, note=note)

    figures = [
        figure(
            GROUP, f"query by model digest, {kits:,} kits indexed", query_ms, "ms CPU", "<=", 50,
            note="Bound by one indexed SELECT of the newest 50, with counts; the start of Python apart. What is left is counting, which visits each kit found.",
        ),
        one(
            "ten steps for one kit, chains cached, files read", "evidence", "<=", 0.6,
            "Half of it is ECDSA, four of nearly every kit, as the floor shows; then five files, JSON, msgpack and base64 of each, and a row of the index. The device's chain "
            "and record are checked once. What is left is Python's own calls, some 1,200 a kit.",
        ),
        Figure(GROUP, "floor of that: four ECDSA verifications, nothing read", 4e3 * floor, "ms CPU", ours=f"{floor * 1e6:.0f} us each, in the same rounds",
            note="What the library takes with keys loaded and digests ready. Nothing is left but another library."),
        Figure(
            GROUP, "ten steps for 90,000 kits from a folder, wall time of two workers", used["two workers"].wall_s * WHOLE / kits, "s", "<=", 60,
            ours=f"{said}{used['two workers'].wall_s:.1f} s{in_proportion}",
            note="Bound by the work per kit of the line above, in one process for each core; one process writes the verdicts.",
        ),
        Figure(
            GROUP, "the same again, verdicts cached", whole_s(runs, "evidence again"), "s CPU", "<=", 5,
            ours=f"{said}{used['evidence again'].cpu_s:.2f} s{from_line}",
            note="A verdict is kept by kit digest and trust policy, and counted in SQL. What is left is the start of Python.",
        ),
        one(
            "ten steps and every byte, one kit", "verify", note="The ten steps, then SHA-256 of each layer, zstd and the Merkle tree of the records. "
            "With 40 records a kit it is bound by the ten steps; what is left are they.",
        ),
        one(
            "sync, one new kit", "sync", note="Bound by reading and parsing the manifests of kit and signatures, and a row of the index. All of a batch is one "
            "transaction; what is left is JSON.",
        ),
        Figure(GROUP, "sync of nothing new", used["sync again"].cpu_s, "s CPU", ours=f"{said}{used['sync again'].wall_s:.1f} s",
            note="One list for each shard and a look at which of its digests are known; no manifest is read again. What is left is the list itself, and the start of Python.",
        ),
        one(
            "collect, one kit of 40 records", "collect", note="Bound by opening a kit: three to five parts and their digests, zstd, a table of 40 rows. Kits of one model and device share "
            "a file of the data set; larger kits are what is left.",
        ),
    ]  # fmt: skip
    if math.isnan(last.page_mb):
        figures.append(
            missing(GROUP, "audit page for 500 devices x 31 days", "MB", "<=", 3, "audit did not write a page")
        )
    else:
        figures += [
            Figure(GROUP, "audit, 31 days, scaled to 500 devices", used["audit"].cpu_s * devices, "s CPU", "<=", 60, ours=f"{used['audit'].cpu_s:.1f} s",
                note="Bound by the labels: kits that hold some are opened once, to count them result by result, and known from then on (the line below); all else "
                "comes from the index, device by device. What is left is reading each device's whole series."),
            Figure(GROUP, "the same audit again, scaled to 500 devices", used["audit again"].cpu_s * devices, "s CPU", ours=f"{used['audit again'].cpu_s:.2f} s",
                note="Nothing is opened: what the kits say is in the index. What is left is each device's whole series, and the page."),
            Figure(GROUP, "audit page, scaled to 500 devices", last.page_mb * devices, "MB", "<=", 3, ours=f"{last.page_mb:.2f} MB",
                note="One cell per device and day, without a style of its own. What is left grows with devices times days, as it must."),
        ]  # fmt: skip
    return figures + [growth(runs, step, start) for step in STEPS]


def measure(args: argparse.Namespace) -> list[Figure]:
    # With --fleet only what depends on the size, from the smallest to that one.
    names = ["start", "1k", *([] if args.fleet else ["5k"]), *(["90k"] if args.full or args.fleet else [])]
    start, *runs = [made(args, name, args.fleet if name == "90k" else None) for name in names]
    floor = floor_s()
    for number in range(ROUNDS):
        for run in (start, *runs):
            if run.name in ("start", "1k") or not number:  # the noise of a small size would look like growth
                once(run)
        floor = min(floor, floor_s())
    last, file = runs[-1], runs[-1].folder / "index.parquet"
    figures = figures_of(start, runs, floor)
    figures += duckdb_peer.queries(GROUP, json.loads(last.used["query"].out), file, last.model, last.kits)
    for run in (start, *runs):
        shutil.rmtree(run.folder)
    return figures if args.fleet else figures + big_kits(args, start.used["collect"].cpu_s)


if __name__ == "__main__":
    main(measure)
