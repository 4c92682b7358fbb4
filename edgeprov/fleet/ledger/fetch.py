# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Fetching a chain: one's own after a lost folder, or somebody else's.

Signatures and links come first; then the tables of new days, each by the digest that was signed. Nothing of a
run is kept before all of it was checked, and days get their names in order.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeprov.errors import DigestMismatch, VerificationError
from edgeprov.fleet.ledger.chains import VerifiedChain, VerifiedDay, verify_chain
from edgeprov.fleet.ledger.day_statement import repository
from edgeprov.fleet.ledger.foreign import check_frame, copy_foreign
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.remote import fetch_bundles
from edgeprov.fleet.ledger.views import LedgerView, doubled_digests
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import digest_of
from edgeprov.formats.mediatypes import PARQUET
from edgeprov.registry.base import Registry
from edgeprov.store.atomic import TEMPORARY, DurableFile, remove, rename, save_bytes, sync_dir
from edgeprov.verify.policy import TrustPolicy

STAGED: Final = TEMPORARY + "staged-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The outcome of a run.

    Attributes:
        chain: All days that are here now, verified.
        new: Days that came with this run.
        lost: Days that are here, and that the registry does not show any more.
    """

    chain: VerifiedChain
    new: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def fetch_chain(
    registry: Registry, prefix: str, name: str, folder: LedgerFolder, policy: TrustPolicy, at: dt.datetime,
    *, own: bool = False,
) -> Fetched:  # fmt: skip
    """Bring the days of a chain that are not here yet.

    Args:
        registry: Where from.
        prefix: Before every repository; "" or ends with a slash.
        name: Of the chain.
        folder: Where it is kept.
        policy: The chain's collector has the role collector.
        at: Time at which the newest certificate is judged.
        own: It is one's own chain: tables are kept as they were signed. Others are read by a child process with
            limits, and kept as tables of our own with the same rows.

    Raises:
        VerificationError: A signature or link does not hold, the registry shows another chain than the one here, or
            an artifact stands twice in it.
        FormatError, LimitError: A table is not as the format says.
        RegistryError: The registry failed.
        StoreError: The disk failed.
    """
    repo = repository(prefix, name)
    shown = fetch_bundles(registry, repo)
    with folder.writing():
        here = [(day, folder.load_bundle(day)) for day, _ in folder.list_days()]
        lost = _compare(name, here, shown)
        chain = verify_chain(name, here if lost else shown, policy, at)
        new = chain.days[len(here) :]
        if not new:
            return Fetched(chain=chain, lost=lost)
        staged: list[tuple[VerifiedDay, Path]] = []
        try:
            for day in new:
                staged.append((day, _stage(registry, repo, folder, day, own=own)))  # noqa: PERF401 - kept for the end
            _verify_once(name, [path for _, path in folder.list_days()], [path for _, path in staged])
            raw = dict(shown)
            for day, path in staged:
                save_bytes(folder.bundle_path(day.statement.day), raw[day.statement.day])
                rename(path, folder.day_path(day.statement.day))
            sync_dir(folder.days)
        finally:
            for day in new:
                for path in _staged_paths(folder, day):
                    remove(path)
        return Fetched(chain=chain, new=tuple(day.statement.day for day in new))


def _compare(name: str, here: list[tuple[str, bytes]], shown: list[tuple[str, bytes]]) -> tuple[str, ...]:
    # One of the two is the beginning of the other; returns what the registry lacks at its end.
    for (day, raw), (other, other_raw) in zip(here, shown, strict=False):
        if (day, raw) != (other, other_raw):
            raise VerificationError(
                f"the registry shows another ledger {name} than before: day {other} with the signature "
                f"{digest_of(other_raw)}, and here is day {day} with {digest_of(raw)}",
                advice="A day was lost, or the chain was written again. Ask its collector; what is here stays.",
            )
    return tuple(day for day, _ in here[len(shown) :])


def _stage(registry: Registry, repo: str, folder: LedgerFolder, day: VerifiedDay, *, own: bool) -> Path:
    statement = day.statement
    raw, copy = _staged_paths(folder, day)
    table = Descriptor(media_type=PARQUET, digest=statement.table, size=statement.bytes)
    for path in (raw, copy):
        remove(path)
    with DurableFile(raw, create=True) as file:
        for chunk in registry.fetch_blob(repo, table):
            if file.size + len(chunk) > statement.bytes:
                raise DigestMismatch(f"the registry sends more bytes for day {statement.day} than were signed")
            file.write(chunk)
        file.sync()
    if own:
        check_frame(raw, statement.bytes, f"day {statement.day} of the ledger {statement.chain}")
        return raw
    copy_foreign(raw, copy, statement)
    remove(raw)
    return copy


def _staged_paths(folder: LedgerFolder, day: VerifiedDay) -> tuple[Path, Path]:
    name = f"{STAGED}{day.statement.day}"
    return folder.days / name, folder.days / f"{name}-copy"


def _verify_once(name: str, days: list[Path], staged: list[Path]) -> None:
    view = LedgerView({name: [*days, *staged]})
    try:
        doubled = doubled_digests(view)
    finally:
        view.close()
    if doubled:
        raise VerificationError(
            f"the ledger {name} has {len(doubled)} artifacts twice, such as sha256:{doubled[0].hex()}",
            advice="Its collector does not follow the format; its days are not used.",
        )
