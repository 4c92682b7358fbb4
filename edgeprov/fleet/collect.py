# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""From verified kits to one labelled Parquet data set, with a signed statement of what went in.

One file for each model and device: ``model=<hex>/device=<serial>/part-0.parquet``. A file is made from
its inputs alone, appears as a whole, and names its inputs in its footer; so a run that was killed goes
on where it stopped, a later run rewrites only what changed, and the order in which workers finish
changes nothing. The statement goes first and comes last: where it lies, all that it names is there.
What is left out is listed with the reason in ``_edgeprov/refused.jsonl``.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import StoreError, UsageError
from edgeprov.fleet import tables
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index import Artifact, Index, Query, chunked
from edgeprov.fleet.label_types import LabelType, join_kinds
from edgeprov.fleet.output import BUNDLE, OWN, STATEMENT, TEMPORARY, Output
from edgeprov.fleet.partition import KitInput, Partition, Written, label_types, write_partitions
from edgeprov.fleet.trust import Trust
from edgeprov.formats.digest import digest_of, parse_digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import COLLECTION_PREDICATE, STATEMENT_TYPE

_UNFINISHED: Final = f"{OWN}/unfinished"
"""There from the first moment of a run to its last: the place is ours, and not whole yet."""

_PART: Final = re.compile(r"model=[0-9a-f]+/device=[^/]+/part-0\.parquet")
_BATCH_KITS: Final = 100


@dataclass(slots=True)
class CollectReport:
    """What a collection holds."""

    folder: str
    files: int = 0
    rows: int = 0
    labelled: int = 0
    kits: int = 0
    refused: int = 0
    reused: int = 0
    bytes: int = 0
    models: dict[str, int] = field(default_factory=dict)
    statement: str = ""
    signed: bool = False


