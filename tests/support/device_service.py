# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device service of a device with a real swtpm, and applications in processes of their own beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

from edgeprov.formats.datakit import parse_datakit, parse_evidence
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.evidence_part import SegmentEvidence
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from edgeprov.verify.enrollment import VerifiedDevice
from tests.support.box import Box
from tests.support.site import _only_file

RECORD = textwrap.dedent("""
    import mmap, os, sys
    import numpy
    import edgeprov

    note = memoryview(mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8)).cast("Q")
    model = edgeprov.open_device().load_model(sys.argv[2] if len(sys.argv) > 2 else None)
    x = numpy.zeros((1, 30), numpy.int8)
    print("recording", model.next_n, flush=True)
    while True:
        note[0] = model.run(x).record.n
""")


class Service:
    """`edgeprov serve` of a device, and the applications beside it."""

    def __init__(self, box: Box, device: VerifiedDevice) -> None:
        self.box = box
        self.device = device
        self.environment = {"EDGEPROV_CONFIG": str(box.site.config_file), "PATH": "/usr/bin:/bin:/usr/sbin"}
        self.socket = box.site.context.run_dir / "device.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.started: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "edgeprov.cli.device_main", "serve"]
        self.process = subprocess.Popen(command, env=self.environment)
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            assert self.process.wait(60) in (0, -number)

    def application(self, program: str, *arguments: object, wait: str = "") -> subprocess.Popen[str]:
        """Start a program beside the service; ``wait`` for a line that begins so."""
        command = [sys.executable, "-c", program, *map(str, arguments)]
        child = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started.append(child)
        if wait:
            assert child.stdout is not None
            assert child.stderr is not None
            line = child.stdout.readline()
            assert line.startswith(wait), line + child.stderr.read()
        return child

    def run(self, program: str, *arguments: object) -> str:
        """The output of a program that ends well."""
        child = self.application(textwrap.dedent(program), *arguments)
        out, errors = child.communicate(timeout=120)
        assert child.returncode == 0, out + errors
        return out

    def sealed(self) -> tuple[list[tuple[int, int]], list[object]]:
        """Seal, and give all ranges of record numbers in kits, ascending, and the unclean stops that kits tell of."""
        ranges = []
        stops: list[object] = []
        for segment, told in self.segments():
            ranges += segment.ranges
            stops += told
        return sorted(ranges), stops

    def segments(self) -> list[tuple[SegmentEvidence, list[object]]]:
        """Seal, verify all kits, and give their segments; with the first of each kit its unclean stops."""
        self.box.run("seal")
        found: list[tuple[SegmentEvidence, list[object]]] = []
        layout = Layout.open(self.box.root / "state" / "layout", read_only=True)
        for entry in self.box.site.context.state().outbox():
            manifest = layout.load_manifest(parse_digest(str(entry.digest)))
            if entry.kind != "kit":
                continue
            kit = parse_datakit(manifest, layout.load_blob(manifest.config, max_bytes=2**20))
            part = next(item for item in kit.parts if item.name == "evidence")
            evidence = parse_evidence(decompress(_only_file(layout.load_blob(part.layer, max_bytes=2**26)), 2**28))
            records = self.box.verify(self.device, layout, manifest.digest)
            assert records == sum(last - first + 1 for item in evidence.segments for first, last in item.ranges)
            stops = list(evidence.standing.stops)
            found += [(item, [] if number else stops) for number, item in enumerate(evidence.segments)]
        return found


def wait_for(reached) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def numbers(ranges: list[tuple[int, int]]) -> int:
    """How many numbers, which must follow each other from 1."""
    following = 1
    for first, last in ranges:
        assert first == following
        following = last + 1
    return following - 1
