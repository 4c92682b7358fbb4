# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From rows of the ledger to the values that the conclusion is drawn from.

Each chain tells for itself: one entry an artifact and chain, with the best verdict of that chain; the conclusion
merges what several tell. Only the roster's entries are not in the ledger: they come from its documents.

Spec: FORMAT.md section "Ledger", and CONCLUSION.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

from edgeprov.fleet.conclusion.types import (
    Chain,
    Checks,
    HeadFacts,
    Issuer,
    KitFacts,
    Knowledge,
    LabelRun,
    ModelFacts,
    Noise,
    RecordFacts,
    RosterEntryFacts,
    RosterFacts,
    SegmentFacts,
    SignatureFacts,
    StampFacts,
    TombstoneFacts,
)
from edgeprov.fleet.ledger.members import FoundSignature, SegmentRange
from edgeprov.fleet.ledger.rows import (
    HeadRow,
    ItemColumns,
    Judgement,
    KitRow,
    ModelRow,
    RecordRow,
    RosterRow,
    SignerRow,
    TombstoneRow,
)
from edgeprov.fleet.ledger.sightings import place_name, read_sightings
from edgeprov.fleet.ledger.views import LedgerView
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.formats.standing import DOUBTFUL, OpenSegment, Standing, Stop
from edgeprov.formats.tombstone import REASONS, LostRange, NumberEntry

_UNREAD: Final = "unread"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldChain:
    """One chain of a view, as the reader takes it.

    Attributes:
        name: Its name in the view.
        collector: Identity of the collector on whose word it rests; None for what the reader checked himself.
        chain: What is known of the chain as a whole; None for the reader's own.
        stamps: For each day the greatest ``seen`` in nanoseconds since 1970, ascending, and the timestamps of its
            signature.
    """

    name: str
    collector: str | None = None
    chain: Chain | None = None
    stamps: tuple[tuple[int, tuple[StampFacts, ...]], ...] = ()

    def stamps_at(self, seen_ns: int) -> tuple[StampFacts, ...]:
        """Timestamps over the table that holds a row of this time."""
        place = bisect_left(self.stamps, seen_ns, key=lambda item: item[0])
        return self.stamps[place][1] if place < len(self.stamps) else ()


@dataclass(slots=True)
class _Reader:
    view: LedgerView
    told: ToldChain
    where: str
    parameters: tuple[Any, ...]
    signers: dict[bytes, SignerRow] = field(default_factory=dict)

    def rows(self, kind: str, *, filtered: bool = True) -> Any:
        where = f"chain = ? AND ({self.where})" if filtered else "chain = ?"
        values = (self.told.name, *self.parameters) if filtered else (self.told.name,)
        return self.view.merged([kind], where, values)


def read_knowledge(
    view: LedgerView,
    chains: Sequence[ToldChain],
    *,
    rosters: Mapping[bytes, Sequence[RosterEntryFacts]],
    where: str = "true",
    parameters: Sequence[Any] = (),
) -> Knowledge:
    """Everything that some chains tell.

    Args:
        view: Holds the chains.
        chains: Those that count.
        rosters: Entries of each version of the roster by its digest; a version that is not here is not judged.
        where: A condition on ``enrollment`` for devices' items and records, as for one device or a part of all.
        parameters: Its values.

    Raises:
        StoreError: A file cannot be read.
    """
    found: dict[str, list[Any]] = {
        name: [] for name in ("records", "kits", "tombstones", "heads", "models", "rosters", "sightings", "noise")
    }
    signers = {
        row.digest: row for row in view.rows(["signer"]) if isinstance(row, SignerRow)
    }  # a key is the same whoever tells it
    for told in chains:
        reader = _Reader(view, told, where, tuple(parameters), signers)
        found["records"] += [_record(row, reader) for row in reader.rows("record")]
        found["kits"] += [_kit(row, reader) for row in reader.rows("kit")]
        found["tombstones"] += [_tombstone(row, reader) for row in reader.rows("tombstone")]
        found["heads"] += [_head(row, reader) for row in reader.rows("head")]
        tags = _model_tags(view, told.name)
        found["models"] += [_model(row, reader, tags) for row in reader.rows("model", filtered=False)]
        found["rosters"] += [_roster(row, reader, rosters) for row in reader.rows("roster", filtered=False)]
        kept = None if where == "true" else {item.digest for items in found.values() for item in items}
        found["sightings"] += read_sightings(view, told.name, told.collector, told.stamps_at, kept)
        found["noise"] += _noise(view, told)
    told_chains = tuple(told.chain for told in chains if told.chain is not None)
    return Knowledge(chains=told_chains, **{name: tuple(items) for name, items in found.items()})


