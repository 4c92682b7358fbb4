# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One artifact on its way out: blobs, manifest, signatures, last the tag. Everything may be repeated.

The part (one blob of about 1 MiB) is the unit of resume: HEAD, POST, PUT, and after a cut the same
part again. The only durable state is the layout that is sent from; what the registry holds is asked,
never remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import BinaryIO, Final, TypeVar, cast

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import DigestMismatch, EdgeprovError, RegistryConflict, RegistryError, StoreCorrupt
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.signature_manifest import signature_tag
from edgeprov.registry.base import NextBlob, Registry
from edgeprov.registry.push_order import list_as_referrers
from edgeprov.registry.retry import Pace
from edgeprov.store.layout import Layout
from edgeprov.store.state import OutboxEntry

T = TypeVar("T")

RECHECK_AFTER_S: Final = 600.0
"""A registry may collect blobs that no manifest names; zot does so after an hour."""
_ROUNDS: Final = 3
_BLOB_MISSING: Final = frozenset((400, 404, 422))
_BAD_ARRIVALS: Final = 3


@dataclass(slots=True, kw_only=True)
class Tally:
    """Bytes and artifacts of one contact. ``done_bytes`` counts what is in the registry, sent now or before."""

    total_bytes: int = 0
    done_bytes: int = 0
    sent_bytes: int = 0
    artifacts: int = 0
    done_artifacts: int = 0
    changed: Callable[[Tally], None] = field(default=lambda _tally: None)

    def add(self, size: int, *, sent: bool) -> None:
        """Count a blob or manifest."""
        self.done_bytes += size
        self.sent_bytes += size if sent else 0
        self.changed(self)


