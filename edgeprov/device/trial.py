# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A/B: a newly activated model is on trial until it has produced a record; if it never does, the previous returns.

The known-answer test before activation finds a model that does not run at all. What it cannot find is
a model that kills the application on real input. So each load of a model on trial is counted,
durably, before the interpreter sees it; after three loads without a single record the slot goes back.
Only a confirmed model raises the floor: before, the way back must stay open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov._dataclass import replace
from edgeprov.errors import EdgeprovError, ModelNotReady
from edgeprov.formats.digest import Digest
from edgeprov.store.state_documents import ON_TRIAL, SWITCH_LOCK

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.model_store import StoredModel
    from edgeprov.store.state import Active, State

MAX_LOADS: Final = 3


def begin_load(context: Context, state: State, slot: str) -> None:
    """Count a load of a model on trial; after too many, return to the previous model.

    Args:
        context: The device.
        state: State folder, opened for writing.
        slot: The slot that an application is about to load.

    Raises:
        ModelNotReady: The slot went back to the previous model just now: load again.
        TpmError: The return could not be measured.
    """
    active = state.active(slot)
    if active is None or not active.info.get("trial"):
        return
    with state.lock(SWITCH_LOCK, wait=True):
        active = state.active(slot) or active
        loads = int(active.info.get("loads", 0))
        if loads < MAX_LOADS or active.previous is None:
            state.set_active(replace(active, info={**active.info, "loads": loads + 1}))
            return
    _return(context, active)


def confirm(context: Context, state: State, slot: str, model: Digest) -> None:
    """The model on trial produced a record: it stays, and its securityVersion becomes the floor.

    Never fails the inference that proved it: what could not be written is done at the next load.
    """
    try:
        active = state.active(slot)
        if active is None or active.model != model or not active.info.get("trial"):
            return
        with state.lock(SWITCH_LOCK, wait=True):
            raise_floor(context, state, slot, model)
            info = {key: value for key, value in active.info.items() if key not in ON_TRIAL}
            state.set_active(replace(active, info=info))
    except EdgeprovError as error:
        journal.event("failed", f"slot {slot}: model not confirmed yet: {error.message}", priority=journal.WARNING)


def raise_floor(context: Context, state: State, slot: str, model: Digest) -> None:
    """Raise the slot's floor in the TPM to the model's securityVersion; a lower one changes nothing.

    Raises:
        TpmError: The TPM refused.
    """
    from edgeprov.device.model_store import find_model

    stored: StoredModel = find_model(context, state, model)
    with context.tpm() as tpm, tpm.group():
        if stored.kit.security_version > tpm.floor(slot):
            tpm.raise_floor(slot, stored.kit.security_version)


def _return(context: Context, active: Active) -> None:
    from edgeprov.device.boot import return_to_previous

    verdict = return_to_previous(context, active)
    if verdict is None:
        return  # there is nothing good to return to: the model on trial is all there is
    raise ModelNotReady(
        f"slot {active.slot}: {active.model} gave no record in {MAX_LOADS} loads; {verdict.model} is active again",
        advice="Load the model again; report the new version to its publisher.",
    )
