# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Days in a registry: repository ``ledger/<chain>``, a tag for each day, and the index of all days.

The index (tag ``index``) names each day's manifest, and one blob with all signatures: a fresh reader needs two
requests and one for each day. It is a list and no evidence; signatures and links decide. Each push writes what
the registry lacks, so a registry that lost a day gets it back.

Spec: FORMAT.md section "Ledger".
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    NotStored,
    RegistryConflict,
    RegistryNotFound,
    RegistryProtocolError,
)
from edgeprov.fleet.ledger.day_statement import (
    A_CHAIN,
    A_DAY,
    INDEX_TAG,
    DayStatement,
    parse_day_statement,
    repository,
)
from edgeprov.fleet.ledger.ledger_folder import DAY, LedgerFolder, bundle_payload
from edgeprov.formats.bundle import build_signature_manifest
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest, encode_index
from edgeprov.formats.mediatypes import EMPTY_BLOB, LEDGER, LEDGER_BUNDLES, LEDGER_PREDICATE, PREFIX, SIGSTORE_BUNDLE
from edgeprov.formats.signature_manifest import signature_tag
from edgeprov.limits import LIMITS
from edgeprov.registry.base import Registry
from edgeprov.registry.push_order import push_signed

A_BUNDLES: Final = PREFIX + "ledger.bundles"
"""On the index's entry for the signatures: digest and length of the blob, with a space between."""

_ADVICE: Final = (
    "Two machines use one collector's identity, or a backup was restored. Give this chain up: begin a new one with "
    "another number, which names its head."
)


@dataclass(frozen=True, slots=True)
class ListedDays:
    """What an index lists: digest of each day's manifest, and the blob with their signatures."""

    days: Mapping[str, Digest]
    bundles: Descriptor | None


def push_days(registry: Registry, prefix: str, folder: LedgerFolder) -> tuple[str, ...]:
    """Write each closed day that the registry lacks, then the index.

    Args:
        registry: Where to.
        prefix: Before every repository; "" or ends with a slash.
        folder: Of one's own chain.

    Returns:
        The days that were written.

    Raises:
        RegistryConflict: The registry has another day under a name of ours, or days that we do not have.
        RegistryError: The registry failed; a repeat goes on from there.
        StoreError: A file cannot be read.
    """
    days = [day for day, _ in folder.list_days()]
    bundles = {day: folder.load_bundle(day) for day in days}
    statements = {day: parse_day_statement(bundle_payload(raw)[1]) for day, raw in bundles.items()}
    if not days:
        return ()
    repo = repository(prefix, statements[days[-1]].chain)
    there = {tag for tag in registry.list_tags(repo) if DAY.fullmatch(tag)}
    listed = fetch_listed(registry, repo)
    expected = {day: statement.manifest.digest for day, statement in statements.items()}
    _verify_ours(registry, repo, expected, there, listed)
    written = tuple(day for day in days if day not in there)
    for day in written:
        _push_day(registry, repo, folder, statements[day], bundles[day])
    signatures = b"".join(bundles[day] + b"\n" for day in days)
    if written or listed != ListedDays(expected, describe(signatures, LEDGER_BUNDLES)):
        _push_index(registry, repo, statements, signatures)
    return written


def fetch_listed(registry: Registry, repo: str) -> ListedDays | None:
    """The index; None where there is none, or something else has its tag."""
    try:
        index = registry.fetch_index(repo, INDEX_TAG)
    except (RegistryNotFound, FormatError):
        return None
    days: dict[str, Digest] = {}
    bundles = None
    for entry in index.manifests:
        day = entry.annotations.get(A_DAY, "")
        if DAY.fullmatch(day):
            days[day] = entry.digest
        elif A_BUNDLES in entry.annotations:
            digest, _, size = entry.annotations[A_BUNDLES].partition(" ")
            if size.isascii() and size.isdigit() and len(size) < 12:
                with contextlib.suppress(FormatError):
                    bundles = Descriptor(media_type=LEDGER_BUNDLES, digest=Digest(digest), size=int(size))
    return ListedDays(days, bundles)