def collect(
    index: Index,
    query: Query,
    trust: Trust,
    engine: Engine,
    output: Output,
    *,
    now: dt.datetime,
    signer: Signer | None = None,
    dequantise: bool = False,
    inputs: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> CollectReport:
    """Write the data set.

    Args:
        index: Open for writing; every kit that fits must have a verdict under ``trust``.
        query: Which kits.
        trust: Names the policy under which the verdicts were given.
        engine: Runs the partitions.
        output: New, or one that an earlier run wrote.
        now: For the statement.
        signer: Signs the statement; None leaves it unsigned.
        dequantise: Add a float32 column beside each quantised tensor.
        inputs: Add captured inputs, where kits hold them.
        progress: Called with done and total kits.

    Raises:
        UsageError: Something else lies there, or kits have no verdict.
        StoreError: It cannot be written, or workers wrote where it cannot be seen from here.
    """
    before = _prepare(output)
    chosen, refused = _choose(index, query)
    sources = index.sources()
    kits = [
        (
            a,
            KitInput(
                digest=a.digest,
                source=sources[a.source],
                repo=a.repo,
                slot=a.slot,
                seq=a.seq,
                records=a.records,
                labels=a.labels,
            ),
        )
        for a in chosen
    ]
    label_type = _label_type([kit for _, kit in kits if kit.labels], engine)
    groups: dict[tuple[str, str], list[KitInput]] = {}
    for artifact, kit in kits:
        groups.setdefault((artifact.model, artifact.device), []).append(kit)
    partitions = [
        Partition(
            model=model,
            device=device,
            kits=tuple(sorted(group, key=lambda kit: (kit.seq, kit.digest))),
            label_type=label_type,
            dequantise=dequantise,
            inputs=inputs,
            output=output.name,
        )
        for (model, device), group in sorted(groups.items())
        if any(kit.records for kit in group)
    ]
    _remove_stale(output, before, {partition.path for partition in partitions})
    written: list[Written] = []
    done, total = 0, sum(len(partition.kits) for partition in partitions)
    by_path = {partition.path: len(partition.kits) for partition in partitions}
    for results in engine.run(write_partitions, _batches(partitions)):
        written.extend(results)
        done += sum(by_path[item.path] for item in results)
        if progress:
            progress(done, total)
    return _finish(index, query, trust, output, partitions, written, refused, now, signer)


def _choose(index: Index, query: Query) -> tuple[list[Artifact], list[dict[str, Any]]]:
    chosen: list[Artifact] = []
    refused: list[dict[str, Any]] = []
    claims: dict[tuple[str, int], list[Artifact]] = {}
    unchecked = 0
    for artifact in index.iterate(query):
        if artifact.verified is None:
            unchecked += 1
        elif not artifact.verified:
            refused.append(_refusal(artifact, artifact.error or "", artifact.detail or "", artifact.step))
        else:
            claims.setdefault((artifact.device, artifact.seq), []).append(artifact)
    if unchecked:
        raise UsageError(
            f"{unchecked} kits have no verdict yet", advice="Run edgeprov-fleet verify with the same filters first."
        )
    for group in claims.values():
        if len(group) > 1:
            refused += [
                _refusal(item, "SeriesBroken", f"{len(group)} artifacts claim number {item.seq}: a fork", 9)
                for item in group
            ]
        elif group[0].kind == "kit":
            chosen.append(group[0])
    return chosen, refused


def _refusal(artifact: Artifact, error: str, why: str, step: int | None) -> dict[str, Any]:
    return {
        "kit": artifact.digest,
        "device": artifact.device,
        "seq": artifact.seq,
        "kind": artifact.kind,
        "records": artifact.records,
        "step": step,
        "error": error,
        "why": why,
    }


def _label_type(kits: list[KitInput], engine: Engine) -> LabelType:
    return join_kinds(engine.run(label_types, (tuple(batch) for batch in chunked(kits, _BATCH_KITS))))


def _batches(partitions: list[Partition]) -> Iterator[tuple[Partition, ...]]:
    batch: list[Partition] = []
    for partition in partitions:
        batch.append(partition)
        if sum(len(item.kits) for item in batch) >= _BATCH_KITS:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _prepare(output: Output) -> list[str]:
    files = output.files()
    if files and not any(path.startswith(f"{OWN}/") for path in files):
        raise UsageError(f"{output.name} is not empty and not a data set of ours", advice="Name a new one.")
    output.save(_UNFINISHED, b"")
    # The old statement no longer fits from here on; a new one is written last.
    for path in (STATEMENT, BUNDLE):
        if path in files:
            output.remove(path)
    return files


def _remove_stale(output: Output, files: list[str], wanted: set[str]) -> None:
    """Remove partitions that nobody asked for, and what killed runs left aside."""
    folders = {path.rpartition("/")[0] for path in files if _PART.fullmatch(path) and path not in wanted}
    for path in files:
        folder, _, name = path.rpartition("/")
        if folder in folders or name.startswith(TEMPORARY):
            output.remove(path)


def _check_there(output: Output, wanted: list[Written]) -> None:
    there = set(output.files())
    gone = sum(item.path not in there for item in wanted)
    if gone:
        raise StoreError(
            f"{output.name}: {gone} files that workers wrote are not seen from here",
            advice="Name a folder that all machines share, or a URL that each of them reaches.",
        )


def _finish(
    index: Index,
    query: Query,
    trust: Trust,
    output: Output,
    partitions: list[Partition],
    written: list[Written],
    refused: list[dict[str, Any]],
    now: dt.datetime,
    signer: Signer | None,
) -> CollectReport:
    _check_there(output, written)
    by_key = {(item.model, item.device): item for item in written}
    out: set[str] = set()
    for item in written:
        for digest, error, why in item.left_out:
            out.add(digest)
            refused.append({"kit": digest, "device": item.device, "error": error, "why": why, "step": 0})
    inputs = [
        {
            "kit": kit.digest,
            "model": partition.model,
            "device": partition.device,
            "seq": kit.seq,
            "records": kit.records,
            "labels": kit.labels,
        }
        for partition in partitions
        for kit in partition.kits
        if kit.digest not in out
    ]
    files = [
        {
            "path": item.path,
            "digest": item.digest,
            "bytes": item.bytes,
            "rows": item.rows,
            "labelled": item.labelled,
            "duplicates": item.duplicates,
        }
        for item in sorted(by_key.values(), key=lambda item: item.path)
    ]
    subjects = []
    for name, rows in (
        ("files", files),
        ("inputs", inputs),
        ("refused", sorted(refused, key=lambda row: str(row["kit"]))),
    ):
        data = b"".join(encode_json(row) + b"\n" for row in rows)
        output.save(f"{OWN}/{name}.jsonl", data)
        subjects.append({"name": f"{OWN}/{name}.jsonl", "digest": {"sha256": digest_of(data).hex}})
    report = CollectReport(
        folder=output.name,
        files=len(files),
        rows=sum(item.rows for item in written),
        labelled=sum(item.labelled for item in written),
        kits=len(inputs),
        refused=len(refused),
        reused=sum(item.reused for item in written),
        bytes=sum(item.bytes for item in written),
    )
    for item in written:
        report.models[item.model] = report.models.get(item.model, 0) + item.rows
    created = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    statement = encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": COLLECTION_PREDICATE,
            "predicate": {
                "createdAt": created,
                "query": {
                    name: value for name, value in asdict(query).items() if value is not None and name != "policy"
                },
                "trust": f"sha256:{trust.digest}",
                "models": [
                    {"digest": {"sha256": parse_digest(name).hex}, "rows": rows}
                    for name, rows in sorted(report.models.items())
                ],
                "kits": report.kits,
                "rows": report.rows,
                "labelled": report.labelled,
                "refused": report.refused,
                "tools": {"edgeprov": __version__, "pyarrow": tables.version()},
            },
        }
    )
    report.statement, report.signed = str(digest_of(statement)), signer is not None
    if signer is not None:
        from edgeprov.fleet.signers import sign_statement

        output.save(BUNDLE, sign_statement(signer, statement))
    output.save(STATEMENT, statement)
    output.remove(_UNFINISHED)
    index.put(
        "collections",
        statement=report.statement,
        folder=output.name,
        models=json.dumps(sorted(report.models)),
        kits=report.kits,
        rows=report.rows,
        labelled=report.labelled,
        created=created,
    )
    return report


def result_json(report: CollectReport) -> Mapping[str, Any]:
    """For output."""
    return asdict(report)
