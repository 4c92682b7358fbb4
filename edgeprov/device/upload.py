# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 3: from the outbox to a registry, and free what the registry confirmed.

Everything is idempotent: blobs by digest, manifest under a tag that holds its digest, signatures as
referrers. A kit leaves the device only after the registry named its manifest and all its signatures
by digest. An interrupted upload repeats only what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final, cast

from edgeprov import journal
from edgeprov.device.context import Context, timestamp
from edgeprov.device.remotes import open_registry, split_name
from edgeprov.device.seal import SEAL_LOCK
from edgeprov.errors import EdgeprovError, RegistryConflict, RegistryError, StoreBusy
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.registry.base import Registry, push_referrer
from edgeprov.store.state import OutboxEntry, State

UPLOAD_LOCK: Final = "upload"
LAST_UPLOAD: Final = "upload"


@dataclass(slots=True, kw_only=True)
class Uploaded:
    """What one run did. ``parked`` holds what cannot succeed by waiting, with the reason."""

    sent: list[OutboxEntry] = field(default_factory=list)
    parked: list[tuple[OutboxEntry, EdgeprovError]] = field(default_factory=list)
    bytes_sent: int = 0
    queued: int = 0
    error: EdgeprovError | None = None


def upload(context: Context, *, progress: Callable[[int], None] = lambda _bytes: None) -> Uploaded:
    """Send what waits, oldest first; stop at the first failure that waiting may cure.

    Args:
        context: The device.
        progress: Called with the size of each blob that is done.

    Raises:
        ConfigError: No registry is configured.
        StoreBusy: Another process uploads.
    """
    host, prefix = split_name(context.config.registry.name)
    state = context.state()
    result = Uploaded()
    with state.lock(UPLOAD_LOCK):
        registry = open_registry(host, context.config.registry, create=True)
        for entry in state.outbox():
            try:
                result.bytes_sent += push_artifact(state, registry, prefix + entry.repo, entry, progress)
            except RegistryError as error:
                if error.retryable:
                    result.error = error
                    break
                result.parked.append((entry, error))
                journal.event(
                    "upload-parked",
                    f"{entry.kind} {entry.seq}: {error.message}",
                    priority=journal.ERROR,
                    to_stderr=False,
                    kit_digest=entry.digest,
                )
                continue
            result.sent.append(entry)
            journal.event("kit-uploaded", f"{entry.kind} {entry.seq} is in the registry", kit_digest=entry.digest)
            free_artifact(context, state, entry)
        if result.sent:
            state.save_document(
                LAST_UPLOAD, {"at": timestamp(time.time_ns()), "seq": result.sent[-1].seq, "registry": registry.name}
            )
        result.queued = len(state.outbox())
        if result.sent and context.config.upload.retention == "confirmed":
            collect_garbage(state)
    return result


def push_artifact(
    state: State, registry: Registry, repo: str, entry: OutboxEntry, progress: Callable[[int], None]
) -> int:
    """Push one artifact with its signatures, and have the registry confirm all of it by digest.

    Returns:
        Bytes that were sent; what was there already does not count.

    Raises:
        RegistryConflict: The tag names another digest.
        RegistryError: The registry failed, or does not confirm.
        StoreError: A blob cannot be read.
    """
    layout = state.layout
    manifest = layout.load_manifest(entry.digest)
    known = registry.head_manifest(repo, entry.tag)
    if known is not None and known.digest != entry.digest:
        raise RegistryConflict(f"tag {entry.tag} in {repo} names {known.digest}")
    sent = _push_blobs(state, registry, repo, manifest, progress)
    if known is None:
        registry.push_manifest(repo, manifest, tag=entry.tag)
        sent += len(manifest.raw)
    digests = [entry.digest]
    for digest in signature_digests(entry):
        signature = layout.load_manifest(digest)
        sent += _push_signature(state, registry, repo, signature, progress)
        digests.append(digest)
    for digest in digests:
        confirmed = registry.head_manifest(repo, str(digest))
        if confirmed is None or confirmed.digest != digest:
            raise RegistryError(f"{repo} does not confirm {digest}")
    return sent


def signature_digests(entry: OutboxEntry) -> list[Digest]:
    """Manifest digests of the signatures of an artifact."""
    return [parse_digest(str(text)) for text in entry.info.get("signatures", ())]


def free_artifact(context: Context, state: State, entry: OutboxEntry) -> None:
    """Take an artifact that arrived out of outbox and layout; blobs go at the next garbage collection.

    Raises:
        StoreError: The state cannot be changed.
    """
    if context.config.upload.retention != "confirmed":
        state.save_outbox(replace(entry, state="confirmed"))
        return
    state.remove_outbox(entry.digest)
    with state.layout.batch():
        for digest in (*signature_digests(entry), entry.digest):
            state.layout.remove_manifest(digest)
    journal.event("kit-freed", f"{entry.kind} {entry.seq} freed", kit_digest=entry.digest)


def collect_garbage(state: State) -> int:
    """Remove blobs that nothing names; skipped while a seal or an install is writing some.

    Returns:
        Bytes freed.

    Raises:
        StoreError: The layout cannot be changed.
    """
    try:
        with state.lock(SEAL_LOCK):
            return state.layout.collect_garbage(state.pinned())
    except StoreBusy:
        return 0


def _push_blobs(
    state: State, registry: Registry, repo: str, manifest: Manifest, progress: Callable[[int], None]
) -> int:
    sent = 0
    for blob in manifest.blobs:
        if registry.head_blob(repo, blob.digest) != blob.size:
            with state.layout.open_blob(blob) as stream:
                registry.push_blob(repo, blob, cast("BinaryIO", stream))
            sent += blob.size
        progress(blob.size)
    return sent


def _push_signature(
    state: State, registry: Registry, repo: str, signature: Manifest, progress: Callable[[int], None]
) -> int:
    sent = _push_blobs(state, registry, repo, signature, progress)
    push_referrer(registry, repo, signature)
    return sent + len(signature.raw)
