# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tombstone: takes a kit's place in a device's series and says, signed, why there is no kit.

``crash``: the counter was raised but sealing did not end; no record is lost by it. ``discarded``:
the spool was full under the policy that lets the oldest records go; their numbers are named.
``damaged``: the device's storage did not give the named records back.

Spec: FORMAT.md section "Tombstone".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import encode_json, get_int, get_list, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_MODEL,
    A_PREV,
    A_REASON,
    A_SEQ,
    A_SLOT,
    ANNOTATION_CREATED,
    TOMBSTONE,
)
from edgeprov.formats.record import INT_MAX
from edgeprov.formats.segment import check_slot, device_serial
from edgeprov.limits import LIMITS

Reason = Literal["crash", "discarded", "damaged"]
REASONS: Final[Mapping[str, Reason]] = {"crash": "crash", "discarded": "discarded", "damaged": "damaged"}
NO_PREV: Final = "none"
"""Value of the ``prev`` annotation of a device's first kit."""

_KEYS: Final = frozenset(("device", "seq", "prev", "reason", "model", "slot", "discarded", "at"))
_RANGES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A parsed tombstone. ``discarded`` are ranges of record numbers, first and last included."""

    manifest: Manifest
    model: Digest
    device: str
    slot: str
    seq: int
    prev: Digest | None
    reason: Reason
    discarded: tuple[tuple[int, int], ...]
    at: str


def build_tombstone(
    *,
    model: Digest,
    device: str,
    slot: str,
    seq: int,
    prev: Digest | None,
    reason: Reason,
    discarded: Sequence[tuple[int, int]] = (),
    at: str,
    subject: Descriptor | None = None,
) -> tuple[Manifest, bytes]:
    """Write a tombstone; returns its manifest and its one layer. The config is OCI's empty blob.

    Args:
        model: Manifest digest of the model that was active.
        device: Device URN.
        slot: Slot of the kit whose place it takes.
        seq: TPM counter value.
        prev: Manifest digest of the device's kit or tombstone before.
        reason: What happened.
        discarded: Ranges of record numbers that are gone.
        at: RFC 3339 time, device clock.
        subject: As in build_datakit.
    """
    prev_text = str(prev) if prev else NO_PREV
    layer = encode_json(
        {
            "device": device,
            "seq": seq,
            "prev": prev_text,
            "reason": reason,
            "model": str(model),
            "slot": slot,
            "discarded": [list(item) for item in discarded],
            "at": at,
        }
    )
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[describe(layer, TOMBSTONE)],
        artifact_type=TOMBSTONE,
        subject=subject,
        annotations={
            A_DEVICE: device,
            A_SLOT: slot,
            A_MODEL: str(model),
            A_SEQ: str(seq),
            A_PREV: prev_text,
            A_REASON: reason,
            ANNOTATION_CREATED: at,
        },
    )
    parse_tombstone(manifest, layer)
    return manifest, layer


def parse_tombstone(manifest: Manifest, layer_raw: bytes) -> Tombstone:
    """Read a tombstone; annotations and subject must say what its signed layer says.

    Raises:
        DigestMismatch: Not the layer that the manifest names.
        FormatError: Not a tombstone, or it contradicts itself.
    """
    what = "tombstone"
    if manifest.artifact_type != TOMBSTONE or [layer.media_type for layer in manifest.layers] != [TOMBSTONE]:
        raise FormatError("the artifact is not a tombstone")
    manifest.layers[0].verify(layer_raw, what)
    obj = parse_json_object(layer_raw, what, max_bytes=LIMITS.statement_bytes)
    if obj.keys() != _KEYS:
        raise FormatError(f"{what} has unknown or missing members")
    reason = get_str(obj, "reason", what)
    if reason not in REASONS:
        raise FormatError(f"{what} has the unknown reason {reason[:40]!r}")
    device, prev = get_str(obj, "device", what), get_str(obj, "prev", what)
    device_serial(device)
    tombstone = Tombstone(
        manifest=manifest,
        model=parse_digest(get_str(obj, "model", what)),
        device=device,
        slot=check_slot(get_str(obj, "slot", what)),
        seq=get_int(obj, "seq", what),
        prev=None if prev == NO_PREV else parse_digest(prev),
        reason=REASONS[reason],
        discarded=_ranges(get_list(obj, "discarded", what, maximum=_RANGES)),
        at=get_str(obj, "at", what),
    )
    stated = {
        A_DEVICE: device,
        A_SLOT: tombstone.slot,
        A_MODEL: str(tombstone.model),
        A_SEQ: str(tombstone.seq),
        A_PREV: prev,
        A_REASON: reason,
    }
    if any(manifest.annotations.get(key) != value for key, value in stated.items()):
        raise FormatError(f"{what}: annotations and layer say different things")
    if manifest.subject is not None and manifest.subject.digest != tombstone.model:
        raise FormatError(f"{what}: the subject is not the model that it names")
    return tombstone


def _ranges(value: list[object]) -> tuple[tuple[int, int], ...]:
    result: list[tuple[int, int]] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or any(type(end) is not int for end in item):
            raise FormatError("tombstone: 'discarded' holds something else than ranges of record numbers")
        first, last = item
        if not (result[-1][1] if result else -1) < first <= last <= INT_MAX:
            raise FormatError("tombstone: ranges of 'discarded' are out of order or overlap")
        result.append((first, last))
    return tuple(result)