def _checks(row: Judgement, told: ToldChain) -> Checks:
    return Checks(
        state="verified" if row.verdict == "verified" else "refused" if row.verdict == "refused" else "not-judged",
        signed=row.verdict == "verified" if row.signed is None else row.signed,
        by=told.collector,
        at=row.checked_ns or 0,
        rule=row.rule or "",
        detail=row.detail or "",
    )


def _signatures(items: Sequence[FoundSignature] | None, reader: _Reader) -> tuple[SignatureFacts, ...]:
    result = []
    for (digest, signer), group in groupby(sorted(items or (), key=_signature_key), key=lambda item: item[:2]):
        row = reader.signers.get(signer)
        if row is not None:
            stamps = [
                StampFacts(anchor=item.anchor, at=item.stamped_ns)
                for item in group
                if item.anchor is not None and item.stamped_ns is not None
            ]
            result.append(signature_of(row, digest, stamps))
    return tuple(result)


def _signature_key(item: FoundSignature) -> tuple[bytes, bytes, bytes, int]:
    return item.digest, item.signer, item.anchor or b"", item.stamped_ns or 0


def signature_of(row: SignerRow, digest: bytes, stamps: Sequence[StampFacts] = ()) -> SignatureFacts:
    """A signature by the key of a signer row."""
    return SignatureFacts(
        digest=digest,
        identity=row.identity,
        subject=tuple((item.name, item.value) for item in row.subject),
        key=row.key,
        certificate=row.certificate,
        serial=row.serial,
        issuers=tuple(Issuer(key=item.key, certificate=item.certificate, serial=item.serial) for item in row.issuers),
        anchor=row.anchor,
        not_before=row.not_before_ns,
        not_after=row.not_after_ns,
        stamps=tuple(stamps),
    )


def _record(row: RecordRow, reader: _Reader) -> RecordFacts:
    checks = _checks(row, reader.told)
    signer = reader.signers.get(row.certificate)
    if signer is None:  # a chain that leaves out the key proves nothing of the record
        checks = Checks(state="not-judged", signed=False, by=reader.told.collector, rule="signer row missing")
        signer = SignerRow(seen_ns=row.seen_ns, digest=row.certificate, identity="", key=bytes(32), anchor=bytes(32))
    return RecordFacts(
        digest=row.digest,
        enrollment=row.enrollment,
        device=DEVICE_URN_PREFIX + row.device,
        base=row.base,
        replaces=row.replaces,
        line=row.line,
        enrolled=row.created_ns or 0,
        assurance=row.assurance,
        certificate=signature_of(signer, row.digest),
        signatures=_signatures(row.signatures, reader),
        bin=row.bin,
        checks=checks,
    )


def _item(row: Any, reader: _Reader) -> dict[str, Any]:
    columns: ItemColumns = row
    return {
        "digest": row.digest,
        "enrollment": row.enrollment,
        "device": DEVICE_URN_PREFIX + row.device,
        "record": columns.record,
        "number": row.number,
        "reset_count": columns.reset_count or 0,
        "restart_count": columns.restart_count or 0,
        "clock_ms": columns.clock_ms or 0,
        "standing": _standing(columns),
        "firmware": int(columns.firmware or "0", 16),
        "model_pcr": 14 if columns.model_pcr is None else columns.model_pcr,
        "pcrs": tuple(
            tuple((item.pcr, item.value) for item in group)
            for _, group in groupby(columns.pcrs or (), key=lambda item: item.quote)
        ),
        "signatures": _signatures(getattr(row, "signatures", None), reader),
        "checks": _checks(columns, reader.told),
    }


def _standing(row: ItemColumns) -> Standing:
    return Standing(
        at_ns=row.made_ns or 0,
        floor_ns=row.floor_ns or 0,
        doubt=bool(row.doubt),
        final=bool(row.final),
        newest=row.newest,
        open=tuple(
            OpenSegment(
                number=item.number, header=item.header, slot=item.slot, first=item.first, last=item.last,
                leaf=item.leaf, least_ns=item.least_ns, greatest_ns=item.greatest_ns,
                flags=DOUBTFUL if item.doubt else 0,
            )
            for item in row.open or ()
        ),
        stops=tuple(Stop(**item._asdict()) for item in row.stops or ()),
    )  # fmt: skip


