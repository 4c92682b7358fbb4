# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What follows a seal, at once or at the next start: free what is in a kit, and mend the series' head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov.device.events import forget_events
from edgeprov.device.lost import LOST_LOCK, forget_losses, forget_sealed, note_loss, parse_losses
from edgeprov.device.series_state import INTENT, SeriesHead, add_numbers, load_head, save_head
from edgeprov.formats.datakit import parse_kit_tag
from edgeprov.formats.digest import parse_digest
from edgeprov.store.state import OutboxEntry

if TYPE_CHECKING:
    from edgeprov.store.spool import SegmentInfo
    from edgeprov.store.state import State


def finish_committed(state: State) -> None:
    """Finish a kit or tombstone that became the head of the series before its process died; under COUNTER_LOCK.

    Raises:
        StoreError: The state cannot be changed.
    """
    intent = state.load_document(INTENT)
    head = load_head(state) if intent is not None else None
    if intent is None or head is None or head.seq != int(intent["number"]):
        return
    settle(state, head, intent)


def settle(state: State, head: SeriesHead, intent: Mapping[str, Any]) -> None:
    """All that follows the commit of a kit or tombstone: its numbers, the outbox, and what it made superfluous.

    Raises:
        StoreError: The state cannot be changed; the next start does it again.
    """
    from edgeprov._dataclass import replace
    from edgeprov.device.counter_state import load_counter_state, save_counter_state

    counter = load_counter_state(state)
    named = {(int(number), header) for number, header in intent["named"]}
    owed = tuple(
        item for item in counter.owed if (item.number, item.header.hex() if item.header else None) not in named
    )
    names = [f"{slot}/{name}" for slot, name in intent["segments"]]
    sealed = {counter.tracked[name][1] for name in names if name in counter.tracked}
    settled = replace(counter, known=max(counter.known, head.seq), owed=owed)
    if settled != counter:
        save_counter_state(state, settled)
    # Unless it was sent and freed already, it belongs into the outbox.
    entry = entry_of(head)
    if state.layout.has_manifest(entry.digest):
        state.save_outbox(entry)
    free_sealed(state, intent)
    forget_sealed(state, sealed)  # once none of them can be discarded any more
    if settled != settled.without(names):  # last: their headers are known until here
        save_counter_state(state, settled.without(names))
    state.remove_document(INTENT)


def free_sealed(state: State, intent: Mapping[str, Any]) -> None:
    """Free what an intent names, once its kit or tombstone is in the outbox.

    Raises:
        StoreError: The state cannot be changed.
    """
    from edgeprov.device.labels import is_damaged, model_labels
    from edgeprov.device.standing_maker import forget_stops

    slot, model = str(intent["slot"]), parse_digest(str(intent["model"]))
    labels = state.labels(slot)
    names = {(str(item[0]), str(item[1])) for item in intent["segments"]}
    add_numbers(state, slot, ((first, last, model) for first, last in intent["numbers"]))
    with state.lock(LOST_LOCK, wait=True):
        for loss in parse_losses(intent["losses"]):
            note_loss(state, slot, loss)
    for owner in {item[0] for item in names}:
        for info in state.spool(owner).segments():
            if (owner, info.path.name) in names and info.path.name in intent["broken"]:
                quarantine_segment(state, owner, info, "damaged: its kit holds what could be read")
            elif (owner, info.path.name) in names:
                state.spool(owner).free(info)
    if intent["labels"]:
        model_labels(state, slot).done(model, intent["labels"])
    for info in labels.segments():
        if info.path.name in intent["labels"] and model_labels(state, slot).is_done(info):
            if is_damaged(info):
                quarantine_segment(state, slot, info, "damaged: kits hold the labels that could be read")
            else:
                labels.free(info)
    forget_losses(state, slot, parse_losses(intent["told"]))
    forget_stops(state, intent["stops"])
    forget_events(state, int(intent["events"]))


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
    # A kit that was signed but never became the head of the series: a tombstone names its number,
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
