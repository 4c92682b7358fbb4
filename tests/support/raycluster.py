# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A real Ray cluster in a network of its own: only loopback is there, and nothing outlives it.

Ray takes the machine's address even where 127.0.0.1 is asked for, and its daemons leave their
starter. So all runs in new network and process namespaces: there the only address is loopback, and the
end of the first process is the end of all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.namespaces import unshare
from tests.support.readers import readers_python

MARK = "EDGEPROV_TEST_CLUSTER"
ROOT = Path(__file__).parents[2]


@dataclass
class Namespace:
    """Where programs see loopback only. ``enter`` goes before each of them."""

    enter: tuple[str, ...]

    def run(
        self, argv: Sequence[object], environment: Mapping[str, str], timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        program = [*self.enter, *map(str, argv)]
        return subprocess.run(program, capture_output=True, text=True, timeout=timeout, env=environment)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    alone = unshare("--net", "--pid", "--fork", "--kill-child", "--mount-proc", probe="ip link set lo up")
    # Its first process ends with our end of the pipe, so with us, however that comes.
    first = ["bash", "-c", "ip link set lo up && echo ready && read -r _"]
    with subprocess.Popen(
        [*alone, *first],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "unshare cannot make namespaces here"
            (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            keep = ["--user", "--preserve-credentials"] if "--user" in alone else []
            yield Namespace(("nsenter", "--target", inside, *keep, "--net", "--pid", "--mount", "--wd", "--"))
        finally:
            process.kill()


@dataclass
class Cluster:
    """Two nodes of one processor each; ``home`` is that of the first."""

    space: Namespace
    home: Path
    environment: dict[str, str]
    address: str = ""
    killed: list[int] = field(default_factory=list)

    def start(self) -> None:
        self.address = self._start_node("--head", "--include-dashboard=false", "--port=0")
        self._start_node(f"--address={self.address}")

    def _start_node(self, *options: str) -> str:
        run = self.space.run(
            [
                readers_python().with_name("ray"), "start", "--num-cpus=1", "--disable-usage-stats",
                "--object-store-memory=100000000", *options,
            ],
            self.environment,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        found = re.search(r"--address='([^']+)'", run.stdout)
        return found[1] if found else ""

    def fleet(
        self, verb: str, *argv: object, address: str | None = None, before: str = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """`edgeprov-fleet` on the cluster.

        Args:
            verb: The command.
            argv: Its arguments.
            address: Of the cluster; default the right one.
            before: Python that runs before it.
            changes: To the environment.
        """
        start = f"import sys\n{before}\nfrom edgeprov.cli.fleet_main import main\nsys.exit(main())"
        address = self.address if address is None else address
        program = [readers_python(), "-c", start, verb, *argv, "--engine", "ray"]
        program += ["--address", address] if address else []
        return self.space.run(program, self.environment | changes)

    def processes(self, name: bytes = b"") -> list[int]:
        """All of the cluster whose command line begins so."""
        mark = f"{MARK}={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if (
                    entry.name.isdigit()
                    and int(entry.name) != os.getpid()
                    and (entry / "cmdline").read_bytes().startswith(name)
                    and mark in (entry / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def hunting(self, kill: Callable[[int], bool]) -> Iterator[None]:
        """Show ``kill`` each worker that is seen at a task (Ray gives it the task's name) until it had enough.

        Args:
            kill: Takes the number of a process; returns whether the hunt is over.
        """
        stop = threading.Event()

        def hunt() -> None:
            while not stop.is_set():
                for pid in self.processes(b"ray::_call"):
                    if kill(pid):
                        return
                time.sleep(0.005)

        thread = threading.Thread(target=hunt)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def workers(self, count: int) -> Callable[[int], bool]:
        """For hunting: kill the first ``count`` workers."""
        until = len(self.killed) + count

        def kill(pid: int) -> bool:
            if pid not in self.killed:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)
            return len(self.killed) == until

        return kill

    def node(self, pid: int) -> bool:
        """For hunting: kill the raylet of a worker of the second node; its workers die with it."""
        with contextlib.suppress(OSError):
            raylet = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if b"--head" not in Path(f"/proc/{raylet}/cmdline").read_bytes().split(b"\0"):
                os.kill(raylet, signal.SIGKILL)
                self.killed.append(raylet)
                return True
        return False


@contextlib.contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """The cluster, not yet started: what its machines need is put into its namespace first."""
    readers_python()
    # A short name: Ray's sockets lie in it, and theirs may have 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="ep-ray-", dir="/tmp"))
    environment = {
        **os.environ,
        MARK: str(home),
        "RAY_TMPDIR": str(home),
        "OPENBLAS_NUM_THREADS": "1",
        "SOURCE_DATE_EPOCH": "1784000000",
    }
    cluster = None
    try:
        with namespace() as space:
            cluster = Cluster(space, home, environment)
            yield cluster
        deadline = time.monotonic() + 20
        while (left := cluster.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel ends them; nobody tells when
        assert not left, left
    finally:
        shutil.rmtree(home, ignore_errors=True)
