# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""State-changing commands and calls of a device, one scenario each, and what holds whatever stops them.

The TPM is software whose counter, PCR and floor outlive the process, as in a real device; each of
its changes is a crash point as well. ``check`` starts the device again, repeats the command, seals
what is left, and then asks what an auditor asks: is every acknowledged record in a kit that
verifies, exactly once, and is every counter value accounted for?
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edgeprov
from edgeprov.device.boot import active_models, boot_check
from edgeprov.device.identity import counter_base
from edgeprov.device.seal import seal
from edgeprov.formats.datakit import PartContents, parse_kit_tag
from edgeprov.formats.digest import Digest
from edgeprov.formats.evidence_part import EvidencePart
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.formats.standing import Standing
from edgeprov.formats.tombstone import Tombstone
from edgeprov.formats.tpmt import Attestation
from edgeprov.store import atomic
from edgeprov.store.layout import Layout
from tests.support.kits import blocks_of, labels_of
from tests.support.site import DeviceTpm, Site

Acknowledge = Callable[[str], None]
SETTINGS = '[record]\nsync = "every"\n[seal]\nmin_kit_interval_s = 0\n'


class LastingTpm(DeviceTpm):
    """A TPM that outlives the process: it tells each change of its state, and each is a crash point."""

    on_change: Callable[[str], None] | None = None

    def save(self) -> str:
        pcrs = {str(number): value.hex() for number, value in self.pcrs.items()}
        return json.dumps([self.counter, pcrs, self.clock_ms, self.reset_count, self.floors])

    def load(self, saved: str) -> None:
        self.counter, pcrs, self.clock_ms, self.reset_count, self.floors = json.loads(saved)
        self.pcrs = {int(number): bytes.fromhex(value) for number, value in pcrs.items()}

    def _before(self, what: str) -> None:
        if atomic.hook is not None:
            atomic.hook("tpm", what, None, 0)

    def _after(self) -> None:
        if self.on_change is not None:
            self.on_change(f"tpm {self.save()}")

    def increment_counter(self) -> int:
        self._before("increment")
        value = super().increment_counter()
        self._after()
        return value

    def pcr_event(self, data: bytes) -> None:
        self._before("pcr event")
        super().pcr_event(data)
        self._after()

    def raise_floor(self, slot: str, to: int) -> None:
        self._before("floor")
        super().raise_floor(slot, to)
        self._after()

    def _attest(self, kind: int, qualifying: bytes, body: bytes) -> Attestation:
        result = super()._attest(kind, qualifying, body)
        self._after()
        return result


@dataclass(frozen=True)
class Command:
    """One command or call.

    Attributes:
        again: The user or the timer repeats it after the restart.
        bare: It starts on a device without identity.
        may_discard: The policy lets it give up records that a tombstone names.
        least: Changes that it makes at the least.
    """

    name: str
    prepare: Callable[[Site], None]
    run: Callable[[Site, Acknowledge], None]
    again: bool = True
    bare: bool = False
    settings: str = SETTINGS
    may_discard: bool = False
    least: int = 3


class Bench:
    """A site whose start can be had again and again, at one path (its configuration names it)."""

    def __init__(self, root: Path, command: Command) -> None:
        root.mkdir()
        self.site = Site(root, settings=command.settings)
        self.site.tpm = LastingTpm(self.site.serial)
        self.site.unit = self.site.world.enroll(self.site.serial, tpm=self.site.tpm, boot=False)
        self.command = command
        self._copy = root.with_name(root.name + "-start")

    def prepare(self) -> None:
        """Bring the site to the command's start and keep a copy of it."""
        self.command.prepare(self.site)
        (self.site.root / "run").mkdir(exist_ok=True)
        shutil.copytree(self.site.root, self._copy, ignore=_no_sockets)
        self._tpm, self._boot = self.site.tpm.save(), self.site.boot_id

    def restore(self) -> None:
        """Back to the start: disk, TPM, boot."""
        shutil.rmtree(self.site.root)
        shutil.copytree(self._copy, self.site.root)
        self.site.tpm.load(self._tpm)
        self.site.boot_id = self._boot
        self.site.layout = Layout.open(self.site.registry)


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


