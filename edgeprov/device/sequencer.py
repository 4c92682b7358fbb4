# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's series at work: a kit or tombstone gets its number, its evidence, its signature, and its place.

Order is the invariant: intent, TPM counter, manifest, evidence, signatures, head of the series (the
commit point), outbox entry; only then is the spool freed. A crash before the head leaves a number that a
signed tombstone accounts for at the next start; a crash after it is finished from the intent.

Spec: FORMAT.md sections "Series" and "Tombstone".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.device.context import Context
from edgeprov.device.identity import counter_base
from edgeprov.device.model_store import find_model
from edgeprov.device.outbox import data_repo, rebuild_outbox
from edgeprov.device.seal_recovery import drop_uncommitted, entry_of, free_sealed, rebuild_head
from edgeprov.device.series_state import INTENT, SeriesHead, first_active, load_head, model_descriptor, save_head
from edgeprov.device.signing import DeviceSigner, Signature, save_signatures
from edgeprov.errors import NotStored
from edgeprov.formats.datakit import build_datakit, build_tombstone, kit_tag
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.store.state import OutboxEntry, State

if TYPE_CHECKING:
    from edgeprov.device.discard import Range
    from edgeprov.device.kit_builder import Contents
    from edgeprov.device.kit_plan import KitPlan
    from edgeprov.formats.tombstone import Reason
    from edgeprov.tpm.device import Tpm


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


