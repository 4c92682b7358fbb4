# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device service: applications in processes of their own append to rings, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.device_service import RECORD, Service, numbers, wait_for

pytestmark = pytest.mark.peer("swtpm")


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


def test_a_session_goes_on_in_the_lane_of_one_that_ended(service: Service, noted: memoryview, tmp_path: Path) -> None:
    for _ in range(3):
        child = service.application(RECORD, tmp_path / "noted", wait="recording")
        child.kill()
        child.wait()
    child = service.application(RECORD, tmp_path / "noted", wait="recording")
    wait_for(lambda: noted[0] > 100)
    child.kill()
    child.wait()
    found = service.segments()
    assert len(found) == 1, "each one continued the segment of the one before"


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
