# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Upload of a kit to a real registry on loopback: bytes, throughput beside `oras push`, memory; and a link that breaks."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.harness import (
    PACK,
    PACKAGES,
    ROOT,
    Figure,
    Usage,
    figure,
    main,
    missing,
    ratios,
    run_process,
    spread,
    tool,
)
from tests.support.faultproxy import CutProxy, SlowProxy

GROUP = "upload"
MB = 1_000_000
MIB = 1024 * 1024
EXPECTED = 8 * math.expm1(1 / 8)
# As a device runs it: from the one file of byte code that images install, behind the standard library.
START = "import sys; sys.path += sys.argv[1:3]; del sys.argv[1:3]; from edgeprov.cli.device_main import main; sys.exit(main())"


MEMORY = Path("/dev/shm")
LINK = "20 Mbit/s up, 20 ms each way"


@contextmanager
def registry(folder: Path, program: str = "docker-registry") -> Iterator[str]:
    from tests.support.registries import docker_registry

    folder.mkdir(parents=True)
    with docker_registry(folder, program=program) as host:
        yield host


@contextmanager
def registry_in_memory(folder: Path) -> Iterator[str]:
    """One whose data lie in memory: its disk is no part of the link or of the client."""
    if not MEMORY.is_dir():
        with registry(folder) as host:
            yield host
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, registry(Path(name) / "registry") as host:
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


def upload(image: Path, env: dict[str, str]) -> Usage:
    words = [sys.executable, "-I", "-S", "-c", START, image, PACKAGES, "upload", "--now"]
    return run_process(words, env=env, check=False)


def until_done(image: Path, env: dict[str, str]) -> list[Usage]:
    """As the timer does: again while work is queued."""
    runs = []
    for _ in range(200):
        runs.append(upload(image, env))
        if runs[-1].code == 0:
            return runs
    raise RuntimeError(f"the outbox is never empty: {runs[-1].out[-1500:]}")


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("docker-registry") is None:
        return [missing(GROUP, "upload to a real registry", "", "info", None, "docker-registry is not installed")]
    kit = Kit(args.work / "large", (300 if args.full else 60) * MB)
    day = Kit(args.work / "day", 24 * MB)
    figures = []
    with registry_in_memory(args.work / "memory") as host:
        figures += clean(kit, host)
        figures += slow(day, host)
    with registry(args.work / "registry") as host:
        figures += on_disk(kit, host)
        figures += broken(kit, host, "docker-registry 2.8", "drops")
    if tool("registry") is not None:
        with registry(args.work / "v3", "registry") as host:
            figures += broken(kit, host, "distribution v3", "keeps")
    return figures


