# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device service: applications in processes of their own append to rings, and nothing acknowledged is lost."""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.formats.datakit import parse_datakit, parse_evidence
from edgeprov.formats.digest import parse_digest
from edgeprov.store.compress import decompress
from edgeprov.store.layout import Layout
from edgeprov.tpm import simulator
from tests.support.box import Box
from tests.support.site import _only_file

pytestmark = pytest.mark.peer("swtpm")

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

    def __init__(self, box: Box) -> None:
        self.box = box
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
        self.box.run("seal")
        layout = Layout.open(self.box.root / "state" / "layout", read_only=True)
        ranges: list[tuple[int, int]] = []
        stops: list[object] = []
        for entry in self.box.site.context.state().outbox():
            manifest = layout.load_manifest(parse_digest(str(entry.digest)))
            if entry.kind != "kit":
                continue
            kit = parse_datakit(manifest, layout.load_blob(manifest.config, max_bytes=2**20))
            part = next(item for item in kit.parts if item.name == "evidence")
            evidence = parse_evidence(decompress(_only_file(layout.load_blob(part.layer, max_bytes=2**26)), 2**28))
            ranges += [held for segment in evidence.segments for held in segment.ranges]
            stops += list(evidence.standing.stops)
        return sorted(ranges), stops


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    box = Box(tmp_path)
    box.enroll()
    box.run("model", "install", box.site.publish().reference)
    box.run("boot-check")
    service = Service(box)
    service.start()
    yield service
    for child in service.started:
        child.kill()
        child.communicate()
    service.stop(signal.SIGKILL)
    simulator.stop(tmp_path / "state" / "tpm")


@pytest.fixture
def noted(tmp_path: Path) -> memoryview:
    path = tmp_path / "noted"
    path.write_bytes(bytes(8))
    return memoryview(mmap.mmap(os.open(path, os.O_RDWR), 8)).cast("Q")


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


def test_an_application_sees_the_same_device(service: Service) -> None:
    out = service.run("""
        import edgeprov, numpy
        with edgeprov.open_device() as device:
            model = device.load_model()
            results = [model.run(numpy.zeros((1, 30), numpy.int8)) for _ in range(5)]
            print([str(result.record) for result in results], model.slot, len(model.inputs))
            device.label(results[1].record, 1)
            model.sync()
            print(type(model._recorder).__name__)
    """)
    assert out.splitlines() == [
        "['default:1', 'default:2', 'default:3', 'default:4', 'default:5'] default 1",
        "RemoteRecorder",
    ]
    (kit, *_) = service.box.run("seal")
    assert (kit["records"], kit["labels"], kit["first"], kit["last"]) == (5, 1, 1, 5)


def test_kills_of_both_lose_and_double_nothing(service: Service, noted: memoryview, tmp_path: Path) -> None:
    dice = random.Random(18)
    for number in range(10):
        before = noted[0]
        child = service.application(RECORD, tmp_path / "noted", wait="recording")
        wait_for(lambda before=before: noted[0] > before)
        kind = number % 4
        if kind in (1, 3):  # the service first: the application goes on meanwhile
            service.stop(signal.SIGKILL)
            time.sleep(dice.random() / 10)
            if kind == 1:
                service.start()
                reached = noted[0]
                wait_for(lambda reached=reached: noted[0] > reached + 10_000)  # more than a ring: it has resumed
        if kind == 2:
            service.box.run("seal")
        child.kill()
        child.communicate()
        if kind == 3:
            service.start()
    ranges, stops = service.sealed()
    assert stops == []
    # A record may have been stored just before the kill, and its number not noted yet.
    assert noted[0] <= numbers(ranges) <= noted[0] + 10


def test_a_kit_ends_the_segment_and_the_application_goes_on(
    service: Service, noted: memoryview, tmp_path: Path
) -> None:
    child = service.application(RECORD, tmp_path / "noted", wait="recording")
    for _ in range(4):
        before = noted[0]
        wait_for(lambda before=before: noted[0] > before + 1_000)
        assert service.box.run("seal")[0]["records"] > 0
    assert child.poll() is None
    child.kill()
    child.communicate()
    ranges, stops = service.sealed()
    assert noted[0] <= numbers(ranges) <= noted[0] + 1
    assert stops == []


def test_one_application_in_a_slot_and_the_next_as_soon_as_it_ended(
    service: Service, noted: memoryview, tmp_path: Path
) -> None:
    child = service.application(RECORD, tmp_path / "noted", wait="recording")
    second = service.application(RECORD, tmp_path / "noted")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"process {child.pid} records there" in errors
    third = service.application("""
import sys, edgeprov, os, signal, time
from edgeprov.device.api import _load_from_service
device = edgeprov.open_device()
print("ready", flush=True)
sys.stdin.readline()
""")
    third.kill()
    child.kill()
    child.wait()
    started = time.monotonic()
    service.application(RECORD, tmp_path / "noted", wait="recording")
    assert time.monotonic() - started < 30
    assert noted[0] > 0


