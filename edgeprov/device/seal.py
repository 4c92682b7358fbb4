# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 2: closed segments and labels become signed data kits in the outbox.

Order is the invariant: layers, intent, TPM counter, manifest, evidence, signatures, head of the
series (the commit point), outbox entry; only then is the spool freed. A crash before the head leaves
a number that a signed tombstone accounts for at the next start, and the records stay in the spool; a
crash after it is finished from the intent. One kit at a time, in constant memory.

Spec: FORMAT.md sections "Data kit", "Series" and "Tombstone".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov.device.batch import NumberedKit, encode_pending, intents_of, load_pending
from edgeprov.device.context import Context, timestamp
from edgeprov.device.discard import Range, Why, forget_present, lost_ranges, note_lost
from edgeprov.device.identity import counter_base
from edgeprov.device.kitplan import Work, group, is_due, numbers_of
from edgeprov.device.labels import label_models, model_labels
from edgeprov.device.outbox import data_repo, rebuild_outbox
from edgeprov.device.parts import Contents, build_parts
from edgeprov.device.release import drop_uncommitted, entry_of, free_sealed, quarantine_segment, rebuild_head
from edgeprov.device.rotation import request_rotation
from edgeprov.device.series import (
    INTENT,
    Head,
    load_head,
    model_descriptor,
    save_head,
)
from edgeprov.device.signing import Signature, Signer, save_signatures
from edgeprov.device.weights import find_model
from edgeprov.errors import FormatError, NotStored, StoreBusy, StoreCorrupt, StoreError
from edgeprov.formats.datakit import build_datakit, build_tombstone, kit_tag
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.segment import parse_segment_header
from edgeprov.formats.tombstone import Reason
from edgeprov.store.spool import RECORD, SegmentInfo, read_segment
from edgeprov.store.state import OutboxEntry, State
from edgeprov.values import dataclass, replace

if TYPE_CHECKING:
    from edgeprov.tpm.device import Tpm

SEAL_LOCK: Final = "seal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """One artifact that is now in the outbox.

    ``damaged`` names the segments of a kit that the disk did not give back as they were written,
    ``lost`` the records that are gone with it.
    """

    entry: OutboxEntry
    contents: Contents | None = None
    damaged: tuple[str, ...] = ()
    lost: tuple[Range, ...] = ()


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
        IdentityError: No keys or no certificate yet; the records stay in the spool.
        TpmError: The TPM failed; the records stay in the spool.
        StoreBusy: Another process is sealing.
        StoreFull: No space for the kit; the records stay in the spool.
    """
    state = context.state()
    with state.lock(SEAL_LOCK), context.tpm() as tpm:
        sealer = _Sealer(context, state, tpm, progress)
        sealer.recover()
        if due_only and sealer.too_early():
            return sealer.done
        for slot in state.slots():
            if due_only or not request_rotation(context, slot):
                _recover_spool(state, slot)
            sealer.seal_slot(slot, due_only=due_only)
        return sealer.done


def waiting(state: State, slot: str) -> tuple[int, int]:
    """Records and bytes of a slot that are in no kit yet; the open segment's rows are counted by reading it."""
    records = size = 0
    for info in state.spool(slot).segments():
        size += info.size_bytes
        records += info.records if info.records is not None else _count(info)
    return records, size


