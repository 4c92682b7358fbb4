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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from edgeprov import __version__
from edgeprov.errors import EvidenceInvalid, StoreError, UsageError
from edgeprov.fleet.dataset import record_tables
from edgeprov.fleet.dataset.collect_lists import Lists
from edgeprov.fleet.dataset.dataset_files import KnownFiles
from edgeprov.fleet.dataset.destination import BUNDLE, OWN, STATEMENT, UNFINISHED, Destination
from edgeprov.fleet.dataset.label_types import LabelType, join_kinds
from edgeprov.fleet.dataset.parquet_file import KitInput, Partition, Written, guess_label_type, write_partitions
from edgeprov.fleet.engines import Engine
from edgeprov.fleet.index.database import Index
from edgeprov.fleet.index.query import Artifact, Query
from edgeprov.fleet.trust.folder import Trust
from edgeprov.formats.digest import digest_of, parse_digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import COLLECTION_PREDICATE, STATEMENT_TYPE
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.store.atomic import TEMPORARY

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
    output: Destination,
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
        StoreBusy: Another collect writes there.
        StoreError: It cannot be written, or workers wrote where it cannot be seen from here.
    """
    run = _CollectRun(index, query, trust, engine, output, dequantise=dequantise, inputs=inputs, progress=progress)
    with output.alone(), Index.open(index.folder, write=False) as snapshot:
        # One moment of the index, whatever sync and verify write meanwhile.
        snapshot.keep_little()
        snapshot.rows("BEGIN")
        if unchecked := snapshot.count(replace(query, verdict="unchecked"))[0]:
            raise UsageError(
                f"{unchecked} kits have no verdict yet",
                advice="Run edgeprov-fleet verify with the same filters first.",
            )
        before = _prepare(output)
        label_type = run.guess_label_type(snapshot)
        while True:
            try:
                with ExitStack() as stack:
                    lists = Lists(output, stack)
                    run.write(snapshot, lists, label_type)
                break
            except _OtherLabelsError as error:
                label_type = error.label_type
        run.clean(before)
        return _finish(index, query, trust, output, run.report, lists.subjects(), now, signer)


class _OtherLabelsError(Exception):
    """Labels have another type than was thought: what was written so far is of no use."""

    def __init__(self, label_type: LabelType) -> None:
        super().__init__(label_type)
        self.label_type = label_type


class _CollectRun:
    """One pass over the kits of a query: partitions go out to tasks, files and lists come back.

    Memory holds the kits of one device, those of the batches under way, and the names of files.
    """

    def __init__(
        self,
        index: Index,
        query: Query,
        trust: Trust,
        engine: Engine,
        output: Destination,
        *,
        dequantise: bool,
        inputs: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._query, self._trust, self._engine, self._output = query, trust, engine, output
        self._dequantise, self._inputs, self._progress = dequantise, inputs, progress
        self._sources = index.sources()
        self._known_files = KnownFiles(index, output.name)
        self._under_way: deque[Partition] = deque()
        self.report = CollectReport(folder=output.name)
        self._paths: set[str] = set()

    def guess_label_type(self, snapshot: Index) -> LabelType:
        """What labels most likely are: as in the run before, else as in one kit that has some."""
        known = self._known_files.label_type()
        if known is not None:
            return known
        labelled = replace(self._query, verdict="ok", labelled=True)
        kits = [self._input(artifact) for artifact in snapshot.iterate(labelled, limit=1)]
        return join_kinds(self._engine.run(guess_label_type, kits))

    def write(self, snapshot: Index, lists: Lists, label_type: LabelType) -> None:
        """Write all files and lists.

        Raises:
            _OtherLabelsError: Labels have another type.
        """
        self.report, self._paths = CollectReport(folder=self._output.name), set()
        self._under_way.clear()
        done, total = 0, snapshot.count(self._query)[0]
        seen: LabelType = "null"
        batches = _batches(self._partitions(snapshot, lists, label_type))
        for results in self._engine.run(write_partitions, batches):
            for written in results:
                partition = self._under_way.popleft()
                seen = join_kinds((seen, written.label_type))
                if not written.digest:
                    raise _OtherLabelsError(seen)
                self._take(partition, written, lists)
                done += len(partition.kits)
            self._known_files.keep(results)
            if self._progress:
                self._progress(done, total)
        if seen != label_type:
            raise _OtherLabelsError(seen)
        self.report.refused = lists.refused

    def clean(self, before: list[str]) -> None:
        """Remove files that nobody asked for, and what killed runs left aside."""
        stale = [path for path in before if _PART.fullmatch(path) and path not in self._paths]
        for path in before:
            if path.rpartition("/")[2].startswith(TEMPORARY) or path in stale:
                self._output.remove(path)
        self._known_files.forget(stale)
        _check_there(self._output, self._paths)

    def _partitions(self, snapshot: Index, lists: Lists, label_type: LabelType) -> Iterator[Partition]:
        """By device, and for each by model; what is refused is listed on the way."""
        for device, artifacts in groupby(snapshot.iterate(self._query), attrgetter("device")):
            forked = self._forked(snapshot, device)
            groups: dict[str, list[KitInput]] = {}
            for artifact in artifacts:
                if not artifact.verified:
                    _refuse(lists, artifact, artifact.error or "", artifact.detail or "", artifact.step)
                elif (artifact.enrollment, artifact.seq) in forked:
                    many = forked[artifact.enrollment, artifact.seq]
                    why = f"{many} artifacts claim number {artifact.seq}: a fork"
                    _refuse(lists, artifact, EvidenceInvalid.__name__, why, 9)
                elif artifact.kind == "kit":
                    groups.setdefault(artifact.model, []).append(self._input(artifact))
            for model, kits in sorted(groups.items()):
                if any(kit.records for kit in kits):
                    partition = Partition(
                        model=model,
                        device=device,
                        kits=tuple(kits),
                        label_type=label_type,
                        dequantise=self._dequantise,
                        inputs=self._inputs,
                        output=self._output.name,
                    )
                    partition = replace(partition, known=self._known_files.find(partition.path, partition.key))
                    self._under_way.append(partition)
                    yield partition

    def _forked(self, snapshot: Index, device: str) -> dict[tuple[str, int], int]:
        """Numbers that several verified artifacts of an enrollment claim, whatever else the query asks for."""
        rows = snapshot.rows(
            "SELECT a.enrollment, a.seq, count(*) FROM artifacts a "
            "JOIN verdicts v ON v.digest = a.digest AND v.policy = ? "
            "WHERE a.device = ? AND v.verified = 1 GROUP BY a.enrollment, a.seq HAVING count(*) > 1",
            (self._query.policy, device),
        )
        return {(str(enrollment), int(seq)): int(count) for enrollment, seq, count in rows}

    def _input(self, artifact: Artifact) -> KitInput:
        return KitInput(
            digest=artifact.digest,
            source=self._sources[artifact.source],
            repo=artifact.repo,
            slot=artifact.slot,
            seq=artifact.seq,
            records=artifact.records,
            labels=artifact.labels,
        )

    def _take(self, partition: Partition, written: Written, lists: Lists) -> None:
        for digest, error, why in written.left_out:
            lists.leave_out(kit=digest, device=written.device, error=error, why=why, step=0)
        out = {digest for digest, _, _ in written.left_out}
        for kit in partition.kits:
            if kit.digest not in out:
                lists.inputs.add(
                    {
                        "kit": kit.digest,
                        "model": partition.model,
                        "device": partition.device,
                        "seq": kit.seq,
                        "records": kit.records,
                        "labels": kit.labels,
                    }
                )
        lists.files.add(
            {
                "path": written.path,
                "digest": written.digest,
                "bytes": written.bytes,
                "rows": written.rows,
                "labelled": written.labelled,
                "duplicates": written.duplicates,
            }
        )
        self._paths.add(written.path)
        report = self.report
        report.files += 1
        report.kits += len(partition.kits) - len(out)
        report.rows += written.rows
        report.labelled += written.labelled
        report.reused += written.reused
        report.bytes += written.bytes
        report.models[written.model] = report.models.get(written.model, 0) + written.rows


def _refuse(lists: Lists, artifact: Artifact, error: str, why: str, step: int | None) -> None:
    lists.refuse(
        kit=artifact.digest,
        device=artifact.device,
        seq=artifact.seq,
        kind=artifact.kind,
        records=artifact.records,
        step=step,
        error=error,
        why=why,
    )


def _batches(partitions: Iterable[Partition]) -> Iterator[tuple[Partition, ...]]:
    batch: list[Partition] = []
    kits = 0
    for partition in partitions:
        batch.append(partition)
        kits += len(partition.kits)
        if kits >= _BATCH_KITS:
            yield tuple(batch)
            batch, kits = [], 0
    if batch:
        yield tuple(batch)


def _prepare(output: Destination) -> list[str]:
    files = output.files()
    if files and not any(path.startswith(f"{OWN}/") for path in files):
        raise UsageError(f"{output.name} is not empty and not a data set of ours", advice="Name a new one.")
    output.save(UNFINISHED, b"")
    # The old statement no longer fits from here on; a new one is written last.
    for path in (STATEMENT, BUNDLE):
        if path in files:
            output.remove(path)
    return files


def _check_there(output: Destination, wanted: set[str]) -> None:
    gone = len(wanted.difference(output.files()))
    if gone:
        raise StoreError(
            f"{output.name}: {gone} files that workers wrote are not seen from here",
            advice="Name a folder that all machines share, or a URL that each of them reaches.",
        )


def _finish(
    index: Index,
    query: Query,
    trust: Trust,
    output: Destination,
    report: CollectReport,
    subjects: list[dict[str, Any]],
    now: dt.datetime,
    signer: Signer | None,
) -> CollectReport:
    created = rfc3339(now)
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
                "tools": {"edgeprov": __version__, "pyarrow": record_tables.version()},
            },
        }
    )
    report.statement, report.signed = str(digest_of(statement)), signer is not None
    if signer is not None:
        from edgeprov.fleet.trust.signers import sign_statement

        output.save(BUNDLE, sign_statement(signer, statement))
    output.save(STATEMENT, statement)
    output.remove(UNFINISHED)
    with index.transaction():
        # The statements of earlier runs into this place are gone with what they were about, unless a model names them.
        index.rows(
            "DELETE FROM collections WHERE folder = ? AND statement NOT IN "
            "(SELECT trained_on FROM models WHERE trained_on IS NOT NULL)",
            (output.name,),
        )
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
