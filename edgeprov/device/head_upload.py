# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A head that nobody asked for: a device that sealed nothing for a while tells the registry how far its series goes.

At most one head waits in the outbox; a newer one takes its place, so that a device without a link collects none.

Spec: FORMAT.md section "Head".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov.device.attest import make_head
from edgeprov.device.identity import has_ended
from edgeprov.device.kit_repository import data_repo
from edgeprov.device.proved_time import stamp
from edgeprov.device.series_state import first_active, load_head
from edgeprov.errors import EdgeprovError, FormatError, IdentityError
from edgeprov.formats.head import build_head_manifest, certified_counter, head_tag, parse_head_tag
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.rfc3339 import ns_of_rfc3339
from edgeprov.store.state import OutboxEntry

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State

HEAD_KIND: Final = "head"
_DOCUMENT: Final = "upload-head"


def leave_head_when_due(context: Context, state: State) -> OutboxEntry | None:
    """Put a head into the outbox when nothing was sealed or said for ``upload.head_s`` seconds.

    A failure is told in the journal and keeps no kit from leaving.

    Args:
        context: The device.
        state: Its state folder. The caller holds UPLOAD_LOCK, so that no other run takes entries meanwhile.

    Returns:
        The new entry; None when none is due, or none can be made.
    """
    try:
        if not _is_due(context, state):
            return None
        return _leave(context, state)
    except IdentityError:
        return None  # not enrolled: there is no series to tell of
    except EdgeprovError as error:
        text = f"no head could be made: {error.message}"
        journal.event("head-failed", text, priority=journal.WARNING, to_stderr=False)
        return None


def _is_due(context: Context, state: State) -> bool:
    wait_s = context.config.upload.head_s
    if not wait_s or has_ended(state):
        return False
    now_ns, last_ns = stamp(context, state).at_ns, _last_word_ns(state)
    if not last_ns:  # nothing was ever said: the time counts from the first run on
        state.save_document(_DOCUMENT, {"ns": now_ns})
        return False
    return now_ns - last_ns >= wait_s * 1_000_000_000


def _last_word_ns(state: State) -> int:
    """When the newest kit, tombstone or head was made, or waiting for one began; ns since 1970, 0 for never."""
    said = (state.load_document(_DOCUMENT) or {}).get("ns")
    newest = said if isinstance(said, int) else 0
    head = load_head(state)
    info = head.entry.get("info") if head else None
    try:
        return max(newest, ns_of_rfc3339(str(info["created"])) if isinstance(info, dict) else 0)
    except (KeyError, FormatError):
        return newest


def _leave(context: Context, state: State) -> OutboxEntry:
    head = make_head(context, None)
    manifest, layer = build_head_manifest(head)
    counter = certified_counter(head)
    active = first_active(state)
    model = active.model if active else None
    entry = OutboxEntry(
        kind=HEAD_KIND,
        digest=manifest.digest,
        seq=counter,
        repo=data_repo(context, model, head.at),
        tag=head_tag(context.serial, counter, manifest.digest),
        state="sealed",
        info={
            "created": head.at,
            "bytes": sum(blob.size for blob in manifest.blobs),
            "model": str(model) if model else None,
            "signatures": [],
        },
    )
    with state.layout.batch():
        state.layout.save_blob(layer, manifest.layers[0].media_type)
        state.layout.save_blob(EMPTY_BLOB, manifest.config.media_type)
        state.layout.save_manifest(manifest, ref=entry.tag)
    state.save_outbox(entry)
    state.save_document(_DOCUMENT, {"ns": head.parsed_standing().at_ns})
    _drop_others(state, entry)
    journal.event("head-made", f"nothing was sealed for a while: head at number {counter}", device=context.urn)
    return entry


def _drop_others(state: State, entry: OutboxEntry) -> None:
    """Remove older heads; also one whose outbox entry a power cut or a damaged disk took."""
    for ref, descriptor in state.layout.refs().items():
        if parse_head_tag(ref) is not None and descriptor.digest != entry.digest:
            state.remove_outbox(descriptor.digest)
            state.layout.remove_manifest(descriptor.digest)