def fetch_bundles(registry: Registry, repo: str) -> list[tuple[str, bytes]]:
    """Days and signatures of a chain, ascending, not verified: by the index, else tag by tag.

    Raises:
        LimitError, FormatError: More than a chain may have, or not signatures.
        RegistryError: The registry failed.
    """
    listed = fetch_listed(registry, repo)
    if listed is not None and listed.bundles is not None and listed.bundles.size <= LIMITS.ledger_bundles_bytes:
        try:
            raw = b"".join(registry.fetch_blob(repo, listed.bundles))
        except (RegistryNotFound, NotStored, DigestMismatch, FormatError):
            raw = b""  # the index is only a list
        found = raw.split(b"\n")[:-1]
        if len(found) == len(listed.days):
            return list(zip(sorted(listed.days), found, strict=True))
    days = sorted(tag for tag in registry.list_tags(repo) if DAY.fullmatch(tag))
    return [(day, _fetch_bundle(registry, repo, day)) for day in days[: LIMITS.ledger_days + 1]]


def _fetch_bundle(registry: Registry, repo: str, day: str) -> bytes:
    manifest = registry.fetch_manifest(repo, signature_tag(day, 1))
    for layer in manifest.layers:
        if layer.media_type == SIGSTORE_BUNDLE and layer.size <= LIMITS.signature_blob_bytes:
            return layer.data if layer.data is not None else b"".join(registry.fetch_blob(repo, layer))
    raise FormatError(f"{repo}: the day {day} has no signature")


def _verify_ours(
    registry: Registry, repo: str, ours: Mapping[str, Digest], there: set[str], listed: ListedDays | None
) -> None:
    foreign = sorted(there - ours.keys())
    if foreign:
        raise RegistryConflict(
            f"{repo} has the day {foreign[0]}, which this machine's ledger has not",
            advice=f"After a lost folder fetch the chain first. {_ADVICE}",
        )
    known = {} if listed is None else listed.days
    for day in sorted(there):
        expected = ours[day]
        found = known.get(day)
        if found is None:
            head = registry.head_manifest(repo, day)
            found = head.digest if head else None
        if found is not None and found != expected:
            raise RegistryConflict(f"{repo}:{day} is {found}, and this machine closed {expected}", advice=_ADVICE)


def _push_day(registry: Registry, repo: str, folder: LedgerFolder, statement: DayStatement, bundle: bytes) -> None:
    manifest = statement.manifest
    with folder.day_path(statement.day).open("rb") as file:
        registry.push_blob(repo, manifest.layers[0], file)
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    signature = build_signature_manifest(manifest.descriptor, bundle, LEDGER_PREDICATE, None)
    push_signed(registry, repo, manifest, [(signature, {signature.layers[0].digest: bundle})], (statement.day,))
    found = registry.head_manifest(repo, statement.day)
    if found is None:
        raise RegistryProtocolError(f"{repo}:{statement.day} is not there after it was written")
    if found.digest != manifest.digest:
        raise RegistryConflict(f"{repo}:{statement.day} was written by another machine as well", advice=_ADVICE)


def _push_index(registry: Registry, repo: str, statements: Mapping[str, DayStatement], raw: bytes) -> None:
    days = sorted(statements)
    blob = describe(raw, LEDGER_BUNDLES)
    holder = build_manifest(config=EMPTY_CONFIG, layers=[blob], artifact_type=LEDGER)
    registry.push_blob(repo, blob, raw)
    registry.push_blob(repo, EMPTY_CONFIG, EMPTY_BLOB)
    registry.push_manifest(repo, holder)
    entries: Sequence[Descriptor] = [
        holder.descriptor.with_annotations({A_BUNDLES: f"{blob.digest.hex} {blob.size}"}),
        *(
            statements[day].manifest.descriptor.with_annotations({A_CHAIN: statements[day].chain, A_DAY: day})
            for day in days
        ),
    ]
    registry.push_index(repo, encode_index(entries), tag=INDEX_TAG)