class _Sealer:
    def __init__(self, context: Context, state: State, tpm: Tpm, progress: Callable[[Sealed], None]) -> None:
        self._context = context
        self._state = state
        self._tpm = tpm
        self._signer = Signer(context, state, tpm)
        self._progress = progress
        self._pending: list[NumberedKit] = []
        self.done: list[Sealed] = []

    # -- after a crash --------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish what was committed, and account for numbers that were used up without a kit."""
        intent = self._state.load_document(INTENT)
        head = load_head(self._state) or rebuild_head(self._state)
        known = head.seq if head else counter_base(self._state)
        if intent and head and any(head.seq > int(item["base"]) for item in intents_of(intent)):
            self._finish(intent, head)
            intent = None
        elif intent:
            known = self._resume(intent, known)
        rebuild_outbox(self._context, self._state, known)
        counter = self._tpm.read_counter()
        if counter > known:
            drop_uncommitted(self._state, known)
            slot, model = self._anything(intent)
            if model is not None:
                self._tombstone(slot, model, "crash", (), seq=counter)
        if intent:
            self._state.remove_document(INTENT)

    def _anything(self, intent: Mapping[str, Any] | None) -> tuple[str, Digest | None]:
        if intent:
            return str(intent["slot"]), parse_digest(str(intent["model"]))
        for slot in self._state.slots():
            if (active := self._state.active(slot)) is not None:
                return slot, active.model
        return "", None

    def _resume(self, intent: Mapping[str, Any], known: int) -> int:
        """Sign the kits that a batch had numbered; returns the number of the last."""
        try:
            self._pending = load_pending(intent, known, self._state.layout)
        except (FormatError, StoreError) as error:
            journal.event("quarantined", f"a batch cannot be finished: {error.message}", priority=journal.ERROR)
            return known
        if not self._pending:
            return known
        last = self._pending[-1].kit.seq
        # First forget the kit that was next: a stop after the commit must not free its segments.
        self._state.save_document(INTENT, encode_pending(self._pending))
        self._sign_pending()
        return last

    def _finish(self, intent: Mapping[str, Any], head: Head) -> None:
        # The kits are complete and their numbers are taken. Unless one was already sent and freed, it
        # belongs into the outbox: the newest by the head, those of its batch by what the layout holds.
        entry = entry_of(head)
        if self._state.layout.has_manifest(entry.digest):
            self._state.save_outbox(entry)
        for item in intents_of(intent):
            if head.seq > int(item["base"]):
                free_sealed(self._state, item)
        self._state.remove_document(INTENT)

    # -- kits -----------------------------------------------------------------------------------

    def too_early(self) -> bool:
        """Whether the last kit is younger than min_kit_interval_s, by the TPM's own clock."""
        head = load_head(self._state)
        if head is None:
            return False
        elapsed_ms = self._tpm.clock().clock_ms - head.tpm_clock_ms
        return 0 <= elapsed_ms < self._context.config.seal.min_kit_interval_s * 1000

    def seal_slot(self, slot: str, *, due_only: bool) -> None:
        """All work of one slot: tombstones of what was discarded, kits, tombstones of what was damaged."""
        forget_present(self._state, slot)
        self._account(slot, "discarded")
        self._state.labels(slot).rotate()
        # Planned anew when a segment had to be set aside: a kit holds no chain with a hole.
        while not self._kits(self._plan(slot, due_only=due_only)):
            pass
        self._account(slot, "damaged")

    def _account(self, slot: str, why: Why) -> None:
        for model, ranges in lost_ranges(self._state, slot, why).items():
            self._tombstone(slot, model, why, ranges)

    def _plan(self, slot: str, *, due_only: bool) -> list[Work]:
        known = []
        for info in self._state.spool(slot).segments():
            if not info.closed:
                continue
            if header := read_segment(info.path).header:
                known.append((info, parse_segment_header(header)))
            else:
                self._set_aside(slot, self._anything(None)[1], info)
        labelled = label_models(self._state, slot)
        if due_only and not is_due(known, bool(labelled), self._context.config.seal):
            return []
        plan = list(group(slot, known, self._context.config.seal))
        # Labels travel with the newest kit of their model, or in one of their own.
        for model in labelled:
            index = next((i for i in reversed(range(len(plan))) if plan[i].model == model), None)
            if index is None:
                plan.append(Work(slot=slot, model=model, labels=True))
            else:
                plan[index] = replace(plan[index], labels=True)
        return plan

    def _kits(self, plan: Sequence[Work]) -> bool:
        """Seal kits in batches; False when the plan does not hold any more: plan again."""
        held = all(self._kit(work) for work in plan)
        self._sign_pending()
        return held

    def _kit(self, work: Work) -> bool:
        """Seal one kit, or number it for its batch; False when its plan does not hold any more."""
        if self._pending and not self._pending[0].fits(work.slot, work.model, self._signer.log()):
            self._sign_pending()
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
            intent = {
                "slot": work.slot,
                "model": str(work.model),
                "segments": [info.path.name for info in work.segments],
                "numbers": work.numbers(),
                "labels": labels.names() if work.labels else [],
                "lost": work.lost(),
                "broken": list(work.damaged),
            }
            self._pending.append(self._number_kit(work, contents, intent))
            full = len(self._pending) >= self._context.config.seal.batch_kits
            entries = self._sign() if full else []
        if full:
            self._commit_kits(entries)
        else:
            self._state.save_document(INTENT, encode_pending(self._pending))
        return True

    def _number_kit(self, work: Work, contents: Contents, intent: dict[str, Any]) -> NumberedKit:
        subject = self._subject(work.model)
        with self._tpm.group():
            seq = self._next_number(intent)
            prev = self._pending[-1].kit.digest if self._pending else self._head_digest()
            now_ns = time.time_ns()
            manifest, config = build_datakit(
                model=subject,
                device=self._context.urn,
                slot=work.slot,
                seq=seq,
                prev=prev,
                records=contents.records,
                labels=contents.labels,
                first=contents.first,
                last=contents.last,
                recorded_first_ns=contents.recorded_first_ns,
                recorded_last_ns=contents.recorded_last_ns,
                merkle=contents.merkle,
                parts=contents.parts,
                created=timestamp(now_ns),
            )
            kit = self._signer.attest(manifest.digest, seq)
        self._state.layout.save_blob(config, manifest.config.media_type)
        self._state.layout.save_manifest(manifest, ref=kit_tag(self._context.serial, seq, manifest.digest))
        details = {
            "records": contents.records,
            "labels": contents.labels,
            "first": contents.first,
            "last": contents.last,
            "bytes": sum(blob.size for blob in manifest.blobs),
        }
        started_ns = contents.recorded_first_ns
        return NumberedKit(
            intent=intent, manifest=manifest, kit=kit, created_ns=now_ns, started_ns=started_ns, details=details,
            contents=contents,
        )  # fmt: skip

    def _sign_pending(self) -> None:
        if self._pending:
            with self._state.layout.batch():
                entries = self._sign()
            self._commit_kits(entries)

    def _sign(self) -> list[OutboxEntry]:
        """One statement over all numbered kits; call within a batch of the layout."""
        first, kits = self._pending[0], [(kit.manifest, kit.kit) for kit in self._pending]
        started_ns = next((kit.started_ns for kit in self._pending if kit.started_ns is not None), None)
        signed = self._signer.sign_kits(kits, model=first.model, slot=first.slot, started_ns=started_ns)
        return [
            self._save("kit", kit.slot, kit.model, kit.kit.seq, kit.manifest, signatures, kit.created_ns, kit.details)
            for kit, signatures in zip(self._pending, signed, strict=True)
        ]

    def _commit_kits(self, entries: Sequence[OutboxEntry]) -> None:
        kits, self._pending = self._pending, []
        self._commit(entries, [kit.intent for kit in kits])
        for kit, entry in zip(kits, entries, strict=True):
            damaged, lost = kit.intent.get("broken", ()), kit.intent.get("lost", ())
            ranges = tuple((int(first), int(last)) for first, last in lost)
            sealed = Sealed(entry=entry, contents=kit.contents, damaged=tuple(damaged), lost=ranges)
            self.done.append(sealed)
            self._progress(sealed)
            journal.event(
                "kit-sealed",
                f"slot {kit.slot}: kit {entry.seq} with {entry.info['records']} records sealed",
                slot=kit.slot,
                model_digest=kit.model,
                kit_digest=entry.digest,
                seq=entry.seq,
            )

    def _head_digest(self) -> Digest | None:
        head = load_head(self._state)
        return head.digest if head else None

    def _tombstone(
        self,
        slot: str,
        model: Digest,
        reason: Reason,
        lost: Sequence[Range],
        *,
        seq: int | None = None,
    ) -> None:
        intent: dict[str, Any] = {
            "slot": slot,
            "model": str(model),
            "segments": [],
            "numbers": [],
            "labels": [],
            "discarded": lost if reason == "discarded" else [],
            "damaged": lost if reason == "damaged" else [],
        }
        subject = self._subject(model)
        with self._state.layout.batch():
            with self._tpm.group():
                number = self._next_number(intent) if seq is None else seq
                intent.setdefault("base", number - 1)
                now_ns = time.time_ns()
                manifest, layer = build_tombstone(
                    model=subject,
                    device=self._context.urn,
                    slot=slot,
                    seq=number,
                    prev=self._head_digest(),
                    reason=reason,
                    discarded=lost,
                    at=timestamp(now_ns),
                )
                signatures = self._signer.sign_tombstone(manifest, model=model, slot=slot, seq=number)
            self._state.layout.save_blob(layer, manifest.layers[0].media_type)
            self._state.layout.save_blob(EMPTY_BLOB, manifest.config.media_type)
            details = {"reason": reason, "records": 0, "labels": 0, "bytes": sum(b.size for b in manifest.blobs)}
            entry = self._save("tombstone", slot, model, number, manifest, signatures, now_ns, details)
        self._commit([entry], [intent])
        sealed = Sealed(entry=entry)
        self.done.append(sealed)
        self._progress(sealed)
        journal.event(
            "tombstone-signed",
            f"slot {slot}: number {number} is a tombstone: {reason}",
            priority=journal.WARNING,
            slot=slot,
            model_digest=model,
            seq=number,
        )

    def _subject(self, model: Digest) -> Descriptor:
        try:
            return model_descriptor(self._state, model)
        except NotStored:
            return find_model(self._context, self._state, model).manifest.descriptor

    def _next_number(self, intent: dict[str, Any]) -> int:
        intent["base"] = self._tpm.read_counter()
        self._state.save_document(INTENT, encode_pending(self._pending, intent))
        return self._tpm.increment_counter()

    def _save(
        self,
        kind: str,
        slot: str,
        model: Digest,
        seq: int,
        manifest: Manifest,
        signatures: list[Signature],
        now_ns: int,
        details: Mapping[str, Any],
    ) -> OutboxEntry:
        tag = kit_tag(self._context.serial, seq, manifest.digest)
        self._state.layout.save_manifest(manifest, ref=tag)
        save_signatures(self._state.layout, signatures)
        repo = data_repo(self._context, model, timestamp(now_ns))
        info = {
            **details,
            "slot": slot,
            "model": str(model),
            "created": timestamp(now_ns),
            "signatures": [str(signature.manifest.digest) for signature in signatures],
        }
        return OutboxEntry(kind=kind, digest=manifest.digest, seq=seq, repo=repo, tag=tag, state="sealed", info=info)

    def _commit(self, entries: Sequence[OutboxEntry], intents: Sequence[Mapping[str, Any]]) -> None:
        clock_ms, newest = self._tpm.clock().clock_ms, entries[-1]
        document = {"kind": newest.kind, "repo": newest.repo, "tag": newest.tag, "info": dict(newest.info)}
        save_head(self._state, Head(seq=newest.seq, digest=newest.digest, tpm_clock_ms=clock_ms, entry=document))
        for entry in entries:
            self._state.save_outbox(entry)
        for intent in intents:
            free_sealed(self._state, intent)
        self._state.remove_document(INTENT)

    # -- damage ---------------------------------------------------------------------------------

    def _read_damaged(self, work: Work) -> Work | None:
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


def _recover_spool(state: State, slot: str) -> None:
    with suppress(StoreBusy):  # a recorder runs; it closes its segments itself
        state.spool(slot).recover()


def _count(info: SegmentInfo) -> int:
    return sum(kind == RECORD for kind, _ in read_segment(info.path).frames())
