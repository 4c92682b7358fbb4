# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tombstone: a device's signed word on counter values that no kit explains, and on records that are lost.

It has a number of its own and names earlier numbers, each with a reason. ``crash``: an intent of a kit or
tombstone for this number is on the disk; no record is lost by it. ``unknown``: the device cannot explain the
number; records may be lost. ``discarded``: the spool was full and the oldest segments were given up.
``damaged``: the storage did not give a segment back.

Spec: FORMAT.md section "Tombstone".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.devicerecord import parse_enrollment
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.fields import bool_member, check_keys, list_member, optional_uint_member, text_member, uint_member
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_ENROLLMENT,
    A_MODEL,
    A_PREV,
    A_SEQ,
    A_SLOT,
    ANNOTATION_CREATED,
    TOMBSTONE,
)
from edgeprov.formats.rfc3339 import check_utc_text
from edgeprov.formats.segment import check_slot, device_serial
from edgeprov.formats.standing import Standing, encode_standing, parse_standing
from edgeprov.limits import LIMITS

Reason = Literal["crash", "unknown", "discarded", "damaged"]
REASONS: Final[Mapping[str, Reason]] = {
    "crash": "crash", "unknown": "unknown", "discarded": "discarded", "damaged": "damaged",
}  # fmt: skip
NO_PREV: Final = "none"
"""Value of the ``prev`` annotation of a device's first kit or tombstone."""

_KEYS: Final = frozenset((
    "v", "at", "device", "enrollment", "slot", "model", "seq", "prev", "numbers", "lost", "standing",
))  # fmt: skip
_NUMBER_KEYS: Final = frozenset(("number", "reason", "header"))
_LOST_KEYS: Final = frozenset(("first", "last", "count", "least", "greatest", "doubt", "reason"))
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberEntry:
    """A counter value that no kit explains. ``header`` (SHA-256) is known exactly for a lost segment."""

    number: int
    reason: Reason
    header: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRange:
    """Records of the tombstone's slot that are lost.

    Attributes:
        first: Number of the first one.
        last: Number of the last one.
        count: How many of these numbers had a record, at most.
        least: Least possible ``recorded_at_ns``; None where it is unknown.
        greatest: Greatest possible ``recorded_at_ns``; None where it is unknown.
        doubt: The clock was doubtful for at least one of them, or that is unknown.
        reason: ``discarded`` or ``damaged``.
    """

    first: int
    last: int
    count: int
    least: int | None
    greatest: int | None
    doubt: bool
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A parsed tombstone; ``enrollment`` has 32 bytes, ``at`` the device's clock."""

    manifest: Manifest
    model: Digest
    device: str
    enrollment: bytes
    slot: str
    seq: int
    prev: Digest | None
    numbers: tuple[NumberEntry, ...]
    lost: tuple[LostRange, ...]
    standing: Standing
    at: str


def build_tombstone(
    *,
    model: Digest,
    device: str,
    enrollment: bytes,
    slot: str,
    seq: int,
    prev: Digest | None,
    numbers: Sequence[NumberEntry] = (),
    lost: Sequence[LostRange] = (),
    standing: Standing,
    at: str,
    subject: Descriptor | None = None,
) -> tuple[Manifest, bytes]:
    """Write a tombstone; returns its manifest and its one layer. The config is OCI's empty blob.

    Args:
        model: Manifest digest of the model that was active.
        device: Device URN.
        enrollment: Enrollment id, 32 bytes.
        slot: Slot of the lost records.
        seq: TPM counter value.
        prev: Manifest digest of the device's kit or tombstone before.
        numbers: Counter values below ``seq`` that no kit explains, by (number, header).
        lost: Lost records of the slot, ascending.
        standing: As of this tombstone.
        at: RFC 3339 time, device clock.
        subject: As in build_datakit.

    Raises:
        FormatError: Values that do not fit each other.
        LimitError: More entries than a tombstone may have.
    """
    values = {
        A_DEVICE: device,
        A_ENROLLMENT: enrollment.hex(),
        A_SLOT: slot,
        A_MODEL: str(model),
        A_SEQ: str(seq),
        A_PREV: str(prev) if prev else NO_PREV,
        ANNOTATION_CREATED: at,
    }
    layer = encode_json(
        {
            "v": _VERSION,
            "device": device,
            "enrollment": enrollment.hex(),
            "slot": slot,
            "model": str(model),
            "seq": seq,
            "prev": values[A_PREV],
            "at": at,
            "numbers": [
                {"number": item.number, "reason": item.reason, "header": item.header and item.header.hex()}
                for item in numbers
            ],
            "lost": [
                {
                    "first": item.first,
                    "last": item.last,
                    "count": item.count,
                    "least": item.least,
                    "greatest": item.greatest,
                    "doubt": item.doubt,
                    "reason": item.reason,
                }
                for item in lost
            ],
            "standing": b64(encode_standing(standing)),
        }
    )
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[describe(layer, TOMBSTONE)],
        artifact_type=TOMBSTONE,
        subject=subject,
        annotations=values,
    )
    parse_tombstone(manifest, layer)
    return manifest, layer


