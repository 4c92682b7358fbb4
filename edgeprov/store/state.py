# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The state folder of a device: what must survive, where it lies, and in which order it changes.

::

    VERSION                 format of this folder; a newer one is left untouched
    layout/                 OCI layout: models, kits, signatures
    active/<slot>.json      which model runs
    spool/<slot>/           records and labels that are not in a kit yet
    outbox/<digest>.json    artifacts that have to reach a registry
    documents/<name>.json   small facts of the flows (intent of a seal, head of the series)
    tpm/                    public parts of the identity, and the simulator's state
    quarantine/             what could not be read, with the reason beside it
    lock/                   lock files

Write order is the invariant that recovery rests on: blobs, manifest, signatures, outbox entry, and
only then the spool is freed; reading goes the other way. Unreadable state is moved to quarantine and
rebuilt, never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edgeprov.errors import FormatError, NotStored, StateNewer, StoreCorrupt, StoreError, UsageError
from edgeprov.formats.digest import Digest
from edgeprov.formats.jsonx import JsonObject, encode_json, parse_json_object
from edgeprov.formats.names import is_slot
from edgeprov.store.atomic import (
    exists,
    load_bytes,
    make_dirs,
    remove,
    rename,
    save_bytes,
    sweep,
    sync_dir,
    translated,
)
from edgeprov.store.layout import Layout
from edgeprov.store.lock import lock
from edgeprov.store.state_documents import (
    MAX_BYTES,
    Active,
    OutboxEntry,
    encode_active,
    encode_outbox_entry,
    parse_active,
    parse_outbox_entry,
)

if TYPE_CHECKING:  # imported when used: the boot check has no business with the spool
    from edgeprov.store.spool import LabelLog, SlotSpool

__all__ = ["Active", "OutboxEntry", "State"]

VERSION: Final = 1
_FOLDERS: Final = ("active", "spool", "outbox", "documents", "tpm", "quarantine", "lock")
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")

T = TypeVar("T")


