# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""State-changing work of the store, one scenario each, and the invariants that hold whatever stops it.

A scenario has three parts: ``prepare`` brings the folder to its start, ``run`` does the work and
acknowledges what a user would rely on, ``check`` opens what a stop left behind, as the next start
does, and compares it with what was acknowledged. Records carry their number, so that nothing can be
taken for something else. ``check`` returns how many invariants it found to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprov.errors import DigestMismatch
from edgeprov.formats.descriptor import describe
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import OCI_EMPTY
from edgeprov.store.spool import LABEL, RECORD, ranges_of, read_segment
from edgeprov.store.state import Active, OutboxEntry, State

Acknowledge = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """One kind of work."""

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, Acknowledge], None]


def row(number: int) -> bytes:
    return b"record %d " % number * (1 + number % 3)


def artifact(state: State, name: str, *, ref: str | None = None, subject: Manifest | None = None) -> Manifest:
    layers = [state.layout.save_blob(f"{name} layer {i}".encode() * 50, "a/b") for i in range(2)]
    state.layout.save_blob(b"{}", OCI_EMPTY)
    manifest = build_manifest(
        config=EMPTY_CONFIG, layers=layers, annotations={"name": name}, subject=subject.descriptor if subject else None
    )
    state.layout.save_manifest(manifest, ref=ref)
    return manifest


def _nothing(root: Path) -> None:
    pass


def _state(root: Path) -> None:
    State.open(root, write=True)


def _record(root: Path, acknowledge: Acknowledge, mode: str, *, segments: int = 2, records: int = 3) -> None:
    state = State.open(root, write=True)
    with state.spool("default").open_writer(sync=mode, interval_ms=3_600_000) as writer:
        for _ in range(segments):
            writer.open_segment(b"header from %d" % writer.next_n, b"evidence")
            for _ in range(records):
                n = writer.append_record(row(writer.next_n), b"input")
                acknowledge(f"number {n}")  # known outside, whether it is durable or not
                if mode == "every":
                    acknowledge(f"record {n}")
            if mode == "interval":
                writer.sync()
                for n in range(writer.next_n - records, writer.next_n):
                    acknowledge(f"record {n}")
            writer.close_segment()
            for n in range(writer.next_n - records, writer.next_n):
                acknowledge(f"record {n}")
    for header in (b"header of two sessions", None):  # the second one goes on in the segment of the first
        with state.spool("default").open_writer(sync=mode, interval_ms=3_600_000) as writer:
            if header is None:
                writer.go_on(writer.open_segments[-1])
                following = writer.prepare(b"header of what follows")
            else:
                writer.open_segment(header, b"evidence")
            n = writer.append_record(row(writer.next_n))
            acknowledge(f"number {n}")
            if header is None:
                following.start(b"evidence")
                writer.use(following)
                acknowledge(f"record {n}")
                n = writer.append_record(row(writer.next_n))
                acknowledge(f"number {n}")
        acknowledge(f"record {n}")


def first_start(root: Path, acknowledge: Acknowledge) -> None:
    state = State.open(root, write=True)
    acknowledge("state")
    state.save_document("fact", {"written": True})
    acknowledge("document fact")


def record_every(root: Path, acknowledge: Acknowledge) -> None:
    _record(root, acknowledge, "every")


def record_interval(root: Path, acknowledge: Acknowledge) -> None:
    _record(root, acknowledge, "interval")


def record_seal(root: Path, acknowledge: Acknowledge) -> None:
    _record(root, acknowledge, "seal")


def install(root: Path, acknowledge: Acknowledge) -> None:
    state = State.open(root, write=True)
    with state.layout.batch():
        model = artifact(state, "model two", ref="models/x:2")
        artifact(state, "signature of two", subject=model)
    acknowledge("artifact model two")
    old = state.active("default")
    state.set_active(Active(slot="default", model=model.digest, previous=old.model if old else None))
    acknowledge("active model two")


def _with_model(root: Path) -> None:
    state = State.open(root, write=True)
    model = artifact(state, "model one", ref="models/x:1")
    state.set_active(Active(slot="default", model=model.digest))


def _with_records(root: Path) -> None:
    _with_model(root)
    _record(root, lambda _: None, "every")


def seal(root: Path, acknowledge: Acknowledge) -> None:
    """The write order of a seal: blobs, manifest, signature, outbox entry, and only then the spool."""
    state = State.open(root, write=True)
    with state.lock("seal"):
        spool = state.spool("default")
        spool.end_open()
        for info in spool.segments():
            rows = [payload for kind, payload in read_segment(info.path).rows() if kind == RECORD]
            layer = state.layout.save_blob(b"\n".join(rows), "a/b")
            state.layout.save_blob(b"{}", OCI_EMPTY)
            kit = build_manifest(config=EMPTY_CONFIG, layers=[layer], annotations={"first": str(info.ranges[0][0])})
            with state.layout.batch():
                state.layout.save_manifest(kit)
                artifact(state, f"signature of {info.ranges[0][0]}", subject=kit)
            state.save_outbox(
                OutboxEntry(
                    kind="kit", digest=kit.digest, seq=info.ranges[0][0], repo="data/x", tag="t", state="sealed"
                )
            )
            acknowledge(f"kit {kit.digest}")
            spool.free(info)
        acknowledge("sealed")


