# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Accepted artifacts, sorted into one case for each enrollment; everything else becomes a reason or noise.

Spec: FORMAT.md part "Conclusion", R-con-3, R-con-4, R-con-8, R-con-9, R-con-16 to R-con-19.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.gate import Gate
from edgeprov.fleet.conclusion.merged import Merged
from edgeprov.fleet.conclusion.time_rules import made_before, may_lie_inside
from edgeprov.fleet.conclusion.types import (
    HeadFacts,
    ItemFacts,
    KitFacts,
    RecordFacts,
    RosterEntryFacts,
    TombstoneFacts,
)
from edgeprov.fleet.conclusion.view import Case, View, order_key, rule

NOT_HELD: Final = "no device record that counts explains it"
UNSIGNED: Final = "nobody signed it"


class Cases:
    """All enrollments, and what did not count.

    Attributes:
        by_id: Enrollment id -> case.
        noise: (kind and why, claimed device) -> how many artifacts.
    """

    def __init__(self, view: View) -> None:
        """No enrollment yet."""
        self.view = view
        self.by_id: dict[bytes, Case] = {}
        self.noise: Counter[tuple[str, str | None]] = Counter()
        self._records: dict[bytes, RecordFacts] = {}
        self._not_counted: dict[bytes, list[tuple[RecordFacts, Reason]]] = {}

    def add_records(self, records: Merged[RecordFacts]) -> None:
        """R-con-8: the device records that count, and one case for each enrollment of them and of the roster."""
        gate = self.view.gate
        for record in records.by_digest.values():
            if not record.checks.signed or not gate.accepts(record.signatures, "enroller"):
                self.noise[f"device record: {UNSIGNED}", record.device] += 1
            elif record.checks.state != "verified":
                self._without(record, _record_not_good(record))
            elif why := _record_refusal(record, gate):
                self._without(record, _record_denied(record, why))
            else:
                self._records[record.digest] = record
        for record in sorted(self._records.values(), key=lambda item: (item.enrolled, item.digest)):
            case = self._case_of(record)
            case.records.append(record)
            if record.device != case.device:
                case.names = tuple(sorted({*case.names, case.device} - {record.device}))
                case.device = record.device
        for record, reason in sorted(
            (pair for pairs in self._not_counted.values() for pair in pairs), key=lambda pair: pair[0].digest
        ):
            self._case_of(record).reasons.append(reason)
        for entry in self.view.roster.entries if self.view.roster is not None else ():
            case = self.by_id.setdefault(
                entry.enrollment,
                Case(enrollment=entry.enrollment, device=entry.device, names=(), base=entry.base, since=entry.since),
            )
            case.names = tuple(sorted({*case.names, *entry.names, entry.device} - {case.device}))
            case.since = min(case.since, entry.since)
            case.until, case.ended, case.end = entry.until, entry.ended, entry.end
            case.reasons += base_contradicted(case, entry)

    def _case_of(self, record: RecordFacts) -> Case:
        case = self.by_id.get(record.enrollment)
        if case is None:
            case = self.by_id[record.enrollment] = Case(
                enrollment=record.enrollment, device=record.device, names=(), base=record.base, since=record.enrolled
            )
        return case

    def _without(self, record: RecordFacts, reasons: Iterable[Reason]) -> None:
        self._not_counted.setdefault(record.digest, []).extend((record, reason) for reason in reasons)

    def add_items(self, items: Iterable[ItemFacts], kind: str) -> None:
        """R-con-9: sort kits, tombstones or heads: those that count, refused ones, pending ones, noise."""
        records, by_id = self._records, self.by_id
        for item in items:
            checks = item.checks
            if not checks.signed:
                self.noise[f"{kind}: {UNSIGNED}", item.device] += 1
                continue
            record = records.get(item.record) if item.record is not None else None
            if record is None or record.enrollment != item.enrollment:
                self._without_record(item, kind)
                continue
            case = by_id[record.enrollment]
            if checks.state == "not-judged":
                case.pending.append(item)
            elif checks.state == "refused":
                case.reasons += _item_refused(case, item, self.view, kind, checks.rule or "refused")
            elif why := item_refusal(item, record, self.view.gate):
                case.reasons += _item_denied(case, item, self.view, kind, why)
            else:
                self._count(case, item)

    def _count(self, case: Case, item: ItemFacts) -> None:
        case.items.append(item)
        if isinstance(item, KitFacts):
            case.kits.append(item)
            if may_lie_inside(item, self.view):
                case.inside.add(item.digest)
        elif isinstance(item, TombstoneFacts):
            case.tombstones.append(item)
        if self.view.gate.trust.boot_sets:
            case.boot_sets.update(self.view.gate.boot_sets(item) or ())

    def _without_record(self, item: ItemFacts, kind: str) -> None:
        known = item.record is not None and item.record in self._not_counted
        self.noise[f"{kind}: {'its device record does not count' if known else NOT_HELD}", item.device] += 1

    def counted(self) -> set[bytes]:
        """Digests of all artifacts that count."""
        view = self.view
        found = {*self._records, *view.models, *(roster.digest for roster in view.rosters)}
        return found.union(item.digest for case in self.by_id.values() for item in case.items)

    def finish(self) -> None:
        """Sort items, name ends by replacing records, and find what was made before the period."""
        for case in self.by_id.values():
            case.items.sort(key=order_key)
            case.kits.sort(key=order_key)
            case.tombstones.sort(key=order_key)
            case.past = [item for item in reversed(case.items) if made_before(item, self.view)]
            case.pending_top = max((item.number for item in case.pending), default=-1)
            case.reasons += items_pending(case, self.view)
        for case in list(self.by_id.values()):
            for record in case.records[:1]:
                if record.replaces is not None:
                    for reason in replaced_end(case, record, self.by_id):
                        self.by_id[reason.enrollment or b""].reasons.append(reason)
        for reason in shared_lines(self.by_id):
            self.by_id[reason.enrollment or b""].reasons.append(reason)


