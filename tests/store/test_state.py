# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The state folder: versions, locks, documents, quarantine."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprov.errors import NotStored, StateNewer, StoreBusy, StoreCorrupt, StoreError, StoreFull, UsageError
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.digest import digest_of
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import A_DEVICE, A_SEQ
from edgeprov.store.state import Active, OutboxEntry, State

MODEL, OLD = digest_of(b"model"), digest_of(b"old")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def state(root: Path) -> State:
    return State.open(root, write=True)


def kit(seq: int, **more) -> OutboxEntry:
    fields = {"kind": "kit", "digest": digest_of(bytes([seq])), "repo": "data/x", "tag": f"t{seq}", "state": "sealed"}
    return OutboxEntry(seq=seq, **{**fields, **more})


def test_the_first_start_makes_the_folder_and_the_second_finds_it(root: Path) -> None:
    with pytest.raises(NotStored):
        State.open(root, write=False)
    State.open(root, write=True).save_document("fact", {"a": 1})
    assert (root / "VERSION").read_text() == "1\n"
    assert State.open(root, write=False).load_document("fact") == {"a": 1}
    assert root.stat().st_mode & 0o077 == 0, "spool and outbox are private"


def test_state_of_a_newer_version_is_left_untouched(root: Path, state: State) -> None:
    (root / "VERSION").write_text("2\n")
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    for write in (True, False):
        with pytest.raises(StateNewer) as caught:
            State.open(root, write=write)
        assert caught.value.exit_code == 33
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"one", b"\xff", b"1" * 1000])
def test_an_unreadable_version_is_refused(root: Path, state: State, content: bytes) -> None:
    (root / "VERSION").write_bytes(content)
    with pytest.raises(Exception) as caught:
        State.open(root, write=True)
    assert caught.value.exit_code == 31


def test_a_folder_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("x")
    with pytest.raises(StoreCorrupt):
        State.open(tmp_path, write=True)
    assert sorted(os.listdir(tmp_path)) == ["passwd"]


def test_a_first_start_that_was_cut_off_is_repeated(tmp_path: Path, fail_at) -> None:
    number = 0
    while True:
        root = tmp_path / str(number)
        with fail_at(number) as seen:
            with contextlib.suppress(StoreError):
                State.open(root, write=True)
        State.open(root, write=True).save_document("works", {})
        if len(seen) <= number:
            break
        number += 1
    assert number > 20


def test_a_read_only_state_folder_is_a_clear_error(root: Path, state: State, monkeypatch) -> None:
    state.set_active(Active(slot="default", model=MODEL))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError) as caught:
        State.open(root, write=True)
    assert "read-only" in caught.value.message
    reader = State.open(root, write=False)
    assert reader.active("default").model == MODEL
    for change in (
        lambda: reader.save_document("x", {}),
        lambda: reader.remove_document("x"),
        lambda: reader.set_active(Active(slot="default", model=OLD)),
        lambda: reader.save_outbox(kit(1)),
        lambda: reader.layout.save_blob(b"x", "a/b"),
    ):
        with pytest.raises(StoreError):
            change()


def test_active_pointers(state: State) -> None:
    assert state.active("default") is None
    state.set_active(Active(slot="default", model=OLD))
    state.set_active(Active(slot="default", model=MODEL, previous=OLD, info={"since": 5}))
    state.set_active(Active(slot="camera-2", model=MODEL))
    assert state.active("default") == Active(slot="default", model=MODEL, previous=OLD, info={"since": 5})
    assert state.slots() == ("camera-2", "default")
    assert state.pinned() == {MODEL, OLD}


def test_a_full_disk_keeps_the_old_pointer(state: State, fail_at) -> None:
    state.set_active(Active(slot="default", model=OLD))
    for number in range(4):
        with fail_at(number, errno.ENOSPC), pytest.raises(StoreFull):
            state.set_active(Active(slot="default", model=MODEL))
        assert state.active("default").model == OLD


@pytest.mark.parametrize("slot", ["", "UPPER", "a/b", "..", "a" * 33, "a.b", "ä"])
def test_a_slot_name_cannot_leave_its_folder(state: State, slot: str) -> None:
    for use in (state.active, state.spool, state.labels):
        with pytest.raises(UsageError):
            use(slot)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-x", "x" * 65])
def test_a_document_or_lock_name_cannot_leave_its_folder(state: State, name: str) -> None:
    with pytest.raises(UsageError):
        state.load_document(name)
    with pytest.raises(UsageError), state.lock(name):
        pass


def test_the_outbox_keeps_the_order_of_the_series(state: State) -> None:
    for seq in (3, 1, 2):
        state.save_outbox(kit(seq))
    state.save_outbox(kit(2, state="signed", info={"receipt": None, "n": [1, 2]}))
    assert [(entry.seq, entry.state) for entry in state.outbox()] == [(1, "sealed"), (2, "signed"), (3, "sealed")]
    assert state.pinned() == {entry.digest for entry in state.outbox()}
    state.remove_outbox(kit(1).digest)
    state.remove_outbox(kit(1).digest)
    assert [entry.seq for entry in state.outbox()] == [2, 3]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"{}", b'{"v":2}', b"\xff\xfe", b'{"v":1,"kind":"other"}', b'{"a":1,"a":2}']
)
def test_a_damaged_document_goes_to_quarantine_with_the_reason(state: State, damage: bytes) -> None:
    state.save_outbox(kit(1))
    state.save_outbox(kit(2))
    path = state.root / "outbox" / f"{kit(1).digest.hex}.json"
    path.write_bytes(damage)
    with pytest.raises(StoreCorrupt):
        State.open(state.root, write=False).outbox()
    assert [entry.seq for entry in state.outbox()] == [2]
    ((moved, reason),) = state.quarantined()
    assert moved.read_bytes() == damage
    assert reason


