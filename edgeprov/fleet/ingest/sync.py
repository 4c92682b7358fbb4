# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bring the index up to date with the registries: only what is new costs anything.

A shard costs one list of tags. Tags of kits end in the start of their digest and manifests are immutable,
so a name that was seen once is never fetched again, and a tag that changed is noticed. Each manifest is
taken by digest and read itself: annotations in somebody's list are not believed. What cannot be read is
remembered with the reason, shown, and never stops the rest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from edgeprov.errors import (
    EdgeprovError,
    FormatError,
    NotStored,
    RegistryError,
    RegistryNotFound,
    VerificationError,
)
from edgeprov.fleet.index.database import Index, chunked
from edgeprov.fleet.ingest.sync_columns import (
    artifact_kind,
    device_columns,
    head_columns,
    head_tag_fault,
    is_bound,
    is_referrer,
    kit_columns,
    model_columns,
    split_ref,
    tag_fault,
    tombstone_columns,
)
from edgeprov.fleet.ingest.sync_lineage import keep_collections
from edgeprov.fleet.registries.parallel import is_end
from edgeprov.fleet.registries.sources import ArtifactReader, Source
from edgeprov.formats.datakit import parse_kit_tag
from edgeprov.formats.devicerecord import KEY_TAG, parse_device_record_artifact, record_tag
from edgeprov.formats.digest import Digest
from edgeprov.formats.head import parse_head_artifact
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import (
    ANNOTATION_REF_NAME,
    NOTATION_SIGNATURE,
    OCI_MANIFEST,
    SIGSTORE_BUNDLE,
)
from edgeprov.formats.modelkit import parse_modelkit
from edgeprov.formats.rfc3339 import rfc3339_ms
from edgeprov.formats.segment import device_serial
from edgeprov.formats.signature_manifest import parse_signature_tag, signature_tags
from edgeprov.limits import LIMITS
from edgeprov.store.layout_index import entry_subject

BATCH: Final = 500
"""Rows a transaction: after a kill, at most this much is fetched again."""

_SIGNATURES: Final = (SIGSTORE_BUNDLE, NOTATION_SIGNATURE)


