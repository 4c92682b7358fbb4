# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's series at work: a kit or tombstone gets its number, its evidence, its signature, and its place.

Order is the invariant: intent, TPM counter, manifest, evidence, signatures, head of the series (the commit point),
outbox entry; only then is the spool freed. A crash before the head leaves a number that the next tombstone names; a
crash after it is finished from the intent.

Spec: FORMAT.md sections "Series" and "Tombstone".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.device.context import Context
from edgeprov.device.counter_state import COUNTER_LOCK, Reconciled, reconcile, take_number
from edgeprov.device.discard import lost_ranges
from edgeprov.device.events import waiting_events
from edgeprov.device.kit_builder import save_evidence
from edgeprov.device.kit_repository import data_repo
from edgeprov.device.lost import Loss, encode_losses, forget_present, load_losses
from edgeprov.device.model_store import find_model
from edgeprov.device.outbox import rebuild_outbox
from edgeprov.device.seal_recovery import drop_uncommitted, finish_committed, rebuild_head, settle
from edgeprov.device.segments import drop_unquoted
from edgeprov.device.series_state import INTENT, SeriesHead, first_active, load_head, model_descriptor, save_head
from edgeprov.device.signing import DeviceSigner, Signature, save_signatures
from edgeprov.device.standing_maker import StandingMaker
from edgeprov.errors import NotStored
from edgeprov.formats.datakit import build_datakit, kit_tag
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.evidence_part import encode_evidence
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.formats.tombstone import NumberEntry, build_tombstone
from edgeprov.limits import LIMITS
from edgeprov.store.state import OutboxEntry, State

if TYPE_CHECKING:
    from edgeprov.device.kit_builder import Contents
    from edgeprov.device.kit_plan import KitPlan
    from edgeprov.device.proved_time import Stamp
    from edgeprov.store.spool import Range
    from edgeprov.tpm.device import Tpm

