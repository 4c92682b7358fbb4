# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What follows a seal, at once or at the next start: free what is in a kit, and mend the series' head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov.device.discard import forget_lost, note_lost
from edgeprov.device.labels import is_damaged, model_labels
from edgeprov.device.series_state import SeriesHead, add_numbers, save_head
from edgeprov.formats.datakit import parse_kit_tag
from edgeprov.formats.digest import parse_digest
from edgeprov.store.state import OutboxEntry

if TYPE_CHECKING:
    from edgeprov.store.spool import SegmentInfo
    from edgeprov.store.state import State


def free_sealed(state: State, intent: Mapping[str, Any]) -> None:
    """Free what an intent names, once its kit or tombstone is in the outbox.

    Raises:
        StoreError: The state cannot be changed.
    """
    slot, model = str(intent["slot"]), parse_digest(str(intent["model"]))
    spool, labels = state.spool(slot), state.labels(slot)
    names = set(intent["segments"])
    add_numbers(state, slot, ((first, last, model) for first, last in intent["numbers"]))
    note_lost(state, slot, model, [(first, last) for first, last in intent.get("lost", ())], "damaged")
    for info in spool.segments():
        if info.path.name in intent.get("broken", ()):
            quarantine_segment(state, slot, info, "damaged: its kit holds what could be read")
        elif info.path.name in names:
            spool.free(info)
    if intent["labels"]:
        model_labels(state, slot).done(model, intent["labels"])
    for info in labels.segments():
        if info.path.name in intent["labels"] and model_labels(state, slot).is_done(info):
            if is_damaged(info):
                quarantine_segment(state, slot, info, "damaged: kits hold the labels that could be read")
            else:
                labels.free(info)
    for why in ("discarded", "damaged"):
        # A range is dropped when its tombstone is signed; or when a recorder made room with a segment
        # that was already on its way into this kit.
        forget_lost(state, slot, model, [*intent.get(why, ()), *intent["numbers"]], why)


def quarantine_segment(state: State, slot: str, info: SegmentInfo, reason: str) -> None:
    """Keep a damaged segment for analysis, out of the way.

    Raises:
        StoreError: The state cannot be changed.
    """
    message = f"{info.path.name} is {reason}"
    state.quarantine(info.path, message)
    journal.event("quarantined", f"slot {slot}: {message}", priority=journal.ERROR, slot=slot)


def rebuild_head(state: State) -> SeriesHead | None:
    """A head in place of a damaged one; None where there is nothing to make it from.

    Raises:
        StoreError: The state cannot be changed.
    """
    # The head was damaged and lies in quarantine: the newest kit in the outbox was the head, unless
    # it was sent already. Then the series starts anew, and every verifier sees the break.
    entries = state.outbox()
    if not entries:
        return None
    newest = entries[-1]
    document = {"kind": newest.kind, "repo": newest.repo, "tag": newest.tag, "info": dict(newest.info)}
    head = SeriesHead(seq=newest.seq, digest=newest.digest, tpm_clock_ms=0, entry=document)
    save_head(state, head)
    return head


def drop_uncommitted(state: State, known: int) -> None:
    """Take kits above the number ``known`` out of the layout.

    Raises:
        StoreError: The state cannot be changed.
    """
    # A kit that was signed but never became the head of the series: its number gets a tombstone,
    # its records go into the next kit. Left here it would be a fork waiting to be found.
    waiting_digests = {entry.digest for entry in state.outbox()}
    for ref, entry in state.layout.refs().items():
        tag = parse_kit_tag(ref)
        if tag is not None and tag.seq > known and entry.digest not in waiting_digests:
            state.layout.remove_manifest(entry.digest, with_signatures=True)


def entry_of(head: SeriesHead) -> OutboxEntry:
    """The outbox entry that a head keeps of its kit or tombstone."""
    return OutboxEntry(
        kind=str(head.entry["kind"]),
        digest=head.digest,
        seq=head.seq,
        repo=str(head.entry["repo"]),
        tag=str(head.entry["tag"]),
        state="sealed",
        info=dict(head.entry["info"]),
    )
