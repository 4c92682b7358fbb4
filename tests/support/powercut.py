# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A fault store: what may lie on the disk after a power cut, given the changes that were asked for.

SIGKILL keeps the page cache, so killing a process never loses an unsynced write. Here every change
is logged through the store's hook, and for a cut behind each of them the legal contents of the disk
are built anew:

- what was written to a file before its last sync is there; later writes are there or not, each by
  itself (the kernel writes pages back in any order), and one of them may be torn;
- names made, renamed or removed before the last sync of their folder are as they should be; later
  ones took effect or not, each by itself, but changes of one name keep their order.

This is more than one file system does: ext4 keeps the order of renames, others need not.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Self

from edgeprov.store import atomic

EXHAUSTIVE = 6  # with so many open changes every combination is tried, with more a sample
SAMPLES = 40


@dataclass(eq=False)
class Inode:
    """A file: its content when the log started, and what was done to it since."""

    content: bytes = b""


@dataclass(frozen=True)
class Change:
    """One logged change; ``inode`` for files, ``name`` for entries of folders."""

    operation: str
    inode: Inode | None = None
    name: str = ""
    target: str = ""
    data: bytes = b""
    number: int = 0


@dataclass
class Log:
    """The changes of one run, and between them what the run acknowledged."""

    root: Path
    changes: list[Change | str] = field(default_factory=list)
    start: dict[str, Inode | None] = field(default_factory=dict)  # None: a folder

    def __enter__(self) -> Self:
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            self.start[name] = None if path.is_dir() else Inode(path.read_bytes())
        self._names = dict(self.start)
        atomic.hook = self._note
        return self

    def __exit__(self, *_: object) -> None:
        atomic.hook = None

    def acknowledge(self, what: str) -> None:
        """What the run told its user at this point."""
        self.changes.append(what)

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def _note(self, operation: str, path: str, argument: Any, offset: int) -> None:
        if operation == "tpm":
            return  # the run acknowledges what its TPM did
        name = self._name(path)
        names = self._names
        if operation == "create":
            names[name] = inode = Inode()
            self.changes.append(Change("create", inode, name))
        elif operation in ("write", "truncate", "allocate", "sync"):
            data = argument if operation == "write" else b""
            number = offset if operation == "write" else argument or 0
            self.changes.append(Change(operation, names[name], name, data=data, number=number))
        elif operation == "rename":
            target = self._name(argument)
            inode = names.pop(name)
            names[target] = inode
            self.changes.append(Change("rename", inode, name, target))
        elif operation == "remove":
            if name in names:
                self.changes.append(Change("remove", names.pop(name), name))
        elif operation == "mkdir":
            if name not in names:
                names[name] = None
                self.changes.append(Change("mkdir", None, name))
        elif operation == "sync_dir":
            self.changes.append(Change("sync_dir", None, name))
        else:
            raise AssertionError(operation)


def disks(log: Log, seed: int = 1) -> Iterator[tuple[int, list[str], dict[str, bytes | None]]]:
    """Every state of the disk that a cut may leave: ``(changes done, acknowledged, name → content)``."""
    seen: set[bytes] = set()
    for done in range(len(log.changes) + 1):
        acknowledged = [item for item in log.changes[:done] if isinstance(item, str)]
        changes = [item for item in log.changes[:done] if isinstance(item, Change)]
        doubtful = _doubtful(changes)
        for choice in _choices(len(doubtful), random.Random(seed * 1_000_003 + done)):
            lost = {doubtful[i] for i, kept in enumerate(choice) if not kept}
            kept_writes = [i for i in doubtful if i not in lost and changes[i].operation == "write"]
            tears: list[tuple[int, int] | None] = [None]
            if kept_writes and all(choice):
                last = kept_writes[-1]
                size = len(changes[last].data)
                tears += [(last, cut) for cut in {0, 1, size // 2, max(0, size - 1), size // 512 * 512} if cut < size]
            for tear in tears:
                disk = _replay(log, changes, lost, tear)
                if disk is None:
                    continue
                key = _fingerprint(disk, acknowledged)
                if key not in seen:
                    seen.add(key)
                    yield done, acknowledged, disk


def write_disk(disk: dict[str, bytes | None], folder: Path) -> None:
    """Lay a state out under ``folder``."""
    folder.mkdir(parents=True)
    for name in sorted(disk):
        content = disk[name]
        path = folder / name
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)


def _doubtful(changes: list[Change]) -> list[int]:
    """The changes that no sync covers."""
    open_files: dict[int, list[int]] = {}
    open_names: dict[str, list[int]] = {}
    for number, change in enumerate(changes):
        if change.operation in ("write", "truncate", "allocate"):
            open_files.setdefault(id(change.inode), []).append(number)
        elif change.operation == "sync":
            open_files.pop(id(change.inode), None)
        elif change.operation == "sync_dir":
            open_names.pop(change.name, None)
        else:
            folder = os.path.dirname(change.target or change.name) or "."
            open_names.setdefault(folder, []).append(number)
    return sorted(number for group in (*open_files.values(), *open_names.values()) for number in group)


def _choices(count: int, rng: random.Random) -> Iterator[tuple[bool, ...]]:
    if count <= EXHAUSTIVE:
        yield from product((True, False), repeat=count)
        return
    for length in range(count + 1):  # in order: what a journal gives
        yield (True,) * length + (False,) * (count - length)
    for _ in range(SAMPLES):
        yield tuple(rng.random() < 0.5 for _ in range(count))


def _replay(
    log: Log, changes: list[Change], lost: set[int], tear: tuple[int, int] | None
) -> dict[str, bytes | None] | None:
    names: dict[str, Inode | None] = dict(log.start)
    contents = {id(inode): bytearray(inode.content) for inode in log.start.values() if inode}
    hidden: dict[int, str] = {}  # inodes whose rename was lost still have their old name
    for number, change in enumerate(changes):
        kind = change.operation
        if kind in ("write", "truncate", "allocate"):
            content = contents.setdefault(id(change.inode), bytearray())
            if number in lost:
                continue
            if kind == "write":
                data = change.data[: tear[1]] if tear and tear[0] == number else change.data
                if len(content) < change.number:
                    content.extend(bytes(change.number - len(content)))
                content[change.number : change.number + len(data)] = data
            elif kind == "truncate":
                del content[change.number :]
                content.extend(bytes(change.number - len(content)))
            else:
                content.extend(bytes(max(0, change.number - len(content))))
        elif kind in ("sync", "sync_dir"):
            continue
        elif number in lost:
            if kind == "rename":
                hidden[id(change.inode)] = change.name
        elif kind == "mkdir":
            names.setdefault(change.name, None)
        elif kind == "create":
            contents.setdefault(id(change.inode), bytearray())
            names[change.name] = change.inode
        elif kind == "rename":
            old = hidden.pop(id(change.inode), change.name)
            if names.get(old) is change.inode:
                del names[old]
            names[change.target] = change.inode
        elif kind == "remove" and names.get(change.name) is change.inode:
            del names[change.name]
    disk: dict[str, bytes | None] = {}
    for name in sorted(names):
        inode = names[name]
        parent = os.path.dirname(name)
        if parent and parent not in disk:
            continue  # its folder never reached the disk
        disk[name] = None if inode is None else bytes(contents.get(id(inode), b""))
    return disk


def _fingerprint(disk: dict[str, bytes | None], acknowledged: list[str]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(disk):
        content = disk[name]
        digest.update(f"{name}\0{-1 if content is None else len(content)}\0".encode() + (content or b""))
    digest.update("\n".join(acknowledged).encode())
    return digest.digest()


Check = Callable[[Path, list[str]], int]
