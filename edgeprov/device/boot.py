# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model-out, step 2: the boot check, and the switch of a slot's model.

For each slot: manifest bytes against the pinned digest, publisher's signature, floor, every blob
against its digest; then one event into the TPM, then the stamp that lets an application load the
model. A slot whose model fails gets a ``refused`` event, and the previous model returns if that one
passes. What this module imports is on the boot path: no oras, no numpy (tests/lean). What a boot check needs
rarely is imported where it is used, here and in the modules below: with the command line's parser that saves 14 %
(`./tests/run bench tricks`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov._dataclass import dataclass, replace
from edgeprov.device.boot_stamp import save_verdict
from edgeprov.device.context import Context
from edgeprov.device.event_log import measure
from edgeprov.device.model_store import StoredModel, find_model, list_models, model_layouts, verify_blobs
from edgeprov.device.model_trust import verify_floor, verify_publisher
from edgeprov.device.stored_signatures import load_model_signatures
from edgeprov.errors import (
    EdgeprovError,
    FormatError,
    NotStored,
    StoreCorrupt,
    StoreError,
    UsageError,
    VerificationError,
)
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.store.state import Active, State
from edgeprov.store.state_documents import ON_TRIAL, RETURNED_FROM, SWITCH_LOCK

if TYPE_CHECKING:
    from edgeprov.tpm.boot_tpm import BootTpm
    from edgeprov.tpm.device import Tpm


@dataclass(frozen=True, slots=True, kw_only=True)
class BootVerdict:
    """The result of one slot: ``error`` is None when the model may run."""

    slot: str
    model: Digest
    kit: StoredModel | None = None
    error: EdgeprovError | None = None
    returned_from: Digest | None = None


def boot_check(context: Context) -> list[BootVerdict]:
    """Check, measure and stamp the active model of every slot.

    Works on a read-only state folder. A slot without a model is left out.

    Raises:
        TpmError: The TPM failed: nothing may run, because nothing could be measured.
        StoreError: State or run folder cannot be used.
    """
    state = _open_state(context)
    verdicts = []
    with context.boot_tpm() as tpm:
        tpm.close_platform()
        for active in active_models(context, state):
            verdict = _check_slot(context, state, tpm, active)
            verdicts.append(verdict)
    return verdicts


def active_models(context: Context, state: State | None) -> list[Active]:
    """The active model of each slot.

    A slot that was never switched runs the model that the image names ``slot.<slot>``; on an image
    with a single model and no such name, that one is the first slot's.
    """
    slots = dict.fromkeys((*context.config.device.slots, *(state.slots() if state else ())))
    baked = _baked_models(context)
    found = []
    for slot in slots:
        active = _pointer(context, state, slot)
        if active is None and slot in baked:
            active = Active(slot=slot, model=baked[slot], previous=None, info={"source": "image"})
        if active is not None:
            found.append(active)
    return found


def _pointer(context: Context, state: State | None, slot: str) -> Active | None:
    if state is None:
        return None
    try:
        return state.active(slot)
    except StoreCorrupt:
        # Opened to read, the state only tells. Opened to write, it moves the damaged pointer to
        # quarantine, and the slot falls back to the image's model.
        return context.state().active(slot)


def _baked_models(context: Context) -> dict[str, Digest]:
    layouts = [layout for source, layout in model_layouts(context, None) if source == "image"]
    if not layouts:
        return {}
    refs = layouts[0].refs()
    named = {slot: refs[f"slot.{slot}"].digest for slot in context.config.device.slots if f"slot.{slot}" in refs}
    if named:
        return named
    damaged: list[EdgeprovError] = []
    models = list_models(context, None, damaged=damaged)
    if len(models) == 1:
        return {context.config.device.slots[0]: models[0].manifest.digest}
    if damaged:
        raise damaged[0]  # one of these may be the image's model: "no model" would be a false answer
    return {}


def activate(context: Context, digest: Digest, slot: str) -> BootVerdict:
    """Make a stored model the active one of a slot: verify, switch, measure, stamp.

    The caller has tried it in a child process before (selftest.verify_model_runs).

    Raises:
        UsageError: The slot is not configured.
        NotStored: The model is not here.
        VerificationError: It does not pass; the previous model stays active.
        TpmError: The TPM failed.
    """
    if slot not in context.config.device.slots:
        raise UsageError(
            f"slot {slot!r} is not configured", advice=f"Configured: {', '.join(context.config.device.slots)}."
        )
    state = context.state()
    with state.lock(SWITCH_LOCK), context.tpm() as tpm:
        current = next((active for active in active_models(context, state) if active.slot == slot), None)
        try:
            model = verify_model(context, state, digest, tpm.floor(slot))
        except (VerificationError, FormatError) as error:
            measure(context, tpm, "refused", slot, digest)
            journal.event(
                "model-refused",
                f"slot {slot}: model {digest} refused: {error.message}",
                priority=journal.ERROR,
                to_stderr=False,
                model_digest=digest,
                slot=slot,
            )
            _note(context, "model-refused", slot, digest, error.message)
            # The refusal is in the log after the running model's activation: measure that one again.
            if current is not None:
                measure(context, tpm, "activate", slot, current.model)
            raise
        previous = current.model if current and current.model != digest else current.previous if current else None
        state.set_active(
            Active(
                slot=slot,
                model=digest,
                previous=previous,
                info={"activated_at": rfc3339_of_ns(time.time_ns()), **ON_TRIAL},
            )
        )
        measure(context, tpm, "activate", slot, digest)
        save_verdict(context, slot, _stamp(model, "verified"))
        _prove_time(context, state)
    _note(context, "model-activated", slot, digest)
    journal.event("model-activated", f"slot {slot}: model {digest} active", model_digest=digest, slot=slot)
    return BootVerdict(slot=slot, model=digest, kit=model)


def return_to_previous(context: Context, active: Active) -> BootVerdict | None:
    """Switch a slot back to the model that ran before.

    Returns:
        None when there is none that passes.

    Raises:
        TpmError: The switch could not be measured.
    """
    state = context.state()
    with state.lock(SWITCH_LOCK), context.tpm() as tpm:
        measure(context, tpm, "refused", active.slot, active.model)
        verdict = _return_to_previous(context, state, tpm, tpm.floor(active.slot), active)
        if verdict is None:
            measure(context, tpm, "activate", active.slot, active.model)
        return verdict


def verify_model(context: Context, state: State | None, digest: Digest, floor: int) -> StoredModel:
    """Everything about a stored model that can be checked without running it.

    Raises:
        NotStored: Not here.
        VerificationError: Digest, signature, policy or floor.
        FormatError: No model kit.
    """
    model = find_model(context, state, digest)
    verify_publisher(context, model.manifest, load_model_signatures(model.layout, digest))
    verify_floor(model.kit, floor)
    return replace(model, vouched=verify_blobs(model))


def _check_slot(context: Context, state: State | None, tpm: BootTpm, active: Active) -> BootVerdict:
    floor = tpm.floor(active.slot)
    try:
        model = verify_model(context, state, active.model, floor)
    except (VerificationError, FormatError, NotStored) as error:
        measure(context, tpm, "refused", active.slot, active.model)
        save_verdict(context, active.slot, {"model": str(active.model), "verdict": "refused", "error": error.message})
        journal.event(
            "model-refused",
            f"slot {active.slot}: model {active.model} refused: {error.message}",
            priority=journal.ERROR,
            to_stderr=False,
            model_digest=active.model,
            slot=active.slot,
        )
        _note(context, "model-refused", active.slot, active.model, error.message)
        returned = _return_to_previous(context, state, tpm, floor, active)
        return returned or BootVerdict(slot=active.slot, model=active.model, error=error)
    measure(context, tpm, "activate", active.slot, active.model)
    save_verdict(context, active.slot, _stamp(model, "verified"))
    journal.event(
        "boot-checked",
        f"slot {active.slot}: model {active.model} verified",
        model_digest=active.model,
        slot=active.slot,
    )
    return BootVerdict(slot=active.slot, model=active.model, kit=model, returned_from=returned_from(active))


def _return_to_previous(
    context: Context, state: State | None, tpm: BootTpm | Tpm, floor: int, active: Active
) -> BootVerdict | None:
    if active.previous is None or state is None:
        return None
    try:
        model = verify_model(context, state, active.previous, floor)
    except (VerificationError, FormatError, NotStored):
        return None
    measure(context, tpm, "activate", active.slot, active.previous)
    save_verdict(context, active.slot, _stamp(model, "verified"))
    with suppress(StoreError):  # read-only state: the same return happens at the next boot
        context.state().set_active(
            Active(slot=active.slot, model=active.previous, previous=None, info={RETURNED_FROM: str(active.model)})
        )
    _note(context, "model-returned", active.slot, active.previous)
    journal.event(
        "model-returned",
        f"slot {active.slot}: returned to model {active.previous}",
        priority=journal.WARNING,
        to_stderr=False,
        model_digest=active.previous,
        slot=active.slot,
    )
    return BootVerdict(slot=active.slot, model=active.previous, kit=model, returned_from=active.model)


def returned_from(active: Active) -> Digest | None:
    """The newer model after whose refusal a slot returned to its present one; None once somebody activated one."""
    refused = active.info.get(RETURNED_FROM)
    return parse_digest(refused) if isinstance(refused, str) else None


def _note(context: Context, kind: str, slot: str, model: Digest, reason: str = "") -> None:
    from edgeprov.device.events import note_event

    note_event(context, kind, slot, {"model": str(model), "reason": reason} if reason else {"model": str(model)})


def _prove_time(context: Context, state: State) -> None:
    """An activation is no earlier than all that was proved, so nothing that follows is either."""
    from edgeprov.device.proved_time import raise_floor, stamp

    raise_floor(state, stamp(context, state).at_ns)


def _stamp(model: StoredModel, verdict: str) -> Mapping[str, Any]:
    return {
        "model": str(model.manifest.digest),
        "verdict": verdict,
        "name": model.kit.name,
        "version": model.kit.version,
        "security_version": model.kit.security_version,
        "source": model.source,
        "verity": model.vouched,
        "checked_at": rfc3339_of_ns(time.time_ns()),
    }


def _open_state(context: Context) -> State | None:
    try:
        return context.state(write=False)
    except NotStored:
        return None  # first boot of an image: there may still be a model baked in
