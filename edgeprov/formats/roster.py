# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roster: the signed list of enrollments that must report, so that a device which is withheld as a whole shows.

Entries are never removed, only ended. Reading a roster proves nothing: verify.roster_check judges it.

Spec: FORMAT.md section "Roster".
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.descriptor import describe
from edgeprov.formats.devicerecord import parse_bin, parse_enrollment
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.in_toto import encode_statement
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_list, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import ANNOTATION_CREATED, ROSTER, ROSTER_PREDICATE
from edgeprov.formats.rfc3339 import parse_rfc3339
from edgeprov.formats.segment import device_serial
from edgeprov.limits import LIMITS

Ended = Literal["retired", "lost"]
NEWEST_TAG: Final = "newest"

_KEYS: Final = {"v", "version", "issued_at", "expires_at", "previous", "entries"}
_ENTRY_KEYS: Final = {"enrollment", "device", "base", "from", "until", "ended", "end", "bin", "names"}
_VERSION_MAX: Final = 10**10 - 1
_TAG: Final = re.compile("v[0-9]{10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """One enrollment.

    Attributes:
        enrollment: Its id, 32 bytes.
        device: URN of the device; after a rename the newest.
        base: Certified counter base.
        since: RFC 3339 time of its first record.
        until: RFC 3339 time of its end; None while it is active.
        ended: ``retired`` when its end is known, ``lost`` when nobody can know it; None while it is active.
        end: The last number that the enrollment could take, where it is certified; else None.
        bin: Part of the repository's name, or None.
        names: Earlier URNs, oldest first.
    """

    enrollment: bytes
    device: str
    base: int
    since: str
    until: str | None = None
    ended: Ended | None = None
    end: int | None = None
    bin: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """One version of the roster. It speaks for the time up to ``issued_at``.

    Attributes:
        version: From 1, rising by one.
        issued_at: RFC 3339, the signer's clock.
        expires_at: RFC 3339; it is not used later.
        previous: Manifest digest of the version before; None for the first.
        entries: Ascending by enrollment id.
    """

    version: int
    issued_at: str
    expires_at: str
    previous: Digest | None
    entries: tuple[RosterEntry, ...] = field(repr=False)


def encode_roster(roster: Roster) -> bytes:
    """The JSON layer.

    Raises:
        FormatError: A value that the format does not allow.
        LimitError: More than a roster may hold.
    """
    raw = encode_json(
        {
            "v": 1,
            "version": roster.version,
            "issued_at": roster.issued_at,
            "expires_at": roster.expires_at,
            "previous": None if roster.previous is None else str(roster.previous),
            "entries": [_encode_entry(entry) for entry in roster.entries],
        }
    )
    parse_roster(raw)
    return raw


def build_roster(roster: Roster) -> tuple[Manifest, bytes]:
    """The artifact: its manifest, and the layer blob."""
    blob = encode_roster(roster)
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[describe(blob, ROSTER)],
        artifact_type=ROSTER,
        annotations={ANNOTATION_CREATED: roster.issued_at},
    )
    return manifest, blob


def encode_roster_statement(manifest: Digest, roster: Roster) -> bytes:
    """The statement that the role roster signs over one version."""
    predicate: JsonObject = {"version": roster.version, "issuedAt": roster.issued_at, "expiresAt": roster.expires_at}
    predicate["previous"] = None if roster.previous is None else str(roster.previous)
    return encode_statement([manifest], ROSTER_PREDICATE, predicate)


def roster_tag(version: int) -> str:
    """The tag of one version: ``v`` and ten digits."""
    return f"v{version:010d}"


def is_roster_tag(tag: str) -> bool:
    """Whether a tag names one version."""
    return _TAG.fullmatch(tag) is not None


def parse_roster(raw: bytes) -> Roster:
    """Read the JSON layer.

    Raises:
        LimitError: Too long.
        FormatError: A member is unknown, missing or malformed, or the entries are not in order.
    """
    what = "roster"
    obj = _known(parse_json_object(raw, what, max_bytes=LIMITS.roster_bytes), _KEYS, what)
    if get_int(obj, "v", what) != 1:
        raise FormatError("roster has another format version")
    version = get_int(obj, "version", what, maximum=_VERSION_MAX)
    previous = None if obj["previous"] is None else parse_digest(get_str(obj, "previous", what))
    if version < 1 or (version == 1) != (previous is None):
        raise FormatError("roster: version 1, and no other, has no previous one")
    issued_at, expires_at = _time(get_str(obj, "issued_at", what)), _time(get_str(obj, "expires_at", what))
    if expires_at <= issued_at:
        raise FormatError("roster: it expires before it was issued")
    entries = tuple(_entry(item) for item in get_list(obj, "entries", what, maximum=LIMITS.roster_entries))
    if any(first.enrollment >= second.enrollment for first, second in pairwise(entries)):
        raise FormatError("roster: entries are not ascending by enrollment, each once")
    return Roster(version=version, issued_at=issued_at, expires_at=expires_at, previous=previous, entries=entries)


def parse_roster_artifact(manifest: Manifest, raw: bytes) -> Roster:
    """Read the layer of a roster artifact whose manifest digest the caller pinned.

    Raises:
        DigestMismatch: ``raw`` is not the layer of ``manifest``.
        FormatError: Another kind of artifact, or a malformed roster.
    """
    if manifest.artifact_type != ROSTER or len(manifest.layers) != 1 or manifest.layers[0].media_type != ROSTER:
        raise FormatError("not a roster artifact")
    manifest.layers[0].verify(raw, "roster")
    return parse_roster(raw)


def _encode_entry(entry: RosterEntry) -> JsonObject:
    return {
        "enrollment": entry.enrollment.hex(),
        "device": entry.device,
        "base": entry.base,
        "from": entry.since,
        "until": entry.until,
        "ended": entry.ended,
        "end": entry.end,
        "bin": entry.bin,
        "names": list(entry.names),
    }


def _entry(item: Any) -> RosterEntry:
    what = "roster entry"
    if not isinstance(item, dict):
        raise FormatError("roster: an entry is not an object")
    obj = _known(item, _ENTRY_KEYS, what)
    device, names = get_str(obj, "device", what), obj["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("roster entry: 'names' is not a list of text")
    for name in (device, *names):
        device_serial(name)
    if device in names or len(set(names)) != len(names):
        raise FormatError("roster entry: a name twice")
    since = _time(get_str(obj, "from", what))
    until = None if obj["until"] is None else _time(get_str(obj, "until", what))
    ended: Ended | None = None
    if obj["ended"] is not None:
        if obj["ended"] not in ("retired", "lost"):
            raise FormatError("roster entry: it ended neither retired nor lost")
        ended = obj["ended"]
    base = get_int(obj, "base", what)
    end = None if obj["end"] is None else get_int(obj, "end", what)
    if (ended is None) != (until is None) or (until is not None and until < since):
        raise FormatError("roster entry: an end needs a time, not before its beginning")
    if end is not None and (ended != "retired" or end < base):
        raise FormatError("roster entry: a last number belongs to an end that is known, at or above the base")
    return RosterEntry(
        enrollment=parse_enrollment(get_str(obj, "enrollment", what), what),
        device=device,
        base=base,
        since=since,
        until=until,
        ended=ended,
        end=end,
        bin=parse_bin(obj["bin"], what),
        names=tuple(names),
    )


def _known(obj: JsonObject, keys: set[str], what: str) -> JsonObject:
    if set(obj) != keys:
        odd = min(set(obj) ^ keys)
        raise FormatError(f"{what}: member {odd[:40]!r} is unknown or missing")
    return obj


def _time(text: str) -> str:
    parse_rfc3339(text)
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
        raise FormatError(f"roster: time {text[:40]!r} is not in seconds and UTC")
    return text