def row_name(n: int, output: bytes) -> str:
    """How a record is acknowledged: its number and what it holds."""
    return f"record {n} {hashlib.sha256(output).hexdigest()[:16]}"


# -- what holds ---------------------------------------------------------------------------------


def check(bench: Bench, acknowledged: list[str], *, power_cut: bool) -> int:
    """Start the device again and judge what is there. Returns how many invariants were held."""
    site, held = bench.site, 0
    for line in acknowledged:
        if line.startswith("tpm "):
            site.tpm.load(line[4:])
    known = [line for line in acknowledged if not line.startswith("tpm ")]
    if power_cut:
        site.reboot()

    # The device comes up as its units bring it up; then the interrupted command is repeated.
    early: set[Digest] = set()
    if "identity" not in known and bench.command.bare:
        site.install_identity()
    if not bench.command.bare:
        _whole(site.context.state().layout)  # nothing half-done shows, even before any recovery
        early = {entry.digest for entry in site.context.state().outbox()}
    for verdict in boot_check(site.context):
        assert verdict.error is None, verdict.error
        held += 1
    if bench.command.again:
        bench.command.run(site, known.append)
    state = site.context.state()
    for line in known:
        if line.startswith("active "):
            active = state.active("default")
            assert active is not None
            assert str(active.model) == line[7:]
            held += 1

    # Work goes on, and no number comes twice.
    before = [int(line.split()[1]) for line in known if line.startswith("record ")]
    if not active_models(site.context, state):
        return held + _whole(state.layout)
    boot_check(site.context)
    _record_one(site, known)
    newest = int(known[-1].split()[1])
    assert newest > max(before, default=0)
    seal(site.context)
    assert seal(site.context) == []

    # Every kit that left or waits verifies; together they are one unbroken series.
    state = site.context.state()
    held += _whole(state.layout) + _whole(site.layout)
    found: dict[Digest, Layout] = {}
    stick = site.root / "stick"
    layouts = [site.layout, state.layout, *([Layout.open(stick)] if (stick / "oci-layout").exists() else [])]
    for layout in layouts:
        for ref, entry in layout.refs().items():
            if parse_kit_tag(ref.rpartition(":")[2]) is not None:  # not the tag of a signature
                found.setdefault(entry.digest, layout)
    queued = {entry.digest for entry in state.outbox()}
    in_registry = {entry.digest for entry in site.layout.manifests()}
    for digest in found:
        assert digest in queued or digest in in_registry, "a kit is neither sent nor waiting"
    for digest in early | queued:
        assert digest in found
        held += 1
    series: dict[int, tuple[Digest, Digest | None]] = {}
    records: dict[int, str] = {}
    labels: set[int] = set()
    lost: dict[str, set[int]] = {"discarded": set(), "damaged": set()}
    story = _Story()
    for digest, layout in found.items():
        verdict, parts = site.verify(layout, digest)
        assert verdict is not None
        held += 10
        manifest = layout.load_manifest(digest)
        seq = int(manifest.annotations["dev.edgeprov.seq"])
        prev = manifest.annotations["dev.edgeprov.prev"]
        assert seq not in series, "a counter value with two artifacts"
        series[seq] = (digest, None if prev == "none" else Digest(prev[7:]))
        if "tombstone" in (manifest.artifact_type or ""):
            story.take_tombstone(parts[0])
            for item in parts[0].lost:
                lost[item.reason].update(range(item.first, item.last + 1))
            continue
        story.take_kit(seq, site.last_evidence)
        contents = [part for part in parts if isinstance(part, PartContents)]
        for block in blocks_of(contents):
            for raw in block.rows():
                _take(records, raw)
        for found_labels in labels_of(contents):
            labels.update(found_labels.numbers)
    held += story.check(set(series), counter_base(state), site.tpm.counter, set(records) | set().union(*lost.values()))
    previous = None
    for seq in sorted(series):
        assert series[seq][1] == previous
        previous = series[seq][0]
        held += 2

    # Every acknowledged record and label is in them; what is not, a signed tombstone names, and nothing else.
    for reason, numbers in lost.items():
        assert not numbers & set(records), f"{reason}, and yet in a kit"
    given_up = lost["discarded"] if bench.command.may_discard else set()
    assert given_up == lost["discarded"]
    assert lost["damaged"] == {int(line[5:]) for line in known if line.startswith("gone ")}
    for line in known:
        words = line.split()
        if words[0] == "record" and int(words[1]) not in given_up:
            assert records.get(int(words[1])) == words[2], f"record {words[1]} is gone"
            held += 1
        elif words[0] == "label":
            assert int(words[1]) in labels
            held += 1
        elif words[0] in ("kit", "sent", "exported"):
            assert Digest(words[1][7:]) in found
            held += 1
    return held