def test_a_forked_child_is_refused_and_the_parent_loses_nothing(service: Service) -> None:
    out = service.run("""
        import multiprocessing, os
        import edgeprov, numpy

        device = edgeprov.open_device()
        model = device.load_model()
        x = numpy.zeros((1, 30), numpy.int8)
        model.run(x)

        def use(_number):
            try:
                model.run(x)
            except edgeprov.errors.UsageError as error:
                return str(error)

        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(set(pool.map(use, range(4))), flush=True)
        if (child := os.fork()) == 0:
            raise SystemExit(use(0) != "this device was opened in another process")
        print(os.waitpid(child, 0)[1], model.run(x).record)
        model.sync()
    """)
    assert out.splitlines() == ["{'this device was opened in another process'}", "0 default:2"]
    (kit, *_) = service.box.run("seal")
    assert kit["records"] == 2


@pytest.mark.parametrize(
    "harm",
    [
        "os.pwrite(fd, (2**31).to_bytes(4, 'little'), 0)",
        "os.ftruncate(fd, 0)",
        "os.ftruncate(fd, 1 << 40)",
        "os.pwrite(fd, os.urandom(2000), 4096); os.pwrite(fd, (2000).to_bytes(4, 'little'), 0)",
    ],
)
def test_a_hostile_ring_ends_its_own_session_only(service: Service, harm: str) -> None:
    service.run(f"""
        import os, time
        import edgeprov, numpy
        from edgeprov.device import remote_recorder
        kept = []
        writer = remote_recorder.RingWriter
        def keep(fd, *args, **options):
            kept.append(os.dup(fd))
            return writer(fd, *args, **options)
        remote_recorder.RingWriter = keep
        model = edgeprov.open_device().load_model()
        fd = kept[0]
        {harm}
        try:
            model._client.request(["room", 100])
            model._recorder._client.request(["room", 100])
        except Exception as error:
            print(type(error).__name__)
        os._exit(0)
    """)
    out = service.run("""
        import edgeprov, numpy
        with edgeprov.open_device() as device:
            print(device.load_model().run(numpy.zeros((1, 30), numpy.int8)).record.n)
    """)
    assert int(out) >= 1
    kits = [item for item in service.box.run("seal") if item.get("type") == "kit"]
    assert sum(kit["records"] for kit in kits) >= 1


def test_rows_that_are_no_records_cost_their_own_session_only(service: Service) -> None:
    """Whole frames with rubbish in them: the copy is blind, and the seal meets them."""
    service.run("""
        import edgeprov, numpy, os
        model = edgeprov.open_device().load_model()
        for _ in range(3):
            model.run(numpy.zeros((1, 30), numpy.int8))
        rows = model._recorder._rows
        rows.append(b"no record")
        rows.append(b"\\x99" + bytes(40))
        model.run(numpy.zeros((1, 30), numpy.int8))
        os._exit(0)
    """)
    service.run("""
        import edgeprov, numpy
        with edgeprov.open_device() as device:
            device.load_model().run(numpy.zeros((1, 30), numpy.int8))
    """)
    first = service.box.run("seal", code=31)
    print(first)
    assert sum(item.get("records", 0) for item in first if item["type"] == "kit") >= 4
    service.run("""
        import edgeprov, numpy
        with edgeprov.open_device() as device:
            device.load_model().run(numpy.zeros((1, 30), numpy.int8))
    """)
    (kit, *_) = service.box.run("seal")
    assert kit["records"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_another_user_cannot_make_a_kit_that_nobody_verifies(service: Service, tmp_path: Path) -> None:
    """Records that claim numbers which are not theirs are named as lost; those that follow each other are sealed."""
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    service.box.site.config_file.chmod(0o644)
    service.socket.chmod(0o666)
    service.run("""
        import os
        import edgeprov, numpy
        from edgeprov.formats.record import pack_record
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        model = edgeprov.open_device().load_model()
        x = numpy.zeros((1, 30), numpy.int8)
        outputs = [item.tobytes() for item in model.run(x).outputs]
        at = 1_796_000_000_000_000_000
        for n, out in ((1, outputs), (9, outputs), (4, [b"too long" * 9])):
            model._recorder._rows.append(pack_record((n, at, 5, 5, 0, out, None, None, None)))
        model.run(x)
        os._exit(0)
    """)
    service.run("import edgeprov; edgeprov.open_device().load_model().close()")
    sealed = service.box.run("seal", code=31)
    (kit,) = [item for item in sealed if item["type"] == "kit"]
    assert kit["records"] == 2
    ranges, _ = service.sealed()
    assert ranges == [(1, 1), (5, 5)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_another_user_records_and_can_do_nothing_else(service: Service, tmp_path: Path) -> None:
    """User 65534 has the socket only: no state, no ring of others, no label for their records."""
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    service.box.site.config_file.chmod(0o644)
    service.socket.chmod(0o666)  # systemd gives it to the group edgeprov-app
    own = service.run("""
        import edgeprov, numpy
        with edgeprov.open_device() as device:
            print(device.load_model().run(numpy.zeros((1, 30), numpy.int8)).record)
    """)
    out = service.run(
        """
        import os, sys
        import edgeprov, numpy
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        device = edgeprov.open_device()
        try:
            device.label(sys.argv[1], 1)
        except edgeprov.errors.UsageError as error:
            print(error)
        for path in sys.argv[2:]:
            try:
                os.listdir(path)
                print("read", path)
            except PermissionError:
                pass
        model = device.load_model()
        print(model.run(numpy.zeros((1, 30), numpy.int8)).record)
        device.close()
        """,
        own.strip(),
        tmp_path / "state" / "spool" / "default",
        service.box.site.context.run_dir / "rings",
    )
    assert out.splitlines() == ["slot default holds records of another user", "default:2"]
