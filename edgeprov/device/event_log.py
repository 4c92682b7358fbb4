# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The event log of this boot, which explains the value of the model PCR.

It is kept in the run folder, which ends with the boot as the PCR's value does. An event is written and
synced before the PCR is extended: after a crash in between, the log's last entry may be unmatched, never
more than one, and it is dropped here. A log that cannot be reconciled is never "repaired" into one
that fits: the device says that it needs a reboot.

Spec: FORMAT.md sections "Event log" and "PCR".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov.errors import FormatError, ModelNotReady, NotStored, StoreError, TpmError
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import (
    PCR_START,
    Event,
    EventType,
    active_model,
    encode_event,
    parse_event_log,
    replay,
)
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, save_bytes, translate

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.tpmt import Attestation
    from edgeprov.tpm.boot_tpm import BootTpm
    from edgeprov.tpm.device import Tpm

_LOG: Final = "events.log"


def load_event_log(context: Context) -> bytes:
    """The raw log of this boot; empty before the first measurement.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return load_bytes(context.run_dir / _LOG, max_bytes=LIMITS.event_log_bytes, what="event log")
    except NotStored:
        return b""


def measure(context: Context, tpm: BootTpm | Tpm, kind: EventType, slot: str, model: Digest) -> None:
    """Log one event and extend the model PCR with it; an activation that is the slot's last is not repeated.

    Args:
        context: The device.
        tpm: An open TPM.
        kind: ``activate`` before the weights are used, or ``refused``.
        slot: The slot.
        model: Manifest digest of the model.

    Raises:
        TpmError: The TPM refused, or the PCR holds what no log explains.
        StoreError: The log cannot be written.
    """
    context.make_run_dir()
    with tpm.group():
        events = _reconcile(context, tpm)
        if kind == "activate" and active_model(events, slot) == model:
            return
        if len(events) >= LIMITS.event_log_entries:
            raise TpmError(f"more than {LIMITS.event_log_entries} model changes in one boot", advice="Reboot.")
        event = Event(number=len(events), pcr=context.config.tpm.pcr, type=kind, slot=slot, model=model)
        _append(context.run_dir / _LOG, encode_event(event))
        tpm.pcr_event(event.data)


def current_log(context: Context, tpm: Tpm) -> bytes:
    """The raw event log of this boot, which replays to the PCR's value; empty before the first event.

    Raises:
        TpmError: The TPM does not answer, or the PCR holds what no log explains.
    """
    return b"".join(encode_event(event) for event in _reconcile(context, tpm))


def quote_with_log(context: Context, tpm: Tpm, qualifying: bytes) -> tuple[Attestation, bytes]:
    """Quote the PCRs, together with the raw event log that replays to the model PCR's value.

    One command where the log on the disk is right, which the quote itself shows.

    Args:
        context: The device.
        tpm: An open TPM.
        qualifying: 32 bytes that the quote is bound to.

    Raises:
        TpmError: The TPM does not answer, or the PCR holds what no log explains.
    """
    pcr = context.config.tpm.pcr
    with tpm.group():
        try:
            events: tuple[Event, ...] | None = parse_event_log(load_event_log(context))
        except FormatError:
            events = None
        for _ in range(2):
            events = _reconcile(context, tpm) if events is None else events
            value = replay(events)
            quote = tpm.quote(qualifying, model_pcr=value)
            if dict(quote.pcrs)[pcr] == value:
                return quote, b"".join(encode_event(event) for event in events)
            events = None
    raise TpmError(f"PCR {pcr} changes while it is quoted", advice="Another program extends it; see tpm.pcr.")


def verify_measured(context: Context, tpm: Tpm, slot: str, model: Digest) -> bytes:
    """Check that in this boot the TPM measured ``model`` as the last activation of ``slot``.

    Returns:
        The raw event log, which replays to the PCR's value.

    Raises:
        ModelNotReady: It did not: the boot check has not run, or another model was activated.
        TpmError: The TPM does not answer, or the PCR holds what no log explains.
    """
    log = b"".join(encode_event(event) for event in _reconcile(context, tpm))
    verify_active(log, slot, model)
    return log


def is_logged(context: Context, slot: str, model: Digest) -> bool:
    """Whether the log on the disk says that ``model`` is the slot's active one; a quote shows whether that is true.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return active_model(parse_event_log(load_event_log(context)), slot) == model
    except FormatError:
        return False


def verify_active(log: bytes, slot: str, model: Digest) -> None:
    """Require that in a log that replays to the PCR's value ``model`` is the slot's active one.

    Raises:
        ModelNotReady: It is not: the boot check has not run, or another model was activated.
    """
    if active_model(parse_event_log(log), slot) != model:
        raise ModelNotReady(
            f"slot {slot}: the TPM has not measured {model} as its active model in this boot",
            advice="Run `edgeprov boot-check`, then load the model again.",
        )


def _reconcile(context: Context, tpm: BootTpm | Tpm) -> tuple[Event, ...]:
    path = context.run_dir / _LOG
    raw = load_event_log(context)
    value = tpm.read_pcr()
    try:
        events = parse_event_log(raw)
    except FormatError:
        events = _whole_entries(raw)
    if replay(events) == value and len(raw) == sum(len(encode_event(event)) for event in events):
        return events
    for kept in (events, events[:-1]):
        if replay(kept) == value:
            _rewrite(path, kept)
            return kept
    if value == PCR_START:
        # The TPM was reset and this folder was not: a simulated TPM that ended, or a /run that
        # is no tmpfs. What was measured before says nothing about this boot.
        journal.event("quarantined", "event log of an earlier boot set aside", priority=journal.WARNING)
        _rewrite(path, ())
        return ()
    raise TpmError(
        f"PCR {context.config.tpm.pcr} holds measurements that the event log does not explain",
        advice="Reboot; if it stays so, another program uses this PCR: choose another with tpm.pcr.",
    )


def _whole_entries(raw: bytes) -> tuple[Event, ...]:
    # A power cut may leave a half entry at the end; an entry without its line end never counted.
    end = raw.rfind(b"\n") + 1
    try:
        return parse_event_log(raw[:end])
    except FormatError as error:
        raise StoreError(f"event log of this boot is damaged: {error.message}", advice="Reboot.") from error


def _rewrite(path: Path, events: tuple[Event, ...]) -> None:
    save_bytes(path, b"".join(encode_event(event) for event in events), mode=0o640)


def _append(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(28, "No space left on device")
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise translate(error, "event log") from error
