# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Kits that have their number and their evidence and wait for one signature over all of them.

With ``seal.batch_kits`` above 1 a kit is first numbered, attested and stored, and this much is written
into the seal's intent; then the next kit is numbered. One DSSE names them all. A crash in between loses
nothing: what the intent holds is signed at the next start, whatever boot that is.

Spec: FORMAT.md section "Statement", Batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, parse_b64
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.statement import SealedKit, SealEvidence
from edgeprov.formats.tpmt import Attestation

if TYPE_CHECKING:
    from edgeprov.device.kit_builder import Contents
    from edgeprov.formats.manifest import Manifest
    from edgeprov.store.layout import Layout

KIT = "kit"
EARLIER = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedKit:
    """A stored kit without signature.

    Attributes:
        intent: What to free once the kit is in the outbox; ``base`` is the counter before it.
        manifest: Stored, with its blobs.
        kit: Its digest, number and evidence.
        created_ns: Wall clock at sealing, also in the manifest.
        started_ns: Wall clock of its first record; None in a kit of labels only.
        details: Counts for the outbox.
        contents: None when it was read back after a crash.
    """

    intent: Mapping[str, Any]
    manifest: Manifest
    kit: SealedKit
    created_ns: int
    started_ns: int | None
    details: Mapping[str, Any]
    contents: Contents | None = None

    @property
    def slot(self) -> str:
        """Slot of the kit."""
        return str(self.intent["slot"])

    @property
    def model(self) -> Digest:
        """Source model of the kit."""
        return parse_digest(str(self.intent["model"]))

    def fits(self, slot: str, model: Digest, log: bytes) -> bool:
        """Whether a kit may stand in one statement with this one: they share model, slot and event log."""
        return (self.slot, self.model, self.kit.evidence.log) == (slot, model, log)


def intents_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a seal's document wants freed, by kit, in order of their numbers."""
    return [*document.get(EARLIER, ()), {key: value for key, value in document.items() if key != EARLIER}]


def encode_pending(kits: Sequence[NumberedKit], intent: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The seal's document while kits wait.

    Args:
        kits: Numbered, unsigned.
        intent: Of the kit whose number comes next; without it the last of ``kits`` is the newest.
    """
    items, log = [], None
    for kit in kits:  # the log of a boot is the same for all but in a rare race: written once
        items.append(_encode(kit, with_log=kit.kit.evidence.log != log))
        log = kit.kit.evidence.log
    if intent is not None:
        items.append(dict(intent))
    newest = items.pop()
    return {**newest, EARLIER: items} if items else newest


def load_pending(document: Mapping[str, Any], known: int, layout: Layout) -> list[NumberedKit]:
    """The kits above the number ``known`` that only lack their signature.

    Raises:
        FormatError: The document is damaged.
        StoreError: A manifest is gone.
    """
    result: list[NumberedKit] = []
    log = b""
    for item in intents_of(document):
        found = item.get(KIT)
        if found is None:
            continue
        try:
            log = parse_b64(found["log"], "intent: log") if found["log"] else log
            if int(item["base"]) >= known:
                result.append(_decode(item, found, log, layout))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the seal's intent is damaged: {error!r}") from error
    return result


def _encode(kit: NumberedKit, *, with_log: bool) -> dict[str, Any]:
    evidence = kit.kit.evidence
    return {
        **kit.intent,
        KIT: {
            "digest": str(kit.kit.digest),
            "seq": kit.kit.seq,
            "reset_count": kit.kit.reset_count,
            "quote": [b64(evidence.quote.attest), b64(evidence.quote.signature)],
            "counter": [b64(evidence.counter.attest), b64(evidence.counter.signature)],
            "log": b64(evidence.log) if with_log else "",
            "created_ns": kit.created_ns,
            "started_ns": kit.started_ns,
            "details": dict(kit.details),
        },
    }


def _decode(item: Mapping[str, Any], found: Mapping[str, Any], log: bytes, layout: Layout) -> NumberedKit:
    digest = parse_digest(str(found["digest"]))
    attestations = [
        Attestation(attest=parse_b64(first, "intent: attest"), signature=parse_b64(second, "intent: signature"))
        for first, second in (found["quote"], found["counter"])
    ]
    return NumberedKit(
        intent={key: value for key, value in item.items() if key != KIT},
        manifest=layout.load_manifest(digest),
        kit=SealedKit(
            digest=digest,
            seq=int(found["seq"]),
            reset_count=int(found["reset_count"]),
            evidence=SealEvidence(quote=attestations[0], counter=attestations[1], log=log),
        ),
        created_ns=int(found["created_ns"]),
        started_ns=None if found["started_ns"] is None else int(found["started_ns"]),
        details=dict(found["details"]),
    )