class Sequencer:
    """Gives kits and tombstones their place in the series. One at a time on a device: under series.SEAL_LOCK.

    Attributes:
        done: What was committed, in order of the numbers.
    """

    def __init__(self, context: Context, state: State, tpm: Tpm, progress: Callable[[Sealed], None]) -> None:
        self._context = context
        self._state = state
        self._tpm = tpm
        self._signer = DeviceSigner(context, state, tpm)
        self._progress = progress
        self.done: list[Sealed] = []

    # -- after a crash --------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish what was committed, and account for numbers that were used up without a kit."""
        intent = self._state.load_document(INTENT)
        head = load_head(self._state) or rebuild_head(self._state)
        known = head.seq if head else counter_base(self._state)
        if intent and head and head.seq > int(intent["base"]):
            self._finish(intent, head)
            intent = None
        rebuild_outbox(self._context, self._state, known)
        counter = self._tpm.read_counter()
        if counter > known:
            drop_uncommitted(self._state, known)
            if intent:
                self.add_tombstone(str(intent["slot"]), parse_digest(str(intent["model"])), "crash", (), seq=counter)
            elif active := first_active(self._state):
                self.add_tombstone(active.slot, active.model, "crash", (), seq=counter)
        if intent:
            self._state.remove_document(INTENT)

    def _finish(self, intent: Mapping[str, Any], head: SeriesHead) -> None:
        # The kit is complete and its number is taken. Unless it was already sent and freed, it belongs into the outbox.
        entry = entry_of(head)
        if self._state.layout.has_manifest(entry.digest):
            self._state.save_outbox(entry)
        free_sealed(self._state, intent)
        self._state.remove_document(INTENT)

    # -- kits -----------------------------------------------------------------------------------

    def elapsed_ms(self) -> int | None:
        """Milliseconds since the last kit by the TPM's own clock; None before the first."""
        head = load_head(self._state)
        return self._tpm.clock().clock_ms - head.tpm_clock_ms if head else None

    def sign_kit(self, work: KitPlan, contents: Contents, labels: Sequence[str]) -> tuple[Sealed, dict[str, Any]]:
        """Number, attest, sign and store one kit.

        Call within a batch of the layout, in which no garbage collection can take the blobs that nothing
        names yet, and commit_kit() after it.

        Returns:
            The kit, and its intent.

        Raises:
            TpmError: The TPM failed; the stored intent tells what a next start has to account for.
            StoreError: The disk failed; likewise.
        """
        intent: dict[str, Any] = {
            "slot": work.slot,
            "model": str(work.model),
            "segments": [info.path.name for info in work.segments],
            "numbers": work.numbers(),
            "labels": list(labels),
            "lost": work.lost(),
            "broken": list(work.damaged),
        }
        subject = self._subject(work.model)
        with self._tpm.group():
            seq = self._next_number(intent)
            now_ns = time.time_ns()
            manifest, config = build_datakit(
                model=work.model,
                subject=subject,
                device=self._context.urn,
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
                parts=contents.parts,
                created=rfc3339_of_ns(now_ns),
            )
            signatures = self._signer.sign_kit(
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
        entry = self._save("kit", work.slot, work.model, seq, manifest, signatures, now_ns, details)
        return Sealed(entry=entry, contents=contents, damaged=tuple(work.damaged), lost=tuple(work.lost())), intent

    def commit_kit(self, sealed: Sealed, intent: Mapping[str, Any]) -> None:
        """Make a signed kit the head of the series, put it into the outbox and free its records.

        Raises:
            StoreError: The disk failed; the next start accounts for the kit.
        """
        self._commit(sealed, intent)
        entry = sealed.entry
        journal.event(
            "kit-sealed",
            f"slot {intent['slot']}: kit {entry.seq} with {entry.info['records']} records sealed",
            slot=intent["slot"],
            model_digest=intent["model"],
            kit_digest=entry.digest,
            seq=entry.seq,
        )

    # -- tombstones -----------------------------------------------------------------------------

    def add_tombstone(
        self,
        slot: str,
        model: Digest,
        reason: Reason,
        lost: Sequence[Range],
        *,
        seq: int | None = None,
    ) -> None:
        """Sign and commit a tombstone.

        Args:
            slot: Slot of the lost records.
            model: The model that made them.
            reason: Why they, or the number alone, are lost.
            lost: Their ranges.
            seq: A number that the counter has already reached; without it the next one is taken.

        Raises:
            TpmError: The TPM failed.
            StoreError: The disk failed.
        """
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
                    model=model,
                    subject=subject,
                    device=self._context.urn,
                    slot=slot,
                    seq=number,
                    prev=self._head_digest(),
                    reason=reason,
                    discarded=lost,
                    at=rfc3339_of_ns(now_ns),
                )
                signatures = self._signer.sign_tombstone(manifest, model=model, slot=slot, seq=number)
            self._state.layout.save_blob(layer, manifest.layers[0].media_type)
            self._state.layout.save_blob(EMPTY_BLOB, manifest.config.media_type)
            details = {"reason": reason, "records": 0, "labels": 0, "bytes": sum(b.size for b in manifest.blobs)}
            entry = self._save("tombstone", slot, model, number, manifest, signatures, now_ns, details)
        self._commit(Sealed(entry=entry), intent)
        journal.event(
            "tombstone-signed",
            f"slot {slot}: number {number} is a tombstone: {reason}",
            priority=journal.WARNING,
            slot=slot,
            model_digest=model,
            seq=number,
        )

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

    def _next_number(self, intent: dict[str, Any]) -> int:
        intent["base"] = self._tpm.read_counter()
        self._state.save_document(INTENT, intent)
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
        repo = data_repo(self._context, model, rfc3339_of_ns(now_ns))
        info = {
            **details,
            "slot": slot,
            "model": str(model),
            "created": rfc3339_of_ns(now_ns),
            "signatures": [str(signature.manifest.digest) for signature in signatures],
        }
        return OutboxEntry(kind=kind, digest=manifest.digest, seq=seq, repo=repo, tag=tag, state="sealed", info=info)

    def _commit(self, sealed: Sealed, intent: Mapping[str, Any]) -> None:
        clock_ms, entry = self._tpm.clock().clock_ms, sealed.entry
        document = {"kind": entry.kind, "repo": entry.repo, "tag": entry.tag, "info": dict(entry.info)}
        save_head(self._state, SeriesHead(seq=entry.seq, digest=entry.digest, tpm_clock_ms=clock_ms, entry=document))
        self._state.save_outbox(entry)
        free_sealed(self._state, intent)
        self._state.remove_document(INTENT)
        self.done.append(sealed)
        self._progress(sealed)
