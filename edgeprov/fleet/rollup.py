# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roll-ups: one signed image index that names every verified kit of a closed shard.

A shard (one data repository: a model and a month) is closed when the series of each of its devices is
whole up to the device's last kit there, and its month is over. There is one writer, held by a lock; a
run that was stopped is repeated, and what is there already is neither written nor signed again. For
plain clients of a registry without the referrers API the same run lists the kits under the fallback
tag of their model, which devices never write: fifty of them at once would lose most of the entries.

Spec: FORMAT.md section "Roll-up"; OCI distribution-spec 1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from edgeprov.errors import FormatError, RegistryNotFound
from edgeprov.fleet.audit.series_lines import series_item
from edgeprov.fleet.index.database import Artifact, Index, Query, digest_of_text
from edgeprov.fleet.registries.sources import ArtifactReader, Source, open_registry
from edgeprov.fleet.rollup_read import NUMBERED, ROLLUP_TAG
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.trust.signers import signature_artifact
from edgeprov.fleet.verification.device_records import verified_devices
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import digest_of
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import Manifest, encode_index
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_FIRST,
    A_KITS,
    A_LAST,
    A_MODEL,
    A_RECORDED_FIRST,
    A_RECORDED_LAST,
    A_RECORDS,
    A_SEQ,
    ANNOTATION_CREATED,
    OCI_INDEX,
    ROLLUP,
    ROLLUP_PREDICATE,
    STATEMENT_TYPE,
)
from edgeprov.registry.base import Registry, attach, fallback_tag
from edgeprov.store.lock import lock
from edgeprov.verify.enrollment import VerifiedDevice
from edgeprov.verify.series import check_series

