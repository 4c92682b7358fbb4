# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 2: segments, labels and events become signed data kits in the outbox.

This file decides what goes into which kit, and what to do with what the disk does not give back; the
sequencer then places kits and tombstones in the device's series. A crash before a kit is committed leaves
its records in the spool. One kit at a time, in constant memory.

Spec: FORMAT.md section "Data kit".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from edgeprov._dataclass import replace
from edgeprov.device.context import Context
from edgeprov.device.counter_state import COUNTER_LOCK, load_counter_state, tracked_name
from edgeprov.device.discard import loss_of, lost_ranges
from edgeprov.device.events import waiting_events
from edgeprov.device.identity import verify_not_ended, verify_own_name
from edgeprov.device.kit_builder import build_parts
from edgeprov.device.kit_plan import KitPlan, WaitingSegment, group, is_due, is_old
from edgeprov.device.labels import label_models, model_labels
from edgeprov.device.lost import LOST_LOCK, Loss, load_losses, note_loss
from edgeprov.device.rotation import reach, request_rotation
from edgeprov.device.seal_recovery import quarantine_segment
from edgeprov.device.segments import parse_opening
from edgeprov.device.sequencer import Sealed, Sequencer
from edgeprov.device.series_state import SEAL_LOCK, first_active
from edgeprov.device.standing_maker import OpenItem, quoted_segments
from edgeprov.device.storage_faults import note_quarantined
from edgeprov.errors import FormatError, NotStored, StoreCorrupt
from edgeprov.formats.digest import Digest
from edgeprov.formats.segment import SegmentHeader, parse_segment_header
from edgeprov.store.atomic import exists
from edgeprov.store.frames import count_of
from edgeprov.store.spool import Range, SegmentInfo, ranges_of, read_segment
from edgeprov.store.state import State

__all__ = ["Sealed", "seal"]


def seal(
    context: Context,
    *,
    due_only: bool = False,
    rest: bool = False,
    progress: Callable[[Sealed], None] = lambda _sealed: None,
) -> list[Sealed]:
    """Seal what waits in the spools of all slots. Running recorders go on in a new segment.

    Args:
        context: The device.
        due_only: Only when age, count or bytes of the ``seal`` settings are reached, and not within
            ``min_kit_interval_s`` of the last kit unless something is too old. Otherwise everything is sealed.
        rest: Also what could wait for a later kit: events, and segments of ended boots without a record.
        progress: Called after each artifact.

    Returns:
        Kits and tombstones, in order of their numbers.

    Raises:
        IdentityError: No keys or no certificate yet, or those of another name; the records stay in the spool.
        TpmError: The TPM failed; the records stay in the spool.
        StoreBusy: Another process is sealing.
        StoreFull: No space for the kit; the records stay in the spool.
    """
    state = context.state()
    verify_own_name(context, state)  # before a number is used up
    verify_not_ended(state)
    with state.lock(SEAL_LOCK), context.tpm() as tpm:
        sequencer = Sequencer(context, state, tpm, progress)
        sequencer.recover()
        note_quarantined(context, state)  # also what recovery has just found
        sealer = _Sealer(context, state, sequencer)
        early = due_only and _too_early(context, sequencer)
        for slot in state.slots():
            sealer.seal_slot(slot, due_only=due_only, early=early)
        note_quarantined(context, state)
        sealer.seal_events(rest=rest)
        return sequencer.done


