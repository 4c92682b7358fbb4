# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The processes that hash a blob, one word each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def blob(folder: Path, size: str) -> None:
    import os

    from edgeprov.store.layout import Layout

    with Layout.create(folder).blob_writer() as writer:
        for _ in range(int(size) // 1_000_000):
            writer.write(os.urandom(1_000_000))
        print(writer.commit("application/octet-stream").digest)


def verify(folder: Path) -> None:
    from edgeprov.formats.descriptor import Descriptor
    from edgeprov.formats.digest import Digest
    from edgeprov.store.layout import Layout

    layout = Layout.open(folder, read_only=True)
    path = next((folder / "blobs" / "sha256").iterdir())
    descriptor = Descriptor(media_type="x", digest=Digest(path.name), size=path.stat().st_size)
    print(_used_s(lambda: layout.verify_blob(descriptor)))


def memory(folder: Path) -> None:
    """The digest alone: as many bytes as the blob has, from one buffer, and nothing read."""
    from hashlib import sha256

    size = next((folder / "blobs" / "sha256").iterdir()).stat().st_size
    digest, buffer = sha256(), bytes(64 * 1024)
    print(_used_s(lambda: [digest.update(buffer) for _ in range(size // len(buffer))]))


def _used_s(call: Callable[[], object]) -> float:
    import time

    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    word, place, *rest = sys.argv[1:]
    {"blob": blob, "memory": memory, "verify": verify}[word](Path(place), *rest)