_NAMED_AT_ONCE: Final = LIMITS.tombstone_entries // 2


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A kit or tombstone with its number, before it is the head of the series."""

    sealed: Sealed
    intent: Mapping[str, Any]
    tpm_clock_ms: int


class Sequencer:
    """Gives kits and tombstones their place in the series. One at a time on a device: under series.SEAL_LOCK.

    Attributes:
        done: What was committed, in order of the numbers.
        standings: Makes the standing of each item.
    """

    def __init__(self, context: Context, state: State, tpm: Tpm, progress: Callable[[Sealed], None]) -> None:
        self._context = context
        self._state = state
        self._tpm = tpm
        self._signer = DeviceSigner(context, state, tpm)
        self._progress = progress
        self.standings = StandingMaker(context, state)
        self.done: list[Sealed] = []

    # -- after a crash --------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish what was committed, and sign for numbers that were used up without a kit.

        Raises:
            TpmError: The TPM failed.
            StoreError: The state cannot be changed.
        """
        with self._state.lock(COUNTER_LOCK, wait=True):
            finish_committed(self._state)
            head = load_head(self._state) or rebuild_head(self._state)
            found = reconcile(self._state, self._tpm)
            known = head.seq if head else 0
            rebuild_outbox(self._context, self._state, known)
            drop_uncommitted(self._state, known)
        for slot in self._state.slots():
            forget_present(self._state, slot)
        named = sorted(found.state.owed, key=lambda item: (item.number, item.header or b""))
        active = first_active(self._state)
        while named and active is not None:
            self.add_tombstone(active.slot, active.model, named[:_NAMED_AT_ONCE])
            named = named[_NAMED_AT_ONCE:]
        # Before any item lists what is open: a segment that was given up is in no list.
        for slot in self._state.slots():
            self.account_losses(slot)

    def account_losses(self, slot: str) -> None:
        """Sign for the lost segments and records of a slot that no tombstone names yet. Errors as in add_tombstone."""
        losses = [loss for loss in load_losses(self._state, slot) if loss.model is not None]
        for model in dict.fromkeys(loss.model for loss in losses):
            if model is not None:
                self.add_tombstone(slot, model, (), [loss for loss in losses if loss.model == model])

    def has_half_taken_number(self) -> bool:
        """Whether a number was taken from the counter that nothing stands under yet.

        Raises:
            TpmError: The TPM failed.
        """
        with self._state.lock(COUNTER_LOCK, wait=True):
            return reconcile(self._state, self._tpm).half_taken

    # -- kits -----------------------------------------------------------------------------------

    def elapsed_ms(self) -> int | None:
        """Milliseconds since the last kit by the TPM's own clock; None before the first."""
        head = load_head(self._state)
        return self._tpm.clock().clock_ms - head.tpm_clock_ms if head else None

    def sign_kit(self, work: KitPlan, contents: Contents, labels: Sequence[str], moment: Stamp) -> Signed:
        """Number, attest, sign and store one kit.

        Call under COUNTER_LOCK and within a batch of the layout, in which no garbage collection can take the blobs
        that nothing names yet, and commit() after the batch, still under the lock.

        Args:
            work: The plan.
            contents: Its parts.
            labels: Names of the label logs that it holds.
            moment: From standings.begin().

        Raises:
            TpmError: The TPM failed; the stored intent tells what a next start has to account for.
            StoreError: The disk failed; likewise.
        """
        found = reconcile(self._state, self._tpm)
        standing, stops = self.standings.make(moment, found.state.newest, sealed=work.paths())
        events = waiting_events(self._state)
        losses = [
            Loss(model=work.model, number=None, ranges=lost_ranges(info, work.lost(info), "damaged"))
            for info in work.segments
            if work.lost(info)
        ]
        intent = self._intent(found, work.slot, work.model) | {
            "segments": [
                *([work.slot, info.path.name] for info in work.segments),
                *([slot, info.path.name] for slot, info in work.empty),
            ],
            "numbers": work.numbers(),
            "labels": list(labels),
            "losses": encode_losses(losses),
            "broken": list(work.damaged),
            "stops": stops,
            "events": events.last,
        }
        subject = self._subject(work.model)
        evidence = save_evidence(self._state.layout, encode_evidence(contents.segments, standing, events.events))
        created = rfc3339_of_ns(moment.at_ns)
        with self._tpm.group():
            seq = self._take_number(found, intent)
            manifest, config = build_datakit(
                model=work.model,
                subject=subject,
                device=self._context.urn,
                enrollment=self._context.enrollment,
                slot=work.slot,
                seq=seq,
                prev=self._head_digest(),
                records=contents.records,
                labels=contents.labels,
                first=contents.first,
                last=contents.last,
                recorded_first_ns=contents.recorded_first_ns,
                recorded_last_ns=contents.recorded_last_ns,
                merkle=contents.merkle,
                labels_merkle=contents.labels_merkle,
                parts=(*contents.parts, evidence),
                created=created,
            )
            signatures, clock_ms = self._signer.sign_kit(
                manifest, model=work.model, slot=work.slot, seq=seq, started_ns=contents.recorded_first_ns
            )
        self._state.layout.save_blob(config, manifest.config.media_type)
        details = {
            "records": contents.records,
            "labels": contents.labels,
            "first": contents.first,
            "last": contents.last,
            "bytes": sum(blob.size for blob in manifest.blobs),
        }
        entry = self._save("kit", work.slot, work.model, seq, manifest, signatures, created, details)
        lost = tuple(item for info in work.segments for item in work.lost(info))
        sealed = Sealed(entry=entry, contents=contents, damaged=tuple(work.damaged), lost=lost)
        return Signed(sealed=sealed, intent=intent, tpm_clock_ms=clock_ms)

    def commit(self, signed: Signed) -> None:
        """Make a signed kit or tombstone the head of the series, put it into the outbox and free what it holds.

        Raises:
            StoreError: The disk failed; the next start finishes it.
        """
        entry = signed.sealed.entry
        document = {"kind": entry.kind, "repo": entry.repo, "tag": entry.tag, "info": dict(entry.info)}
        head = SeriesHead(seq=entry.seq, digest=entry.digest, tpm_clock_ms=signed.tpm_clock_ms, entry=document)
        save_head(self._state, head)
        settle(self._state, head, signed.intent)
        self.done.append(signed.sealed)
        self._progress(signed.sealed)
        slot, model = signed.intent["slot"], signed.intent["model"]
        if entry.kind == "kit":
            message = f"slot {slot}: kit {entry.seq} with {entry.info['records']} records sealed"
            journal.event("kit-sealed", message, slot=slot, model_digest=model, kit_digest=entry.digest, seq=entry.seq)
        else:
            message = f"slot {slot}: tombstone {entry.seq} signed: {entry.info['reason']}"
            journal.event(
                "tombstone-signed", message, priority=journal.WARNING, slot=slot, model_digest=model, seq=entry.seq
            )

    # -- tombstones -----------------------------------------------------------------------------

    def add_tombstone(
        self, slot: str, model: Digest, numbers: Sequence[NumberEntry] = (), losses: Sequence[Loss] = ()
    ) -> None:
        """Sign and commit a tombstone, with a number of its own.

        Args:
            slot: Slot of the lost records.
            model: The model that made them.
            numbers: Earlier numbers that no kit explains.
            losses: Lost segments and records of the slot, for which no tombstone stands yet.

        Raises:
            TpmError: The TPM failed.
            StoreError: The disk failed.
        """
        moment = self.standings.begin()
        entries = {
            (item.number, item.header or b""): item
            for item in (*numbers, *(loss.number for loss in losses if loss.number is not None))
        }
        lost = sorted((item for loss in losses for item in loss.ranges), key=lambda item: item.first)
        subject = self._subject(model)
        with self._state.lock(COUNTER_LOCK, wait=True):
            with self._state.layout.batch():
                found = reconcile(self._state, self._tpm)
                standing, _ = self.standings.make(moment, found.state.newest)
                named = [[item.number, item.header.hex() if item.header else None] for item in entries.values()]
                intent = self._intent(found, slot, model) | {"named": named, "told": encode_losses(losses)}
                created = rfc3339_of_ns(moment.at_ns)
                with self._tpm.group():
                    number = self._take_number(found, intent)
                    manifest, layer = build_tombstone(
                        model=model,
                        subject=subject,
                        device=self._context.urn,
                        enrollment=self._context.enrollment,
                        slot=slot,
                        seq=number,
                        prev=self._head_digest(),
                        numbers=[entries[key] for key in sorted(entries)],
                        lost=lost,
                        standing=standing,
                        at=created,
                    )
                    signatures, clock_ms = self._signer.sign_tombstone(manifest, model=model, slot=slot, seq=number)
                self._state.layout.save_blob(layer, manifest.layers[0].media_type)
                self._state.layout.save_blob(EMPTY_BLOB, manifest.config.media_type)
                reasons = sorted({*(item.reason for item in entries.values()), *(item.reason for item in lost)})
                details = {
                    "reason": ", ".join(reasons) or "a number without a segment",
                    "records": 0,
                    "labels": 0,
                    "bytes": sum(b.size for b in manifest.blobs),
                }
                entry = self._save("tombstone", slot, model, number, manifest, signatures, created, details)
            self.commit(Signed(sealed=Sealed(entry=entry), intent=intent, tpm_clock_ms=clock_ms))

    # -- both -----------------------------------------------------------------------------------

    def _subject(self, model: Digest) -> Descriptor | None:
        if self._context.config.registry.subject != "model":
            return None
        try:
            return model_descriptor(self._state, model)
        except NotStored:
            return find_model(self._context, self._state, model).manifest.descriptor

    def _head_digest(self) -> Digest | None:
        head = load_head(self._state)
        return head.digest if head else None

    def _intent(self, found: Reconciled, slot: str, model: Digest) -> dict[str, Any]:
        return {
            "number": found.number,
            "slot": slot,
            "model": str(model),
            "segments": [],
            "numbers": [],
            "labels": [],
            "losses": [],
            "broken": [],
            "named": [],
            "told": [],
            "stops": [],
            "events": 0,
        }

    def _take_number(self, found: Reconciled, intent: Mapping[str, Any]) -> int:
        self._state.save_document(INTENT, intent)
        drop_unquoted(self._state, found.unquoted)
        return take_number(self._tpm, found)

    def _save(
        self,
        kind: str,
        slot: str,
        model: Digest,
        seq: int,
        manifest: Manifest,
        signatures: list[Signature],
        created: str,
        details: Mapping[str, Any],
    ) -> OutboxEntry:
        tag = kit_tag(self._context.serial, seq, manifest.digest)
        self._state.layout.save_manifest(manifest, ref=tag)
        save_signatures(self._state.layout, signatures)
        repo = data_repo(self._context, model, created)
        info = {
            **details,
            "slot": slot,
            "model": str(model),
            "created": created,
            "signatures": [str(signature.manifest.digest) for signature in signatures],
        }
        return OutboxEntry(kind=kind, digest=manifest.digest, seq=seq, repo=repo, tag=tag, state="sealed", info=info)