def test_quarantine_never_overwrites(state: State) -> None:
    targets = set()
    for content in (b"1", b"2", b"3"):
        path = state.root / "documents" / "x.json"
        path.write_bytes(content)
        targets.add(state.quarantine(path, "test"))
    assert {path.read_bytes() for path in targets} == {b"1", b"2", b"3"}


def test_one_process_at_a_time(state: State) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from edgeprov.store.state import State\n"
        "from edgeprov.errors import StoreBusy\n"
        "state = State.open(Path(sys.argv[1]), write=True)\n"
        "try:\n"
        "    with state.lock('seal'): print('got it')\n"
        "except StoreBusy as error: print('busy', error.exit_code)\n"
    )

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, state.root], capture_output=True, text=True, check=True
        ).stdout

    with state.lock("seal"):
        assert other() == "busy 32\n"
        with pytest.raises(StoreBusy), state.lock("seal"):
            pass
        with state.lock("upload"):
            pass
    assert other() == "got it\n"


def test_the_lock_of_a_killed_process_is_free(state: State) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from edgeprov.store.state import State\n"
        "with State.open(Path(sys.argv[1]), write=True).lock('seal'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, state.root], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StoreBusy), state.lock("seal"):
            pass
        child.kill()
        child.wait()
    with state.lock("seal"):
        pass


def test_the_bytes_of_all_spools_are_counted(state: State) -> None:
    before = state.spool_bytes()
    state.labels("default").append([b"x" * 100])
    assert state.spool_bytes() - before >= 100


def _manifest(state: State, content: bytes, annotations: dict[str, str] | None = None) -> Manifest:
    layer = state.layout.save_blob(content, "application/octet-stream")
    config = state.layout.save_blob(b"{}", "application/json")
    manifest = build_manifest(config=config, layers=[layer], annotations=annotations)
    tag = kit_tag("dev1", int(annotations[A_SEQ]), manifest.digest) if annotations else None
    state.layout.save_manifest(manifest, ref=tag)
    return manifest


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[" * 100_000, b"\xff\x00", b'{"schemaVersion":2,"manifests":[{', None]
)
def test_a_lost_index_is_made_again_from_the_manifests(root: Path, state: State, damage: bytes | None) -> None:
    model = _manifest(state, b"model")
    kit_ = _manifest(state, b"kit", {A_DEVICE: "urn:edgeprov:device:dev1", A_SEQ: "7"})
    torn = _manifest(state, b"torn")
    before = {entry.digest: entry for entry in state.layout.manifests()}
    state.layout.blob_path(torn.layers[0].digest).write_bytes(b"short"[:3])
    index = root / "layout" / "index.json"
    index.unlink() if damage is None else index.write_bytes(damage)

    reader = State.open(root, write=False)
    assert reader.layout.has_manifest(model.digest), "who may only read sees what is there"
    assert index.exists() == (damage is not None), "and changes nothing"
    found = State.open(root, write=True).layout.manifests()
    assert {entry.digest: entry for entry in found} == {k: v for k, v in before.items() if k != torn.digest}
    assert State.open(root, write=False).layout.resolve(kit_tag("dev1", 7, kit_.digest)) is not None
    kept = [path for path, _ in state.quarantined()]
    assert [path.read_bytes() for path in kept] == ([] if damage is None else [damage])


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"imageLayoutVersion":"9"}', None])
def test_a_damaged_marker_of_the_layout_is_written_again(root: Path, state: State, damage: bytes | None) -> None:
    model = _manifest(state, b"model")
    marker = root / "layout" / "oci-layout"
    good = marker.read_bytes()
    marker.unlink() if damage is None else marker.write_bytes(damage)
    assert State.open(root, write=False).layout.has_manifest(model.digest)
    assert State.open(root, write=True).layout.has_manifest(model.digest)
    assert marker.read_bytes() == good


def test_a_pointer_or_entry_under_another_name_goes_to_quarantine(root: Path, state: State) -> None:
    """A pointer of another slot would be measured for that slot; an entry could be sent, and never removed."""
    state.set_active(Active(slot="left", model=MODEL))
    state.save_outbox(kit(1))
    (root / "active" / "left.json").rename(root / "active" / "right.json")
    (root / "outbox" / f"{digest_of(bytes([1])).hex}.json").rename(root / "outbox" / f"{MODEL.hex}.json")
    with pytest.raises(StoreCorrupt):
        State.open(root, write=False).active("right")
    assert state.active("right") is None
    assert state.outbox() == ()
    assert len(state.quarantined()) == 2


def test_root_writes_nothing_into_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of root in it would lock the service's user out: exit 34 from then on, for every command."""
    root = tmp_path / "state"
    State.open(root, write=True)
    if os.geteuid() == 0:
        os.chown(root, 1234, 1234)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    with pytest.raises(StoreError, match="lock it out") as refused:
        State.open(root, write=True)
    assert "runuser -u" in (refused.value.advice or "")
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before
    assert State.open(root, write=False).root == root
