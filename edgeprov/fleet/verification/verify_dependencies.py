# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify what kits lean on, from the registries themselves: device records, models, training sets.

A model is judged by its publisher's signature and by the digest of its config and every layer; a device
record by its enroller's (step 1), a training set by its collector's. Verdicts are cached as
those of kits are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprov.errors import EdgeprovError, RegistryDenied, RegistryProtocolError
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.index.verdicts import (
    Judged,
    known_signatures,
    model_signature_tags,
    record_signature_tags,
    save_verdicts,
)
from edgeprov.fleet.registries.sources import ArtifactReader, Source
from edgeprov.fleet.trust.folder import Trust
from edgeprov.fleet.verification.verify_kits import BLOBS
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.devicerecord import record_tag
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.modelkit import parse_modelkit
from edgeprov.formats.segment import device_serial
from edgeprov.limits import LIMITS
from edgeprov.verify.collector import verify_collection
from edgeprov.verify.enrollment import verify_device_record
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature

_KEYS: Final = ("devices.digest", "models.digest", "collection_signatures.statement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A verdict on a device record, a model or a training set; ``verified`` None means: not readable now."""

    kind: str
    digest: str
    name: str
    judged: Judged
    cached: bool = False


def check_others(index: Index, trust: Trust, *, at: dt.datetime, again: bool = False) -> Iterator[Other]:
    """Judge all device records, models and signed training sets of the index.

    Args:
        index: Open for writing.
        trust: Trust folder.
        at: Time at which certificates are judged.
        again: Judge anew what has a verdict.
    """
    sources = {number: _Lazy(source) for number, source in index.sources().items()}
    known = {
        row["digest"]: row
        for column in _KEYS
        for row in index.rows(
            f"SELECT v.* FROM {column.partition('.')[0]} JOIN verdicts v ON v.digest = {column} WHERE v.policy = ?",  # noqa: S608
            (trust.digest,),
        )
        if not again and row["depth"] >= BLOBS
    }
    rows = [
        ("device", row["digest"], row["device"], row["source"], f"{sources[row['source']].source.prefix}devices")
        for row in index.rows("SELECT digest, device, source FROM devices ORDER BY device, enrolled_at")
    ]
    rows += [
        ("model", row["digest"], f"{row['name']}:{row['version']}", row["source"], row["repo"])
        for row in index.rows("SELECT digest, name, version, source, repo FROM models ORDER BY name, version, digest")
    ]
    # One that nobody signed gets no verdict: lineage says so.
    rows += [
        ("training set", row["statement"], row["statement"][7:19], 0, "")
        for row in index.rows("SELECT statement FROM collection_signatures WHERE bundles != '[]' ORDER BY statement")
    ]
    for kind, digest, name, number, repo in rows:
        row = known.get(digest)
        if row is not None:
            judged = Judged(
                digest=digest,
                verified=bool(row["verified"]),
                error=row["error"],
                detail=row["detail"],
                code=row["code"],
            )
            yield Other(kind=kind, digest=digest, name=name, judged=judged, cached=True)
            continue
        if kind == "training set":
            judged = _training_set(index, digest, trust.policy, at)
        else:
            source = sources[number]
            signed_by = known_signatures(index, [digest])[digest] if source.source.is_layout else ()
            if kind == "model":
                tags = model_signature_tags(index, digest)
            else:
                tag = record_tag(device_serial(name), parse_digest(digest))
                tags = record_signature_tags(index, number, repo, tag)
            judged = _judge(source, kind, repo, parse_digest(digest), signed_by, tags, trust.policy, at)
        if judged.verified is not None:
            with index.transaction():
                save_verdicts(index, [judged], trust, BLOBS, at)
        yield Other(kind=kind, digest=digest, name=name, judged=judged)


def _training_set(index: Index, statement: str, policy: TrustPolicy, at: dt.datetime) -> Judged:
    """From the bytes that sync kept."""
    bundles = index.rows("SELECT bundles FROM collection_signatures WHERE statement = ?", (statement,))[0]["bundles"]
    try:
        raw = [parse_b64(item, "signature") for item in json_of_text(bundles)]
        signer = verify_collection(parse_digest(statement), raw, policy, at)
    except EdgeprovError as error:
        return Judged(
            digest=statement, verified=False, error=type(error).__name__, detail=error.message, code=error.exit_code
        )
    return Judged(digest=statement, verified=True, detail=signer)


class _Lazy:
    """A source that is opened when something of it must be read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._reader: ArtifactReader | None = None

    def open(self) -> ArtifactReader:
        if self._reader is None:
            self._reader = ArtifactReader(self.source)
        return self._reader


def _judge(
    source: _Lazy,
    kind: str,
    repo: str,
    digest: Digest,
    signed_by: Sequence[str],
    tags: Sequence[str],
    policy: TrustPolicy,
    at: dt.datetime,
) -> Judged:
    known = tuple(map(parse_digest, signed_by)) or None  # where the index knows none, the registry is asked
    try:
        reader = source.open()
        signatures = reader.signatures(repo, digest, known, tags=tags)
        (_device if kind == "device" else _model)(reader, repo, digest, signatures, policy, at)
    except EdgeprovError as error:
        unread = error.retryable or isinstance(error, RegistryDenied | RegistryProtocolError)
        verified = None if unread else False
        return Judged(
            digest=str(digest), verified=verified, step=1 if kind == "device" else 0, error=type(error).__name__,
            detail=error.message, code=error.exit_code,
        )  # fmt: skip
    return Judged(digest=str(digest), verified=True)


def _device(
    reader: ArtifactReader,
    repo: str,
    digest: Digest,
    signatures: Sequence[SignatureArtifact],
    policy: TrustPolicy,
    at: dt.datetime,
) -> None:
    manifest = reader.manifest(repo, digest)
    layer = reader.blob(repo, manifest.layers[0], max_bytes=LIMITS.device_record_bytes)
    reader.check_blob(repo, manifest.config)
    verify_device_record(manifest, layer, signatures, policy, at)


def _model(
    reader: ArtifactReader,
    repo: str,
    digest: Digest,
    signatures: Sequence[SignatureArtifact],
    policy: TrustPolicy,
    at: dt.datetime,
) -> None:
    manifest = reader.manifest(repo, digest)
    parse_modelkit(manifest, reader.blob(repo, manifest.config, max_bytes=LIMITS.config_bytes))
    verify_model_signature(manifest, signatures, policy, at)
    for layer in manifest.layers:
        reader.check_blob(repo, layer)
