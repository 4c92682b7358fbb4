# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The processes that the boot case measures, one word each. Imports stand in the functions: they are what is measured."""

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


def verify(folder: Path, *, read: bool = True) -> None:
    from edgeprov.formats.descriptor import Descriptor
    from edgeprov.formats.digest import Digest
    from edgeprov.store.layout import Layout

    layout = Layout.open(folder, read_only=True)
    path = next((folder / "blobs" / "sha256").iterdir())
    descriptor = Descriptor(media_type="x", digest=Digest(path.name), size=path.stat().st_size)
    print(_used_s((lambda: layout.verify_blob(descriptor)) if read else (lambda: _hash(path))))


def _hash(path: Path) -> None:
    """The least that hashing a file in Python can cost: pieces into one buffer, and nothing checked."""
    import os
    from hashlib import sha256

    digest, buffer = sha256(), memoryview(bytearray(64 * 1024))
    fd = os.open(path, os.O_RDONLY)
    while count := os.readv(fd, (buffer,)):
        digest.update(buffer[:count])
    digest.digest()
    os.close(fd)


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


def make_site(folder: Path) -> None:
    from edgeprov.device.context import Context
    from tests.support.site import MODELS, Site

    folder.mkdir(parents=True)
    site = Site(folder)
    Context.tpm = lambda context: site.open_tpm(context)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    site.install(site.publish((MODELS / "mobilenetv2_224_untrained_int8.tflite").read_bytes(), name="mobilenet"))


if __name__ == "__main__":
    word, place, *rest = sys.argv[1:]
    if word == "floor":
        verify(Path(place), read=False)
    else:
        {"blob": blob, "memory": memory, "verify": verify, "site": make_site}[word](Path(place), *rest)
