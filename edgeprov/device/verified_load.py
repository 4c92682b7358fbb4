# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The load of a slot's model by an application, with and without the device service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeprov.device.boot_stamp import verified_model
from edgeprov.device.model_store import StoredModel, find_model
from edgeprov.device.series_state import remember_model
from edgeprov.errors import ModelNotReady, UsageError

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State


def load_verified(
    context: Context, state: State, slot: str, *, begin: Callable[[str], None] | None, wanted: str | None = None
) -> StoredModel:
    """The model that passed this boot's check and is active. Only such a load counts for a model on trial.

    Args:
        context: The device.
        state: Its state folder.
        slot: The slot.
        begin: Counts the load of a model on trial (trial.begin_load); None where this load was counted already.
        wanted: The application asks for this model.

    Raises:
        ModelNotReady: No boot check, or it refused the model; another model is active; or the slot went back to the
            previous model just now.
        UsageError: It is not the model that is wanted.
        NotStored: The model is not on this device any more.
        TpmError: The return to the previous model could not be measured.
    """
    digest = verified_model(context, slot)
    if wanted is not None and wanted != str(digest):
        raise UsageError(f"slot {slot} runs {digest}, not the model that hello names")
    if begin is not None:
        begin(slot)
    active = state.active(slot)
    if active is not None and active.model != digest:
        raise ModelNotReady(
            f"slot {slot}: model {active.model} is active, and the boot check was of {digest}",
            advice="Run `edgeprov boot-check`.",
        )
    stored = find_model(context, state, digest)
    remember_model(state, stored.manifest)
    return stored
