# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a technician sees first: one screen of facts, gathered without changing anything."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.device.boot import active_models, returned_from
from edgeprov.device.boot_stamp import load_stamp
from edgeprov.device.context import free_bytes
from edgeprov.device.identity import find_enrollment, load_assurance, load_keys, verify_own_name
from edgeprov.device.model_store import find_model
from edgeprov.device.series_state import load_head
from edgeprov.errors import EdgeprovError, IdentityError, NotStored
from edgeprov.limits import MIB
from edgeprov.store.spool import RECORD, read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State

COUNTER_ENDURANCE: Final = 100_000
"""NV writes to count on where the chip's data sheet says nothing (TCG PC Client profile)."""
LOW_SPACE_BYTES: Final = 64 * MIB
"""Below this a device is short of disk."""


@dataclass(slots=True, kw_only=True)
class SlotStatus:
    """One slot. ``verdict`` is that of this boot: verified, refused or unchecked.

    ``returned_from`` is the newer model after whose refusal the slot runs an older one.
    """

    slot: str
    model: str | None = None
    name: str = ""
    version: str = ""
    verdict: str = "unchecked"
    error: str | None = None
    returned_from: str | None = None
    records: int = 0
    spool_bytes: int = 0
    floor: int | None = None


@dataclass(slots=True, kw_only=True)
class Status:
    """Everything on the screen; sizes in bytes, None where it cannot be known."""

    device: str
    assurance: str | None = None
    certificate: bool = False
    tpm_error: str | None = None
    counter: int | None = None
    counter_left: int | None = None
    slots: list[SlotStatus] = field(default_factory=list)
    head_seq: int | None = None
    outbox: int = 0
    outbox_bytes: int = 0
    oldest_unsent: str | None = None
    last_upload: str | None = None
    free: int | None = None
    quota: int = 0
    quarantined: int = 0
    identity_fault: str | None = None
    doubts: list[str] = field(default_factory=list)
    advice: str = ""


def read_status(context: Context) -> Status:
    """Gather the facts; what cannot be read is a fact too.

    Raises:
        ConfigError: No serial is configured.
        StateNewer: The state was written by a newer version.
    """
    status = Status(device=context.urn, quota=context.config.record.quota_bytes)
    status.doubts = list(context.clock_doubts())
    try:
        state: State | None = context.state(write=False)
    except NotStored:
        state = None
    _read_models(context, state, status)
    if state is not None:
        _read_identity(context, state, status)
        _read_outbox(state, status)
        status.free = free_bytes(state.root)
        _read_tpm(context, state, status)
    status.advice = status.advice or _advice(status, state)
    return status


def _read_identity(context: Context, state: State, status: Status) -> None:
    try:
        verify_own_name(context, state)
    except IdentityError as error:
        status.identity_fault = error.message
        status.advice = error.advice or ""
    try:
        status.assurance = str(load_keys(state)["assurance"])
        status.assurance = load_assurance(state)
        status.certificate = True
    except EdgeprovError:
        pass  # shown as missing


def _read_models(context: Context, state: State | None, status: Status) -> None:
    stamp = load_stamp(context)
    active = {item.slot: item for item in active_models(context, state)}
    for slot in dict.fromkeys((*context.config.device.slots, *active, *(state.slots() if state else ()))):
        entry = SlotStatus(slot=slot)
        if slot in active:
            entry.model = str(active[slot].model)
            refused = returned_from(active[slot])
            entry.returned_from = str(refused) if refused else None
            try:
                model = find_model(context, state, active[slot].model)
                entry.name, entry.version = model.kit.name, model.kit.version
            except EdgeprovError as error:
                entry.error = error.message
        verdict: dict[str, Any] = stamp.get(slot) or {}
        if verdict.get("model") == entry.model and entry.model:
            entry.verdict = str(verdict.get("verdict"))
            entry.error = verdict.get("error") or entry.error
        if state is not None:
            entry.records, entry.spool_bytes = _waiting(state, slot)
        status.slots.append(entry)


def _waiting(state: State, slot: str) -> tuple[int, int]:
    """Records and bytes of a slot that are in no kit yet; the open segment's rows are counted by reading it."""
    records = size = 0
    for info in state.spool(slot).segments():
        with suppress(NotStored):  # freed meanwhile
            count = info.records
            if count is None:
                count = sum(kind == RECORD for kind, _ in read_segment(info.path).frames())
            records += count
            size += info.size_bytes
    return records, size


def _read_outbox(state: State, status: Status) -> None:
    entries = [entry for entry in state.outbox() if entry.state != "confirmed"]
    status.outbox = len(entries)
    status.outbox_bytes = sum(int(entry.info.get("bytes", 0)) for entry in entries)
    status.oldest_unsent = str(entries[0].info.get("created")) if entries else None
    head = load_head(state)
    status.head_seq = head.seq if head else None
    last = state.load_document("upload")
    status.last_upload = str(last.get("at")) if last else None
    status.quarantined = len(state.quarantined())


def _read_tpm(context: Context, state: State, status: Status) -> None:
    try:
        with context.tpm() as tpm:
            status.assurance = status.assurance or tpm.assurance
            status.counter = tpm.read_counter()
            for slot in status.slots:
                slot.floor = tpm.floor(slot.slot)
        if (enrollment := find_enrollment(state)) is not None:
            status.counter_left = max(0, COUNTER_ENDURANCE - (status.counter - enrollment.counter_base))
    except EdgeprovError as error:
        status.tpm_error = error.message


def _advice(status: Status, state: State | None) -> str:
    unchecked = [slot for slot in status.slots if slot.model and slot.verdict == "unchecked"]
    refused = [slot for slot in status.slots if slot.verdict == "refused" or slot.returned_from]
    if state is None or status.assurance is None:
        return "edgeprov identity create"
    full = status.free is not None and status.free < LOW_SPACE_BYTES
    if status.tpm_error or status.quarantined or status.doubts or refused or full:
        return "edgeprov doctor"
    if not status.certificate:
        return "edgeprov identity csr -o request.json, and enroll it"
    if not any(slot.model for slot in status.slots):
        return "edgeprov model install REF@sha256:..."
    if unchecked:
        return "edgeprov boot-check"
    if status.outbox:
        return "edgeprov upload, or edgeprov export DIR"
    if any(slot.records for slot in status.slots):
        return "edgeprov seal"
    return "nothing: all is well"
