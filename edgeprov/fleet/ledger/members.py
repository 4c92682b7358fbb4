# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Elements of the lists in rows of the ledger. Hashes are bytes, times are nanoseconds since 1970.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class SealedSegment(NamedTuple):
    """A segment that a kit seals; without records, or where they were not read, members about records are None."""

    number: int
    header: bytes
    prev: bytes | None
    slot: str
    model: bytes
    shared: bool
    first: int | None
    last: int | None
    least_ns: int | None
    greatest_ns: int | None
    reset_count: int
    runtime: str


class SegmentRange(NamedTuple):
    """Record numbers of one segment; ``segment`` is its place in ``segments``, from 0."""

    segment: int
    first: int
    last: int


class LabelSpan(NamedTuple):
    """Records from ``first`` to ``last`` got a label each, or all were withdrawn; in the kit's order."""

    first: int
    last: int
    withdrawn: bool


class Leaf(NamedTuple):
    """The leaf hash of a record of the kit's slot."""

    n: int
    leaf: bytes


class DeviceAct(NamedTuple):
    """An event of a device; ``details`` is JSON, None where it is too long for the ledger."""

    kind: str
    at_ns: int
    doubt: bool
    slot: str | None
    details: str | None


class NumberMember(NamedTuple):
    """A counter value that a tombstone names."""

    number: int
    reason: str
    header: bytes | None


class LostRecords(NamedTuple):
    """Records that a tombstone names as lost."""

    first: int
    last: int
    records: int
    least_ns: int | None
    greatest_ns: int | None
    doubt: bool
    reason: str


class ListedSegment(NamedTuple):
    """A segment that no kit held when the item was made."""

    number: int
    header: bytes
    slot: str
    first: int | None
    last: int | None
    leaf: bytes | None
    least_ns: int | None
    greatest_ns: int | None
    doubt: bool


class ListedStop(NamedTuple):
    """An unclean stop."""

    slot: str
    header: bytes
    after: int | None
    resumed: int
    bound_ms: int
    at_ns: int


class Pcr(NamedTuple):
    """Value of a PCR in one of the quotes; equal quotes stand once, numbered from 0."""

    quote: int
    pcr: int
    value: bytes


class FoundSignature(NamedTuple):
    """A good signature, once for each of its stamps.

    ``digest`` is that of the signature's own manifest, ``signer`` that of a signer row; ``anchor`` is the SHA-256 of
    the certificate that the stamp leads to, ``stamped_ns`` its time; both None without a stamp.
    """

    digest: bytes
    signer: bytes
    anchor: bytes | None
    stamped_ns: int | None


class Attribute(NamedTuple):
    """An attribute of a certificate's subject."""

    name: str
    value: str


class PathIssuer(NamedTuple):
    """A certificate above a signer's: SHA-256 of its key, SHA-256 of it, and ``serial:HEX``."""

    key: bytes
    certificate: bytes
    serial: str


MEMBERS: Final[Mapping[str, type]] = {
    "segments": SealedSegment, "ranges": SegmentRange, "unused": SegmentRange, "labelled": LabelSpan, "leaves": Leaf,
    "events": DeviceAct, "numbers": NumberMember, "lost": LostRecords, "open": ListedSegment, "stops": ListedStop,
    "pcrs": Pcr, "signatures": FoundSignature, "subject": Attribute, "issuers": PathIssuer,
}  # fmt: skip
"""Classes of the elements of lists, by column."""
