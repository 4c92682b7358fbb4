# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The world: devices, an enroller, publishers, carriers, registries, strangers and desks; `step` does one act.

``damage`` and ``malice`` say that storage was lost or damaged, that something was withheld, or that signed things
contradict each other: after neither, no conclusion may be in doubt.
"""

from __future__ import annotations

from typing import Any

from tests.machine.device import Cut, Device, Truth
from tests.machine.disk import Board, Disk
from tests.machine.registry import SOURCES, Desk, Registry
from tests.machine.values import (
    DAY,
    Certificate,
    DeviceRecord,
    Entry,
    Head,
    Junk,
    Kit,
    LabelRow,
    Roster,
    Signature,
    Tombstone,
)

FOREVER = 10_000 * DAY
_OF_DEVICES = frozenset(
    [
        "enroll",
        "renew",
        "rename",
        "retire",
        "wipe",
        "board",
        "golden",
        "up",
        "down",
        "switch",
        "record",
        "label",
        "seal",
        "full",
        "clock",
        "dead",
        "receipt",
        "upload",
        "nonce",
        "copy",
        "put_back",
        "delete_segment",
        "truncate",
        "rot",
    ]
)


class Enrollment:
    """One enrollment as it truly is."""

    def __init__(self, record: DeviceRecord) -> None:
        self.record, self.names, self.since = record, [record.name], record.enrolled_at
        self.until: int | None = None
        self.ended = False

    @property
    def id(self) -> str:
        return self.record.enrollment


class Parcel:
    """An artifact on its way."""

    def __init__(self, digest: int, repo: str, signatures: frozenset[Signature]) -> None:
        self.digest, self.repo, self.signatures = digest, repo, signatures


class World:
    """All that exists; each act is a method ``do_NAME``."""

    def __init__(self, devices: int = 3, days: int = 400) -> None:
        self.now, self._uid, self._boards, self.days = 0, 0, 0, days
        self.artifacts: dict[int, Any] = {}
        self.made: list[tuple[Any, int]] = []
        self.lost_in_cut: set[int] = set()
        self.discarded: set[int] = set()
        self.put_back: dict[int, int] = {}
        self.unlisted: dict[int, int] = {}
        self.rolled_back: set[int] = set()
        self.truncated: dict[int, int] = {}
        self.damage = self.malice = self.fast = False
        self.why: list[str] = []
        self.certificates: dict[int, Certificate] = {}
        self.denials: list[tuple[str, Any, int | None]] = []
        self.enrollments: dict[str, Enrollment] = {}
        self.rosters: list[Roster] = []
        self.contradiction = False
        self.transit: list[Parcel] = []
        self.registries = {source: Registry() for source in SOURCES}
        self.desks = [Desk("c0", trusted=True), Desk("c1", trusted=True), Desk("c2", trusted=False)]
        self.enroller = self.certificate("enroller", "acme", FOREVER)
        self.roster_signer = self.certificate("roster", "acme", FOREVER)
        self.publisher = self.certificate("publisher", "acme", FOREVER)
        self.stranger = self.certificate("enroller", "stranger", FOREVER)
        self.models: dict[str, set[Signature]] = {
            "A": {Signature(self.publisher, None)},
            "B": {Signature(self.publisher, None)},
            "C": set(),
        }
        self.labels: list[tuple[str, str, LabelRow]] = []
        self.devices = [Device(self, f"d{index}") for index in range(devices)]

    # -- making things --------------------------------------------------------------------------

    def uid(self) -> int:
        self._uid += 1
        return self._uid

    def new_board(self) -> Board:
        self._boards += 1
        return Board(f"tpm{self._boards}", 10 * self._boards)

    def certificate(self, role: str, identity: str, until: int) -> int:
        number = self.uid()
        self.certificates[number] = Certificate(number, role, identity, self.now, until)
        return number

    def push(self, item: Any, certificate: int | None, repo: str) -> None:
        self.artifacts[item.digest] = item
        self.transit.append(
            Parcel(item.digest, repo, frozenset([Signature(certificate, None)]) if certificate else frozenset())
        )

    def spoil(self, why: str, *, damage: bool = False) -> None:
        self.damage |= damage
        self.malice |= not damage
        self.why.append(why)

    def step(self, act: tuple[Any, ...]) -> None:
        self.now += 1
        method = getattr(self, "do_" + act[0])
        if len(act) > 1 and act[0] in _OF_DEVICES:  # a history may have fewer devices than its acts name
            act = (act[0], act[1] % len(self.devices), *act[2:])
        method(*act[1:])

    # -- time and enrollment --------------------------------------------------------------------

    def do_wait(self, quarters: int) -> None:
        self.now += quarters * DAY // 4
        for device in self.devices:
            if device.on:
                device.sync()

    def do_enroll(self, index: int) -> None:
        """A device without an enrollment gets one; an older one of the same TPM, or under the same name, ends."""
        device = self.devices[index]
        disk = device.disk
        if disk.enrollment is not None:
            return
        board = device.board.name
        before = [e for e in self.enrollments.values() if e.record.board == board]
        disk.enrollment, disk.board = f"e{self.uid()}", board
        disk.base = disk.known = device.board.counter
        disk.floor = max(disk.floor, self.now)
        for enrollment in self.enrollments.values():
            if enrollment.until is None and (enrollment.record.board == board or enrollment.record.name == disk.name):
                enrollment.until = self.now
                if not enrollment.ended and enrollment.record.board != board:
                    self.spoil("a TPM was replaced before its enrollment was ended", damage=True)
        replaces = before[-1].id if before else None
        record = DeviceRecord(self.uid(), disk.enrollment, disk.name, board, disk.base, replaces, self.now, 0)
        self.enrollments[disk.enrollment] = Enrollment(record)
        self._certify(device, record)

    def _certify(self, device: Device, record: DeviceRecord) -> None:
        number = self.certificate("device", record.enrollment, self.now + self.days * DAY)
        record = record._replace(digest=self.uid(), certificate=number, name=device.disk.name, enrolled_at=self.now)
        enrollment = self.enrollments[record.enrollment]
        if enrollment.record.name != record.name:
            enrollment.names.append(record.name)
        enrollment.record = record
        device.disk.certificate = number
        device.disk.floor = max(device.disk.floor, self.now)
        self.push(record, self.enroller, "devices")

    def do_renew(self, index: int) -> None:
        device = self.devices[index]
        enrollment = self.enrollments.get(device.disk.enrollment or "")
        if device.on and enrollment is not None:
            self._certify(device, enrollment.record)

    def do_rename(self, index: int, name: str) -> None:
        device = self.devices[index]
        enrollment = self.enrollments.get(device.disk.enrollment or "")
        taken = {e.record.name for e in self.enrollments.values() if e is not enrollment} | {
            d.disk.name for d in self.devices
        }
        if device.on and enrollment is not None and name not in taken:
            device.end_sessions()
            device.disk.name = name
            self._certify(device, enrollment.record)

    def do_retire(self, index: int) -> None:
        """Stop, reboot, seal the rest, and end with a final head."""
        device = self.devices[index]
        if not device.on:
            return
        device.down("clean")
        device.up()
        if not device.on:
            return
        device.run(device.seal(rest=True))
        head = device.run(device.attest(nonce_at=self.now, final=True))
        self._send(device)
        if head is not None and head.standing.final:
            enrollment = self.enrollments[device.disk.enrollment or ""]
            enrollment.ended, enrollment.until = True, self.now
            self.push(head, None, f"data/{device.disk.name}")
            device.down("clean")

    def do_wipe(self, index: int) -> None:
        device = self.devices[index]
        if device.disk.enrollment is None:
            return
        if not device.disk.ended:
            self.spoil("a disk was wiped", damage=True)
        self._new_disk(device)

    def do_board(self, index: int) -> None:
        """The board is exchanged, and the disk with it."""
        device = self.devices[index]
        if device.disk.enrollment and not device.disk.ended:
            self.spoil("a board was exchanged", damage=True)
        device.board = self.new_board()
        self._new_disk(device)

    def _new_disk(self, device: Device) -> None:
        name = device.disk.name
        device.disk, device.on, device.live, device.booted = Disk(name), False, {}, False

    def do_golden(self, index: int, other: int) -> None:
        """The disk of one device is written to another: it refuses to work there until it is wiped."""
        device, source = self.devices[index], self.devices[other % len(self.devices)]
        if device is source or source.disk.enrollment is None:
            return
        if device.disk.enrollment is not None and not device.disk.ended:
            self.spoil("an image was written over a disk", damage=True)
        name = device.disk.name
        device.disk, device.on, device.live = source.disk.copy(), False, {}
        device.disk.name = name

    # -- a device at work -----------------------------------------------------------------------

    def do_up(self, index: int, cut: Cut) -> None:
        self.devices[index].up(cut)

    def do_down(self, index: int, how: str) -> None:
        if self.devices[index].on:
            self.devices[index].down(how)

    def do_switch(self, index: int, slot: str, model: str) -> None:
        device = self.devices[index]
        if device.on and device.disk.models[slot] != model:
            device.end_sessions()
            device.disk.models[slot] = model
            device.disk.events.append(("activation", self.now))
            device.disk.floor = max(device.disk.floor, min(self.now, device.stamp()[0]))

    def do_record(self, index: int, slot: str, user: str, worker: int, count: int, cut: Cut) -> None:
        device = self.devices[index]
        device.record(slot, user, worker, count, cut)

    def do_label(self, index: int, pick: int, value: str | None) -> None:
        device = self.devices[index]
        disk = device.disk
        if not device.on:
            return
        present = {(slot, n): model for (slot, n), model in disk.numbers.items()}
        present |= {(g.header.slot, row.n): g.header.model for g in disk.segments for row in g.rows}
        if present:
            slot, n = sorted(present)[pick % len(present)]
            row = LabelRow(n, value, device.stamp()[0])
            disk.labels.append((slot, present[slot, n], row))

    def do_seal(self, index: int, cut: Cut) -> None:
        device = self.devices[index]
        if device.on and device.full != "stop":
            device.run(device.seal(), cut)

    def do_full(self, index: int, how: str) -> None:
        self.devices[index].full = how

    def do_clock(self, index: int, minutes: int) -> None:
        self.devices[index].offset = minutes
        self.fast |= minutes > 0

    def do_dead(self, index: int, flag: int) -> None:
        self.devices[index].dead = bool(flag)

    def do_receipt(self, index: int) -> None:
        device = self.devices[index]
        if device.on:
            device.disk.floor = max(device.disk.floor, self.now)

    def do_upload(self, index: int) -> None:
        device = self.devices[index]
        disk = device.disk
        if disk.enrollment is None or disk.board != device.board.name or not (device.on or disk.ended):
            return
        if device.on and not disk.outbox and self.now - disk.sealed_at >= DAY:
            head = device.run(device.attest())
            if head is not None:
                disk.sealed_at = self.now
                self.push(head, None, f"data/{disk.name}")
        self._send(device)

    def _send(self, device: Device) -> None:
        for item in device.disk.outbox:
            self.push(item, item.certificate, f"data/{device.disk.name}")
        device.disk.outbox = []

    def do_nonce(self, index: int) -> None:
        device = self.devices[index]
        if device.on:
            asked = self.now
            head = device.run(device.attest(nonce_at=asked))
            if head is not None:
                self.push(head, None, f"data/{device.disk.name}")

    # -- damage ---------------------------------------------------------------------------------

    def do_copy(self, index: int) -> None:
        if self.devices[index].disk.enrollment:
            self.devices[index].copy()

    def do_put_back(self, index: int, pick: int, same_boot: int) -> None:
        device = self.devices[index]
        if not device.copies:
            return
        copy, counter, board = device.copies[pick % len(device.copies)]
        if board is not device.board:
            return
        self.spoil("an older copy of a disk was put back", damage=True)
        have = {row.leaf for segment in copy.segments for row in segment.rows}
        sealed = {
            row.leaf
            for item, _ in self.made
            if isinstance(item, Kit)
            for segment in item.segments
            for row in segment.rows
        }
        gone = {truth.leaf for truth in device.truth} - have - sealed
        reach = [counter] + [g.header.number for g in copy.segments if not g.quoted]
        if copy.intent:  # the kit that was made of this intent is forgotten; what it held is on the disk again
            reach.append(copy.intent["number"])
            self.rolled_back.update(
                item.digest
                for item, _ in self.made
                if (item.enrollment, item.seq) == (copy.enrollment, copy.intent["number"])
            )
        if max(reach) >= device.board.counter:
            self.put_back.update(dict.fromkeys(gone, self._uid))
        unlisted = {row.leaf for g in device.disk.segments if g.header.shared for row in g.rows} - have
        self.unlisted.update(dict.fromkeys(unlisted, self._uid))
        device.disk, device.on, device.live = copy.copy(), False, {}
        device.disk.clean = device.disk.clean and not same_boot
        device.booted = bool(same_boot) and device.booted

    def do_delete_segment(self, index: int, pick: int, trace: int) -> None:
        device = self.devices[index]
        if not device.disk.segments:
            return
        self.spoil("a segment was deleted", damage=True)
        device.end_sessions()
        segment = device.disk.segments.pop(pick % len(device.disk.segments))
        if segment.header.shared:
            self.unlisted.update((row.leaf, self._uid) for row in segment.rows)
        if not trace:
            device.disk.tracked.pop(segment.header.digest, None)
        device.live, device.on = {}, False

    def do_truncate(self, index: int, pick: int) -> None:
        device = self.devices[index]
        segments = [segment for segment in device.disk.segments if segment.rows and not segment.closed]
        if not segments:
            return
        self.spoil("a segment was truncated", damage=True)
        segment = segments[pick % len(segments)]
        row = segment.rows.pop()
        self.truncated[row.leaf] = self._uid
        if segment.header.shared:
            self.unlisted[row.leaf] = self._uid
        segment.synced = min(segment.synced, len(segment.rows))
        device.live, device.on = {}, False

    def do_rot(self, index: int, pick: int, how: str) -> None:
        segments = [segment for segment in self.devices[index].disk.segments if segment.rows]
        if segments:
            self.spoil("a segment cannot be read", damage=True)
            segments[pick % len(segments)].rotten = how

    # -- carriers and registries ----------------------------------------------------------------

    def _deliver(self, parcel: Parcel) -> None:
        self.registries["main"].put(parcel.digest, parcel.repo, parcel.signatures)

    def do_deliver(self, pick: int) -> None:
        if self.transit:
            self._deliver(self.transit.pop(pick % len(self.transit)))

    def do_deliver_all(self) -> None:
        for parcel in self.transit:
            self._deliver(parcel)
        self.transit = []

    def do_withhold(self, pick: int) -> None:
        if self.transit:
            self.spoil("a carrier withheld something")
            self.transit.pop(pick % len(self.transit))

    def do_strip(self, pick: int) -> None:
        if self.transit:
            parcel = self.transit[pick % len(self.transit)]
            if parcel.signatures:
                self.spoil("a carrier took a signature away")
                parcel.signatures = frozenset()

    def do_duplicate(self, pick: int) -> None:
        if self.transit:
            self.transit.append(self.transit[pick % len(self.transit)])

    def do_misplace(self, pick: int) -> None:
        """A real artifact is copied into a repository where it does not belong."""
        main = self.registries["main"]
        if main.copies:
            digest = sorted(main.copies)[pick % len(main.copies)]
            main.put(digest, "data/elsewhere", frozenset(main.copies[digest].signatures))

    def do_mirror(self, bare: int) -> None:
        """All of the registry is copied to a second one; with ``bare`` the tool leaves the signatures behind."""
        for digest, copy in self.registries["main"].copies.items():
            signatures = frozenset() if bare else frozenset(copy.signatures)
            for repo in copy.repos:
                self.registries["mirror"].put(digest, repo, signatures)

    def do_delete(self, source: str, pick: int) -> None:
        registry = self.registries[source]
        if registry.copies:
            self.spoil("a registry deleted something")
            registry.delete(sorted(registry.copies)[pick % len(registry.copies)], self.now)

    def do_break(self, pick: int) -> None:
        """A part of content is lost in the registries: what evidence shows stays."""
        kits = sorted(d for d, item in self.artifacts.items() if isinstance(item, Kit))
        if kits:
            for registry in self.registries.values():
                copy = registry.copies.get(kits[pick % len(kits)])
                if copy is not None:
                    copy.broken = True

    def do_stamp(self) -> None:
        """Timestamps are added beside all signatures in the registries that have none."""
        for registry in self.registries.values():
            for copy in registry.copies.values():
                copy.signatures |= {
                    s._replace(stamp=self.now) for s in copy.signatures if s.certificate and s.stamp is None
                }

    # -- strangers ------------------------------------------------------------------------------

    def do_junk(self, pick: int, form: str) -> None:
        """Somebody with push rights pushes what no trusted key signed."""
        main = self.registries["main"]
        items = [item for _, item in sorted(self.artifacts.items()) if not isinstance(item, Junk)]
        like = items[pick % len(items)] if items else None
        if form == "noise" or like is None:
            junk: Any = Junk(self.uid(), None)
        elif form == "signature":  # a signature that fails, beside the good ones
            if like.digest in main.copies:
                main.copies[like.digest].signatures.add(Signature(None, None))
            return
        else:
            made_up: dict[str, Any] = {}
            if isinstance(like, (Kit, Tombstone)):
                made_up = {"seq": like.seq + pick % 3}
            elif isinstance(like, Head):
                made_up = {"seq": like.seq + 1 + pick % 3}
            elif isinstance(like, Roster):
                made_up = {"version": like.version + pick % 2, "entries": like.entries[1:]}
            elif isinstance(like, DeviceRecord):
                made_up = {"enrollment": like.enrollment if pick % 2 else f"x{self.uid()}"}
            junk = Junk(self.uid(), like._replace(digest=self._uid, **made_up))
        self.artifacts[junk.digest] = junk
        certificate = self.stranger if pick % 2 else None
        main.put(
            junk.digest,
            ("devices", "data/d0", "rosters", "data/junk")[pick % 4],
            frozenset([Signature(certificate, None)]),
        )

    def do_foreign_model(self) -> None:
        """A stranger signs a model that no trusted publisher signed."""
        self.models["C"].add(Signature(self.stranger, None))

    # -- desks, roster, trust -------------------------------------------------------------------

    def do_roster(self, how: str) -> None:
        entries = []
        seen = self.seen_digests()
        heads = {
            self.artifacts[d].enrollment
            for d in seen
            if isinstance(self.artifacts[d], Head) and self.artifacts[d].standing.final
        }
        ends = {
            self.artifacts[d].replaces: self.artifacts[d].base
            for d in seen
            if isinstance(self.artifacts[d], DeviceRecord)
        }
        before = {entry.enrollment: entry for entry in self.rosters[-1].entries} if self.rosters else {}
        for id_, enrollment in sorted(self.enrollments.items()):
            record, ended, end = enrollment.record, None, None
            old = before.get(id_)
            if old is not None and old.ended is not None:
                ended, end = old.ended, old.end
            elif enrollment.until is not None:
                final = [self.artifacts[d].seq for d in seen if isinstance(self.artifacts[d], Head) and self.artifacts[d].standing.final and self.artifacts[d].enrollment == id_]  # fmt: skip
                if id_ in ends:
                    ended, end = "retired", ends[id_]
                elif id_ in heads:
                    ended, end = "retired", max(final)
                elif not enrollment.ended and id_ not in {other.record.replaces for other in self.enrollments.values()}:
                    ended = "lost"  # else the desk waits for the final head, or for the record of the next enrollment
            until = old.until if old is not None and old.until is not None else enrollment.until if ended else None
            since = enrollment.since
            entries.append(Entry(id_, record.name, record.base, since, until, ended, end, tuple(enrollment.names[:-1])))
        last = self.rosters[-1] if self.rosters else None
        version = last.version + 1 if last else 1
        previous = last.digest if last else None
        if how == "fork" and last is not None:
            version, previous = last.version, last.previous
        if how == "lacks" and last is not None and last.entries:
            entries = [entry for entry in entries if entry.enrollment != last.entries[0].enrollment]
        if how != "new" and last is not None:
            self.spoil("the roster contradicts itself")
            self.contradiction = True
        roster = Roster(self.uid(), version, self.now, previous, tuple(sorted(entries)))
        self.rosters.append(roster)
        self.push(roster, self.roster_signer, "rosters")

    def seen_digests(self) -> set[int]:
        """What trusted desks hold."""
        return {digest for desk in self.desks if desk.trusted for _, digest in desk.known}

    def do_sync(self, desk: int, mode: str) -> None:
        for source, registry in self.registries.items():
            self.desks[desk].read(
                source, registry, self.now, mode if source == "main" else "ok" if mode == "bare" else mode
            )

    def do_desk_loss(self, desk: int, all_days: int) -> None:
        self.desks[desk].lose(self.now, all_days=bool(all_days))

    def do_desk_clock(self, desk: int, minutes: int) -> None:
        self.desks[desk].offset = minutes
        self.fast |= minutes > 0

    def do_hide_day(self, desk: int, pick: int) -> None:
        days = sorted(self.desks[desk].rows)
        if days:
            self.spoil("a day of a ledger is withheld")
            self.desks[desk].withheld.add(days[pick % len(days)])

    def do_trust(self, desk: int) -> None:
        """The auditor trusts other collectors."""
        self.desks[desk].trusted = not self.desks[desk].trusted

    def do_deny(self, kind: str, pick: int, ago: int | None) -> None:
        values: dict[str, list[Any]] = {
            "model": sorted(self.models),
            "kit": sorted(d for d, item in self.artifacts.items() if isinstance(item, (Kit, Tombstone))),
            "device": sorted(self.enrollments),
            "certificate": sorted(n for n, c in self.certificates.items() if c.role == "device"),
        }
        if values[kind]:
            self.spoil("something is denied")
            value = values[kind][pick % len(values[kind])]
            self.denials.append((kind, value, None if ago is None else self.now - ago))


__all__ = ["Truth", "World"]
