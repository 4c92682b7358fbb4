# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The small JSON documents of the state folder: which model is active, what waits in the outbox.

Each is one file that is replaced as a whole. A document that cannot be read is the caller's to move
to quarantine: nothing here deletes what it does not understand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_object, get_str, parse_json_object
from edgeprov.limits import MIB

MAX_BYTES: Final = 4 * MIB
KINDS: Final = ("kit", "tombstone", "head", "device")

SWITCH_LOCK: Final = "switch"
"""Lock of the state folder that every switch of a slot's model holds."""

ON_TRIAL: Final[Mapping[str, Any]] = {"trial": True, "loads": 0}
"""Members that activation adds to a slot: ``loads`` counts loads of the model without a record."""

RETURNED_FROM: Final = "returned_from"
"""Member that a return to the previous model adds to a slot: the digest that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """Which model a slot runs.

    Attributes:
        slot: Name of the slot.
        model: Manifest digest of the model kit.
        previous: What ran before, to return to.
        info: Further members, the caller's own (JSON values).
    """

    slot: str
    model: Digest
    previous: Digest | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One artifact that has to reach a registry.

    Attributes:
        kind: ``kit``, ``tombstone``, ``head`` or ``device``.
        digest: Its manifest digest.
        seq: Place in the device's series; entries are kept in this order.
        repo: Repository that it goes to.
        tag: Its tag there.
        state: How far it got; the caller's words.
        info: Further members, the caller's own (JSON values).
    """

    kind: str
    digest: Digest
    seq: int
    repo: str
    tag: str
    state: str
    info: Mapping[str, Any] = field(default_factory=dict)


def encode_active(active: Active) -> bytes:
    """The document of an active pointer."""
    previous = str(active.previous) if active.previous else None
    return encode_json(
        {"v": 1, "slot": active.slot, "model": str(active.model), "previous": previous, "info": dict(active.info)}
    )


def parse_active(raw: bytes) -> Active:
    """Read an active pointer.

    Raises:
        FormatError: Malformed.
    """
    obj = _open(raw, "active pointer")
    previous = obj.get("previous")
    return Active(
        slot=get_str(obj, "slot", "active pointer"),
        model=parse_digest(get_str(obj, "model", "active pointer")),
        previous=None if previous is None else parse_digest(get_str(obj, "previous", "active pointer")),
        info=get_object(obj, "info", "active pointer"),
    )


def encode_outbox_entry(entry: OutboxEntry) -> bytes:
    """The document of an outbox entry."""
    return encode_json(
        {
            "v": 1,
            "kind": entry.kind,
            "digest": str(entry.digest),
            "seq": entry.seq,
            "repo": entry.repo,
            "tag": entry.tag,
            "state": entry.state,
            "info": dict(entry.info),
        }
    )


def parse_outbox_entry(raw: bytes) -> OutboxEntry:
    """Read an outbox entry.

    Raises:
        FormatError: Malformed.
    """
    obj = _open(raw, "outbox entry")
    kind = get_str(obj, "kind", "outbox entry")
    if kind not in KINDS:
        raise FormatError(f"outbox entry: kind {kind[:20]!r} is none of {', '.join(KINDS)}")
    return OutboxEntry(
        kind=kind,
        digest=parse_digest(get_str(obj, "digest", "outbox entry")),
        seq=get_int(obj, "seq", "outbox entry", maximum=2**64 - 1),
        repo=get_str(obj, "repo", "outbox entry"),
        tag=get_str(obj, "tag", "outbox entry"),
        state=get_str(obj, "state", "outbox entry"),
        info=get_object(obj, "info", "outbox entry"),
    )


def _open(raw: bytes, what: str) -> JsonObject:
    obj = parse_json_object(raw, what, max_bytes=MAX_BYTES)
    if obj.get("v") != 1:
        raise FormatError(f"{what}: version {str(obj.get('v'))[:20]} is not 1")
    return obj
