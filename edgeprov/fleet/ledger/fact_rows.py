# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From the facts of checked artifacts to rows of the ledger; the other way is knowledge.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from edgeprov.errors import FormatError
from edgeprov.fleet.conclusion.types import (
    Checks,
    HeadFacts,
    ItemFacts,
    KitFacts,
    ModelFacts,
    RecordFacts,
    RosterFacts,
    SignatureFacts,
    TombstoneFacts,
)
from edgeprov.fleet.ledger.members import (
    Attribute,
    DeviceAct,
    FoundSignature,
    LabelSpan,
    Leaf,
    ListedSegment,
    ListedStop,
    LostRecords,
    NumberMember,
    PathIssuer,
    Pcr,
    SealedSegment,
    SegmentRange,
)
from edgeprov.fleet.ledger.rows import (
    HeadRow,
    KitRow,
    ModelRow,
    RecordRow,
    RosterRow,
    Row,
    SignerRow,
    TombstoneRow,
)
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.segment import device_serial
from edgeprov.formats.standing import DOUBTFUL


def signer_row(found: SignatureFacts, seen_ns: int) -> SignerRow:
    """The row of the key behind a signature."""
    row = SignerRow(
        seen_ns=seen_ns,
        digest=bytes(32),
        identity=found.identity,
        subject=tuple(Attribute(name, value) for name, value in found.subject),
        key=found.key,
        certificate=found.certificate,
        serial=found.serial,
        issuers=tuple(PathIssuer(item.key, item.certificate, item.serial) for item in found.issuers),
        anchor=found.anchor,
        not_before_ns=found.not_before,
        not_after_ns=found.not_after,
    )
    return replace(row, digest=signer_digest(row))


def signer_digest(row: SignerRow) -> bytes:
    """The digest that stands for a key with its path: SHA-256 of its JSON without row, seen and digest."""
    members = {
        item.name.removesuffix("_ns"): _plain(getattr(row, item.name))
        for item in fields(row)
        if item.name not in {"seen_ns", "digest"}
    }
    return hashlib.sha256(encode_json(members)).digest()


def rows_of(
    found: RecordFacts | KitFacts | TombstoneFacts | HeadFacts | ModelFacts | RosterFacts, seen_ns: int, place: Any,
    *, events: Sequence[DeviceAct] = (), **more: Any,
) -> list[Row]:  # fmt: skip
    """The row of an artifact, after the rows of the keys that signed it.

    Args:
        found: What was checked.
        seen_ns: The collector's clock.
        place: ``source``, ``repo`` and perhaps ``tag`` and ``bytes``, as a mapping.
        events: Of a kit: as many as its facts count.
        more: Columns that the facts do not have, such as ``edgeprov``, ``depth``, ``basis``.

    Raises:
        FormatError: A device's URN is none, or the events do not fit the facts.
    """
    signatures = list(found.signatures)
    members: dict[str, Any] = {"seen_ns": seen_ns, "digest": found.digest, **place, **_checks(found.checks), **more}
    if isinstance(found, RecordFacts):
        signatures.append(found.certificate)
    signers = [signer_row(item, seen_ns) for item in signatures]
    if isinstance(found, RecordFacts):
        members["certificate"] = signers[-1].digest
    if not isinstance(found, HeadFacts):
        members["signatures"] = _signatures(found.signatures, signers)
    row: Row
    if isinstance(found, ItemFacts):
        row = _item_row(found, members, events)
    elif isinstance(found, RecordFacts):
        row = RecordRow(
            **members, enrollment=found.enrollment, device=device_serial(found.device), base=found.base,
            line=found.line, replaces=found.replaces, bin=found.bin, assurance=found.assurance,
            created_ns=found.enrolled,
        )  # fmt: skip
    elif isinstance(found, ModelFacts):
        row = ModelRow(**members, name=found.name, version=found.version)
    else:
        row = RosterRow(
            **members, number=found.version, prev=found.previous, created_ns=found.issued, expires_ns=found.expires
        )
    return [*{signer.digest: signer for signer in signers}.values(), row]


