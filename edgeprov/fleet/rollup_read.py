# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roll-ups read back: what was in a closed shard, and what of it is gone.

A registry can lose kits, and whoever may delete in it can take some away. Where a roll-up names them,
they are known by digest all the same: they are shown as gone by sync, query and audit, and never stop
anything. Every roll-up counts, not only the newest: a later one that leaves a kit out takes nothing back.

Spec: FORMAT.md section "Roll-up".
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprov.errors import EdgeprovError, FormatError
from edgeprov.fleet.index.database import Index, Query, digest_of_text, json_of_text
from edgeprov.fleet.index.query_terms import parse_moment
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.formats.b64 import b64, parse_b64
from edgeprov.formats.datakit import kit_tag
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.mediatypes import (
    A_DEVICE,
    A_MODEL,
    A_RECORDED_FIRST,
    A_RECORDED_LAST,
    A_RECORDS,
    A_SEQ,
    OCI_INDEX,
    ROLLUP,
)
from edgeprov.formats.segment import device_serial
from edgeprov.verify.collector import verify_rollup
from edgeprov.verify.policy import TrustPolicy

ROLLUP_TAG: Final = "rollup."
NUMBERED: Final = re.compile(re.escape(ROLLUP_TAG) + r"([1-9][0-9]{0,8})")
UNSIGNED: Final = b"[]"
_NEWEST: Final = 16
"""Roll-ups that are read of one shard: who may write to a registry could put any number there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoneKit:
    """A kit that a roll-up names and no registry lists; ``proved`` None where the roll-up has no verdict yet."""

    digest: str
    repo: str
    tag: str
    rollup: str
    device: str
    seq: int
    model: str | None
    records: int
    recorded_first: str | None
    recorded_last: str | None
    proved: bool | None


@dataclass(frozen=True, slots=True)
class _Member:
    digest: Digest
    device: str
    seq: int
    records: int
    recorded_first: str | None
    recorded_last: str | None

    @property
    def tag(self) -> str:
        return kit_tag(device_serial(self.device), self.seq, self.digest)


class RollupReader:
    """The roll-ups of one source, on their way into the index."""

    def __init__(self, index: Index, reader: ArtifactReader, source_id: int, found_at: str) -> None:
        self._index = index
        self._reader = reader
        self._source_id = source_id
        self._found_at = found_at

    def keep(self, repo: str, tags: Collection[str]) -> Iterator[tuple[str, str]]:
        """Read the roll-ups of a shard that are new or were not signed yet; yields tag and reason of what is unusable.

        Raises:
            RegistryError: The line is cut.
        """
        numbered = sorted((int(found[1]), tag) for tag in tags if (found := NUMBERED.fullmatch(tag)))
        known = {
            row["tag"]: row
            for row in self._index.rows(
                "SELECT tag, digest, signatures FROM rollups WHERE source = ? AND repo = ?", (self._source_id, repo)
            )
        }
        for _, tag in numbered[-_NEWEST:]:
            if tag in known and known[tag]["signatures"] != UNSIGNED:
                continue
            try:
                self._keep_one(repo, tag)
            except EdgeprovError as error:
                if error.retryable:
                    raise
                yield tag, f"{type(error).__name__}: {error.message}"

    def members(self, repo: str) -> list[str]:
        """Tags of all kits that the roll-ups of a shard name, found without a list of tags.

        Raises:
            RegistryError: The line is cut.
        """
        number = 1
        while self._reader.registry.head_manifest(repo, f"{ROLLUP_TAG}{number}") is not None:
            number += 1
        for _ in self.keep(repo, [f"{ROLLUP_TAG}{item}" for item in range(1, number)]):
            pass
        return [
            kit_tag(device_serial(row["device"]), row["seq"], digest_of_text(row["digest"]))
            for row in self._index.rows(
                "SELECT DISTINCT k.device, k.seq, k.digest FROM rollup_kits k JOIN rollups r ON r.key = k.rollup "
                "WHERE r.source = ? AND r.repo = ? ORDER BY k.device, k.seq",
                (self._source_id, repo),
            )
        ]

    def mark_gone(self, repo: str, listed: Collection[str]) -> list[tuple[str, str]]:
        """Compare what the roll-ups of a shard name with the tags and digests that are listed.

        Returns:
            Tag and roll-up of each kit that is gone.
        """
        gone = []
        rows = self._index.rows(
            "SELECT k.*, r.tag AS named_by FROM rollup_kits k JOIN rollups r ON r.key = k.rollup "
            "WHERE r.source = ? AND r.repo = ? ORDER BY k.device, k.seq, k.rollup",
            (self._source_id, repo),
        )
        changed = []
        for row in rows:
            tag = kit_tag(device_serial(row["device"]), row["seq"], digest_of_text(row["digest"]))
            is_gone = tag not in listed and row["digest"] not in listed
            if is_gone:
                gone.append((tag, row["named_by"]))
            if is_gone != bool(row["gone"]):
                changed.append((is_gone, row["rollup"], row["digest"]))
        if changed:
            with self._index.transaction():
                for values in changed:
                    self._index.rows("UPDATE rollup_kits SET gone = ? WHERE rollup = ? AND digest = ?", values)
        return list(dict(gone).items())

    def _keep_one(self, repo: str, tag: str) -> None:
        registry = self._reader.registry
        top = registry.fetch_index(repo, tag)
        if top.artifact_type != ROLLUP:
            raise FormatError(f"the tag {tag} names {top.artifact_type or 'an index without artifactType'}")
        entries: list[Descriptor] = []
        for item in top.manifests:
            nested = item.media_type == OCI_INDEX
            entries += registry.fetch_index(repo, item.digest).manifests if nested else (item,)
        members = [_member(item) for item in entries]
        signatures = self._reader.signatures(repo, top.digest)
        key = str(digest_of(f"{self._source_id} {repo} {top.digest}".encode()))
        with self._index.transaction():
            self._index.put(
                "rollups",
                key=key,
                digest=str(top.digest),
                source=self._source_id,
                repo=repo,
                tag=tag,
                signatures=json.dumps([[b64(item.manifest.raw), b64(item.blob)] for item in signatures]).encode(),
                found_at=self._found_at,
            )
            for member in members:
                self._index.put(
                    "rollup_kits",
                    rollup=key,
                    digest=str(member.digest),
                    device=member.device,
                    seq=member.seq,
                    model=top.annotations.get(A_MODEL),
                    records=member.records,
                    recorded_first=member.recorded_first,
                    recorded_last=member.recorded_last,
                    gone=0,
                )


def _member(item: Descriptor) -> _Member:
    notes = item.annotations
    try:
        device = notes[A_DEVICE]
        device_serial(device)
        return _Member(
            digest=item.digest,
            device=device,
            seq=int(notes[A_SEQ]),
            records=int(notes.get(A_RECORDS, "0")),
            recorded_first=_moment(notes.get(A_RECORDED_FIRST)),
            recorded_last=_moment(notes.get(A_RECORDED_LAST)),
        )
    except (KeyError, ValueError) as error:
        raise FormatError(f"roll-up entry {item.digest}: annotation {error} is missing or malformed") from error


def _moment(text: str | None) -> str | None:
    return None if text is None else parse_moment(text)


def judge_rollup(digest: Digest, repo: str, signatures: bytes, policy: TrustPolicy, at: dt.datetime) -> str:
    """verify.collector.verify_rollup over a row of the index. Errors as there."""
    blobs = [parse_b64(blob, "signature") for _, blob in json_of_text(signatures)]
    return verify_rollup(digest, repo, blobs, policy, at)


def gone_kits(index: Index, query: Query) -> list[GoneKit]:
    """Kits that fit the query, are named by a roll-up that was not refused, and are not listed any more."""
    where = ["k.gone = 1", "(v.verified IS NULL OR v.verified = 1)"]
    parameters: list[str] = []
    for column, names in (("model", query.model), ("device", query.device)):
        if names is not None:
            # A roll-up of several models does not say whose a kit was: then it may be the one.
            where.append(f"(k.{column} IS NULL OR k.{column} IN ({', '.join('?' * len(names))}))")
            parameters += names
    if query.since is not None:
        where.append("(k.recorded_last IS NULL OR k.recorded_last >= ?)")
        parameters.append(query.since)
    if query.to is not None:
        where.append("(k.recorded_first IS NULL OR k.recorded_first < ?)")
        parameters.append(query.to)
    found: dict[str, GoneKit] = {}
    for row in index.rows(
        "SELECT k.*, r.repo, r.tag, v.verified FROM rollup_kits k JOIN rollups r ON r.key = k.rollup "  # noqa: S608
        f"LEFT JOIN verdicts v ON v.digest = r.key AND v.policy = ? WHERE {' AND '.join(where)} "
        "ORDER BY k.device, k.seq, v.verified DESC",
        (query.policy, *parameters),
    ):
        found.setdefault(
            row["digest"],
            GoneKit(
                digest=row["digest"],
                repo=row["repo"],
                tag=kit_tag(device_serial(row["device"]), row["seq"], digest_of_text(row["digest"])),
                rollup=row["tag"],
                device=row["device"],
                seq=row["seq"],
                model=row["model"],
                records=row["records"],
                recorded_first=row["recorded_first"],
                recorded_last=row["recorded_last"],
                proved=None if row["verified"] is None else True,
            ),
        )
    return list(found.values())


def as_json(kit: GoneKit) -> dict[str, object]:
    """For output."""
    return {name: getattr(kit, name) for name in GoneKit.__slots__}


def gone_sentence(kits: Sequence[GoneKit]) -> str:
    """For a person; empty when there are none."""
    if not kits:
        return ""
    unproved = sum(kit.proved is None for kit in kits)
    doubt = f" ({unproved} by roll-ups that are not verified yet)" if unproved else ""
    return f"{len(kits)} kits that a roll-up names are gone from their registry{doubt}, from {kits[0].tag} on"