class _Story:
    """How kits and tombstones explain the counter's values and the numbers of records."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.headers: dict[bytes, SegmentHeader] = {}
        self.listed: set[bytes] = set()
        self.buried: set[bytes] = set()
        self.newest = 0
        self.open: dict[bytes, int] = {}
        self.stops: set[tuple[int, int]] = set()
        self.unused: set[int] = set()

    def take_kit(self, seq: int, evidence: EvidencePart) -> None:
        for segment in evidence.segments:
            header = parse_segment_header(segment.header)
            assert header.sha256 not in self.headers, "a segment in two kits"
            self.headers[header.sha256] = header
            if not header.shared:
                self.numbers.append(header.number)
            self.unused.update(n for first, last in segment.unused for n in range(first, last + 1))
        self.take_standing(seq, evidence.standing)

    def take_tombstone(self, stone: Tombstone) -> None:
        for entry in stone.numbers:
            assert entry.reason != "unknown", f"the device cannot explain number {entry.number}"
            self.numbers.append(entry.number)
            if entry.header is not None:
                self.buried.add(entry.header)
        self.take_standing(stone.seq, stone.standing)

    def take_standing(self, seq: int, standing: Standing) -> None:
        if seq > self.newest:
            self.newest, self.open = seq, {item.header: item.number for item in standing.open}
        self.stops.update((stop.after or 0, stop.resumed) for stop in standing.stops)
        self.listed.update(item.header for item in standing.open)

    def check(self, series: set[int], base: int, counter: int, records: set[int]) -> int:
        """Each counter value has one explanation, each record number is in a kit, lost by name, or in a stop."""
        still_open = {number for header, number in self.open.items() if header not in self.headers}
        explained = sorted([*self.numbers, *series, *still_open])
        assert explained == list(range(base + 1, counter + 1)), "a counter value without explanation, or with two"
        assert self.listed <= self.buried | self.headers.keys() | self.open.keys(), (
            "a listed segment is in no kit and in no tombstone"
        )
        for number in range(1, max(records, default=0)):
            assert (
                number in records
                or number in self.unused
                or any(after < number < resumed for after, resumed in self.stops)
            ), f"record number {number} is missing"
        prevs = [header.prev for header in self.headers.values()]
        assert len(prevs) == len(set(prevs)), "two headers name the same one before"
        return len(explained)


def _record_one(site: Site, known: list[str]) -> None:
    with edgeprov.open_device() as device:
        result = device.load_model().run(np.zeros((1, 30), np.int8))
        known.append(row_name(result.record.n, result.outputs[0].tobytes()))


def _take(records: dict[int, str], raw: bytes) -> None:
    from edgeprov.formats.record import parse_record

    row = parse_record(bytes(raw))
    assert row.n not in records, "a record in two kits, or a number used twice"
    records[row.n] = row_name(row.n, bytes(row.outputs[0])).split()[2]


def _whole(layout: Layout) -> int:
    """Everything that the index shows is there, byte for byte."""
    held = 0
    for entry in layout.manifests():
        for blob in layout.load_manifest(entry.digest).blobs:
            layout.verify_blob(blob)
            held += 1
    return held