def _with_kits(root: Path) -> None:
    _with_records(root)
    seal(root, lambda _: None)


def confirm(root: Path, acknowledge: Acknowledge) -> None:
    """What an upload does when the registry confirmed: entry, artifact, garbage."""
    state = State.open(root, write=True)
    for entry in state.outbox():
        acknowledge(f"confirmed {entry.digest}")
        state.remove_outbox(entry.digest)
        state.layout.remove_manifest(entry.digest, with_signatures=True)
    state.layout.collect_garbage(state.pinned())
    acknowledge("collected")


def _crashed(root: Path) -> None:
    """A spool as a power cut leaves it: an open segment with a torn tail, and a torn label."""
    state = State.open(root, write=True)
    spool = state.spool("default")
    writer = spool.open_writer(sync="every")
    writer.open_segment(b"header", b"evidence")
    for _ in range(3):
        writer.append_record(row(writer.next_n))
    writer._failed = Exception("killed")  # close() then leaves the segment as it is
    path, size = writer._file.path, writer._file.size
    writer.close()
    with path.open("r+b") as file:
        file.seek(size)
        file.write(b"torn")
    labels = state.labels("default")
    labels.append([b"label 1"])
    with labels.segments()[0].path.open("ab") as file:
        file.write(b"torn")


def recover(root: Path, acknowledge: Acknowledge) -> None:
    for n in (1, 2, 3):
        acknowledge(f"record {n}")
    acknowledge("label 1")
    state = State.open(root, write=True)
    state.spool("default").recover()
    state.labels("default").append([b"label 2"])
    acknowledge("label 2")
    state.labels("default").rotate()


def label(root: Path, acknowledge: Acknowledge) -> None:
    labels = State.open(root, write=True).labels("default")
    labels.append([b"label 1"])
    acknowledge("label 1")
    labels.append([b"label 2", b"label 3"])
    acknowledge("label 2")
    acknowledge("label 3")
    labels.rotate()
    labels.append([b"label 4"])
    acknowledge("label 4")


def _damaged(root: Path) -> None:
    _with_model(root)
    (root / "documents" / "fact.json").write_bytes(b"{damaged")


def quarantine(root: Path, acknowledge: Acknowledge) -> None:
    state = State.open(root, write=True)
    assert state.load_document("fact") is None
    acknowledge("quarantined")


FETCHED = bytes(range(256)) * 300


def fetch(root: Path, acknowledge: Acknowledge) -> None:
    """A model's layer that arrives over two contacts."""
    layout = State.open(root, write=True).layout
    expected = describe(FETCHED, "a/b")
    with layout.resume_blob(expected) as partial:
        partial.write(FETCHED[:30_000])
    with layout.resume_blob(expected) as partial:
        partial.write(FETCHED[partial.size : 60_000])
        partial.write(FETCHED[60_000:])
        partial.finish()
    acknowledge("fetched")


def _fetch_again(state: State, acknowledged: set[str]) -> int:
    """What a cut left of the fetch is used or dropped, never taken for the blob."""
    expected = describe(FETCHED, "a/b")
    if "fetched" in acknowledged:
        state.layout.verify_blob(expected)
        return 1
    if state.layout.has_blob(expected.digest) and state.layout.is_intact(expected):
        return 1
    with state.layout.resume_blob(expected) as partial:
        partial.write(FETCHED[partial.size :])
        try:
            partial.finish()
        except DigestMismatch:  # unsynced bytes that the power cut turned to zeros
            partial.restart()
            partial.write(FETCHED)
            partial.finish()
    state.layout.verify_blob(expected)
    return 1


SCENARIOS = (
    Scenario("first start", _nothing, first_start),
    Scenario("record, sync every", _state, record_every),
    Scenario("record, sync interval", _state, record_interval),
    Scenario("record, sync at seal", _state, record_seal),
    Scenario("label", _state, label),
    Scenario("install and activate", _with_model, install),
    Scenario("seal", _with_records, seal),
    Scenario("confirm and collect", _with_kits, confirm),
    Scenario("recover", _crashed, recover),
    Scenario("quarantine", _damaged, quarantine),
    Scenario("fetch in pieces", _state, fetch),
)


