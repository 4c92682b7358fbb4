# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The outbox is only a list of what the layout holds: a damaged entry is written anew from the kit itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.device.context import UPLOAD_LOCK
from edgeprov.device.kit_repository import data_repo
from edgeprov.errors import FormatError, StoreBusy
from edgeprov.formats.datakit import parse_kit_tag
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import A_LABELS, A_MODEL, A_RECORDS, A_SLOT, ANNOTATION_CREATED, TOMBSTONE
from edgeprov.store.state import OutboxEntry, State

if TYPE_CHECKING:
    from edgeprov.device.context import Context


def rebuild_outbox(context: Context, state: State, head_seq: int) -> int:
    """Give every committed kit of the layout its entry back; skipped while an upload runs.

    Args:
        context: The device.
        state: State folder, opened for writing.
        head_seq: Number of the series' head; what lies above was never committed.

    Returns:
        How many entries were missing.

    Raises:
        StoreError: The state cannot be read or written.
    """
    found = 0
    with suppress(StoreBusy), state.lock(UPLOAD_LOCK):
        known = {entry.digest for entry in state.outbox()}
        for ref, descriptor in state.layout.refs().items():
            tag = parse_kit_tag(ref)
            if tag is None or tag.seq > head_seq or descriptor.digest in known:
                continue
            manifest = state.layout.load_manifest(descriptor.digest)
            state.save_outbox(_entry(context, state, manifest, ref, tag.seq))
            found += 1
            journal.event("quarantined", f"kit {tag.seq} is in the outbox again", priority=journal.WARNING)
    return found


def _entry(context: Context, state: State, manifest: Manifest, tag: str, seq: int) -> OutboxEntry:
    notes = manifest.annotations
    try:
        model, created = parse_digest(notes[A_MODEL]), notes[ANNOTATION_CREATED]
        info = {
            "records": int(notes.get(A_RECORDS, "0")),
            "labels": int(notes.get(A_LABELS, "0")),
            "bytes": sum(blob.size for blob in manifest.blobs),
            "slot": notes[A_SLOT],
            "model": str(model),
            "created": created,
            "signatures": [str(entry.digest) for entry in state.layout.referrers(manifest.digest, damaged=[])],
        }
    except (KeyError, ValueError) as error:
        raise FormatError(f"kit {tag} lacks an annotation: {error}") from error
    return OutboxEntry(
        kind="tombstone" if manifest.artifact_type == TOMBSTONE else "kit",
        digest=manifest.digest,
        seq=seq,
        repo=data_repo(context, model, created),
        tag=tag,
        state="sealed",
        info=info,
    )