def _kit(row: KitRow, reader: _Reader) -> KitFacts:
    return KitFacts(
        **_item(row, reader),
        slot=row.slot,
        model=row.model,
        prev=row.prev,
        records=row.records,
        least=row.recorded_first_ns,
        greatest=row.recorded_last_ns,
        doubtful=row.doubtful,
        segments=_segments(row),
        labels=tuple(
            LabelRun(first=item.first, last=item.last, withdrawn=item.withdrawn) for item in row.labelled or ()
        ),
        leaves=tuple((item.n, item.leaf) for item in row.leaves or ()),
        times_read=bool(row.times_read),
        unavailable=row.missing or (),
        events=len(row.events or ()),
    )


def _segments(row: KitRow) -> tuple[SegmentFacts, ...]:
    return tuple(
        SegmentFacts(
            number=item.number, header=item.header, prev=item.prev, shared=item.shared, slot=item.slot,
            model=item.model, reset_count=item.reset_count, least=item.least_ns, greatest=item.greatest_ns,
            runtime=item.runtime, unused=_ranges_of(place, row.unused or ()),
            ranges=_ranges_of(place, row.ranges)
            if row.ranges is not None
            else ()
            if item.first is None or item.last is None
            else ((item.first, item.last),),
        )
        for place, item in enumerate(row.segments or ())
    )  # fmt: skip


def _ranges_of(place: int, ranges: Sequence[SegmentRange]) -> tuple[tuple[int, int], ...]:
    return tuple((item.first, item.last) for item in ranges if item.segment == place)


def _tombstone(row: TombstoneRow, reader: _Reader) -> TombstoneFacts:
    return TombstoneFacts(
        **_item(row, reader),
        slot=row.slot,
        model=row.model,
        prev=row.prev,
        numbers=tuple(
            NumberEntry(number=item.number, reason=REASONS.get(item.reason, "unknown"), header=item.header)
            for item in row.numbers or ()
        ),
        lost=tuple(
            LostRange(
                first=item.first, last=item.last, count=item.records, least=item.least_ns, greatest=item.greatest_ns,
                doubt=item.doubt, reason=REASONS.get(item.reason, "damaged"),
            )
            for item in row.lost or ()
        ),
    )  # fmt: skip


def _head(row: HeadRow, reader: _Reader) -> HeadFacts:
    return HeadFacts(**_item(row, reader), newest=row.prev, nonce=row.nonce, asked=row.asked_ns)


def _model_tags(view: LedgerView, chain: str) -> dict[bytes, list[str]]:
    tags: dict[bytes, list[str]] = {}
    for digest, tag in view.query(
        "SELECT DISTINCT digest, tag FROM ledger WHERE chain = ? AND tag IS NOT NULL "
        "AND digest IN (SELECT digest FROM ledger WHERE chain = ? AND row = 'model')",
        [chain, chain],
    ):
        tags.setdefault(digest, []).append(tag)
    return tags


def _model(row: ModelRow, reader: _Reader, tags: Mapping[bytes, Sequence[str]]) -> ModelFacts:
    return ModelFacts(
        digest=row.digest,
        name=row.name or "",
        version=row.version or "",
        tags=tuple(sorted(tags.get(row.digest, ()))),
        signatures=_signatures(row.signatures, reader),
        checks=_checks(row, reader.told),
    )


def _roster(row: RosterRow, reader: _Reader, rosters: Mapping[bytes, Sequence[RosterEntryFacts]]) -> RosterFacts:
    entries = rosters.get(row.digest)
    checks = _checks(row, reader.told)
    if entries is None and checks.state == "verified":
        checks = replace(checks, state="not-judged", rule=_UNREAD, detail="the document of this version is not at hand")
    return RosterFacts(
        digest=row.digest,
        version=row.number,
        issued=row.created_ns or 0,
        expires=row.expires_ns or 0,
        previous=row.prev,
        entries=tuple(entries or ()),
        signatures=_signatures(row.signatures, reader),
        checks=checks,
    )


def _noise(view: LedgerView, told: ToldChain) -> list[Noise]:
    # The same strangers' artifacts are counted each day: the largest count is the best one.
    question = (
        "SELECT source, repo, max(count) FROM ledger WHERE row = 'noise' AND chain = ? GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [
        Noise(source=place_name(source, repo), kind="artifact", count=count)
        for source, repo, count in view.query(question, [told.name])
    ]
