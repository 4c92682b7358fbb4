# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the conclusion is drawn from: facts about artifacts, sightings and the question, as plain values.

(Trust is in ``trust``, the question in ``question``, the answer in ``fleet_report``, the function in ``judge``.)

Checks are free of policy: which checks hold, by which key and certificate, at which time. ``judge`` applies trust,
so another trust folder or a dated denial needs no artifact again. Nothing here is read from a disk or a network.

Times are integers: nanoseconds since 1970, UTC, unless a name ends in ``_ms``. Digests, hashes and ids are 32 raw
bytes; ``Manifest`` marks the digest of an OCI manifest, which JSON shows as ``sha256:...`` (others are hex).
The order of tuples carries no meaning, except in ``Kit.labels``. The same artifact may stand in several entries (one
for each collector that tells it): ``judge`` merges them.

Spec: FORMAT.md part "Conclusion".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from edgeprov.formats.standing import Standing
from edgeprov.formats.tombstone import LostRange, NumberEntry

Manifest = Annotated[bytes, "manifest"]
"""SHA-256 of an OCI manifest, 32 bytes."""

State = Literal["verified", "refused", "not-judged"]
Ended = Literal["retired", "lost"]
Range = tuple[int, int]
"""First and last number, both included."""
Pcrs = tuple[tuple[int, bytes], ...]
"""PCR numbers and values, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """The outcome of all checks of one artifact that need no policy.

    Attributes:
        state: ``verified``: every check holds. ``refused``: the bytes are at hand and a check failed.
            ``not-judged``: something is absent, denied, unreachable or not there yet.
        signed: The artifact's own signature (for a head: its attestations) was checked and is good, so its key vouches
            for the claims even where another check failed or was not made. Always True for ``verified``. An
            artifact without it is a stranger's: it changes only the noise.
        by: Identity of the collector that tells this; None: checked by who asks.
        at: When it was checked; for people.
        rule: Id or step of the first check that fails; empty when verified.
        detail: For people.
    """

    state: State = "verified"
    signed: bool = True
    by: str | None = None
    at: int = 0
    rule: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StampFacts:
    """An RFC 3161 timestamp that verifies: SHA-256 of the anchor certificate that it leads to, and its time."""

    anchor: bytes
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A certificate above a signer's: SHA-256 of its key, SHA-256 of the certificate, ``serial:HEX``."""

    key: bytes
    certificate: bytes
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFacts:
    """One good signature over an artifact, and who made it.

    Attributes:
        digest: Manifest digest of the signature's own artifact; a sighting of it proves its age.
        identity: URI or e-mail address of the certificate; ``key:sha256:HEX`` for a bare key.
        subject: Attributes of the certificate's subject, as (name, value), for policies with ``x509.subject``.
        key: SHA-256 of the SubjectPublicKeyInfo.
        certificate: SHA-256 of the certificate; None for a bare key.
        serial: ``serial:HEX`` of the certificate; empty for a bare key.
        issuers: Certificates above it, up to the anchor.
        anchor: SHA-256 of the anchor certificate that the path ends at; the key itself for a bare key.
        not_before: Start of the time in which the whole path is valid; None for a bare key.
        not_after: Its end; None for a bare key.
        stamps: Timestamps over this signature.
    """

    digest: Manifest
    identity: str
    subject: tuple[tuple[str, str], ...] = ()
    key: bytes
    certificate: bytes | None = None
    serial: str = ""
    issuers: tuple[Issuer, ...] = ()
    anchor: bytes
    not_before: int | None = None
    not_after: int | None = None
    stamps: tuple[StampFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts:
    """One device record. A renewed certificate is a record of its own with the same ``enrollment``.

    Attributes:
        digest: Of its manifest; kits, tombstones and heads name it as the record that explains them.
        enrollment: Enrollment id.
        device: URN.
        base: Certified counter base.
        replaces: Enrollment that ended on the same TPM, whose end is ``base``; None.
        line: The counter line: SHA-256 of the EK's SubjectPublicKeyInfo where there is one, else of AK's Name.
        enrolled: When the enroller issued it.
        assurance: ``dev``, ``firmware`` or ``hardware``.
        certificate: The device certificate as a signer: its path, period, anchor. ``digest`` is the record's own.
        signatures: By enrollers.
        bin: Part of the repository's name, or None.
    """

    digest: Manifest
    enrollment: bytes
    device: str
    base: int
    replaces: bytes | None = None
    line: bytes
    enrolled: int
    assurance: str
    certificate: SignatureFacts
    signatures: tuple[SignatureFacts, ...] = ()
    bin: str | None = None
    checks: Checks = field(default_factory=Checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFacts:
    """A segment that a kit seals.

    Attributes:
        number: Counter value that its opening took; for ``shared`` that of the last segment which took one.
        header: SHA-256 of the header.
        prev: SHA-256 of the header opened before on the device; None for the first of the enrollment.
        shared: The opening took no number.
        slot: Its slot.
        model: Manifest digest of its model.
        reset_count: Boot in which it was opened.
        ranges: Numbers of its records in this kit.
        unused: Numbers that its blocks never gave.
        least: Least time of its records; None without records, or where only the kit's times are known.
        greatest: Greatest time of its records.
        runtime: Name, version, delegate and threads as text.
    """

    number: int
    header: bytes
    prev: bytes | None
    shared: bool = False
    slot: str
    model: Manifest
    reset_count: int = 0
    ranges: tuple[Range, ...] = ()
    unused: tuple[Range, ...] = ()
    least: int | None = None
    greatest: int | None = None
    runtime: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRun:
    """Labels of one kit, in its order: records ``first`` to ``last`` got one each, or all were withdrawn."""

    first: int
    last: int
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFacts:
    """Common facts of kits, tombstones and heads.

    Items of an enrollment are ordered by (number, reset_count, clock_ms). Of an item that is not judged, members that
    were not read are zero, None or empty, and mean nothing.

    Attributes:
        digest: Of the manifest; for a head that was given as a file: SHA-256 of the file.
        enrollment: Enrollment id that the item states.
        device: URN that it states.
        record: Manifest digest of the device record by which it was checked; None where none was at hand.
        number: Value of the counter when it was made: ``seq`` of a kit or tombstone, the attested counter of a head.
        reset_count: TPM's, at sealing.
        restart_count: TPM's.
        clock_ms: TPM clock at sealing, milliseconds.
        standing: Its own time (``at_ns``), the proved floor, doubt, open segments, unclean stops.
        firmware: TPM firmware version.
        model_pcr: PCR in which models are measured.
        pcrs: For each quote of the item the values of all its PCRs except the model PCR; equal ones once.
        signatures: By the device certificate; none on a head.
    """

    digest: Manifest
    enrollment: bytes
    device: str
    record: Manifest | None
    number: int
    reset_count: int
    restart_count: int = 0
    clock_ms: int
    standing: Standing
    firmware: int = 0
    model_pcr: int = 14
    pcrs: tuple[Pcrs, ...] = ()
    signatures: tuple[SignatureFacts, ...] = ()
    checks: Checks = field(default_factory=Checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class KitFacts(ItemFacts):
    """One data kit.

    Attributes:
        slot: Its slot.
        model: Manifest digest of its model.
        prev: Kit or tombstone before it; None for the first of the enrollment.
        records: Number of records.
        least: Least time of its records, as stated; None without records.
        greatest: Greatest time of its records, as stated.
        doubtful: How many of its records say that the clock was doubtful; None where that was not read.
        segments: Segments that it seals, also empty ones.
        labels: In the kit's order.
        leaves: Leaf hashes that are known, as (record number, hash), of this kit's slot.
        times_read: Least and greatest time were compared with the records; else they are the device's statement.
        unavailable: Names of the parts whose content is lost or cannot be read.
        events: Number of events that it carries.
    """

    slot: str
    model: Manifest
    prev: Manifest | None
    records: int
    least: int | None = None
    greatest: int | None = None
    doubtful: int | None = None
    segments: tuple[SegmentFacts, ...] = ()
    labels: tuple[LabelRun, ...] = ()
    leaves: tuple[tuple[int, bytes], ...] = ()
    times_read: bool = True
    unavailable: tuple[str, ...] = ()
    events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneFacts(ItemFacts):
    """One tombstone: ``numbers`` that no kit explains, ``lost`` record ranges of its slot, ``prev`` as in a kit."""

    slot: str
    model: Manifest
    prev: Manifest | None
    numbers: tuple[NumberEntry, ...] = ()
    lost: tuple[LostRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts(ItemFacts):
    """One head.

    Attributes:
        newest: Newest kit or tombstone that it names; None before the first.
        nonce: The auditor's, or None.
        asked: When who asks gave this nonce out; None where it is not his, and then the nonce proves nothing.
    """

    newest: Manifest | None
    nonce: bytes | None = None
    asked: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """One model kit: its name and version as signed, its signatures by publishers, the tags that lead to it."""

    digest: Manifest
    name: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()
    signatures: tuple[SignatureFacts, ...] = ()
    checks: Checks = field(default_factory=Checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntryFacts:
    """One enrollment of a roster, as in FORMAT.md section "Roster"; ``since`` is its ``from``."""

    enrollment: bytes
    device: str
    base: int
    since: int
    until: int | None = None
    ended: Ended | None = None
    end: int | None = None
    bin: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterFacts:
    """One version of the roster, as in FORMAT.md section "Roster"."""

    digest: Manifest
    version: int
    issued: int
    expires: int
    previous: Manifest | None = None
    entries: tuple[RosterEntryFacts, ...] = ()
    signatures: tuple[SignatureFacts, ...] = ()
    checks: Checks = field(default_factory=Checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One collector's word on one manifest in one source: when the source listed it, and when it did not.

    Attributes:
        digest: The artifact, or the artifact of a signature.
        source: Registry and repository; a stick or layout by its name.
        collector: Identity of the collector; None: who asks.
        first: When it was first seen there.
        last: When it was last listed there.
        missing: Times of whole listings of that repository after ``last`` that did not list it.
        stamps: Timestamps over the collector's signed table that holds this row.
    """

    digest: Manifest
    source: str
    collector: str | None = None
    first: int
    last: int
    missing: tuple[int, ...] = ()
    stamps: tuple[StampFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One collector's chain of signed tables. What a collector tells counts only with a chain that is accepted.

    Attributes:
        collector: Identity, as in ``Checks.by`` and ``Sighting.collector``.
        first: Start of the time that the tables speak for.
        last: Its end.
        whole: False where a table in between is missing or does not verify.
        signatures: Over the newest table; one needs the role collector.
        detail: For people.
    """

    collector: str
    first: int
    last: int
    whole: bool = True
    signatures: tuple[SignatureFacts, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A limit of cost that ended reading somewhere, so that artifacts may be unknown: ``limit`` names it."""

    source: str
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Artifacts in one source that nobody trusted signed: of which kind, and which device they claim (or None)."""

    source: str
    kind: str
    device: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """Everything that is known."""

    records: tuple[RecordFacts, ...] = ()
    kits: tuple[KitFacts, ...] = ()
    tombstones: tuple[TombstoneFacts, ...] = ()
    heads: tuple[HeadFacts, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    rosters: tuple[RosterFacts, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    chains: tuple[Chain, ...] = ()
    cuts: tuple[Cut, ...] = ()
    noise: tuple[Noise, ...] = ()
