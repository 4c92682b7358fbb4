# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Segments that were quoted and that no kit holds yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov.errors import UsageError
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.store.state import State


def verify_nothing_open(state: State) -> None:
    """No quoted segment waits for a kit.

    Raises:
        UsageError: One does.
        StoreError: The spools cannot be read.
    """
    for slot in state.slots():
        if any(read_segment(info.path).evidence for info in state.spool(slot).segments()):
            raise UsageError(
                f"slot {slot} has an open segment under the old name",
                advice="Stop the applications that record and install again; a segment without a record ends with its "
                "boot, so reboot where that is not enough.",
            )