LEAF_ENTRIES: Final = 4_000
"""Descriptors of one index: about 450 bytes each, so 1.8 MB of the 4 MiB that registries take."""
FALLBACK_ENTRIES: Final = 10_000
_ENTRY_ANNOTATIONS: Final = (A_DEVICE, A_SEQ, A_RECORDS, A_FIRST, A_LAST, A_RECORDED_FIRST, A_RECORDED_LAST)
_MONTH = re.compile(r"(?:.*/)?([0-9]{4})(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledUp:
    """One shard. ``state`` is written, current (it was there) or open, with the reason."""

    source: str
    repo: str
    state: str
    kits: int = 0
    reference: str = ""
    digest: str = ""
    why: str = ""
    fallback: int | None = None


def roll_up(
    index: Index,
    trust: Trust,
    signer: Signer,
    *,
    now: dt.datetime,
    fallback: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[RolledUp]:
    """Write the roll-up of every closed shard that the index knows.

    Args:
        index: With verdicts under ``trust``: only verified kits are named.
        trust: Names the policy, and judges the device records.
        signer: Of the roll-ups.
        now: This machine's clock: whether a month is over.
        fallback: Also write the fallback tag of the model where there is no referrers API.
        progress: Called with done and total shards.

    Raises:
        StoreBusy: Another roll-up runs on this fleet folder.
        RegistryError: A registry failed; what was written stays, and a repeat goes on from there.
    """
    results = []
    with lock(index.folder / "rollup.lock"):
        closed, doubts = _closed_until(index, trust, now)
        items = sorted(index.iterate(Query(policy=trust.digest)), key=lambda item: (item.source, item.repo))
        shards = [(key, list(group)) for key, group in groupby(items, key=lambda item: (item.source, item.repo))]
        sources = index.sources()
        for done, ((source_id, repo), group) in enumerate(shards, 1):
            source = sources[source_id]
            why = _why_open(repo, group, closed, doubts, now)
            if why:
                results.append(RolledUp(source=source.name, repo=repo, state="open", why=why))
            else:
                good = [item for item in group if item.verified]
                results.append(_Shard(source, repo, signer, now).write(good, fallback=fallback))
            progress(done, len(shards))
    return results


def _closed_until(index: Index, trust: Trust, now: dt.datetime) -> tuple[dict[str, int], dict[str, str]]:
    """Per device, up to which number its series is whole; and why nothing is known of some."""
    closed: dict[str, int] = {}
    doubts: dict[str, str] = {}
    records = verified_devices(index, trust, now)
    everything = index.iterate(Query(policy=trust.digest))
    for device, group in groupby(everything, key=lambda item: item.device):
        record = records.get(device)
        if not isinstance(record, VerifiedDevice):
            doubts[device] = "its device record is missing or refused"
            continue
        report = check_series((series_item(item) for item in group if item.verified), record.record.counter_base)
        closed[device] = report.closed_until
    return closed, doubts


def _why_open(
    repo: str, group: Sequence[Artifact], closed: dict[str, int], doubts: dict[str, str], now: dt.datetime
) -> str:
    month = _MONTH.fullmatch(repo)
    if month and (int(month[1]), int(month[2])) >= (now.year, now.month):
        return "its month is not over"
    if unchecked := sum(item.verified is None for item in group):
        return f"{unchecked} kits are not verified yet"
    good = [item for item in group if item.verified]
    if not good:
        return "no kit in it verifies"
    for item in good:
        if item.device in doubts:
            return f"{item.device}: {doubts[item.device]}"
        if item.seq > closed[item.device]:
            return f"{item.device}: its series is whole only up to {closed[item.device]}"
    return ""


class _Shard:
    """Writes one shard's roll-up."""

    def __init__(self, source: Source, repo: str, signer: Signer, now: dt.datetime) -> None:
        self._source = source
        self._repo = repo
        self._signer = signer
        self._now = now
        self._reader = ArtifactReader(source)
        self._registry: Registry = open_registry(source)

    def write(self, items: Sequence[Artifact], *, fallback: bool) -> RolledUp:
        manifests = [self._reader.manifest(self._repo, digest_of_text(item.digest)) for item in items]
        raw = self._encode(items, manifests)
        digest = digest_of(raw)
        tag, there = self._find(raw)
        if not there:
            self._registry.push_index(self._repo, raw, tag=tag)
        subject = Descriptor(media_type=OCI_INDEX, digest=digest, size=len(raw))
        if not self._registry.list_referrers(self._repo, digest):
            self._sign(subject, items)
        listed = self._write_fallback(items, manifests) if fallback else None
        joint = f"{self._source.name}//{self._repo}" if self._source.is_layout else f"{self._source.host}/{self._repo}"
        return RolledUp(
            source=self._source.name,
            repo=self._repo,
            state="current" if there else "written",
            kits=len(items),
            reference=f"{joint}:{tag}",
            digest=str(digest),
            fallback=listed,
        )

    def _encode(self, items: Sequence[Artifact], manifests: Sequence[Manifest]) -> bytes:
        """The same kits give the same bytes, whoever writes them and when."""
        entries = [_entry(manifest) for manifest in manifests]
        models = {item.model for item in items}
        annotations = {
            A_KITS: str(len(items)),
            A_RECORDS: str(sum(item.records for item in items)),
            ANNOTATION_CREATED: max(item.created for item in items),
        }
        subject = None
        if len(models) == 1:
            annotations[A_MODEL] = next(iter(models))
            subject = manifests[0].subject
        if len(entries) > LEAF_ENTRIES:
            leaves = []
            for start in range(0, len(entries), LEAF_ENTRIES):
                leaf = encode_index(entries[start : start + LEAF_ENTRIES], artifact_type=ROLLUP)
                self._registry.push_index(self._repo, leaf)
                leaves.append(
                    Descriptor(media_type=OCI_INDEX, digest=digest_of(leaf), size=len(leaf), artifact_type=ROLLUP)
                )
            entries = leaves
        return encode_index(entries, artifact_type=ROLLUP, subject=subject, annotations=annotations)

    def _find(self, raw: bytes) -> tuple[str, bool]:
        """The tag to write, and whether its content is there already."""
        numbers = sorted(
            int(found[1]) for tag in self._registry.list_tags(self._repo) if (found := NUMBERED.fullmatch(tag))
        )
        if numbers:
            newest = f"{ROLLUP_TAG}{numbers[-1]}"
            with contextlib.suppress(FormatError):  # not ours: the next number is
                if self._registry.fetch_index(self._repo, newest).raw == raw:
                    return newest, True
        return f"{ROLLUP_TAG}{numbers[-1] + 1 if numbers else 1}", False

    def _sign(self, subject: Descriptor, items: Iterable[Artifact]) -> None:
        until: dict[str, int] = {}
        for item in items:
            until[item.device] = max(until.get(item.device, 0), item.seq)
        created = self._now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        statement = encode_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"digest": {"sha256": subject.digest.hex}}],
                "predicateType": ROLLUP_PREDICATE,
                "predicate": {
                    "repository": self._repo,
                    "writtenAt": created,
                    "closedUntil": dict(sorted(until.items())),
                },
            }
        )
        signature, blob = signature_artifact(self._signer, subject, statement, ROLLUP_PREDICATE, created)
        attach(self._registry, self._repo, signature, {signature.layers[0].digest: blob})

    def _write_fallback(self, items: Sequence[Artifact], manifests: Sequence[Manifest]) -> int | None:
        """List the kits under their model's fallback tag; None where the registry lists them by itself."""
        written = None
        for model in sorted({item.model for item in items}):
            subject = digest_of_text(model)
            wanted = {
                manifest.digest: manifest
                for item, manifest in zip(items, manifests, strict=True)
                if item.model == model
            }
            there = {item.digest for item in self._registry.list_referrers(self._repo, subject)}
            missing = [manifest for digest, manifest in wanted.items() if digest not in there]
            if not missing:
                continue
            listed: tuple[Descriptor, ...] = ()
            with contextlib.suppress(RegistryNotFound):
                listed = self._registry.fetch_index(self._repo, fallback_tag(subject)).manifests
            entries = [*listed, *(_entry(manifest) for manifest in missing)]
            if len(entries) > FALLBACK_ENTRIES:
                continue  # plain clients could not read it; the roll-up is there
            self._registry.push_index(self._repo, encode_index(entries), tag=fallback_tag(subject))
            written = (written or 0) + len(missing)
        return written


def _entry(manifest: Manifest) -> Descriptor:
    """A kit as an index names it: enough to choose by device and time without opening it."""
    chosen = {key: manifest.annotations[key] for key in _ENTRY_ANNOTATIONS if key in manifest.annotations}
    return manifest.descriptor.with_annotations(chosen)