def _item_row(found: ItemFacts, members: dict[str, Any], events: Sequence[DeviceAct]) -> Row:
    standing = found.standing
    members |= {
        "enrollment": found.enrollment, "device": device_serial(found.device), "number": found.number,
        "record": found.record, "reset_count": found.reset_count, "restart_count": found.restart_count,
        "clock_ms": found.clock_ms, "firmware": f"{found.firmware:016x}", "model_pcr": found.model_pcr,
        "pcrs": tuple(Pcr(quote, pcr, value) for quote, values in enumerate(found.pcrs) for pcr, value in values),
        "made_ns": standing.at_ns, "floor_ns": standing.floor_ns, "doubt": standing.doubt, "final": standing.final,
        "newest": standing.newest,
        "open": tuple(
            ListedSegment(item.number, item.header, item.slot, item.first, item.last, item.leaf, item.least_ns,
                          item.greatest_ns, bool(item.flags & DOUBTFUL))
            for item in standing.open
        ),
        "stops": tuple(
            ListedStop(item.slot, item.header, item.after, item.resumed, item.bound_ms, item.at_ns)
            for item in standing.stops
        ),
    }  # fmt: skip
    if isinstance(found, KitFacts):
        return _kit_row(found, members, events)
    if isinstance(found, TombstoneFacts):
        return TombstoneRow(
            **members, slot=found.slot, model=found.model, prev=found.prev,
            numbers=tuple(NumberMember(item.number, item.reason, item.header) for item in found.numbers),
            lost=tuple(
                LostRecords(item.first, item.last, item.count, item.least, item.greatest, item.doubt, item.reason)
                for item in found.lost
            ),
        )  # fmt: skip
    if isinstance(found, HeadFacts):
        return HeadRow(**members, prev=found.newest, nonce=found.nonce, asked_ns=found.asked)
    raise FormatError(f"{type(found).__name__} is no item of a device")


def _kit_row(found: KitFacts, members: dict[str, Any], events: Sequence[DeviceAct]) -> KitRow:
    if len(events) != found.events:
        raise FormatError(f"{len(events)} events for a kit that has {found.events}")
    numbers = [bounds for item in found.segments for bounds in item.ranges]
    whole = all(len(item.ranges) <= 1 for item in found.segments)
    return KitRow(
        **members, slot=found.slot, model=found.model, prev=found.prev, records=found.records,
        labels=sum(item.last - item.first + 1 for item in found.labels),
        first=min(numbers, default=(None, None))[0],
        last=max((last for _, last in numbers), default=None),
        recorded_first_ns=found.least, recorded_last_ns=found.greatest, doubtful=found.doubtful,
        segments=tuple(
            SealedSegment(
                item.number, item.header, item.prev, item.slot, item.model, item.shared,
                item.ranges[0][0] if item.ranges else None, item.ranges[-1][1] if item.ranges else None,
                item.least, item.greatest, item.reset_count, item.runtime,
            )
            for item in found.segments
        ),
        ranges=None if whole else _flat([item.ranges for item in found.segments]),
        unused=_flat([item.unused for item in found.segments]),
        labelled=tuple(LabelSpan(item.first, item.last, item.withdrawn) for item in found.labels),
        leaves=tuple(Leaf(number, leaf) for number, leaf in found.leaves),
        times_read=found.times_read, missing=found.unavailable, events=tuple(events),
    )  # fmt: skip


def _flat(ranges: Sequence[Sequence[tuple[int, int]]]) -> tuple[SegmentRange, ...]:
    return tuple(SegmentRange(place, first, last) for place, items in enumerate(ranges) for first, last in items)


def _checks(checks: Checks) -> dict[str, Any]:
    return {
        "verdict": None if checks.state == "not-judged" else checks.state,
        "signed": checks.signed,
        "checked_ns": checks.at,
        "rule": checks.rule or None,
        "detail": checks.detail or None,
    }


def _signatures(items: Sequence[SignatureFacts], signers: Sequence[SignerRow]) -> tuple[FoundSignature, ...]:
    found = []
    for item, signer in zip(items, signers, strict=False):  # the last row of a record is its certificate's
        found += [FoundSignature(item.digest, signer.digest, stamp.anchor, stamp.at) for stamp in item.stamps]
        if not item.stamps:
            found.append(FoundSignature(item.digest, signer.digest, None, None))
    return tuple(found)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
