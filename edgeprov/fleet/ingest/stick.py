# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Take in a technician's stick: what `edgeprov export` wrote goes to the registry, unchanged and verified by digest.

Nothing is judged here: a kit that no verifier will accept is evidence too. The receipt names only what
the registry confirmed, together with its signatures. A stick that was pulled too early can be put in
again: what has arrived is not sent twice.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from edgeprov.errors import EdgeprovError, FormatError, NotStored, RegistryConflict, VerificationError
from edgeprov.fleet.ingest.sync_columns import artifact_kind, head_tag_fault
from edgeprov.fleet.registries.chunk_stream import ChunkStream
from edgeprov.fleet.registries.sources import Source, open_registry
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.formats.datakit import parse_kit_tag
from edgeprov.formats.digest import Digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.head import parse_head_artifact, parse_head_tag
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import A_DEVICE, ANNOTATION_REF_NAME, OCI_MANIFEST
from edgeprov.formats.receipt import MAX_KITS, Receipt, encode_receipt
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.segment import device_serial
from edgeprov.formats.signature_manifest import parse_signature_tag, signature_tag
from edgeprov.limits import LIMITS
from edgeprov.registry.base import Registry
from edgeprov.registry.push_order import list_as_referrers
from edgeprov.store.layout import Layout
from edgeprov.store.layout_index import entry_subject
from edgeprov.store.layout_registry import LayoutRegistry


@dataclass(slots=True)
class ImportReport:
    """What a stick held; ``faults`` are (name or digest, why), ``arrived`` artifacts by device URN."""

    kits: int = 0
    heads: int = 0
    known: int = 0
    bytes: int = 0
    arrived: dict[str, list[Digest]] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Found:
    repo: str
    tag: str | None
    digest: Digest
    subject: str | None


def import_stick(folder: Path, to: Source, *, progress: Callable[[int, int], None] | None = None) -> ImportReport:
    """Push all kits and tombstones of a stick with their signatures, and its heads.

    Args:
        folder: OCI layout; it is only read.
        to: Registry.
        progress: Called with done and total artifacts.

    Raises:
        NotStored: Not an OCI layout.
        RegistryError: The registry cannot be reached; what has arrived stays there.
    """
    layout = Layout.open(folder, read_only=True)
    registry = open_registry(to, create=True)
    entries = list(_entries(layout))
    signatures: dict[str, list[_Found]] = {}
    for entry in entries:
        if entry.subject and (entry.tag is None or parse_signature_tag(entry.tag)):
            signatures.setdefault(entry.subject, []).append(entry)
    report = ImportReport()
    tagged = [entry for entry in entries if entry.tag and (parse_kit_tag(entry.tag) or parse_head_tag(entry.tag))]
    batch = registry.layout.batch if isinstance(registry, LayoutRegistry) else _no_batch
    with batch():
        for done, entry in enumerate(tagged, 1):
            try:
                _import_one(layout, registry, to, entry, signatures.get(str(entry.digest), []), report)
            except (VerificationError, FormatError, NotStored, RegistryConflict) as error:
                report.faults.append((entry.tag or str(entry.digest), f"{type(error).__name__}: {error.message}"))
            if progress:
                progress(done, len(tagged))
    return report


def make_receipts(report: ImportReport, to: Source, signer: Signer, now: dt.datetime) -> dict[str, bytes]:
    """Signed receipts by file name, for `edgeprov receipt install`.

    Args:
        report: Of the import.
        to: Where the kits are now.
        signer: An enroller.
        now: The back end's clock.
    """
    at = rfc3339(now)
    result = {}
    for device, digests in sorted(report.arrived.items()):
        for number, start in enumerate(range(0, len(digests), MAX_KITS), 1):
            receipt = Receipt(device=device, registry=to.name, at=at, digests=tuple(digests[start : start + MAX_KITS]))
            suffix = f".{number}" if number > 1 else ""
            result[f"{device_serial(device)}{suffix}.receipt.json"] = sign_statement(signer, encode_receipt(receipt))
    return result


