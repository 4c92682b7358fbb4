# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's series of kits and tombstones, and which numbers came from which model.

Three small documents of the state folder. ``series`` is the head: number and digest of the newest
kit or tombstone; replacing it is the commit point of a seal. ``seal`` is the intent: it is written
before the TPM counter moves, so that a number that was used up is accounted for after a crash.
``numbers-<slot>`` tells which model made which records, for labels that come weeks later, when the
spool has long been freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, NotStored
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.mediatypes import OCI_MANIFEST

if TYPE_CHECKING:
    from edgeprov.formats.manifest import Manifest
    from edgeprov.store.state import Active, State

SERIES: Final = "series"
INTENT: Final = "seal"
MODELS: Final = "models"
SEAL_LOCK: Final = "seal"
"""Held by whoever adds to the series, or must not see it grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesHead:
    """Number and digest of the newest kit or tombstone, and the TPM's clock (ms) when it was sealed."""

    seq: int
    digest: Digest
    tpm_clock_ms: int
    entry: Mapping[str, Any]


def load_head(state: State) -> SeriesHead | None:
    """The head of the series; None before the first kit.

    Raises:
        StoreError: The document cannot be read.
    """
    document = state.load_document(SERIES)
    if document is None:
        return None
    try:
        return SeriesHead(
            seq=int(document["seq"]),
            digest=parse_digest(str(document["digest"])),
            tpm_clock_ms=int(document["tpm_clock_ms"]),
            entry=dict(document["entry"]),
        )
    except (KeyError, TypeError, ValueError, FormatError):
        return None


def save_head(state: State, head: SeriesHead) -> None:
    """Replace the head: from now on this number is taken.

    Raises:
        StoreError: The document cannot be written.
    """
    state.save_document(
        SERIES,
        {
            "seq": head.seq,
            "digest": str(head.digest),
            "tpm_clock_ms": head.tpm_clock_ms,
            "entry": dict(head.entry),
        },
    )


def remember_model(state: State, manifest: Manifest) -> None:
    """Keep the size of a model's manifest: kits name it as their subject even after its removal.

    Raises:
        StoreError: The document cannot be written.
    """
    sizes = state.load_document(MODELS) or {}
    if sizes.get(str(manifest.digest)) != len(manifest.raw):
        state.save_document(MODELS, {**sizes, str(manifest.digest): len(manifest.raw)})


def model_descriptor(state: State, digest: Digest) -> Descriptor:
    """The descriptor that goes into a kit's ``subject``.

    Raises:
        NotStored: This device never recorded with that model.
    """
    size = (state.load_document(MODELS) or {}).get(str(digest))
    if not isinstance(size, int):
        raise NotStored(f"model {digest} was never used on this device")
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=size)


def first_active(state: State) -> Active | None:
    """The active model of the first slot that has one: what a number is charged to when nothing tells its model.

    Raises:
        StoreError: The state cannot be read.
    """
    return next((active for slot in state.slots() if (active := state.active(slot)) is not None), None)


def load_numbers(state: State, slot: str) -> list[tuple[int, int, Digest]]:
    """Intervals of freed records: first and last number, and the model; oldest first.

    Raises:
        StoreError: The document cannot be read.
    """
    document = state.load_document(f"numbers-{slot}") or {}
    return [(int(first), int(last), parse_digest(str(model))) for first, last, model in document.get("intervals", ())]


def add_numbers(state: State, slot: str, added: Iterable[tuple[int, int, Digest]]) -> None:
    """Note which model made which records, before their segments are freed. Repeating it changes nothing.

    Raises:
        StoreError: The document cannot be written.
    """
    merged: list[tuple[int, int, Digest]] = []
    for first, last, model in sorted({*load_numbers(state, slot), *added}, key=lambda item: item[:2]):
        if merged and merged[-1][2] == model and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]), model)
        else:
            merged.append((first, last, model))
    state.save_document(f"numbers-{slot}", {"intervals": [[first, last, str(model)] for first, last, model in merged]})
