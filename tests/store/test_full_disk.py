# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Really full and really read-only file systems: a small ext4 image, and one in memory (as root only)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgeprov.errors import StoreError, StoreFull
from edgeprov.formats.digest import digest_of
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.store.spool import RECORD, read_segment
from edgeprov.store.state import Active, State

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; hil/ fills the device's own disk")
MODEL = digest_of(b"model")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "mount"
    mount.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", mount]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        command = ["mount", "-o", "loop", image, mount]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{done.stderr.strip()}; hil/ fills the device's own disk")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def fill(folder: Path) -> Path:
    """Take all space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


def records(state: State) -> list[bytes]:
    spool = state.spool("default")
    return [row for info in spool.segments() for kind, row in read_segment(info.path).rows() if kind == RECORD]


@pytest.mark.parametrize("sync", ["every", "interval", "seal"])
def test_a_disk_that_fills_while_recording_loses_nothing_that_was_taken(disk: Path, sync: str) -> None:
    other = disk / "other"
    other.write_bytes(bytes(500_000))
    state = State.open(disk / "state", write=True)
    writer = state.spool("default").open_writer(sync=sync, interval_ms=1)
    writer.open_segment(b"header", b"evidence")
    taken = []
    with pytest.raises(StoreFull) as caught:
        while True:
            row = b"%06d" % writer.next_n * 50
            writer.append_record(row)
            taken.append(row)
    assert caught.value.exit_code == 30
    assert len(taken) > 3_000
    fill(disk)
    with pytest.raises(StoreFull):
        writer.append_record(bytes(5_000))
    writer.close_segment()  # its end was set aside
    assert records(state) == taken
    other.unlink()
    next_n = writer.next_n
    writer.open_segment(b"again", b"evidence")
    assert writer.append_record(b"again") == next_n == len(taken) + 1
    writer.close()
    state.spool("default").end_open()
    assert records(state) == [*taken, b"again"]


def test_a_full_disk_changes_no_state(disk: Path) -> None:
    state = State.open(disk / "state", write=True)
    state.set_active(Active(slot="default", model=MODEL))
    state.labels("default").append([b"label"])
    ballast = fill(disk)
    big = os.urandom(100_000)

    def artifact() -> None:
        with state.layout.batch():
            layer = state.layout.save_blob(big, "a/b")
            state.layout.save_blob(b"{}", "a/b")
            state.layout.save_manifest(build_manifest(config=EMPTY_CONFIG, layers=[layer]))

    changes: tuple[Callable[[], object], ...] = (
        lambda: state.save_document("large", {"x": "y" * 100_000}),
        lambda: state.labels("default").append([bytes(60_000)]),
        lambda: state.spool("default").open_writer().open_segment(bytes(60_000), b"evidence"),
        artifact,
    )
    for change in changes:
        with pytest.raises(StoreFull):
            change()
    assert state.active("default").model == MODEL
    assert state.load_document("large") is None
    assert state.layout.manifests() == ()
    ballast.unlink()
    state = State.open(disk / "state", write=True)
    state.labels("default").append([b"second"])
    state.labels("default").rotate()
    logs = state.labels("default").segments()
    assert [row for info in logs for _, row in read_segment(info.path).rows()] == [b"label", b"second"]
    artifact()
    assert len(state.layout.manifests()) == 1


def test_a_read_only_disk_is_said_to_be_read_only(disk: Path) -> None:
    state = State.open(disk / "state", write=True)
    state.set_active(Active(slot="default", model=MODEL))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError) as caught:
        State.open(disk / "state", write=True)
    assert caught.value.exit_code == 34
    assert "read-only" in caught.value.message.lower()
    reader = State.open(disk / "state", write=False)
    assert reader.active("default").model == MODEL
    for change in (
        lambda: state.set_active(Active(slot="default", model=MODEL, info={"x": 1})),
        lambda: state.spool("default").open_writer(),
        lambda: state.labels("default").append([b"x"]),
        lambda: state.layout.save_blob(b"x", "a/b"),
    ):
        with pytest.raises(StoreError) as caught:
            change()
        assert not isinstance(caught.value, StoreFull)
    shutil.rmtree(disk / "state", ignore_errors=True)
    assert (disk / "state" / "VERSION").exists()
