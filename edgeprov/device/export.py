# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The outbox on a stick, as an OCI layout that `edgeprov-fleet import` and every OCI tool can read.

What was exported stays on the device until a receipt comes back: a stick can be lost. A stick that was
pulled in the middle is put in again, and the export goes on with what is missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass, field, replace
from edgeprov.device.context import UPLOAD_LOCK, free_bytes
from edgeprov.device.head_upload import leave_head_when_due
from edgeprov.device.identity import verify_own_name
from edgeprov.device.kit_repository import repository_of
from edgeprov.device.transfer import Tally, Transfer, artifact_bytes, intact, signature_digests
from edgeprov.device.upload import unsent
from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, NotStored, StoreCorrupt, StoreError, StoreFull
from edgeprov.limits import KIB
from edgeprov.registry.retry import Pace
from edgeprov.store.layout import Layout
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.store.state import OutboxEntry

if TYPE_CHECKING:
    from edgeprov.device.context import Context

EXPORTED: Final = "exported"
# What a file system takes beside the bytes: clusters, folder entries, index.json.
_KIT_OVERHEAD: Final = 128 * KIB
_PULLED: Final = "Put the stick in again and repeat the export: it goes on with what is missing."
# A file system that lost its disk turns read-only too, so that advice has to fit both.
_ADVICE: Final = {
    errno.EROFS: "Put the stick in again, with its write protection off, and repeat the export: it goes on from there.",
    errno.ENOTDIR: "Name a folder on the stick.",
    errno.EACCES: "Mount the stick so that this user may write to it, or run the export as one who may.",
    errno.EPERM: "Mount the stick so that this user may write to it, or run the export as one who may.",
}
_BAD_INDEX: Final = "What lies there is damaged or was written by something else: name another folder on the stick."
_BAD_STICK: Final = "The stick loses data: repeat the export onto another one."


@dataclass(slots=True)
class Exported:
    """What lies on the stick now; ``faults`` could not be read on the device.

    Attributes:
        same_disk: The folder is on the device's own data partition: nothing is plugged in there.
    """

    entries: list[OutboxEntry] = field(default_factory=list)
    faults: list[tuple[OutboxEntry, EdgeprovError]] = field(default_factory=list)
    written_bytes: int = 0
    same_disk: bool = False


def export(
    context: Context,
    folder: Path,
    *,
    verify: bool = False,
    changed: Callable[[Tally], None] = lambda _tally: None,
) -> Exported:
    """Write everything in the outbox to a folder; what is there already is not written again.

    Args:
        context: The device.
        folder: On the stick; becomes an OCI layout.
        verify: Read everything back from the stick itself, past the page cache.
        changed: Told after each blob.

    Raises:
        IdentityError: The configured serial is not that of the identity; nothing is written.
        ConfigError: The template of the repository gives none.
        StoreFull: The stick is too small; nothing was written.
        StoreCorrupt: ``verify`` found a difference.
        StoreError: The stick cannot be written, or was pulled.
    """
    state = context.state()
    verify_own_name(context, state)
    result = Exported()
    with state.lock(UPLOAD_LOCK):
        leave_head_when_due(context, state)
        entries = unsent(state)
        with _on_stick(folder):
            stick = LayoutRegistry(folder, create=True)
            result.same_disk = folder.stat().st_dev == state.root.stat().st_dev
        sizes = {entry.digest: _size_of(state.layout, entry, result) for entry in entries}
        entries = [entry for entry in entries if sizes[entry.digest]]
        with _on_stick(folder):
            _verify_space(folder, stick, [(entry, sizes[entry.digest]) for entry in entries])
        tally = Tally(artifacts=len(entries), total_bytes=sum(sizes.values()), changed=changed)
        transfer = Transfer(state.layout, stick, Pace(), tally)
        for entry in entries:
            try:
                with _on_stick(folder):
                    transfer.push(repository_of(context, entry), entry)
            except EdgeprovError as error:
                if intact(state.layout, entry):
                    raise
                result.faults.append((entry, error))
                continue
            result.entries.append(entry)
            tally.done_artifacts += 1
            changed(tally)
        result.written_bytes = tally.sent_bytes
        if verify:
            with _on_stick(folder):
                read_back(folder, result.entries)
        for entry in result.entries:  # only now: an export that failed has exported nothing
            if entry.state != EXPORTED:
                state.save_outbox(replace(entry, state=EXPORTED))
    journal.event("kit-exported", f"{len(result.entries)} artifacts exported", count=len(result.entries))
    return result


def read_back(folder: Path, entries: Sequence[OutboxEntry]) -> None:
    """Read all artifacts from the stick itself and compare every byte with its digest.

    Raises:
        StoreCorrupt: The stick does not give back what was written.
    """
    layout = Layout.open(folder, read_only=True)
    try:
        for entry in entries:
            for digest in (entry.digest, *signature_digests(entry)):
                if not layout.has_manifest(digest):
                    raise StoreCorrupt(f"{folder}: index.json does not name {digest}", advice=_BAD_STICK)
                _forget_cache(layout.blob_path(digest))
                for blob in layout.load_manifest(digest).blobs:
                    _forget_cache(layout.blob_path(blob.digest))
                    layout.verify_blob(blob)
    except (DigestMismatch, FormatError, NotStored) as error:
        raise StoreCorrupt(f"{folder}: {error.message}", advice=_BAD_STICK) from error


def _forget_cache(path: Path) -> None:
    """Let the next read come from the medium; where the system does not offer it, from memory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # the read that follows tells
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _size_of(layout: Layout, entry: OutboxEntry, result: Exported) -> int:
    try:
        return artifact_bytes(layout, entry)
    except EdgeprovError as error:
        result.faults.append((entry, error))
        return 0


def _verify_space(folder: Path, stick: LayoutRegistry, sized: Sequence[tuple[OutboxEntry, int]]) -> None:
    missing = [size for entry, size in sized if not stick.layout.has_manifest(entry.digest)]
    needed = sum(missing) + len(missing) * _KIT_OVERHEAD
    if missing and (free := free_bytes(folder)) < needed:
        raise StoreFull(
            f"{folder}: {needed} bytes are needed, {free} are free; nothing was written",
            advice="Use a larger stick, or free space on this one.",
        )


@contextmanager
def _on_stick(folder: Path) -> Iterator[None]:
    """A disk error in here is the stick's, and so is an index that makes no sense."""
    try:
        yield
    except (StoreFull, StoreCorrupt):
        raise
    except FormatError as error:
        raise FormatError(f"{folder}: {error.message}", advice=_BAD_INDEX) from error
    except (StoreError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        number = (cause.errno if isinstance(cause, OSError) else None) or 0
        said = error.message if isinstance(error, StoreError) else str(error.strerror)
        where = "" if said.startswith(str(folder)) else f"{folder}: "
        raise StoreError(f"{where}{said}", advice=_ADVICE.get(number, _PULLED)) from error