def check(root: Path, acknowledged: list[str]) -> int:
    """Open what is there as the next start does; every broken promise is an AssertionError."""
    held = 0
    if not root.exists():
        assert not acknowledged, "an acknowledged state is gone"
        return 1
    known = set(acknowledged)
    damaged = root / "documents" / "fact.json"
    was_damaged = damaged.exists() and damaged.read_bytes() == b"{damaged"
    state = State.open(root, write=True)

    # 1. Nothing half-done shows: each artifact of the index is whole, byte for byte.
    names = set()
    for entry in state.layout.manifests():
        manifest = state.layout.load_manifest(entry.digest)
        for blob in manifest.blobs:
            state.layout.verify_blob(blob)
            held += 1
        names.add(manifest.annotations.get("name"))
    for item in known:
        if item.startswith("artifact "):
            assert item[9:] in names
            held += 1

    # 2. The active pointer names an artifact that is there; the switch happened or did not.
    active = state.active("default")
    if active is not None:
        assert state.layout.has_manifest(active.model)
        name = state.layout.load_manifest(active.model).annotations["name"]
        assert name == "model two" if "active model two" in known else name in ("model one", "model two")
        held += 2
    else:
        assert "active model two" not in known

    # 3. The outbox names only kits that are whole and signed.
    kits: dict[int, list[bytes]] = {}
    for item in state.outbox():
        kit = state.layout.load_manifest(item.digest)
        assert state.layout.has_manifest(item.digest)
        assert state.layout.referrers(item.digest)
        rows = state.layout.load_blob(kit.layers[0], max_bytes=1 << 20).split(b"\n")
        assert item.seq not in kits
        kits[item.seq] = rows
        held += 3
    confirmed = {item[10:] for item in known if item.startswith("confirmed ")}
    queued = {str(item.digest) for item in state.outbox()}
    for item in known:
        if item.startswith("kit "):
            assert item[4:] in queued
            held += 1

    # 4. Every acknowledged record is in the spool or in a kit, under its number and no other.
    spool = state.spool("default")
    position = spool.recover()
    again = spool.recover()
    assert again == position, (again, position)
    stops = spool.stops()
    spool.end_open()
    found: dict[int, bytes] = {}
    for info in spool.segments():
        if not info.closed:  # without a record: a header, or a header with its evidence
            assert ranges_of(read_segment(info.path).frames()) == ()
            continue
        numbers = [n for first, last in info.ranges for n in range(first, last + 1)]
        rows = [payload for kind, payload in read_segment(info.path).rows() if kind == RECORD]
        for number, payload in zip(numbers, rows, strict=True):
            assert payload == row(number), "a record under another's number"
            assert number not in found
            found[number] = payload
            held += 1
        assert info.next_n is not None
        assert max(numbers) < info.next_n
    for first, rows in kits.items():
        for number, payload in enumerate(rows, first):
            assert payload == row(number)
            assert found.setdefault(number, payload) == payload
    if not confirmed:
        for item in known:
            if item.startswith("record "):
                assert int(item[7:]) in found, f"{item} is gone"
                held += 1

    # 5. No number that was ever handed out is handed out again; one that is not there was named by a stop.
    if not confirmed:
        for number in range(1, position.next):
            assert number in found or any(stop.after < number < stop.resumed for stop in stops)
    for item in known:
        if item.startswith("number "):
            assert position.next > int(item[7:])
            held += 1
    for number in found:
        assert position.next > number
        held += 1

    # 6. Every acknowledged label is there, in order.
    labels = state.labels("default")
    labels.rotate()
    lines = [text for info in labels.segments() for kind, text in read_segment(info.path).rows() if kind == LABEL]
    assert lines == sorted(set(lines))
    for item in known:
        if item.startswith("label "):
            assert item.encode() in lines
            held += 1

    # 7. Documents: what was acknowledged is there, what was damaged is in quarantine.
    if "document fact" in known:
        assert state.load_document("fact") == {"written": True}
        held += 1
    if was_damaged or "quarantined" in known:
        assert state.load_document("fact") is None
        assert [path.read_bytes() for path, _ in state.quarantined()] == [b"{damaged"]
        held += 1

    # 8. A blob that arrived in part is completed, whatever the cut left of it.
    held += _fetch_again(state, known)

    # 9. No temporary file outlives the next start, and work can go on from here.
    assert not [path for path in root.rglob("*") if path.name.startswith(".edgeprov-tmp-")]
    with spool.open_writer(sync="every") as writer:
        writer.open_segment(b"after the crash", b"evidence")
        assert writer.append_record(row(writer.next_n)) == position.next
    artifact(state, "afterwards", ref="after")
    state.layout.collect_garbage(state.pinned())
    for entry in state.layout.manifests():
        for blob in state.layout.load_manifest(entry.digest).blobs:
            state.layout.verify_blob(blob)
    return held + 4


def scenario(name: str) -> Scenario:
    return next(item for item in SCENARIOS if item.name == name)
