# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A data set behind a URL. The only importer of fsspec, which is not a dependency: install it where it is used.

Keys, endpoints and options come from where fsspec and the protocol's package look for them (their
environment and configuration files), on each machine that writes: none pass through a command line.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from edgeprov.errors import EdgeprovError, LimitError, NotStored, StoreError, StoreFull, UsageError
from edgeprov.store.atomic import TEMPORARY

_OBJECT_STORES: Final = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci"))
"""An upload appears as a whole when it is complete, and folders do not exist. Elsewhere a file is moved into place."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class FsspecDestination:
    """Files of a remote system."""

    def __init__(self, url: str) -> None:
        """Find the protocol.

        Raises:
            UsageError: fsspec or the protocol's package is not installed, or nobody knows the protocol.
            StoreError: Its host does not answer.
        """
        self.name = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        try:
            import fsspec
        except ImportError as error:
            raise UsageError(
                f"{self._protocol}:// needs the package `fsspec`, which is not installed",
                advice="pip install edgeprov[remote], and the package of the protocol (s3fs for s3://).",
            ) from error
        try:
            # The URL also names the host, where the protocol has one; some packages connect at once.
            # No cache of listings: what another machine wrote meanwhile must be seen.
            with self._translated(passing=(ImportError, ValueError)):
                fs, root = fsspec.core.url_to_fs(self.name, use_listings_cache=False)
            self._fs: Any = fs
            self._root = str(root).rstrip("/")
        except ImportError as error:
            raise UsageError(
                f"the package for {self._protocol}:// is not installed: {error}",
                advice="Install it on each machine that writes.",
            ) from error
        except ValueError as error:
            raise UsageError(
                f"{self._protocol[:40]}:// is no protocol that fsspec knows",
                advice="Name a folder, or a URL as s3://BUCKET/PATH.",
            ) from error

    def alone(self) -> AbstractContextManager[None]:
        """As Destination.alone: what is behind a URL knows no locks that a killed run would give up."""
        return nullcontext()

    def files(self) -> list[str]:
        """As Destination.files."""
        with self._translated():
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root)
            except FileNotFoundError:
                return []
        start = len(self._root) + 1
        return sorted(path[start:] for path in found if path.startswith(self._root + "/"))

    def load(self, path: str, *, max_bytes: int) -> bytes | None:
        """As Destination.load."""
        with self.reading(path) as stream:
            if stream is None:
                return None
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise LimitError(f"{self.name}/{path} has more than {max_bytes} bytes")
        return data

    def save(self, path: str, data: bytes) -> None:
        """As Destination.save."""
        with self.writing(path) as temporary:
            temporary.write_bytes(data)

    def remove(self, path: str) -> None:
        """As Destination.remove."""
        with self._translated(), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{path}")

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO | None]:
        """As Destination.reading."""
        with self._translated():
            try:
                stream = self._fs.open(f"{self._root}/{path}", "rb")
            except FileNotFoundError:
                yield None
                return
            with stream:
                yield stream

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """As Destination.writing; the file is made on this machine first, in the folder for temporary files."""
        folder = Path(tempfile.mkdtemp(prefix="edgeprov-"))
        try:
            local = folder / "part"
            yield local
            with self._translated():
                self._upload(local, f"{self._root}/{path}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _upload(self, local: Path, target: str) -> None:
        if self._protocol in _OBJECT_STORES:
            self._fs.put_file(str(local), target)
            return
        parent, _, name = target.rpartition("/")
        self._fs.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/{TEMPORARY}{os.getpid()}-{name}.part"
        try:
            self._fs.put_file(str(local), temporary)
            self._fs.mv(temporary, target)
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    @contextmanager
    def _translated(self, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Every package has errors of its own; those that mean something to everybody are OSErrors."""
        try:
            yield
        except EdgeprovError:
            raise
        except passing:
            raise
        except PermissionError as error:
            raise StoreError(
                f"{self.name}: {_reason(error)}",
                advice="Give this account the right to list, read, write and delete there.",
            ) from error
        except FileNotFoundError as error:
            raise NotStored(f"{self.name}: {_reason(error)}", advice="Create the bucket or folder first.") from error
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(
                    f"{self.name}: {_reason(error)}", advice="Make room there, then repeat: what is written stays."
                ) from error
            raise self._failed(error) from error
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.name}: {_reason(error)}",
            advice="Check address, network and keys, then repeat the command: what is written stays.",
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
