# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bits that flip on the disk: what still verifies is sealed, and a signed tombstone names exactly the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeprov
from edgeprov.cli.device_main import main
from edgeprov.device.labels import add_labels
from edgeprov.device.seal import Sealed, seal
from edgeprov.store.frames import END, EVIDENCE, FRAME_BYTES, HEADER, RANGE
from edgeprov.store.spool import read_segment
from tests.device.test_recorder import configure, decoded, record
from tests.support.site import Site

Change = Callable[[bytearray], None]


def segment_files(site: Site) -> list[Path]:
    """Segments of the slot, each ended."""
    spool = site.context.state().spool("default")
    spool.end_open()
    return [info.path for info in spool.segments()]


def rewrite(path: Path, change: Change) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(position: int, bit: int = 0) -> Change:
    def change(data: bytearray) -> None:
        data[position] ^= 1 << bit

    return change


def accounts(site: Site, sealed: list[Sealed]) -> tuple[set[int], set[int]]:
    """Numbers in kits that verify, and numbers that tombstones for damage name."""
    kept: set[int] = set()
    lost: set[int] = set()
    for item in sealed:
        if item.entry.kind == "kit":
            numbers = [row.n for row in decoded(site, item)["records"]]
            assert len(numbers) == len(set(numbers))
            assert not kept & set(numbers)
            kept |= set(numbers)
        else:
            _, (stone,) = site.verify(site.context.state().layout, item.entry.digest)
            assert {item.reason for item in (*stone.lost, *stone.numbers)} <= {"damaged"}
            lost |= {n for item in stone.lost for n in range(item.first, item.last + 1)}
    return kept, lost


def frame_starts(path: Path) -> list[tuple[int, int]]:
    """Where each frame begins, and its kind."""
    segment, found, position = read_segment(path), [], 0
    for kind, payload in segment.frames():
        found.append((position, kind))
        position += FRAME_BYTES + len(payload)
    return found