class _Sealer:
    def __init__(self, context: Context, state: State, sequencer: Sequencer) -> None:
        self._context = context
        self._state = state
        self._sequencer = sequencer
        self._kits = 0

    def seal_slot(self, slot: str, *, due_only: bool, early: bool) -> None:
        """All work of one slot: tombstones of what was lost, kits, tombstones of what turns out to be damaged.

        Args:
            slot: The slot.
            due_only: Only what is due.
            early: The last kit is so new that only what is too old is sealed.
        """
        if due_only and not self._is_due(slot, early=early):
            return
        spool = self._state.spool(slot)
        for lane in spool.lanes():
            reach(partial(request_rotation, self._context, lane.name), lane.end_open)
        self._sequencer.account_losses(slot)
        self._state.labels(slot).rotate()
        # Planned anew when a segment had to be set aside.
        while not all(self._kit(work) for work in self._plan(slot)):
            pass
        self._sequencer.account_losses(slot)

    def seal_events(self, *, rest: bool) -> None:
        """A kit of events alone, when they have waited for ``seal.max_age_s``; with ``rest`` in any case."""
        events = waiting_events(self._state).events
        active, empty = first_active(self._state), self._empty()
        old = bool(events) and is_old(events[0].at_ns, self._context.config.seal)
        if active is None or not (old or (rest and (events or empty))):
            return
        self._kit(KitPlan(slot=active.slot, model=active.model, empty=empty))

    def _is_due(self, slot: str, *, early: bool) -> bool:
        settings = self._context.config.seal
        waiting = []
        opened = self._state.spool(slot).left_open()
        for item in quoted_segments(self._state):
            if item.slot != slot:
                continue
            left = opened.get(item.info.path.name)
            ranges = item.info.ranges or (left.ranges if left else ranges_of(read_segment(item.info.path).frames()))
            if ranges:
                opened_at_ns, size = item.header.opened_at_ns, item.info.size_bytes
                waiting.append(WaitingSegment(opened_at_ns=opened_at_ns, records=count_of(ranges), size_bytes=size))
        if early:
            return any(is_old(item.opened_at_ns, settings) for item in waiting)
        self._state.labels(slot).rotate()
        owed = any(loss.model is not None for loss in load_losses(self._state, slot))
        return owed or is_due(waiting, bool(label_models(self._state, slot)), settings)

    def _plan(self, slot: str) -> list[KitPlan]:
        known: list[tuple[SegmentInfo, SegmentHeader]] = []
        tracked = load_counter_state(self._state).tracked
        for info in self._state.spool(slot).segments():
            segment = read_segment(info.path)
            whole = segment.header and segment.evidence
            if info.closed and whole:
                known.append((info, parse_segment_header(segment.header)))
            elif info.closed or (not whole and tracked_name(slot, info) in tracked):
                active = first_active(self._state)
                self._set_aside(slot, active.model if active else None, info)
        plan = list(group(slot, known, self._context.config.seal))
        # Labels travel with the newest kit of their model, or in one of their own.
        for model in label_models(self._state, slot):
            index = next((i for i in reversed(range(len(plan))) if plan[i].model == model), None)
            if index is None:
                plan.append(KitPlan(slot=slot, model=model, labels=True))
            else:
                plan[index] = replace(plan[index], labels=True)
        if plan:
            plan[0] = replace(plan[0], empty=self._empty())
        return plan

    def _empty(self) -> tuple[tuple[str, SegmentInfo], ...]:
        """Segments that hold no record and never will: their boot has ended."""
        boot_id = self._context.boot_id()

        def is_empty(item: OpenItem) -> bool:
            ended = item.header.boot_id != boot_id
            return not item.info.closed and ended and not ranges_of(read_segment(item.info.path).frames())

        return tuple((item.slot, item.info) for item in quoted_segments(self._state) if is_empty(item))

    def _kit(self, work: KitPlan) -> bool:
        """Seal one kit; False when the plan does not hold any more: plan again."""
        state, layout = self._state, self._state.layout
        labels = model_labels(state, work.slot)
        label_rows = labels.rows(work.model) if work.labels else iter(())
        moment = self._sequencer.standings.begin()
        with ExitStack() as numbers:
            # Within the batch no garbage collection can take the blobs that nothing names yet.
            with layout.batch():
                segments = _in_order(work)
                part_bytes = self._context.config.seal.part_bytes
                try:
                    _verify_foreign(work)
                    contents = build_parts(layout, segments, label_rows, part_bytes)
                except (StoreCorrupt, FormatError):
                    read = self._read_damaged(work)
                    if read is None:
                        return False
                    work = read
                    label_rows = labels.rows(work.model) if work.labels else iter(())
                    segments = _in_order(work)
                    contents = build_parts(layout, segments, label_rows, part_bytes, damaged=work.damaged)
                except NotStored:
                    if all(exists(path) for path in work.paths()):
                        raise
                    return False  # a recorder made room meanwhile
                numbers.enter_context(state.lock(COUNTER_LOCK, wait=True))
                signed = self._sequencer.sign_kit(work, contents, labels.names() if work.labels else [], moment)
            self._sequencer.commit(signed)
        return True

    def _read_damaged(self, work: KitPlan) -> KitPlan | None:
        """Find out what the segments still give back; None when one was set aside, or has gone."""
        from edgeprov.store.salvage import has_only_records, salvaged_numbers

        found: dict[str, list[Range]] = {}
        for info in work.segments:
            try:
                segment = read_segment(info.path)
                if has_only_records(segment):
                    continue
            except NotStored:
                return None
            except (StoreCorrupt, FormatError):
                pass
            # Without its quote no record of a segment can ever be verified.
            read = salvaged_numbers(segment) if segment.evidence else []
            if not read:
                self._set_aside(work.slot, work.model, info)
                return None
            found[info.path.name] = read
        return replace(work, damaged=found)

    def _set_aside(self, slot: str, model: Digest | None, info: SegmentInfo) -> None:
        """Nothing of a segment can be proved: a tombstone names it and its records, its bytes go to quarantine."""
        header = read_segment(info.path).header
        left = self._state.spool(slot).left_open().get(info.path.name)
        ranges = info.ranges or (left.ranges if left else ())
        if model is not None and (ranges or header):
            if header:
                loss = loss_of(parse_segment_header(header), info, ranges, "damaged")
            else:  # its number is owed because its file is missing
                loss = Loss(model=model, number=None, ranges=lost_ranges(info, ranges, "damaged"))
            with self._state.lock(LOST_LOCK, wait=True):
                note_loss(self._state, slot, loss)
        quarantine_segment(self._state, slot, info, "damaged: nothing in it can be proved")


def _verify_foreign(work: KitPlan) -> None:
    """Look at each row of an application that is not this user: it may write what it likes into its ring.

    Raises:
        StoreCorrupt: Something else than the records that follow each other.
        FormatError: The evidence of a segment is not one.
    """
    for info in work.segments:
        segment = read_segment(info.path)
        if parse_opening(segment.evidence).user == os.getuid():
            continue
        from edgeprov.store.salvage import has_only_records

        if not has_only_records(segment):
            raise StoreCorrupt(f"segment {info.path.name} holds something else than its records")


def _in_order(work: KitPlan) -> list[tuple[SegmentInfo, list[Range]]]:
    """The segments of a kit by their numbers, with the records that it holds of each."""
    found = [(info, work.ranges(info)) for info in work.segments] + [(info, []) for _, info in work.empty]
    return sorted(found, key=lambda item: parse_segment_header(read_segment(item[0].path).header).number)


def _too_early(context: Context, sequencer: Sequencer) -> bool:
    elapsed_ms = sequencer.elapsed_ms()
    return elapsed_ms is not None and 0 <= elapsed_ms < context.config.seal.min_kit_interval_s * 1000
