# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The fleet side over docker-registry on loopback, beside the same fleet in a folder: CPU, wall time and requests a kit.

What a fleet of ten kits costs is taken off, as the start of the program is no cost of a kit.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cases.fleet import fleet, generate
from tests.bench.fleetgen.store import RegistryStore
from tests.bench.harness import Figure, main, missing, tool
from tests.support.registries import Server

GROUP = "fleet over a registry"
EVIDENCE = "verify, evidence only: CPU of ours a kit, docker-registry on loopback"
SIZES = {"start": (2, 5), "medium": (20, 20)}  # devices and days
MONTH = ("--from", "2026-01-01", "--to", "2026-01-31")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes, in all or for a kit: CPU of ours, wall time, requests, CPU of the registry."""

    cpu_s: float
    wall_s: float
    requests: float = 0
    server_s: float = 0

    def per_kit(self, start: Cost, kits: int) -> Cost:
        """The slope from a fleet of ten kits to this one; ``kits`` are what this one has more."""
        return Cost(
            *(
                (getattr(self, name) - getattr(start, name)) / kits
                for name in ("cpu_s", "wall_s", "requests", "server_s")
            )
        )


def kits_of(folder: Path) -> int:
    truth = json.loads((folder / "truth.json").read_text())
    return sum(item["good"] + len(item["voided"]) + len(item["refused"]) for item in truth["devices"])


def steps(work: Path, source: str, trust: Path, server: Server | None) -> dict[str, Cost]:
    """Every step once, from an empty index on, in one worker."""
    where = ("--fleet", work / "index")
    alone = ("--trust", trust, "--workers", "1")
    commands: dict[str, tuple[str | Path, ...]] = {
        "sync": ("sync", source, *where),
        "sync again": ("sync", *where),
        "evidence": ("verify", *where, *alone, "--evidence-only"),
        "verify": ("verify", *where, *alone),
        "collect": ("collect", *where, *alone, "-o", work / "data"),
        "audit": ("audit", *where, "--trust", trust, *MONTH, "--no-verify", "--html", work / "audit.html"),
    }
    costs = {}
    for name, words in commands.items():
        requests, server_s = (server.requests(), server.cpu_s()) if server else (0, 0.0)
        used = fleet(*words, check=name != "audit")
        if server:
            time.sleep(0.1)  # the log is written behind the answer
            costs[name] = Cost(used.cpu_s, used.wall_s, server.requests() - requests, server.cpu_s() - server_s)
        else:
            costs[name] = Cost(used.cpu_s, used.wall_s)
    return costs


def measured(args: argparse.Namespace) -> tuple[dict[str, Cost], dict[str, Cost], int]:
    """What each step costs for a kit, over the registry and from a folder; and the number of kits."""
    found: dict[str, tuple[dict[str, Cost], dict[str, Cost], int]] = {}
    for size, (devices, days) in SIZES.items():
        made = args.work / size / "made"
        generate(made, devices, days, 40)
        RegistryStore(args.work / size / "server" / "data").fill(made / "registry")
        server = Server(args.work / size / "server", log={"level": "error", "accesslog": {"disabled": False}})
        server.start()
        try:
            over = steps(args.work / size / "over", server.host, made / "trust.d", server)
        finally:
            server.stop()
        found[size] = (
            over,
            steps(args.work / size / "folder", f"oci:{made}/registry", made / "trust.d", None),
            kits_of(made),
        )
    start, medium = found["start"], found["medium"]
    more = medium[2] - start[2]
    over, folder = (
        {name: cost.per_kit(start[place][name], more) for name, cost in medium[place].items()} for place in (0, 1)
    )
    return over, folder, medium[2]


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("docker-registry") is None:
        return [missing(GROUP, EVIDENCE, "ms CPU", "<=", 2, "docker-registry is not installed")]
    over, folder, kits = measured(args)

    def said(name: str) -> str:
        cost = over[name]
        return (
            f"{kits} kits: {cost.wall_s * 1e3:.1f} ms wall, {cost.requests:.2f} requests, registry {cost.server_s * 1e3:.1f} ms CPU; "
            f"from a folder {folder[name].cpu_s * 1e3:.2f} ms CPU, {folder[name].wall_s * 1e3:.1f} ms wall"
        )

    def one(name: str, step: str, note: str) -> Figure:
        return Figure(GROUP, f"{name}: CPU of ours a kit", over[step].cpu_s * 1e3, "ms CPU", ours=said(step), note=note)

    asked = over["sync"].requests + over["evidence"].requests
    evidence = over["evidence"]
    return [
        Figure(
            GROUP, EVIDENCE, evidence.cpu_s * 1e3, "ms CPU", "<=", 2, ours=said("evidence"), headline="verify a kit's evidence over docker-registry: CPU",
            note="Two requests a kit (its manifest and that of its signature), one after the other in one thread, at 0.75 ms of `requests` each. Left: connections of `http.client`, and several at once.",
        ),
        Figure(
            GROUP, "verify, evidence only: requests a kit, those of sync included", asked, "requests", "<=", 3, ours=f"sync {over['sync'].requests:.2f}, verify {evidence.requests:.2f}",
            headline="the same: requests, those of sync included",
            note="The manifest of the kit for sync and again for verify, and the manifest of its signature, found by its tag; config, evidence and bundle stand in these. Models, device records and lists are in the figure.",
        ),
        Figure(
            GROUP, "verify, evidence only: wall time of 90,000 kits in one worker", evidence.wall_s * 90_000 / 60, "minutes", ours=f"{evidence.wall_s * 1e3:.1f} ms a kit, from {kits} kits",
            headline="the same: 90,000 kits in one worker, from a line",
            note="Bound by waiting: each request is sent when the one before is answered. A distance of 20 ms each way adds 40 ms to each.",
        ),
        one("sync, new kits", "sync", "One request for each kit's manifest in eight threads, and the signatures with verify."),
        Figure(
            GROUP, "sync of nothing new: requests", over["sync again"].requests * kits, "requests", ours=f"{over['sync again'].cpu_s * kits:.2f} s CPU, {over['sync again'].wall_s * kits:.2f} s wall, what ten kits cost taken off",
            note="One list for each repository and one HEAD for each device, in turn. The HEADs are needless, for the list names the same record by digest.",
        ),
        one("verify, every byte", "verify", "The evidence, then each part and its digest."),
        one("collect, kits of 40 records", "collect", "Two parts a kit and their digests, in one thread."),
        one("audit of a month, first run", "audit", "Kits that hold labels are opened once."),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