@dataclass(slots=True)
class SyncReport:
    """What one sync did.

    Attributes:
        faults: (repo, reference, why) of what is unusable; a list that could not be had has no reference.
        unread: What a registry would not list or give, first one first: kits may be there that nobody has seen.
    """

    source: str
    shards: int = 0
    kits: int = 0
    tombstones: int = 0
    heads: int = 0
    devices: int = 0
    models: int = 0
    known: int = 0
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    unread: list[EdgeprovError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that a registry lists; ``digest`` where the list tells it."""

    repo: str
    reference: str
    digest: Digest | None = None
    subject: str | None = None
    artifact_type: str | None = None


def sync_source(
    index: Index,
    source: Source,
    *,
    now: dt.datetime,
    repos: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> SyncReport:
    """Bring the index up to date with one registry.

    Args:
        index: Open for writing.
        source: The registry.
        now: Becomes ``found_at`` of what is new.
        repos: Repositories to read where the registry has no catalogue (below the prefix, as in ``data/x/202601``).
        progress: Called with done and total counts.

    Raises:
        RegistryError: The registry cannot be listed at all.
    """
    return _Sync(index, source, now, progress).run(tuple(repos))


class _Sync:
    def __init__(
        self, index: Index, source: Source, now: dt.datetime, progress: Callable[[int, int], None] | None
    ) -> None:
        self.index = index
        self.reader = ArtifactReader(source)
        self.source = source
        self.source_id = index.add_source(source)
        self.found_at = rfc3339_ms(now)
        self.report = SyncReport(source=source.name)
        self.progress = progress or (lambda _done, _total: None)
        self.referrers: dict[str, list[str]] = {}
        self.signature_numbers: dict[tuple[str, str], int] = {}

    def run(self, repos: tuple[str, ...]) -> SyncReport:
        found = self._layout_names() if self.reader.layout is not None else self._registry_names(repos)
        names = [name for name in found if not KEY_TAG.fullmatch(name.reference)]  # a record's second name
        fresh = [name for name in names if not self._is_known(name)]
        done = 0
        for batch in chunked(fresh, BATCH):
            fetched = self._fetch(batch)
            with self.index.transaction():
                for name, manifest, extra, fault in fetched:
                    self._keep(name, manifest, extra, fault)
            done += len(batch)
            self.progress(done, len(fresh))
        self.report.faults.extend(keep_collections(self.index, self.reader, self.source_id))
        with self.index.transaction():
            if self.referrers:
                self._keep_referrers()
            self._keep_signature_tags()
            self.index.rows("UPDATE sources SET synced_at = ? WHERE id = ?", (self.found_at, self.source_id))
        return self.report

    # -- what is there ----------------------------------------------------------------------------

    def _layout_names(self) -> Iterator[_Name]:
        """All entries of a folder in one pass over its index."""
        assert self.reader.layout is not None  # noqa: S101 - narrowing for mypy
        repos = set()
        self._load_seen()
        for entry in self.reader.layout.manifests():
            repo, reference = split_ref(entry.annotations.get(ANNOTATION_REF_NAME, ""))
            if entry.media_type != OCI_MANIFEST:
                continue
            subject = entry_subject(entry)
            if (
                subject
                and (
                    entry.artifact_type in _SIGNATURES
                    or reference.startswith("sha256:")
                    or parse_signature_tag(reference) is not None
                )
                and is_referrer(entry)
            ):
                self.referrers.setdefault(subject, []).append(str(entry.digest))
                continue
            repos.add(repo)
            yield _Name(repo, reference or str(entry.digest), entry.digest, subject, entry.artifact_type)
        self.report.shards = len(repos)

    def _registry_names(self, repos: tuple[str, ...]) -> Iterator[_Name]:
        prefix = self.source.prefix
        registry = self.reader.registry
        if repos:
            wanted: Iterable[str] = (f"{prefix}{repo}" for repo in repos)
        else:
            known = {
                row["repo"]
                for row in self.index.rows("SELECT DISTINCT repo FROM seen WHERE source = ?", (self.source_id,))
            }
            try:
                wanted = known | {repo for repo in registry.list_repositories() if repo.startswith(prefix)}
            except RegistryNotFound:
                wanted = known or {f"{prefix}devices"}
            except (FormatError, VerificationError) as error:
                self._note_unread("", f"its catalogue cannot be read: {error.message}", error)
                wanted = known or {f"{prefix}devices"}
        self._load_seen()
        for repo in sorted(wanted):
            self.report.shards += 1
            tags = set(self._tags(repo))
            for tag in sorted(tags):
                if (named := parse_signature_tag(tag)) and named[0] in tags:
                    numbers = self.signature_numbers.get((repo, named[0]), 0)
                    self.signature_numbers[repo, named[0]] = numbers | 1 << named[1]
                elif not tag.startswith("sha256-"):
                    yield _Name(repo, tag)

    def _tags(self, repo: str) -> Sequence[str]:
        try:
            return self.reader.registry.list_tags(repo)
        except RegistryNotFound:
            return ()
        except (FormatError, RegistryError) as error:
            if is_end(error):
                raise
            self._note_unread(repo, f"its tags cannot be listed: {error.message}", error)
            return ()

    def _note_unread(self, repo: str, why: str, error: EdgeprovError) -> None:
        self.report.faults.append((repo, "", why))
        self.report.unread.append(error)

    def _load_seen(self) -> None:
        self.seen: dict[tuple[str, str], str | None] = {
            (row["repo"], row["reference"]): row["digest"]
            for row in self.index.rows("SELECT repo, reference, digest FROM seen WHERE source = ?", (self.source_id,))
        }

    def _is_known(self, name: _Name) -> bool:
        """Content-bound names never change; the others (models, devices) cost one HEAD each."""
        if (name.repo, name.reference) not in self.seen:
            return False
        before = self.seen[name.repo, name.reference]
        if name.digest is not None:
            same = str(name.digest) == before
        elif is_bound(name.repo, name.reference):
            same = before is not None
        else:
            head = self.reader.registry.head_manifest(name.repo, name.reference)
            same = head is not None and str(head.digest) == before
        self.report.known += same
        return same

    # -- fetching ---------------------------------------------------------------------------------

    def _fetch(self, batch: list[_Name]) -> list[tuple[_Name, Manifest | None, Any, str]]:
        if self.reader.layout is not None or len(batch) == 1:
            return [self._fetch_one(name) for name in batch]
        with ThreadPoolExecutor(LIMITS.registry_connections) as pool:
            return list(pool.map(self._fetch_one, batch))

    def _fetch_one(self, name: _Name) -> tuple[_Name, Manifest | None, Any, str]:
        """One manifest with what is small and hangs on it; a fault instead of an error unless the line is cut."""
        try:
            if name.digest is not None:
                manifest = self.reader.manifest(name.repo, name.digest)
            else:
                manifest = self.reader.registry.fetch_manifest(name.repo, name.reference)
            return name, manifest, self._extra(name, manifest), ""
        except (VerificationError, FormatError, RegistryNotFound, NotStored) as error:
            return name, None, None, f"{type(error).__name__}: {error.message}"
        except EdgeprovError as error:
            if is_end(error):
                raise
            if error.retryable or isinstance(error, RegistryError):  # denied, or no registry's answer: not read
                self.report.unread.append(error)
            return name, None, None, f"{type(error).__name__}: {error.message}"

    def _extra(self, name: _Name, manifest: Manifest) -> Any:
        kind = artifact_kind(manifest)
        if kind == "device":
            layer = self.reader.blob(name.repo, manifest.layers[0], max_bytes=LIMITS.device_record_bytes)
            self.reader.check_blob(name.repo, manifest.config)
            record = record_tag(name.reference.partition(".")[0], manifest.digest)
            tags = signature_tags(record, self.signature_numbers.get((name.repo, record), 0))
            signatures = self.reader.signatures(name.repo, manifest.digest, tags=tags)
            return parse_device_record_artifact(manifest, layer), layer, signatures
        if kind == "head":
            layer = self.reader.blob(name.repo, manifest.layers[0], max_bytes=LIMITS.head_bytes)
            return parse_head_artifact(manifest, layer), layer
        if kind == "model":
            config = self.reader.blob(name.repo, manifest.config, max_bytes=LIMITS.config_bytes)
            return parse_modelkit(manifest, config)
        return None

    # -- keeping ----------------------------------------------------------------------------------

    def _keep(self, name: _Name, manifest: Manifest | None, extra: Any, fault: str) -> None:
        if manifest is not None and not fault:
            try:
                fault = self._keep_artifact(name, manifest, extra)
            except EdgeprovError as error:
                fault = f"{type(error).__name__}: {error.message}"
        if fault:
            self.report.faults.append((name.repo, name.reference, fault))
        self.index.put(
            "seen",
            source=self.source_id,
            repo=name.repo,
            reference=name.reference,
            digest=str(manifest.digest) if manifest else None,
            fault=fault or None,
        )

    def _keep_artifact(self, name: _Name, manifest: Manifest, extra: Any) -> str:
        kind = artifact_kind(manifest)
        tag = None if name.reference.startswith("sha256:") else name.reference
        if kind in ("kit", "tombstone"):
            return self._keep_kit(name, manifest, kind, tag)
        if kind == "device":
            return self._keep_device(name, manifest, extra)
        if kind == "head":
            return self._keep_head(name, manifest, extra, tag)
        if kind == "model":
            self._keep_model(name, manifest, extra, tag)
            return ""
        if manifest.subject is not None:  # a signature in a folder whose index does not tell subjects
            self.index.put("signatures", subject=str(manifest.subject.digest), digest=str(manifest.digest))
        if name.repo.startswith(f"{self.source.prefix}data/") and tag is not None and parse_kit_tag(tag):
            return "the tag is a kit's, the artifact is none"
        return ""  # another tool's artifact: none of our business

    def _keep_kit(self, name: _Name, manifest: Manifest, kind: str, tag: str | None) -> str:
        values = kit_columns(manifest) if kind == "kit" else tombstone_columns(manifest)
        if tag is not None and (fault := tag_fault(tag, manifest.digest, values)):
            # Kept under its digest all the same: the artifact may be good, the name is forged.
            self.report.faults.append((name.repo, tag, fault))
            tag = None
        known = self.index.rows("SELECT found_at, source FROM artifacts WHERE digest = ?", (str(manifest.digest),))
        if known:
            self.report.known += 1
            return ""
        self.index.put(
            "artifacts",
            digest=str(manifest.digest),
            kind=kind,
            source=self.source_id,
            repo=name.repo,
            tag=tag,
            bytes=sum(blob.size for blob in manifest.blobs),
            found_at=self.found_at,
            **values,
        )
        self.report.kits += kind == "kit"
        self.report.tombstones += kind == "tombstone"
        return ""

    def _keep_device(self, name: _Name, manifest: Manifest, extra: Any) -> str:
        record, layer, signatures = extra
        serial = name.reference.partition(".")[0]
        if not name.reference.startswith("sha256:") and serial != device_serial(record.device):
            return f"the tag names the device {serial[:60]}, the record {record.device}"
        new = not self.index.rows("SELECT 1 FROM devices WHERE digest = ?", (str(manifest.digest),))
        self.index.put("devices", source=self.source_id, **device_columns(manifest, record, layer, signatures))
        self.report.devices += new
        return ""

    def _keep_head(self, name: _Name, manifest: Manifest, extra: Any, tag: str | None) -> str:
        head, layer = extra
        if tag is not None and (fault := head_tag_fault(tag, manifest.digest, head)):
            return fault
        new = not self.index.rows("SELECT 1 FROM heads WHERE digest = ?", (str(manifest.digest),))
        if new:
            values = head_columns(manifest, head, layer)
            self.index.put("heads", source=self.source_id, repo=name.repo, tag=tag, found_at=self.found_at, **values)
        self.report.heads += new
        self.report.known += not new
        return ""

    def _keep_model(self, name: _Name, manifest: Manifest, kit: Any, tag: str | None) -> None:
        new = not self.index.rows("SELECT 1 FROM models WHERE digest = ?", (str(manifest.digest),))
        if new:
            self.index.put("models", source=self.source_id, repo=name.repo, **model_columns(manifest, kit))
        if tag is not None:
            self.index.put("model_tags", source=self.source_id, repo=name.repo, tag=tag, digest=str(manifest.digest))
        self.report.models += new

    def _keep_referrers(self) -> None:
        # In the order of the table: each page of it is written once.
        rows = sorted((subject, digest) for subject, digests in self.referrers.items() for digest in digests)
        self.index.put_all("signatures", ("subject", "digest"), rows)

    def _keep_signature_tags(self) -> None:
        sql = "SELECT repo, tag, numbers FROM signature_tags WHERE source = ?"
        known = {(row["repo"], row["tag"]): row["numbers"] for row in self.index.rows(sql, (self.source_id,))}
        rows = sorted(
            (self.source_id, repo, tag, numbers)
            for (repo, tag), numbers in self.signature_numbers.items()
            if known.get((repo, tag)) != numbers
        )
        self.index.put_all("signature_tags", ("source", "repo", "tag", "numbers"), rows)