class State:
    """An open state folder. Several processes may have it open; each change takes its own lock.

    Attributes:
        root: The folder.
        layout: Its OCI layout.
        identity_dir: Public parts of the device's identity.
    """

    def __init__(self, root: Path, layout: Layout, *, write: bool, run_dir: Path | None) -> None:
        """For open() only."""
        self.root = root
        self._run_dir = run_dir
        self.layout = layout
        self.identity_dir = root / "tpm"
        self._write = write

    @classmethod
    def open(cls, root: Path, *, write: bool, run_dir: Path | None = None) -> State:
        """Open the state folder; with ``write`` it is made at the first start and swept at each.

        Args:
            root: The folder.
            write: It will be changed.
            run_dir: Folder in a tmpfs for records that are not on the disk yet.

        Raises:
            NotStored: There is none yet, and ``write`` is false.
            StateNewer: Written by a newer version; nothing was touched.
            StoreCorrupt: VERSION is unreadable, or the folder holds something else.
            StoreFull: No space.
            StoreError: It is not writable, or another user's and this is root, and ``write`` is true.
        """
        if write:
            _verify_owner(root)
        if not exists(root / "VERSION"):
            if not write:
                raise NotStored(f"no state in {root}", advice="Run `edgeprov identity create` first.")
            _create(root)
        _verify_version(root)
        if not write:
            state = cls(
                root, Layout(root / "layout", read_only=True), write=False, run_dir=None
            )  # VERSION vouches for its marker
            state.layout.rebuild_with(state.quarantine)
            return state
        if not os.access(root, os.W_OK):
            raise StoreError(
                f"state folder {root} is read-only", advice="Mount the data partition writable, or run as its owner."
            )
        try:
            layout = Layout.open(root / "layout")
        except (FormatError, NotStored):
            layout = Layout.create(root / "layout", anew=True)
        state = cls(root, layout, write=True, run_dir=run_dir)
        state.layout.rebuild_with(state.quarantine)
        for folder in (root, *(root / name for name in _FOLDERS)):
            make_dirs(folder)
            sweep(folder)
        with translated(root):
            spools = [path for path in (root / "spool").iterdir() if path.is_dir()]
            spools += [labels for path in spools if (labels := path / "labels").is_dir()]
        for folder in spools:
            sweep(folder)
        return state

    def lock(self, name: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """Exclude other processes from what ``name`` stands for while the body runs.

        Raises:
            StoreBusy: Another one is in it, and ``wait`` is false.
        """
        return lock(self.root / "lock" / _checked(name), wait=wait)

    # -- slots ------------------------------------------------------------------------------------

    def slots(self) -> tuple[str, ...]:
        """Slots that have an active model or a spool, sorted."""
        with translated(self.root):
            active = {path.stem for path in (self.root / "active").iterdir() if path.suffix == ".json"}
            spools = {path.name for path in (self.root / "spool").iterdir() if path.is_dir()}
        return tuple(sorted(name for name in active | spools if is_slot(name)))

    def active(self, slot: str) -> Active | None:
        """The slot's model; None when there is none (or its pointer was damaged and quarantined)."""

        def parse(raw: bytes) -> Active:
            active = parse_active(raw)
            if active.slot != slot:
                raise FormatError(f"pointer of slot {active.slot[:40]!r} under the name of {slot!r}")
            return active

        return self._load(self.root / "active" / f"{_slot(slot)}.json", parse)

    def set_active(self, active: Active) -> None:
        """Switch the slot to a model, atomically.

        Raises:
            StoreFull: No space; the old model stays active.
            StoreError: The folder cannot be written.
        """
        self._save(self.root / "active" / f"{_slot(active.slot)}.json", encode_active(active))

    def spool(self, slot: str) -> SlotSpool:
        """The records of a slot."""
        from edgeprov.store.spool import SlotSpool

        ring = None if self._run_dir is None else self._run_dir / "rings" / _slot(slot)
        return SlotSpool(self._spool_dir(slot), quarantine=self.quarantine, ring=ring)

    def labels(self, slot: str) -> LabelLog:
        """The labels of a slot."""
        from edgeprov.store.spool import LabelLog

        return LabelLog(self._spool_dir(slot) / "labels", quarantine=self.quarantine)

    def _spool_dir(self, slot: str) -> Path:
        return self.root / "spool" / _slot(slot)

    # -- outbox -----------------------------------------------------------------------------------

    def outbox(self) -> tuple[OutboxEntry, ...]:
        """What waits, oldest first."""
        with translated(self.root):
            paths = sorted((self.root / "outbox").glob("*.json"))

        def parse(path: Path) -> Callable[[bytes], OutboxEntry]:
            def named(raw: bytes) -> OutboxEntry:
                entry = parse_outbox_entry(raw)
                if entry.digest.hex != path.stem:  # it could never be removed
                    raise FormatError(f"outbox entry of {entry.digest} under another name")
                return entry

            return named

        entries = [entry for path in paths if (entry := self._load(path, parse(path))) is not None]
        return tuple(sorted(entries, key=lambda entry: (entry.seq, entry.digest)))

    def save_outbox(self, entry: OutboxEntry) -> None:
        """Add an entry, or replace the one of the same digest. Errors as in set_active."""
        self._save(self.root / "outbox" / f"{entry.digest.hex}.json", encode_outbox_entry(entry))

    def remove_outbox(self, digest: Digest) -> None:
        """Drop an entry: it is where it belongs."""
        self._remove(self.root / "outbox" / f"{digest.hex}.json")

    def pinned(self) -> set[Digest]:
        """What garbage collection must keep: active and previous models, everything in the outbox."""
        result = {entry.digest for entry in self.outbox()}
        for slot in self.slots():
            active = self.active(slot)
            if active is not None:
                result.add(active.model)
                if active.previous:
                    result.add(active.previous)
        return result

    # -- documents --------------------------------------------------------------------------------

    def load_document(self, name: str) -> JsonObject | None:
        """A named document; None when there is none (or it was damaged and quarantined)."""
        return self._load(
            self.root / "documents" / f"{_checked(name)}.json",
            lambda raw: parse_json_object(raw, f"document {name}", max_bytes=MAX_BYTES),
        )

    def save_document(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace a named document. Errors as in set_active."""
        self._save(self.root / "documents" / f"{_checked(name)}.json", encode_json(document))

    def remove_document(self, name: str) -> None:
        """Drop a named document."""
        self._remove(self.root / "documents" / f"{_checked(name)}.json")

    # -- damage -----------------------------------------------------------------------------------

    def quarantine(self, path: Path, reason: str) -> Path:
        """Move a file or folder of the state out of the way, with the reason in a file beside it.

        Returns:
            Where it lies now.

        Raises:
            StoreError: It cannot be moved.
        """
        folder = self.root / "quarantine"
        number = 1
        while exists(target := folder / f"{path.name}.{number}"):
            number += 1
        rename(path, target)
        sync_dir(folder)
        sync_dir(path.parent)
        save_bytes(target.with_name(target.name + ".reason"), (reason + "\n").encode())
        return target

    def quarantined(self) -> tuple[tuple[Path, str], ...]:
        """What lies in quarantine, each with its reason."""
        found = []
        with translated(self.root):
            paths = sorted((self.root / "quarantine").iterdir())
        for path in paths:
            note = path.with_name(path.name + ".reason")
            if path.suffix != ".reason":
                reason = (
                    load_bytes(note, max_bytes=MAX_BYTES, what="reason").decode(errors="replace").strip()
                    if exists(note)
                    else ""
                )
                found.append((path, reason))
        return tuple(found)

    def spool_bytes(self) -> int:
        """Bytes of all spools; cheap enough to be asked each time that space is set aside."""
        return _tree_bytes(self.root / "spool")

    def _load(self, path: Path, parse: Callable[[bytes], T]) -> T | None:
        try:
            return parse(load_bytes(path, max_bytes=MAX_BYTES, what="state"))
        except NotStored:
            return None
        except FormatError as error:
            if not self._write:
                raise StoreCorrupt(
                    f"{path}: {error.message}", advice="The next writing command quarantines it."
                ) from error
            self.quarantine(path, error.message)
            return None

    def _save(self, path: Path, data: bytes) -> None:
        if not self._write:
            raise StoreError(f"state folder {self.root} was opened to read")
        save_bytes(path, data)

    def _remove(self, path: Path) -> None:
        if not self._write:
            raise StoreError(f"state folder {self.root} was opened to read")
        remove(path)
        sync_dir(path.parent)


def _verify_owner(root: Path) -> None:
    """Root writes nothing into a folder of the service's user: its files would lock that user out.

    Raises:
        StoreError: It would.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = root.stat().st_uid
    except OSError:
        return  # none yet: whoever makes it owns it
    if owner != 0:
        import pwd

        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise StoreError(
            f"state folder {root} belongs to the user {name}, and files that root writes there would lock it out",
            advice=f"Run it as that user: runuser -u {name} -- edgeprov ...",
        )


def _create(root: Path) -> None:
    make_dirs(root)
    with lock(root, wait=True):
        with translated(root):
            strange = {path.name for path in root.iterdir()} - {*_FOLDERS, "layout", "VERSION"}
        strange = {name for name in strange if not name.startswith(".") and name != "lost+found"}
        if strange:
            raise StoreCorrupt(
                f"{root} holds {min(strange)!r} but no VERSION: it is not a state folder",
                advice="Name an empty folder as device.state_dir.",
            )
        for name in _FOLDERS:
            make_dirs(root / name)
        Layout.create(root / "layout")
        if not exists(root / "VERSION"):
            save_bytes(root / "VERSION", f"{VERSION}\n".encode())  # last: now the folder is whole


def _verify_version(root: Path) -> None:
    try:
        version = int(load_bytes(root / "VERSION", max_bytes=64, what="state version"))
    except (FormatError, ValueError) as error:
        raise StoreCorrupt(f"{root}/VERSION is unreadable", advice="Restore VERSION from another device.") from error
    if version > VERSION:
        raise StateNewer(f"state in {root} has version {version}; this edgeprov knows up to {VERSION}")


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in _files(folder):
        with suppress(NotStored), translated(path):  # sealed or collected meanwhile
            total += path.stat().st_size
    return total


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _checked(name: str) -> str:
    if not 0 < len(name) <= 64 or name[0] in "_-" or not _NAME.issuperset(name):
        raise UsageError(f"{name[:80]!r} is not a name of the state folder")
    return name


def _slot(slot: str) -> str:
    if not is_slot(slot):
        raise UsageError(f"{slot[:80]!r} is not a slot", advice="Slots have 1 to 32 characters of a-z, 0-9 and '-'.")
    return slot
