# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Switch one rule for writers off, to show that the test which FORMAT.md names for it can fail.

A pytest plugin: with EDGEPROV_RULE_OFF=W-area-n in its environment the product is changed before the tests
are collected. Each entry makes the product break exactly that rule.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from edgeprov.errors import IdentityError
from edgeprov.formats.packing import pack


def replaced(target: str, made_of: Callable[[Any], Any]) -> Callable[[], None]:
    """A switch that replaces one attribute.

    Args:
        target: ``package.module:attribute`` or ``package.module:Class.attribute``.
        made_of: Takes the original and returns what takes its place.
    """

    def off() -> None:
        module, _, path = target.partition(":")
        holder: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            holder = getattr(holder, part)
        setattr(holder, name, made_of(getattr(holder, name)))

    return off


class Anything(bytes):
    """Bytes that are equal to all others."""

    __slots__ = ()

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def _forget_another_nonce(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(state: Any, *args: Any) -> Any:
        try:
            return make(state, *args)
        except IdentityError:
            (state.identity_dir / "enrollment.json").unlink()
            (state.identity_dir / "certificates.json").unlink(missing_ok=True)
            return make(state, *args)

    return made


def _cut_alone(flush: Callable[[Any], None]) -> Callable[[Any], None]:
    def made(writer: Any) -> None:
        streams = writer._streams
        full = [stream for stream in streams if stream.compressed_bytes >= writer._limit]
        writer._streams = full if 0 < len(full) < len(streams) else streams
        flush(writer)
        writer._streams = streams

    return made


def _keep_source(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def made(label: Any) -> bytes:
        return pack([label.n, None, "anybody", label.labelled_at_ns]) if label.value is None else encode(label)

    return made


def _tag_first(push: Callable[..., Any]) -> Callable[..., Any]:
    def pushed(self: Any, repo: str, entry: Any, manifest: Any, signatures: Any) -> Any:
        self._push_blobs(repo, manifest)
        self._put(repo, manifest, entry.tag)
        return push(self, repo, entry, manifest, signatures)

    return pushed


def _find_serials_only(find: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, tag: None if tag.startswith(("ak.", "ek.")) else find(self, tag)


def _only_the_first(save: Callable[..., None]) -> Callable[..., None]:
    saved: list[object] = []

    def once(ring: Any, **place: Any) -> None:
        if not saved:
            saved.append(place)
            save(ring, **place)

    return once


def _name_table_first() -> None:
    module = importlib.import_module("edgeprov.fleet.ledger.close")
    save, sync, pending = module.save_bytes, module.sync_dir, []

    def flush(folder: Any) -> None:
        save(*pending.pop())
        sync(folder)

    module.save_bytes = lambda path, data: pending.append((path, data))
    module.sync_dir = flush


SWITCHES: Mapping[str, Callable[[], None]] = {
    "W-lab-1": replaced("edgeprov.device.labels:encode_label", _keep_source),
    "W-prt-1": replaced("edgeprov.device.part_writer:PartWriter._flush", _cut_alone),
    "W-row-1": replaced(
        "edgeprov.device.runtime:InterpreterEngine._port",
        lambda port: lambda engine, detail, **_unsized: port(engine, detail),
    ),
    "W-row-2": replaced("edgeprov.device.appender:verify_shapes", lambda _verify: lambda *_of: None),
    "W-enr-1": replaced("edgeprov.device.enrollment_request:_enrollment", _forget_another_nonce),
    "W-enr-2": replaced("edgeprov.device.identity:parse_enrollment", lambda parse: lambda *of: Anything(parse(*of))),
    "W-enr-3": replaced("edgeprov.device.identity:verify_own_name", lambda _verify: lambda *_of: None),
    "W-enr-4": replaced("edgeprov.fleet.enrollment.request:Request.binding", lambda _binding: "0" * 64),
    "W-enr-5": replaced(
        "edgeprov.fleet.enrollment.enroller_state:EnrollerState.use_nonce", lambda _use: lambda *_of: None
    ),
    "W-enr-6": replaced("edgeprov.fleet.enrollment.known_devices:KnownDevices.find", _find_serials_only),
    "W-enr-7": replaced(
        "edgeprov.fleet.enrollment.known_devices:KnownDevices._same_tpm", lambda _same: lambda *_of: True
    ),
    "W-enr-8": replaced("edgeprov.verify.enrollment:level_of_manufacturer", lambda _level: lambda _name: "hardware"),
    "W-ros-3": replaced("edgeprov.fleet.enrollment.roster_desk:final_number", lambda _final: lambda *_of: 117),
    "W-enr-9": replaced("edgeprov.device.identity:has_ended", lambda _ended: lambda _state: False),
    "W-led-1": replaced("edgeprov.fleet.ledger.open_day:next_day", lambda _next: lambda _day: ""),
    "W-led-2": replaced("edgeprov.fleet.ledger.open_day:newest_seen_ns", lambda _newest: lambda *_of: None),
    "W-led-3": replaced("edgeprov.fleet.ledger.day_rows:merge_rows", lambda _merge: lambda rows, _known: list(rows)),
    "W-led-4": _name_table_first,
    "W-led-5": replaced("edgeprov.fleet.ledger.remote:_verify_ours", lambda _verify: lambda *_of: None),
    "W-led-6": replaced(
        "edgeprov.fleet.ledger.day_rows:_ALWAYS", lambda kinds: tuple(kind for kind in kinds if kind != "noise")
    ),
    "W-ros-1": replaced(
        "edgeprov.fleet.enrollment.roster_desk:RosterDesk.new_records", lambda new: lambda *of: new(*of)[1:]
    ),
    "W-ros-2": replaced("edgeprov.fleet.enrollment.roster_desk:RosterDesk._last", lambda _last: lambda _self: None),
    "W-head-1": replaced("edgeprov.device.head_upload:leave_head_when_due", lambda _leave: lambda *_of: None),
    "W-head-2": replaced("edgeprov.device.head_upload:_drop_others", lambda _drop: lambda *_of: None),
    "W-nam-1": replaced("edgeprov.device.rename:end_old_name", lambda _end: lambda *_of: None),
    "W-evt-1": replaced("edgeprov.device.seal:note_quarantined", lambda _note: lambda *_of: None),
    "W-evt-2": replaced("edgeprov.device.slot_owner:FaultNotes.refuse", lambda _refuse: lambda *_of: None),
    "W-num-1": replaced("edgeprov.device.segments:SegmentKeeper.go_on", lambda _go_on: lambda _keeper: False),
    "W-num-2": replaced("edgeprov.device.counter_state:Reconciled.half_taken", lambda _half: property(lambda _: False)),
    "W-num-3": replaced("edgeprov.device.counter_state:OPENINGS_A_DAY", lambda _number: 10**9),
    "W-num-4": replaced("edgeprov.device.counter_state:_miss", lambda _miss: lambda _state, now, _found: now),
    "W-num-5": replaced("edgeprov.device.counter_state:_owe", lambda owe: lambda now, of, _why: owe(now, of, "crash")),
    "W-num-6": replaced("edgeprov.device.seal:_Sealer._empty", lambda _empty: lambda _sealer: ()),
    "W-num-7": replaced("edgeprov.device.slot_owner:load_floor_ns", lambda _load: lambda *_of: 0),
    "W-num-8": replaced("edgeprov.store.lane_recovery:add_stop", lambda _add: lambda *_of: None),
    "W-num-9": replaced("edgeprov.device.seal:_Sealer.seal_events", lambda _seal: lambda _sealer, **_of: None),
    "W-num-10": replaced(
        "edgeprov.device.sequencer:Sequencer.account_losses", lambda _sign: lambda _sequencer, _slot: None
    ),
    "W-num-11": replaced(
        "edgeprov.store.number_blocks:NumberBlocks.claim",
        lambda _claim: lambda _blocks, reserved, count: (reserved, reserved + count),
    ),
    "W-ses-1": replaced(
        "edgeprov.device.record_session:verified_tensors", lambda _verified: lambda named, _known, _kind: tuple(named)
    ),
    "W-ring-1": replaced("edgeprov.store.ring:RingReader.pending", lambda _pending: lambda reader: reader.size_bytes),
    "W-ring-2": replaced("edgeprov.store.ring_file:RingFile.save", _only_the_first),
    "W-ring-3": replaced(
        "edgeprov.store.ring:RingReader.allow", lambda allow: lambda reader, _size: allow(reader, reader.size_bytes)
    ),
    "W-key-1": replaced(
        "edgeprov.tpm.secret:KeySecret.derive", lambda _derive: lambda _self, label: label.encode()[:32].ljust(32)
    ),
    "W-reg-1": replaced("edgeprov.device.transfer:Transfer._push_in_order", _tag_first),
    "W-reg-2": replaced("edgeprov.registry.push_order:free_signature_number", lambda _number: lambda *_of: 1),
}


def pytest_configure(config: pytest.Config) -> None:
    del config
    if rule := os.environ.get("EDGEPROV_RULE_OFF"):
        SWITCHES[rule]()