class Transfer:
    """Pushes artifacts of one layout to one registry."""

    def __init__(self, layout: Layout, registry: Registry, pace: Pace, tally: Tally) -> None:
        self._layout = layout
        self._registry = registry
        self._pace = pace
        self._tally = tally

    def push(self, repo: str, entry: OutboxEntry) -> None:
        """Push an artifact with its signatures, its tag last, and have the registry confirm all of it by digest.

        Raises:
            OutOfTime: The contact's budget ended; the next one goes on from here.
            RegistryConflict: The tag names another digest.
            RegistryError: The registry failed, or does not confirm.
            StoreError: A blob cannot be read; StoreCorrupt when it is not what it was.
        """
        manifest = self._layout.load_manifest(entry.digest)
        signatures = [self._layout.load_manifest(digest) for digest in signature_digests(entry)]
        manifests = [manifest, *signatures]
        try:
            if self._tagged(repo, entry):
                size = sum(len(item.raw) + sum(blob.size for blob in item.blobs) for item in manifests)
                self._tally.add(size, sent=False)
                self._push_missing(repo, entry, manifest, signatures)
            else:
                self._push_in_order(repo, entry, manifest, signatures)
            self._confirm(repo, manifests)
        except DigestMismatch as error:
            self._verify_local(manifests)
            raise RegistryError(
                f"{self._registry.name} keeps answering with other bytes: {error.message}",
                advice="A proxy or the registry's disk damages data; the local copy is intact.",
            ) from error

    def _push_in_order(self, repo: str, entry: OutboxEntry, manifest: Manifest, signatures: list[Manifest]) -> None:
        for round_left in reversed(range(_ROUNDS)):
            began = self._pace.clock.monotonic()
            first = round_left == _ROUNDS - 1
            for item in (manifest, *signatures):
                self._push_blobs(repo, item, count=first)
            if self._pace.clock.monotonic() - began > RECHECK_AFTER_S:
                for item in (manifest, *signatures):
                    self._push_blobs(repo, item, count=False)
            try:
                self._put(repo, manifest, None)
                self._put_signatures(repo, entry, manifest, signatures)
                self._put(repo, manifest, entry.tag)
            except RegistryError as error:
                # A blob went missing meanwhile (the registry's garbage collection): send it again.
                if round_left and error.status in _BLOB_MISSING and not error.retryable:
                    continue
                raise
            self._tally.add(sum(len(item.raw) for item in (manifest, *signatures)), sent=True)
            return

    def _push_missing(self, repo: str, entry: OutboxEntry, manifest: Manifest, signatures: list[Manifest]) -> None:
        """The tag promises the signatures; one that a registry lost all the same is pushed again."""
        heads = [self._head(repo, str(item.digest)) for item in signatures]
        if any(head is None for head in heads):
            for item in signatures:
                self._push_blobs(repo, item, count=False)
            self._put_signatures(repo, entry, manifest, signatures)

    def _put_signatures(self, repo: str, entry: OutboxEntry, manifest: Manifest, signatures: list[Manifest]) -> None:
        # A stranger's manifest under such a tag loses it: the repository is this device's own.
        tags = [signature_tag(entry.tag, number) for number in range(1, len(signatures) + 1)]
        if not all([self._put(repo, item, tag) for item, tag in zip(signatures, tags, strict=True)]):  # noqa: C419  puts
            self._attempt(partial(list_as_referrers, self._registry, repo, manifest.digest, signatures))

    def _put(self, repo: str, manifest: Manifest, tag: str | None) -> bool:
        return self._attempt(partial(self._registry.push_manifest, repo, manifest, tag=tag))

    def _attempt(self, push: Callable[[], T]) -> T:
        return self._pace.attempt(partial(_tolerant, push))

    def _head(self, repo: str, reference: str) -> Descriptor | None:
        return self._pace.attempt(partial(self._registry.head_manifest, repo, reference))

    def _tagged(self, repo: str, entry: OutboxEntry) -> bool:
        known = self._head(repo, entry.tag)
        if known is not None and known.digest != entry.digest:
            raise RegistryConflict(f"tag {entry.tag} in {repo} names {known.digest}")
        return known is not None

    def _push_blobs(self, repo: str, manifest: Manifest, *, count: bool = True) -> None:
        for blob, following in zip(manifest.blobs, (*manifest.blobs[1:], None), strict=True):
            sent = self._pace.attempt(partial(self._push_blob, repo, blob, following))
            if count:
                self._tally.add(blob.size, sent=sent)
            if sent:
                self._pace.spend(blob.size)

    def _push_blob(self, repo: str, blob: Descriptor, following: Descriptor | None) -> bool:
        then = None if following is None else NextBlob(following, partial(self._open, following))
        for left in reversed(range(_BAD_ARRIVALS)):
            with self._open(blob) as stream:
                try:
                    return self._registry.push_blob(repo, blob, stream, following=then)
                except DigestMismatch:
                    self._layout.verify_blob(blob)
                    if not left:
                        raise
        raise AssertionError("unreachable")

    def _open(self, blob: Descriptor) -> BinaryIO:
        return cast("BinaryIO", self._layout.open_blob(blob))

    def _confirm(self, repo: str, manifests: list[Manifest]) -> None:
        for manifest in manifests:
            found = self._head(repo, str(manifest.digest))
            if found is None or found.digest != manifest.digest:
                raise RegistryError(f"{self._registry.name}: {repo} does not confirm {manifest.digest}")

    def _verify_local(self, manifests: list[Manifest]) -> None:
        try:
            for manifest in manifests:
                for blob in manifest.blobs:
                    self._layout.verify_blob(blob)
        except DigestMismatch as error:
            raise StoreCorrupt(
                f"{error.message}; this artifact cannot be sent any more",
                advice="The disk damages data; keep the state folder for analysis. Other kits are still sent.",
            ) from error


def _tolerant(push: Callable[[], T]) -> T:
    """Docker's registry 2.8 answers DIGEST_INVALID to a manifest while another client writes the same blob."""
    try:
        return push()
    except DigestMismatch as error:
        raise RegistryError(error.message, status=400, code="DIGEST_INVALID") from error


def intact(layout: Layout, entry: OutboxEntry) -> bool:
    """Whether the device's own copy of an artifact is whole."""
    try:
        for digest in (entry.digest, *signature_digests(entry)):
            for blob in layout.load_manifest(digest).blobs:
                layout.verify_blob(blob)
    except EdgeprovError:
        return False
    return True


def signature_digests(entry: OutboxEntry) -> list[Digest]:
    """Manifest digests of the signatures of an artifact."""
    return [parse_digest(str(text)) for text in entry.info.get("signatures", ())]


def artifact_bytes(layout: Layout, entry: OutboxEntry) -> int:
    """What has to travel for one artifact at most, signatures included.

    Raises:
        StoreError: A manifest cannot be read.
    """
    total = 0
    for digest in (entry.digest, *signature_digests(entry)):
        manifest = layout.load_manifest(digest)
        total += len(manifest.raw) + sum(blob.size for blob in manifest.blobs)
    return total