def _entries(layout: Layout) -> Iterator[_Found]:
    for entry in layout.manifests():
        ref = entry.annotations.get(ANNOTATION_REF_NAME, "")
        head, at, _ = ref.partition("@")
        repo, colon, tag = ("", "", "") if at else ref.rpartition(":")
        if entry.media_type == OCI_MANIFEST:
            yield _Found(head if at else repo, tag if colon else None, entry.digest, entry_subject(entry))


def _import_one(
    layout: Layout, registry: Registry, to: Source, entry: _Found, signatures: list[_Found], report: ImportReport
) -> None:
    manifest = layout.load_manifest(entry.digest)
    kind = artifact_kind(manifest)
    device = manifest.annotations.get(A_DEVICE, "")
    if kind == "head":
        _verify_head_tag(layout, manifest, entry.tag or "")
    else:
        _verify_kit_tag(kind, device, entry)
        if not signatures:
            raise FormatError("the kit has no signature on this stick")
    repo = f"{to.prefix}{entry.repo}"
    there = registry.head_manifest(repo, entry.tag or "")
    if there is not None and there.digest != entry.digest:
        raise RegistryConflict(f"the tag {entry.tag} names {there.digest} in the registry")
    if there is None:
        report.bytes += _push_blobs(layout, registry, repo, manifest)
        registry.push_manifest(repo, manifest)
    report.known += there is not None
    added = []
    # The tags of signatures that came without one follow those that have one, and the device's own two.
    number = max((parsed[1] for item in signatures if (parsed := parse_signature_tag(item.tag or ""))), default=2)
    for signature in signatures:
        if there is not None and registry.head_manifest(repo, str(signature.digest)) is not None:
            continue
        signed = layout.load_manifest(signature.digest)
        report.bytes += _push_blobs(layout, registry, repo, signed)
        number += signature.tag is None
        name = signature.tag or signature_tag(entry.tag or "", number)
        if not registry.push_manifest(repo, signed, tag=name):
            added.append(signed)
    if added:
        list_as_referrers(registry, repo, manifest.digest, added)
    if there is None:
        registry.push_manifest(repo, manifest, tag=entry.tag)
    head = registry.head_manifest(repo, str(manifest.digest))
    if head is None or head.digest != manifest.digest:
        raise EdgeprovError(f"the registry took {manifest.digest}, but does not show it")
    report.heads += kind == "head"
    report.kits += kind != "head"
    report.arrived.setdefault(device, []).append(manifest.digest)


def _verify_kit_tag(kind: str, device: str, entry: _Found) -> None:
    if kind not in ("kit", "tombstone"):
        raise FormatError("not a data kit, tombstone or head")
    tag = parse_kit_tag(entry.tag or "")
    if tag is None or tag.device != device_serial(device) or tag.prefix != entry.digest.hex[:16]:
        raise FormatError("the tag does not belong to this kit")


def _verify_head_tag(layout: Layout, manifest: Manifest, tag: str) -> None:
    head = parse_head_artifact(manifest, layout.load_blob(manifest.layers[0], max_bytes=LIMITS.head_bytes))
    if fault := head_tag_fault(tag, manifest.digest, head):
        raise FormatError(fault)


def _push_blobs(layout: Layout, registry: Registry, repo: str, manifest: Manifest) -> int:
    sent = 0
    for blob in manifest.blobs:
        with layout.open_blob(blob) as stream:
            chunks = iter(lambda: stream.read(64 * 1024), b"")
            reader = cast("BinaryIO", io.BufferedReader(ChunkStream(chunks), 64 * 1024))
            sent += blob.size * registry.push_blob(repo, blob, reader)
    return sent


class _no_batch:  # noqa: N801 - stands where a method stands
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
