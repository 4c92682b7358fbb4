# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a data set is still what its collector signed: the lists, every file, and nothing beside them.

Needs the data set and a trust folder; neither index nor registry.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeprov.errors import DigestMismatch, FormatError, NotStored, SignatureInvalid
from edgeprov.fleet.dataset.destination import BUNDLE, OWN, STATEMENT, UNFINISHED, Destination, digest_at
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.in_toto import parse_statement
from edgeprov.limits import LIMITS
from edgeprov.verify.collector import verify_collection
from edgeprov.verify.policy import TrustPolicy

_FILES = f"{OWN}/files.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDataset:
    """A data set that is whole."""

    folder: str
    statement: str
    signer: str
    files: int
    rows: int
    bytes: int


def check_dataset(output: Destination, policy: TrustPolicy, at: dt.datetime) -> CheckedDataset:
    """Check a data set, byte for byte.

    Args:
        output: Where it is.
        policy: The collector leads to one of its publisher anchors, or is a listed key.
        at: Time at which the collector's certificate is judged.

    Raises:
        NotStored: No finished data set.
        SignatureInvalid: Not signed, or the signature does not fit.
        DigestMismatch: A file was changed, is gone, or was added.
        VerificationError: Signed by nobody whom the policy knows.
        FormatError: Statement or lists are malformed.
    """
    there = set(output.files())
    statement = output.load(STATEMENT, max_bytes=LIMITS.statement_bytes)
    if statement is None or UNFINISHED in there:
        raise NotStored(f"{output.name} is no finished data set", advice="Run edgeprov-fleet collect first.")
    bundle = output.load(BUNDLE, max_bytes=LIMITS.signature_blob_bytes)
    if bundle is None:
        raise SignatureInvalid(f"{output.name} is not signed", advice="Run `collect` again with --ca or --key.")
    signer = verify_collection(digest_of(statement), [bundle], policy, at)
    changed: list[str] = []
    for name, digest in _subjects(statement):
        if not name.startswith(f"{OWN}/") or digest_at(output, name) != digest:
            changed.append(name)
    files = list(_files(output)) if _FILES not in changed else []
    for path, digest, _, _ in files:
        if digest_at(output, path) != digest:
            changed.append(path)
    # Readers take every table below the folder, but for what begins with an underscore.
    added = {path for path in there if path.endswith(".parquet")} - {path for path, *_ in files}
    if not changed or files:
        changed += sorted(added)
    if changed:
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DigestMismatch(
            f"{output.name}: {changed[0]} is not what {signer} signed{more}",
            advice="Do not train on it; run the same `collect` again, which writes anew what was changed.",
        )
    return CheckedDataset(
        folder=output.name,
        statement=str(digest_of(statement)),
        signer=signer,
        files=len(files),
        rows=sum(rows for _, _, _, rows in files),
        bytes=sum(size for _, _, size, _ in files),
    )


def _subjects(statement: bytes) -> Iterator[tuple[str, str]]:
    parse_statement(statement)  # its form
    names = set()
    for item in json.loads(statement)["subject"]:
        if not isinstance(item.get("name"), str):
            raise FormatError("the statement of the data set has a subject without a name")
        names.add(item["name"])
        yield item["name"], str(Digest(item["digest"]["sha256"]))
    if _FILES not in names:
        raise FormatError("the statement of the data set is not about its list of files")


def _files(output: Destination) -> Iterator[tuple[str, str, int, int]]:
    """Path, digest, size and rows of each file that the list names."""
    raw = output.load(_FILES, max_bytes=LIMITS.collection_inputs_bytes) or b""
    try:
        for line in raw.splitlines():
            row: dict[str, Any] = json.loads(line)
            yield str(row["path"]), str(row["digest"]), int(row["bytes"]), int(row["rows"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError("the data set's list of files is malformed") from error