def _record_refusal(record: RecordFacts, gate: Gate) -> str:
    """R-con-8: why a record that an enroller signed does not count under this trust policy; empty where it does."""
    proved = gate.oldest(record.signatures)
    if record.assurance not in gate.trust.assurance:
        return f"the trust policy does not admit the assurance {record.assurance}"
    for value in (record.device, record.enrollment.hex()):
        if gate.denied("device", value, proved):
            return "the device is denied"
    certificate = record.certificate
    if (
        certificate.not_before is not None
        and certificate.not_after is not None
        and not certificate.not_before <= record.enrolled <= certificate.not_after
    ):
        return "its certificate was not valid when it was issued"
    return gate.certificate_refusal(certificate, proved)


def item_refusal(item: ItemFacts, record: RecordFacts, gate: Gate) -> str:
    """R-con-9: why a verified item does not count under this trust policy; empty where it does."""
    trust = gate.trust
    if isinstance(item, HeadFacts):
        why, proved = gate.certificate_refusal(record.certificate, None), None
    else:
        why = ""
        for signature in item.signatures:
            why = gate.refusal(signature, "device")
            if not why:
                break
        else:
            why = why or "no signature of the device is at hand"
        proved = gate.oldest(item.signatures) if trust.deny or trust.stamps_required else None
        if not why and trust.stamps_required and proved is None:
            why = "it has no trusted timestamp, and the trust policy requires one"
    if why:
        return why
    if trust.firmware and item.firmware not in trust.firmware:
        return f"the trust policy does not admit the TPM firmware {item.firmware}"
    if gate.boot_sets(item) is None:
        return "its quotes match no set of boot measurements"
    if trust.deny:
        return _item_deny(item, record, gate, proved)
    return ""


def _item_deny(item: ItemFacts, record: RecordFacts, gate: Gate, proved: int | None) -> str:
    if any(gate.denied("device", value, proved) for value in (record.device, item.device, record.enrollment.hex())):
        return "the device is denied"
    if gate.denied("kit", "sha256:" + item.digest.hex(), proved):
        return "it is denied"
    if isinstance(item, KitFacts) and gate.denied("model", "sha256:" + item.model.hex(), proved):
        return "its model is denied"
    return ""


def _is_recent(item: ItemFacts, view: View) -> bool:
    """An item that does not count may be about the period."""
    if isinstance(item, KitFacts):
        return may_lie_inside(item, view) or (not item.records and not made_before(item, view))
    return not made_before(item, view)