def leave_open(path: Path) -> None:
    """As a power cut leaves it: no END frame, space set aside behind the last row."""
    (end,) = (start for start, kind in frame_starts(path) if kind == END)
    rewrite(path, lambda data: data.__setitem__(slice(end, len(data)), bytes(4096)))


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("capture", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_one_flipped_bit_costs_one_record(ready: Site, tmp_path: Path, closed: bool, capture: str) -> None:
    configure(ready, f'[record]\ncapture = "{capture}"')
    count = 6
    record(ready, count)
    (path,) = segment_files(ready)
    rows = [start for start, kind in frame_starts(path) if kind not in (HEADER, EVIDENCE, RANGE)]
    if not closed:
        leave_open(path)
    shutil.copytree(ready.root / "state", tmp_path / "copy")
    # A flip in the last row of an open segment cannot be told from a write that was cut short.
    end = rows[-1] if closed else rows[-2]
    places = sorted({*range(rows[0], rows[1]), *range(rows[1], end, 29)})  # each byte of one row, samples of others
    counter = ready.tpm.counter
    tried = 0
    for place in places:
        rewrite(path, flip(place, place % 8))
        sealed = seal(ready.context)
        kept, lost = accounts(ready, sealed)
        numbers = set(range(1, count + 1))
        assert kept | lost == numbers, place
        assert not kept & lost, place
        assert len(lost) <= 1, place
        assert bool(lost) == any(item.lost for item in sealed)
        assert seal(ready.context) == []
        kept_files = [item for item, _ in ready.context.state().quarantined()]
        assert len(kept_files) == 1, place
        shutil.rmtree(ready.root / "state")
        shutil.copytree(tmp_path / "copy", ready.root / "state")
        ready.tpm.counter = counter
        tried += 1
    assert tried > 35


@pytest.mark.parametrize("hit", ["header", "evidence"])
def test_without_header_or_quote_all_numbers_get_a_tombstone(ready: Site, hit: str) -> None:
    for count in (3, 2, 4):
        record(ready, count)
        segment_files(ready)
    first, middle, last = segment_files(ready)
    place = (
        FRAME_BYTES + 20 if hit == "header" else next(p for p, kind in frame_starts(middle) if kind == EVIDENCE) + 20
    )
    rewrite(middle, flip(place))
    kept, lost = accounts(ready, seal(ready.context))
    assert lost == {4, 5}
    assert kept == {1, 2, 3, 6, 7, 8, 9}
    assert not first.exists()
    assert not last.exists()
    assert seal(ready.context) == []


def test_a_lost_sector_costs_its_records(ready: Site) -> None:
    record(ready, 200)
    (path,) = segment_files(ready)
    start = path.stat().st_size // 2 // 512 * 512
    rewrite(path, lambda data: data.__setitem__(slice(start, start + 512), b"\xff" * 512))
    kept, lost = accounts(ready, seal(ready.context))
    assert kept | lost == set(range(1, 201))
    assert not kept & lost
    assert 512 // 60 <= len(lost) <= 512 // 30


def test_bytes_of_an_input_that_look_like_a_record_are_none(ready: Site) -> None:
    """A forged row inside a captured input, and the length in front of it destroyed."""
    from edgeprov.formats.record import encode_record
    from edgeprov.store.frames import RECORD, encode_frame

    configure(ready, '[record]\ncapture = "full"')
    forged = encode_frame(RECORD, encode_record(3, 0, 0, 0, [b"\x7f"], bytes(32)))
    record(ready, 1)
    segment_files(ready)
    with edgeprov.open_device() as device:
        recorder = device.load_model()._recorder
        recorder.append([b"\x01"], duration_ns=1, inputs=[forged])
        recorder.append([b"\x02"], duration_ns=1, inputs=[bytes(30)])
    path = segment_files(ready)[1]
    inputs = [start for start, kind in frame_starts(path) if kind == 4]
    rewrite(path, lambda data: data.__setitem__(slice(inputs[0], inputs[0] + 4), b"\x55\xaa\x55\xaa"))
    sealed = seal(ready.context)
    kept, lost = accounts(ready, sealed)
    assert kept | lost == {1, 2, 3}
    values = {
        row.n: row.outputs[0] for item in sealed if item.entry.kind == "kit" for row in decoded(ready, item)["records"]
    }
    assert values.get(3, b"\x02") == b"\x02"


def test_a_damaged_label_log_gives_what_it_can(ready: Site) -> None:
    record(ready, 4)
    state = ready.context.state()
    for n in (1, 2, 3, 4):
        add_labels(state, "default", [(n, n)], source="lab")
    (info,) = state.labels("default").segments()
    frames = frame_starts(info.path)
    rewrite(info.path, flip(frames[1][0] + FRAME_BYTES + 2))
    (kit, *_) = seal(ready.context)
    assert [label.n for label in decoded(ready, kit)["labels"]] == [1, 3, 4]
    assert seal(ready.context) == []
    assert [path.suffix for path, _ in ready.context.state().quarantined()] == [".1"]


def test_seal_says_it_and_goes_on(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    record(ready, 143)
    (path,) = segment_files(ready)
    rewrite(path, flip(frame_starts(path)[60][0] + FRAME_BYTES + 10))
    assert main(["seal"]) == 31
    said = capfd.readouterr()
    assert "142 records (1 to 143)" in said.out
    assert "damaged on disk:" in said.out
    assert "tombstone" in said.out
    assert "quarantine" in said.err
    assert "Traceback" not in said.err
    assert main(["seal"]) == 0
    record(ready, 1)
    assert main(["seal"]) == 0


def test_a_sector_that_cannot_be_read_is_damage(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    record(ready, 400)
    (path,) = segment_files(ready)
    bad = range(8192, 12288)
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") != str(path):
            return real(fd, count, offset)
        if offset in bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, min(count, bad.start - offset) if offset < bad.start else count, offset)

    monkeypatch.setattr(os, "pread", pread)
    kept, lost = accounts(ready, seal(ready.context))
    assert kept | lost == set(range(1, 401))
    assert 4096 // 60 <= len(lost) <= 4096 // 30
    assert np.all(np.diff(sorted(lost)) == 1)
