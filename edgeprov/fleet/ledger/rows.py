# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the ledger as typed values: one class a kind, whose fields are the columns of that kind.

None is "not said", and an empty tuple is "none". Digests are bytes, times are nanoseconds since 1970.
What a row says is a fact without any policy: acceptance is decided when the ledger is read.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

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


@dataclass(frozen=True, kw_only=True)
class Row:
    """Members of each row. ``seen_ns`` is the collector's clock when it learned this; in a chain it never falls."""

    row: ClassVar[str]
    seen_ns: int


@dataclass(frozen=True, kw_only=True)
class ListedRow(Row):
    """Something that was found in a registry: ``tag`` is None where it has none."""

    digest: bytes
    source: str
    repo: str
    tag: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArtifactRow(ListedRow):
    """An artifact; ``created_ns`` is its maker's clock."""

    bytes: int | None = None
    created_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The outcome of the checks that need no policy.

    Attributes:
        verdict: ``verified``, ``refused``, or None: not judged.
        signed: Its own signature is good, so that its key vouches for its claims.
        checked_ns: When it was checked.
        rule: Id or step of the first check that fails, or the reason why it was not judged.
        detail: A sentence for people.
        basis: SHA-256 that stands for the version of the rules that were applied.
    """

    verdict: str | None = None
    signed: bool | None = None
    checked_ns: int | None = None
    rule: str | None = None
    detail: str | None = None
    basis: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class ItemColumns(Judgement):
    """The evidence of a kit, tombstone or head.

    Attributes:
        depth: 1 evidence, 2 digests of all blobs too, 3 each record's leaf too.
        record: Digest of the device record by which it was checked.
        made_ns: The device's clock when it was made; ``floor_ns`` its proved lower bound, ``doubt`` whether the clock
            was doubtful.
        final: Nothing follows under its enrollment.
        newest: Hash of the header that was opened last.
        open, stops: Segments that no kit held, and unclean stops.
        safe: False when the TPM's clock may have been set back.
        firmware: TPM firmware version, 16 hexadecimal digits.
        model_pcr: PCR in which models are measured.
        pcrs: Values of all quoted PCRs but the model PCR.
        boot: Names of the sets of boot PCRs that matched when it was checked; the policy of a reader decides again.
        assurance: Of that record.
    """

    depth: int | None = None
    record: bytes | None = None
    made_ns: int | None = None
    floor_ns: int | None = None
    doubt: bool | None = None
    final: bool | None = None
    newest: bytes | None = None
    open: tuple[ListedSegment, ...] | None = None
    stops: tuple[ListedStop, ...] | None = None
    reset_count: int | None = None
    restart_count: int | None = None
    clock_ms: int | None = None
    safe: bool | None = None
    firmware: str | None = None
    model_pcr: int | None = None
    pcrs: tuple[Pcr, ...] | None = None
    boot: tuple[str, ...] | None = None
    assurance: str | None = None


@dataclass(frozen=True, kw_only=True)
class KitColumns:
    """What the evidence of a kit says.

    Attributes:
        segments: Segments that it seals.
        ranges: Record numbers of its segments; None: each holds all from its first to its last.
        unused: Numbers of its segments that were never given.
        times_read: Its times were compared with the records; else they are the device's statement.
        doubtful: How many records a doubtful clock stamped.
        labelled: Labels and withdrawals in the kit's order.
        leaves: Leaf hashes of records that a listing named.
        missing: Parts whose content is not available.
        events: Acts of the device.
        opened_clock_ms: TPM clock when its first segment was opened.
    """

    segments: tuple[SealedSegment, ...] | None = None
    ranges: tuple[SegmentRange, ...] | None = None
    unused: tuple[SegmentRange, ...] | None = None
    times_read: bool | None = None
    doubtful: int | None = None
    labelled: tuple[LabelSpan, ...] | None = None
    leaves: tuple[Leaf, ...] | None = None
    missing: tuple[str, ...] | None = None
    events: tuple[DeviceAct, ...] | None = None
    opened_clock_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class TombstoneColumns:
    """What a tombstone names."""

    numbers: tuple[NumberMember, ...] | None = None
    lost: tuple[LostRecords, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceItem:
    """What an artifact of a device claims; ``number`` is its counter value, ``device`` the serial number."""

    enrollment: bytes
    device: str
    number: int


@dataclass(frozen=True, kw_only=True)
class KitRow(KitColumns, ItemColumns, DeviceItem, ArtifactRow):
    """A data kit."""

    row = "kit"
    prev: bytes | None
    slot: str
    model: bytes
    records: int
    labels: int = 0
    first: int | None = None
    last: int | None = None
    recorded_first_ns: int | None = None
    recorded_last_ns: int | None = None
    edgeprov: str | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TombstoneRow(TombstoneColumns, ItemColumns, DeviceItem, ArtifactRow):
    """A tombstone."""

    row = "tombstone"
    prev: bytes | None
    slot: str
    model: bytes
    edgeprov: str | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class HeadRow(ItemColumns, DeviceItem, ArtifactRow):
    """An attested head.

    Attributes:
        prev: Newest kit or tombstone that it names.
        nonce: An auditor's; None for a head that the device left by itself.
        asked_ns: When the auditor gave the nonce out.
    """

    row = "head"
    prev: bytes | None = None
    nonce: bytes | None = None
    asked_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class RecordRow(Judgement, ArtifactRow):
    """A device record; ``created_ns`` is its time of enrollment.

    Attributes:
        ak: Name of the attestation key; ``counter`` is the Name of the counter index.
        base: Certified counter value at the enrollment.
        line: The counter line: SHA-256 of the EK's SubjectPublicKeyInfo where there is one, else of ``ak``.
        certificate: Digest of the signer row of the device certificate.
        replaces: Enrollment that ended on the same TPM.
    """

    row = "record"
    enrollment: bytes
    device: str
    nonce: bytes | None = None
    ak: bytes | None = None
    counter: bytes | None = None
    base: int
    line: bytes
    certificate: bytes
    replaces: bytes | None = None
    bin: str | None = None
    assurance: str
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRow(Judgement, ArtifactRow):
    """A model kit."""

    row = "model"
    name: str | None = None
    version: str | None = None
    security_version: int | None = None
    trained_on: bytes | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RosterRow(Judgement, ArtifactRow):
    """A version of the roster; ``number`` is the version, ``created_ns`` its time of issue, ``prev`` the one before."""

    row = "roster"
    number: int
    prev: bytes | None = None
    expires_ns: int | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class CollectionRow(ArtifactRow):
    """The statement of a training set."""

    row = "collection"
    models: tuple[bytes, ...] | None = None
    kits: int | None = None
    records: int | None = None
    labels: int | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SignerRow(Row):
    """A key that signs, with its certificate's path as it was found; ``digest`` is signer_digest() of it.

    Attributes:
        identity: URI or e-mail address of the certificate; ``key:sha256:HEX`` for a bare key.
        subject: Attributes of the certificate's subject.
        key: SHA-256 of the SubjectPublicKeyInfo.
        certificate: SHA-256 of the certificate; None for a bare key.
        serial: ``serial:HEX``; empty for a bare key.
        issuers: Certificates above it.
        anchor: SHA-256 of the certificate that the path ends at; the key itself for a bare key.
        not_before_ns, not_after_ns: Time in which the whole path is valid.
    """

    row = "signer"
    digest: bytes
    identity: str
    subject: tuple[Attribute, ...] = ()
    key: bytes
    certificate: bytes | None = None
    serial: str = ""
    issuers: tuple[PathIssuer, ...] = ()
    anchor: bytes
    not_before_ns: int | None = None
    not_after_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class SightingRow(ListedRow):
    """The artifact was found here, too."""

    row = "sighting"


@dataclass(frozen=True, kw_only=True)
class GoneRow(ListedRow):
    """A whole listing of the repository, at ``seen_ns``, lacks the artifact.

    Two such rows, an hour apart or more, make it gone; more are not written.
    """

    row = "gone"


@dataclass(frozen=True, kw_only=True)
class BackRow(ListedRow):
    """An artifact that a listing lacked is listed again."""

    row = "back"


@dataclass(frozen=True, kw_only=True)
class VerdictRow(KitColumns, TombstoneColumns, ItemColumns, Row):
    """A later verdict about an artifact of an earlier row, with the facts that its check found."""

    row = "verdict"
    digest: bytes
    enrollment: bytes | None = None
    edgeprov: str | None = None
    signatures: tuple[FoundSignature, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ListingRow(Row):
    """A whole listing of a repository, which had ``count`` tags; the newest one of a day is kept."""

    row = "listing"
    source: str
    repo: str
    count: int


@dataclass(frozen=True, kw_only=True)
class NoiseRow(Row):
    """Artifacts of strangers: how many, and the digests of the first ones; one row a repository and day."""

    row = "noise"
    source: str
    repo: str
    count: int
    sample: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ActRow(Row):
    """An act of the desk: ``act`` is enroll, import, receipt, denial or retire.

    Attributes:
        value: Of a denial: its type and value, such as ``model sha256:...``; of the others a detail.
        since_ns: Time from which a denial holds.
        identity: Who acted.
    """

    row = "act"
    act: str
    digest: bytes | None = None
    created_ns: int | None = None
    enrollment: bytes | None = None
    device: str | None = None
    number: int | None = None
    value: str | None = None
    since_ns: int | None = None
    identity: str | None = None


ROW_CLASSES: Final[Mapping[str, type[Row]]] = {
    kind.row: kind
    for kind in (
        KitRow, TombstoneRow, HeadRow, RecordRow, ModelRow, RosterRow, CollectionRow, SignerRow, SightingRow,
        VerdictRow, GoneRow, BackRow, ListingRow, NoiseRow, ActRow,
    )
}  # fmt: skip
ARTIFACT_KINDS: Final = ("kit", "tombstone", "head", "record", "model", "roster", "collection", "signer")
"""Kinds whose digest stands once in a chain."""

ACTS: Final = frozenset(("enroll", "import", "receipt", "denial", "retire"))
VERDICTS: Final = frozenset(("verified", "refused"))
NOISE_SAMPLE: Final = 100
"""Digests that a noise row names at most."""