def parse_tombstone(manifest: Manifest, layer_raw: bytes) -> Tombstone:
    """Read a tombstone; annotations and subject must say what its signed layer says.

    Raises:
        DigestMismatch: Not the layer that the manifest names.
        FormatError: Not a tombstone, or it contradicts itself.
        LimitError: Too long, or more entries than a tombstone may have.
    """
    what = "tombstone"
    if manifest.artifact_type != TOMBSTONE or [layer.media_type for layer in manifest.layers] != [TOMBSTONE]:
        raise FormatError("the artifact is not a tombstone")
    manifest.layers[0].verify(layer_raw, what)
    obj = check_keys(parse_json_object(layer_raw, what, max_bytes=LIMITS.tombstone_bytes), _KEYS, what)
    if get_int(obj, "v", what) != _VERSION:
        raise FormatError(f"{what} has another version")
    device, prev, seq = get_str(obj, "device", what), get_str(obj, "prev", what), get_int(obj, "seq", what)
    device_serial(device)
    tombstone = Tombstone(
        manifest=manifest,
        model=parse_digest(get_str(obj, "model", what)),
        device=device,
        enrollment=parse_enrollment(get_str(obj, "enrollment", what), what),
        slot=check_slot(get_str(obj, "slot", what)),
        seq=seq,
        prev=None if prev == NO_PREV else parse_digest(prev),
        numbers=_numbers(list_member(obj, "numbers", what, LIMITS.tombstone_entries), seq),
        lost=_lost(list_member(obj, "lost", what, LIMITS.tombstone_entries)),
        standing=parse_standing(get_b64(obj, "standing", what)),
        at=check_utc_text(get_str(obj, "at", what), f"{what}: 'at'"),
    )
    _verify_agreement(manifest, tombstone, prev)
    return tombstone


def _verify_agreement(manifest: Manifest, tombstone: Tombstone, prev: str) -> None:
    stated = {
        A_DEVICE: tombstone.device,
        A_ENROLLMENT: tombstone.enrollment.hex(),
        A_SLOT: tombstone.slot,
        A_MODEL: str(tombstone.model),
        A_SEQ: str(tombstone.seq),
        A_PREV: prev,
        ANNOTATION_CREATED: tombstone.at,
    }
    if any(manifest.annotations.get(key) != value for key, value in stated.items()):
        raise FormatError("tombstone: annotations and layer say different things")
    if manifest.subject is not None and manifest.subject.digest != tombstone.model:
        raise FormatError("tombstone: the subject is not the model that it names")


def _numbers(values: list[object], seq: int) -> tuple[NumberEntry, ...]:
    what = "tombstone: an entry of 'numbers'"
    result: list[NumberEntry] = []
    for value in values:
        obj = check_keys(value, _NUMBER_KEYS, what)
        entry = NumberEntry(
            number=get_int(obj, "number", what), reason=_reason(obj, what, REASONS), header=_header(obj, what)
        )
        if entry.number >= seq:
            raise FormatError(f"{what} names {entry.number}, which is not below the tombstone's own number {seq}")
        if (entry.header is not None) != (entry.reason in _LOSSES):
            raise FormatError(
                f"{what}: a header belongs to a segment that was discarded or damaged, to no other number"
            )
        if result and not _follows(result[-1], entry):
            raise FormatError(f"{what}: number {entry.number} is out of order or named twice")
        result.append(entry)
    return tuple(result)


def _follows(before: NumberEntry, entry: NumberEntry) -> bool:
    if entry.number != before.number:
        return entry.number > before.number
    # Segments that share a number are told apart by their headers; a number that is no segment's stands once.
    return before.header is not None and entry.header is not None and entry.header > before.header


def _lost(values: list[object]) -> tuple[LostRange, ...]:
    what = "tombstone: an entry of 'lost'"
    result: list[LostRange] = []
    for value in values:
        obj = check_keys(value, _LOST_KEYS, what)
        item = LostRange(
            first=uint_member(obj, "first", what),
            last=uint_member(obj, "last", what),
            count=uint_member(obj, "count", what),
            least=optional_uint_member(obj, "least", what),
            greatest=optional_uint_member(obj, "greatest", what),
            doubt=bool_member(obj, "doubt", what),
            reason=_reason(obj, what, _LOSSES),
        )
        if not (result[-1].last if result else -1) < item.first <= item.last:
            raise FormatError(f"{what}: ranges are out of order or overlap")
        if not 1 <= item.count <= item.last - item.first + 1:
            raise FormatError(f"{what}: {item.count} records do not fit the numbers {item.first} to {item.last}")
        if (item.least is None) != (item.greatest is None) or (item.least or 0) > (item.greatest or 0):
            raise FormatError(f"{what}: least and greatest time do not fit each other")
        result.append(item)
    return tuple(result)


def _reason(obj: JsonObject, what: str, known: Mapping[str, Reason]) -> Reason:
    text = text_member(obj, "reason", what)
    if text not in known:
        raise FormatError(f"{what} has the unknown reason {text[:40]!r}")
    return known[text]


def _header(obj: Mapping[str, Any], what: str) -> bytes | None:
    text = obj["header"]
    if text is None:
        return None
    if not isinstance(text, str):
        raise FormatError(f"{what}: the header is not a string")
    return Digest(text).raw


_LOSSES: Final[Mapping[str, Reason]] = {"discarded": "discarded", "damaged": "damaged"}