@rule("R-con-16")
def _item_refused(case: Case, item: ItemFacts, view: View, kind: str, why: str) -> Iterator[Reason]:
    if _is_recent(item, view):
        yield case.reason(
            "item-refused",
            "gap",
            f"{kind} {item.number} was signed by the device and refused: {why}",
            numbers=((item.number, item.number),),
            digests=(item.digest,),
        )


@rule("R-con-17")
def _item_denied(case: Case, item: ItemFacts, view: View, kind: str, why: str) -> Iterator[Reason]:
    if _is_recent(item, view):
        yield case.reason(
            "item-not-admitted",
            "gap",
            f"{kind} {item.number} does not count: {why}",
            numbers=((item.number, item.number),),
            digests=(item.digest,),
        )


@rule("R-con-18")
def items_pending(case: Case, view: View) -> Iterator[Reason]:
    """An item that the device signed and that could not be judged is tried again, and accuses nobody."""
    for item in sorted(case.pending, key=order_key):
        if _is_recent(item, view):
            yield case.reason(
                "item-not-judged",
                "not-judged",
                f"number {item.number} could not be judged: {item.checks.detail or 'something of it is not at hand'}",
                numbers=((item.number, item.number),),
                digests=(item.digest,),
            )


@rule("R-con-8")
def _record_not_good(record: RecordFacts) -> Iterator[Reason]:
    refused = record.checks.state == "refused"
    yield Reason(
        code="record-refused" if refused else "record-not-judged",
        rule="",
        effect="gap" if refused else "not-judged",
        enrollment=record.enrollment,
        device=record.device,
        digests=(record.digest,),
        text=f"the device record of {record.device} {'is refused' if refused else 'could not be judged'}",
    )


@rule("R-con-8")
def _record_denied(record: RecordFacts, why: str) -> Iterator[Reason]:
    yield Reason(
        code="record-not-admitted",
        rule="",
        effect="gap",
        enrollment=record.enrollment,
        device=record.device,
        digests=(record.digest,),
        text=f"the device record of {record.device} does not count: {why}",
    )


@rule("R-con-13")
def base_contradicted(case: Case, entry: RosterEntryFacts) -> Iterator[Reason]:
    """The roster says the base that the record certifies."""
    if entry.base != case.base:
        yield case.reason(
            "base-contradicted", "gap", f"the roster gives {case.device} the base {entry.base}, its record {case.base}"
        )


@rule("R-con-19")
def replaced_end(case: Case, record: RecordFacts, by_id: dict[bytes, Case]) -> Iterator[Reason]:
    """The base of an enrollment is the end of the one that it replaces on the same TPM."""
    old = by_id.get(record.replaces or b"")
    if old is None:
        yield case.reason(
            "replaced-unknown", "open", f"{case.device} replaces an enrollment of which nothing is at hand"
        )
        return
    if (old.end is not None and old.end != record.base) or record.base < old.base or old is case:
        yield old.reason(
            "end-contradicted",
            "gap",
            f"the end of {old.device} is {old.end} by one word and {record.base} by another",
            digests=(record.digest,),
        )
    old.end = record.base if old.end is None else min(old.end, record.base)
    old.replaced = True


@rule("R-con-19")
def shared_lines(by_id: dict[bytes, Case]) -> Iterator[Reason]:
    """Enrollments of one counter line follow each other, each naming the one before it."""
    lines: dict[bytes, list[RecordFacts]] = {}
    for case in by_id.values():
        if case.records:
            lines.setdefault(case.records[0].line, []).append(case.records[0])
    for records in lines.values():
        records.sort(key=lambda record: (record.base, record.enrolled, record.digest))
        for before, record in pairwise(records):
            named = by_id.get(record.replaces or b"")
            if record.replaces == before.enrollment or (record.replaces and (named is None or not named.records)):
                continue  # as it should be, or one in between is not at hand, which R-con-19 or R-con-65 tells
            pair = by_id[before.enrollment], by_id[record.enrollment]
            for case in pair:
                yield case.reason(
                    "line-contradicted",
                    "gap",
                    f"{pair[0].device} and {pair[1].device} use one TPM, and neither ended for the other",
                    digests=(before.digest, record.digest),
                )
