# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The outbox on a stick, as an OCI layout that `edgeprov-fleet import` and every OCI tool can read.

What was exported stays on the device until a receipt comes back: a stick can be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.device.context import free_bytes
from edgeprov.device.upload import UPLOAD_LOCK, push_artifact
from edgeprov.errors import StoreFull
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.store.state import OutboxEntry

if TYPE_CHECKING:
    from edgeprov.device.context import Context


def export(
    context: Context, folder: Path, *, progress: Callable[[int], None] = lambda _bytes: None
) -> list[OutboxEntry]:
    """Write everything in the outbox to a folder; what is there already is not written again.

    Args:
        context: The device.
        folder: On the stick; becomes an OCI layout.
        progress: Called with the size of each blob that is done.

    Raises:
        StoreFull: The stick is full; what was written whole stays valid.
        StoreError: The stick cannot be written.
    """
    state = context.state()
    with state.lock(UPLOAD_LOCK):
        entries = state.outbox()
        stick = LayoutRegistry(folder, create=True)
        missing = [entry for entry in entries if not stick.layout.has_manifest(entry.digest)]
        needed = sum(int(entry.info.get("bytes", 0)) for entry in missing)
        if (free := free_bytes(folder)) < needed:
            raise StoreFull(f"{folder}: {needed} bytes are needed, {free} are free", advice="Use a larger stick.")
        for entry in entries:
            push_artifact(state, stick, entry.repo, entry, progress)
            if entry.state != "exported":
                state.save_outbox(replace(entry, state="exported"))
    journal.event("kit-exported", f"{len(entries)} artifacts exported", count=len(entries))
    return list(entries)
