# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a model was trained on, read back from its registry: the statement of `collect`, and the list of its kits.

The model's manifest names the statement by digest, and the publisher signed that manifest; the statement
names the list by digest. So neither the registry nor whoever attached them is believed. Who made the
statement is another question: the collector's signatures over it are kept, and judged by `verify`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edgeprov.errors import EdgeprovError, FormatError, VerificationError
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.formats.b64 import b64
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import Digest, digest_of, parse_digest
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import COLLECTION, COLLECTION_INPUTS, COLLECTION_PREDICATE, SIGSTORE_BUNDLE
from edgeprov.limits import LIMITS


def keep_collections(index: Index, reader: ArtifactReader, source: int) -> Iterator[tuple[str, str, str]]:
    """Learn the training sets of a registry's models that are not known yet.

    Yields:
        Faults: repository, digest of the model, why.
    """
    for row in index.rows(
        "SELECT digest, repo, trained_on FROM models WHERE source = ? AND trained_on IS NOT NULL "
        "AND trained_on NOT IN (SELECT statement FROM collection_signatures) ORDER BY digest",
        (source,),
    ):
        try:
            found = _load(reader, row["repo"], parse_digest(row["digest"]), row["trained_on"])
        except EdgeprovError as error:
            yield row["repo"], row["digest"], f"training set: {type(error).__name__}: {error.message}"
            continue
        if found is not None:
            values, kits, bundles = found
            with index.transaction():
                if not index.rows("SELECT 1 FROM collections WHERE statement = ?", (row["trained_on"],)):
                    index.put("collections", statement=row["trained_on"], folder="", **values)
                for kit in kits:
                    index.put("collection_kits", statement=row["trained_on"], kit=kit)
                index.put(
                    "collection_signatures", statement=row["trained_on"], bundles=json.dumps(list(map(b64, bundles)))
                )


def _load(
    reader: ArtifactReader, repo: str, model: Digest, statement: str
) -> tuple[dict[str, Any], list[str], list[bytes]] | None:
    """Columns of the collection, its kits, and the signatures over it; None when nothing hangs on the model."""
    found: tuple[dict[str, Any], list[str]] | None = None
    bundles: list[bytes] = []
    fault: EdgeprovError | None = None
    for item in reader.registry.list_referrers(repo, model):
        try:
            manifest = reader.manifest(repo, item.digest)
            if manifest.artifact_type != COLLECTION or len(manifest.layers) != 2:
                continue
            blob = reader.blob(repo, manifest.layers[0], max_bytes=LIMITS.signature_blob_bytes)
            signed = manifest.layers[0].media_type == SIGSTORE_BUNDLE
            raw = parse_bundle(blob).payload if signed else blob
            if str(digest_of(raw)) != statement:
                continue  # of another training set: somebody attached it
            if signed and len(bundles) < LIMITS.signatures_per_artifact:
                bundles.append(blob)
            if found is None:
                found = _contents(reader, repo, manifest, raw)
        except (FormatError, VerificationError) as error:
            fault = fault or error  # rubbish beside a good one takes nothing from it
    if found is None and fault is not None:
        raise fault
    return None if found is None else (*found, bundles)


def _contents(reader: ArtifactReader, repo: str, manifest: Manifest, raw: bytes) -> tuple[dict[str, Any], list[str]]:
    inputs = reader.blob(repo, manifest.layers[1], max_bytes=LIMITS.collection_inputs_bytes)
    parsed = parse_statement(raw)
    if parsed.predicate_type != COLLECTION_PREDICATE or digest_of(inputs) not in parsed.subjects:
        raise FormatError(f"the statement {digest_of(raw)} is not about the list of kits beside it")
    if manifest.layers[1].media_type != COLLECTION_INPUTS:
        raise FormatError(f"the list of kits has the type {manifest.layers[1].media_type[:80]!r}")
    return _columns(parsed.predicate), list(_kits(inputs))


def _columns(predicate: Any) -> dict[str, Any]:
    try:
        models = [str(Digest(item["digest"]["sha256"])) for item in predicate["models"]]
        return {
            "models": json.dumps(sorted(models)),
            "kits": int(predicate["kits"]),
            "rows": int(predicate["rows"]),
            "labelled": int(predicate["labelled"]),
            "created": str(predicate["createdAt"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"statement of a training set: {error} is missing or malformed") from error


def _kits(inputs: bytes) -> Iterator[str]:
    try:
        for line in inputs.splitlines():
            yield str(parse_digest(json.loads(line)["kit"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError("the list of a training set's kits is malformed") from error
