# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 2: closed segments and labels become signed data kits in the outbox.

This file decides what goes into which kit, and what to do with what the disk does not give back; the
sequencer then places kits and tombstones in the device's series. A crash before a kit is committed leaves
its records in the spool. One kit at a time, in constant memory.

Spec: FORMAT.md section "Data kit".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from edgeprov._dataclass import replace
from edgeprov.device.context import Context
from edgeprov.device.discard import Range, Why, forget_present, lost_ranges, note_lost
from edgeprov.device.identity import verify_own_name
from edgeprov.device.kit_builder import build_parts
from edgeprov.device.kit_plan import KitPlan, group, is_due, numbers_of
from edgeprov.device.labels import label_models, model_labels
from edgeprov.device.rotation import request_rotation
from edgeprov.device.seal_recovery import quarantine_segment
from edgeprov.device.sequencer import Sealed, Sequencer
from edgeprov.device.series_state import SEAL_LOCK, first_active
from edgeprov.errors import NotStored, StoreBusy, StoreCorrupt
from edgeprov.formats.digest import Digest
from edgeprov.formats.segment import parse_segment_header
from edgeprov.store.spool import SegmentInfo, read_segment
from edgeprov.store.state import State

__all__ = ["Sealed", "seal"]


def seal(
    context: Context, *, due_only: bool = False, progress: Callable[[Sealed], None] = lambda _sealed: None
) -> list[Sealed]:
    """Seal what waits in the spools of all slots.

    Args:
        context: The device.
        due_only: Only when age, count or bytes of the ``seal`` settings are reached, and not within
            ``min_kit_interval_s`` of the last kit. Otherwise running recorders close their segments
            first and everything is sealed.
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
    with state.lock(SEAL_LOCK), context.tpm() as tpm:
        sequencer = Sequencer(context, state, tpm, progress)
        sequencer.recover()
        if due_only and _too_early(context, sequencer):
            return sequencer.done
        sealer = _Sealer(context, state, sequencer)
        for slot in state.slots():
            if due_only or not request_rotation(context, slot):
                _recover_spool(state, slot)
            sealer.seal_slot(slot, due_only=due_only)
        return sequencer.done


class _Sealer:
    def __init__(self, context: Context, state: State, sequencer: Sequencer) -> None:
        self._context = context
        self._state = state
        self._sequencer = sequencer

    def seal_slot(self, slot: str, *, due_only: bool) -> None:
        """All work of one slot: tombstones of what was discarded, kits, tombstones of what was damaged."""
        forget_present(self._state, slot)
        self._account(slot, "discarded")
        self._state.labels(slot).rotate()
        # Planned anew when a segment had to be set aside: a kit holds no chain with a hole.
        while not all(self._kit(work) for work in self._plan(slot, due_only=due_only)):
            pass
        self._account(slot, "damaged")

    def _account(self, slot: str, why: Why) -> None:
        for model, ranges in lost_ranges(self._state, slot, why).items():
            self._sequencer.add_tombstone(slot, model, why, ranges)

    def _plan(self, slot: str, *, due_only: bool) -> list[KitPlan]:
        known = []
        for info in self._state.spool(slot).segments():
            if not info.closed:
                continue
            if header := read_segment(info.path).header:
                known.append((info, parse_segment_header(header)))
            else:
                active = first_active(self._state)
                self._set_aside(slot, active.model if active else None, info)
        labelled = label_models(self._state, slot)
        if due_only and not is_due(known, bool(labelled), self._context.config.seal):
            return []
        plan = list(group(slot, known, self._context.config.seal))
        # Labels travel with the newest kit of their model, or in one of their own.
        for model in labelled:
            index = next((i for i in reversed(range(len(plan))) if plan[i].model == model), None)
            if index is None:
                plan.append(KitPlan(slot=slot, model=model, labels=True))
            else:
                plan[index] = replace(plan[index], labels=True)
        return plan

    def _kit(self, work: KitPlan) -> bool:
        """Seal one kit; False when the plan does not hold any more: plan again."""
        state, layout = self._state, self._state.layout
        labels = model_labels(state, work.slot)
        label_rows = labels.rows(work.model) if work.labels else iter(())
        # Within the batch no garbage collection can take the blobs that nothing names yet.
        with layout.batch():
            paths = [info.path for info in work.segments]
            part_bytes = self._context.config.seal.part_bytes
            try:
                contents = build_parts(layout, paths, label_rows, part_bytes)
            except StoreCorrupt:
                read = self._read_damaged(work)
                if read is None:
                    return False
                work = read
                label_rows = labels.rows(work.model) if work.labels else iter(())
                damaged = [path for path in paths if path.name in work.damaged]
                contents = build_parts(layout, paths, label_rows, part_bytes, damaged=damaged)
            except NotStored:
                if all(path.exists() for path in paths):
                    raise
                return False  # a recorder made room meanwhile
            sealed, intent = self._sequencer.sign_kit(work, contents, labels.names() if work.labels else [])
        self._sequencer.commit_kit(sealed, intent)
        return True

    def _read_damaged(self, work: KitPlan) -> KitPlan | None:
        """Find out what the segments still give back; None when one was set aside, or has gone."""
        from edgeprov.store.salvage import salvaged_numbers

        found: dict[str, list[Range]] = {}
        for info in work.segments:
            try:
                segment = read_segment(info.path)
                for _ in segment.rows():
                    pass
            except NotStored:
                return None
            except StoreCorrupt:
                # Without its quote no record of a segment can ever be verified.
                read = salvaged_numbers(segment, end=info.first + (info.records or 0)) if segment.evidence else []
                if not read:
                    self._set_aside(work.slot, work.model, info)
                    return None
                found[info.path.name] = read
        return replace(work, damaged=found)

    def _set_aside(self, slot: str, model: Digest | None, info: SegmentInfo) -> None:
        """Nothing of a segment can be proved: its numbers get a tombstone, its bytes go to quarantine."""
        if model is not None and info.records:
            note_lost(self._state, slot, model, numbers_of(info), "damaged")
        quarantine_segment(self._state, slot, info, "damaged: nothing in it can be proved")


def _too_early(context: Context, sequencer: Sequencer) -> bool:
    elapsed_ms = sequencer.elapsed_ms()
    return elapsed_ms is not None and 0 <= elapsed_ms < context.config.seal.min_kit_interval_s * 1000


def _recover_spool(state: State, slot: str) -> None:
    with suppress(StoreBusy):  # a recorder runs; it closes its segments itself
        state.spool(slot).recover()