class Kit:
    """A sealed device, and its blobs as files for oras."""

    def __init__(self, work: Path, total: int) -> None:
        self.base = base = work / "device"
        work.mkdir(parents=True)
        run_process([sys.executable, "-m", "tests.bench.cases.seal_memory", "sealed", base, str(total)])
        self.image = work / "image"
        self.image.mkdir()
        run_process([sys.executable, PACK, ROOT / "edgeprov", self.image / "edgeprov.pyc"])
        self.blobs = [path for path in (base / "state").rglob("blobs/sha256/*") if path.stat().st_size > 100_000]
        self.size = sum(path.stat().st_size for path in (base / "state").rglob("blobs/sha256/*"))
        self.files = work / "files"
        self.files.mkdir()
        for number, path in enumerate(self.blobs):
            os.link(path, self.files / f"{number:04d}.bin")
        self.oras = tool("oras")
        self.turns = itertools.count()

    def upload(self, host: str) -> Usage:
        turn = next(self.turns)
        return until_done(self.image, fresh_device(self.base, f"device-{turn}", host, f"ours{turn}"))[0]

    def push(self, host: str) -> Usage:
        assert self.oras is not None
        words = [self.oras, "push", "--plain-http", "--no-tty", "--disable-path-validation"]
        names = [f"{self.files / name}:application/x" for name in sorted(os.listdir(self.files))]
        return run_process([*words, f"{host}/theirs{next(self.turns)}:x", *names])

    def floor_s(self, host: str) -> float:
        """The same blobs one after the other by the standard library: HEAD, POST and PUT on one connection."""
        bodies = [path.read_bytes() for path in self.blobs]
        repo = f"floor{next(self.turns)}"
        start = time.perf_counter()
        connection = http.client.HTTPConnection(host)

        def ask(method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
            connection.request(
                method, path, body, {"Content-Length": str(len(body or b""))} if method != "HEAD" else {}
            )
            answer = connection.getresponse()
            answer.read()
            return answer

        for body in bodies:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            ask("HEAD", f"/v2/{repo}/blobs/{digest}")
            place = urlsplit(ask("POST", f"/v2/{repo}/blobs/uploads/").getheader("Location") or "")
            if ask("PUT", f"{place.path}?{place.query}&digest={digest}", body).status != 201:
                raise RuntimeError("the registry does not take a blob")
        connection.close()
        return time.perf_counter() - start


def throughput(
    kit: Kit,
    name: str,
    host: str,
    limit: float | None,
    turns: int,
    note: str,
    *,
    floored: bool = True,
    headline: str = "",
) -> Figure:
    if kit.oras is None:
        return missing(GROUP, name, "x", ">=", limit, "oras is not installed")
    ours: list[float] = []
    theirs: list[float] = []
    floor: list[float] = []
    for _ in range(turns):
        ours.append(kit.upload(host).wall_s)
        theirs.append(kit.push(host).wall_s)
        if floored:
            floor.append(kit.floor_s(host))
    speed = ratios(theirs, ours)
    bare = f"; bare loop {spread(ratios(theirs, floor))[0]:.2f} x" if floored else ""
    return figure(
        GROUP, name, speed, "x", "info" if limit is None else ">=", limit,
        ours=f"ours {spread(ours)[0]:.1f} s, oras {spread(theirs)[0]:.1f} s{bare}",
        note=note, headline=headline,
    )  # fmt: skip


def clean(kit: Kit, host: str) -> list[Figure]:
    sent: list[float] = []
    usage: list[Usage] = []
    for _ in range(3):
        with CutProxy(host, mean_bytes=0, seed=1) as proxy:
            usage.append(kit.upload(proxy.host))
            sent.append(proxy.sent / kit.size)
    return [
        figure(
            GROUP, "bytes sent on a clean link, to the bytes of the kits", sent, "x", "<=", 1.02,
            ours=f"{kit.size / MB:.0f} MB, parts of 1 MiB", note="Bound by the parts themselves; above them are requests and headers, one HEAD, POST and PUT per part. Nothing is left to do.",
        ),
        figure(
            GROUP, "memory", [item.rss_mb for item in usage], "MB", "<=", 60,
            ours=f"{spread([item.cpu_s for item in usage])[0]:.1f} s CPU", note="Bound by the HTTP library and its TLS, which are most of it; a part is read in pieces. Nothing grows with the kit.",
        ),
        throughput(
            kit, "throughput, to oras push, loopback, registry in memory", host, 0.8, 3,
            "The whole process, interpreter start included; done when manifest and signatures are confirmed too. oras has several bodies on "
            "the wire, edgeprov one, or a restart of the registry would cost more than one part. Bare loop, the floor of that: the same requests in turn by http.client, to oras.",
        ),
    ]  # fmt: skip


def slow(kit: Kit, host: str) -> list[Figure]:
    with SlowProxy(host, bytes_per_s=20e6 / 8, delay_s=0.02) as link:
        name = f"throughput, to oras push, 24 MB, link of {LINK}"
        return [
            throughput(
                kit,
                name,
                link.host,
                0.8,
                2,
                "What a device has: the link sets the pace. A small kit needs three times the requests of "
                "`oras push`, which signs nothing; that is left.",
                floored=False,
                headline=f"upload of 24 MB: throughput to `oras push`, {LINK}",
            )
        ]


def on_disk(kit: Kit, host: str) -> list[Figure]:
    name = "throughput, to oras push, loopback, registry on disk"
    why = (
        "The registry syncs each session and each blob to disk before it answers, and oras waits for several at once. "
        "A second body under way would be lost with the first when a registry is restarted: one part at most is the promise."
    )
    return [throughput(kit, name, host, None, 3, why)]


def broken(kit: Kit, host: str, what: str, session: str) -> list[Figure]:
    ratio, runs, cuts = [], 0, 0
    for turn in range(3):
        with CutProxy(host, mean_bytes=8 * MIB, seed=turn) as proxy:
            number = next(kit.turns)
            runs += len(until_done(kit.image, fresh_device(kit.base, f"cut-{number}", proxy.host, f"cut{number}")))
            ratio.append(proxy.sent / kit.size)
            cuts += proxy.cuts
    if session == "keeps":
        note = "It keeps what arrived of a part, and the device asks how much that is before it goes on. What is left are the bytes that were under way."
    else:
        note = (
            f"It drops the session with the line, so a blob is the least that can be sent again: 8 (e^(1/8) - 1) = {EXPECTED:.3f} "
            "is the mean for parts of 1 MiB under cuts without memory, whoever sends them. Parts of 768 KiB: 1.048."
        )
    return [
        figure(
            GROUP, f"bytes sent, cut every 8 MiB on average, {what}", ratio, "x", "<=",
            1.05, ours=f"{cuts} cuts, {runs} runs for 3 uploads" + ("" if session == "keeps" else f"; floor {EXPECTED:.3f} x"),
            note=note,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
