# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""All that comes before the body of a part, done while the part before it is on its way.

A part costs three round trips: is it there, where may I put it, here it is. The first two carry no data,
and reading and hashing the part needs no line at all, so doing them early leaves the promise alone that a
cut costs at most one part; only one body is ever on the wire. What was done early is a guess: whatever
goes wrong with it is forgotten, and done again in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgeprov._dataclass import dataclass
from edgeprov.formats.digest import Digest

if TYPE_CHECKING:
    from edgeprov.registry.base import NextBlob


@dataclass(frozen=True, slots=True)
class UploadSession:
    """Where a blob may be put; no session means that it is there already.

    Attributes:
        body: Its verified bytes, None when they still have to be read.
    """

    session: str | None
    body: bytes | None = None


class Prefetcher:
    """At most one blob at a time, in a thread that ends with the question; the end of a program waits for none."""

    def __init__(self, prepare: Callable[[str, NextBlob], UploadSession]) -> None:
        self._prepare = prepare
        self._asked: tuple[str, Digest] | None = None
        self._answers: SimpleQueue[UploadSession | None] = SimpleQueue()

    def start(self, repo: str, blob: NextBlob) -> None:
        """Prepare this blob now, unless it was asked for already."""
        asked = (repo, blob.descriptor.digest)
        if self._asked == asked:
            return
        self._asked, self._answers = asked, SimpleQueue()
        # One that waited for more would keep the registry's connections open after all others have let go of it.
        threading.Thread(target=self._run, args=(repo, blob, self._answers), name="registry-ahead", daemon=True).start()

    def take(self, repo: str, digest: Digest) -> UploadSession | None:
        """What was found for this blob, waited for; None when it was not asked for, or went wrong."""
        if self._asked != (repo, digest):
            return None
        self._asked = None
        return self._answers.get()

    def forget(self) -> None:
        """After a cut: the registry may have been started anew, and have forgotten its sessions."""
        self._asked = None

    def _run(self, repo: str, blob: NextBlob, answers: SimpleQueue[UploadSession | None]) -> None:
        place = None
        with suppress(Exception):  # whatever it is, the turn of this blob meets it again where it can be told
            place = self._prepare(repo, blob)
        answers.put(place)
