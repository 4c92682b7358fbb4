# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Upload of a kit to a real registry on loopback: bytes, throughput beside `oras push`, memory; and a link that breaks."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness import Figure, Usage, figure, main, missing, ratios, run_process, spread, tool
from tests.support.faultproxy import CutProxy

GROUP = "upload"
MB = 1_000_000
MIB = 1024 * 1024
EDGEPROV = Path(sys.executable).with_name("edgeprov")


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    from tests.support.registries import docker_registry

    folder.mkdir(parents=True)
    with docker_registry(folder) as host:
        yield host


def fresh_device(base: Path, name: str, host: str, prefix: str) -> dict[str, str]:
    """A copy of the prepared device, pointed at a registry; returns its environment."""
    folder = base.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    config = folder / "edgeprov.toml"
    lines = [
        f'name = "{host}/{prefix}"\nplain_http = true'
        if line.startswith("name = ")
        else line.replace(str(base), str(folder))
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")
    return {"EDGEPROV_CONFIG": str(config)}


def upload(env: dict[str, str]) -> Usage:
    return run_process([EDGEPROV, "upload", "--now"], env=env, check=False)


def until_done(env: dict[str, str]) -> list[Usage]:
    """As the timer does: again while work is queued."""
    runs = []
    for _ in range(200):
        runs.append(upload(env))
        if runs[-1].code == 0:
            return runs
    raise RuntimeError(f"the outbox is never empty: {runs[-1].out[-1500:]}")


def measure(args: argparse.Namespace) -> list[Figure]:
    oras = tool("oras")
    if tool("docker-registry") is None:
        return [missing(GROUP, "upload to a real registry", "", "info", None, "docker-registry is not installed")]
    total = (300 if args.full else 60) * MB
    base = args.work / "device"
    run_process([sys.executable, "-m", "tests.bench.cases.seal_memory", "sealed", base, str(total)])
    blobs = [path for path in (base / "state").rglob("blobs/sha256/*") if path.stat().st_size > 100_000]
    size = sum(path.stat().st_size for path in (base / "state").rglob("blobs/sha256/*"))
    with registry(args.work / "registry") as host:
        return clean(args, base, blobs, size, host, oras) + broken(args, base, size, host)


def clean(
    args: argparse.Namespace, base: Path, blobs: list[Path], size: int, host: str, oras: str | None
) -> list[Figure]:
    ours: list[Usage] = []
    theirs: list[Usage] = []
    sent: list[float] = []
    files = args.work / "files"
    files.mkdir()
    for number, path in enumerate(blobs):
        os.link(path, files / f"{number:04d}.bin")
    names = sorted(os.listdir(files))
    for turn in range(4):
        with CutProxy(host, mean_bytes=0, seed=1) as proxy:
            ours.append(until_done(fresh_device(base, f"device-{turn}", proxy.host, f"ours{turn}"))[0])
            sent.append(proxy.sent / size)
        if oras:
            with CutProxy(host, mean_bytes=0, seed=1) as proxy:
                words = [
                    oras,
                    "push",
                    "--plain-http",
                    "--no-tty",
                    "--disable-path-validation",
                    f"{proxy.host}/theirs{turn}:x",
                ]
                theirs.append(run_process([*words, *(f"{files / name}:application/x" for name in names)]))
    figures = [
        figure(
            GROUP, "bytes sent on a clean link, to the bytes of the kits", sent[1:], "x", "<=", 1.02, ours=f"{size / MB:.0f} MB, parts of 1 MiB",
            note="Requests and headers: one HEAD, POST and PUT per part. Nothing is sent twice, so nothing is left.",
        ),
        figure(GROUP, "memory", [item.rss_mb for item in ours[1:]], "MB", "<=", 60, ours=f"{spread([item.cpu_s for item in ours[1:]])[0]:.1f} s CPU", note="Mostly the HTTP library and its TLS. One part is read at a time, so that memory does not grow with the kit."),
    ]  # fmt: skip
    if theirs:
        speed = ratios([item.wall_s for item in theirs[1:]], [item.wall_s for item in ours[1:]])
        figures.append(
            figure(
                GROUP, "throughput, to oras push of the same blobs", speed, "x", ">=", 0.8, headline="upload: throughput to oras push",
                ours=f"ours {spread([i.wall_s for i in ours[1:]])[0]:.1f} s, oras {spread([i.wall_s for i in theirs[1:]])[0]:.1f} s",
                note="oras pushes several blobs at once; edgeprov one after the other, confirming each, and is done only when the "
                "manifest and all signatures are confirmed too.",
            )
        )  # fmt: skip
    else:
        figures.append(
            missing(GROUP, "throughput, to oras push of the same blobs", "x", ">=", 0.8, "oras is not installed")
        )
    return figures


def broken(_args: argparse.Namespace, base: Path, size: int, host: str) -> list[Figure]:
    ratio, runs, cuts = [], 0, 0
    for turn in range(3):
        with CutProxy(host, mean_bytes=8 * MIB, seed=turn) as proxy:
            runs += len(until_done(fresh_device(base, f"cut-{turn}", proxy.host, f"cut{turn}")))
            ratio.append(proxy.sent / size)
            cuts += proxy.cuts
    return [
        figure(
            GROUP, "bytes sent when the link is cut every 8 MiB on average", ratio, "x", "<=", 1.05, headline="upload: bytes sent when cut every 8 MiB, to the kit's", ours=f"{cuts} cuts, {runs} runs for 3 uploads",
            note="A cut loses half a part of 1 MiB on average: 1 + 0.5 / 8 is what is expected without resuming inside a part.",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
