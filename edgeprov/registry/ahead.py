# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The two questions that come before a part, asked while the part before it is on its way.

A part costs three round trips: is it there, where may I put it, here it is. The first two carry no data,
so asking them early leaves the promise alone that a cut costs at most one part; only one body is ever on
the wire. What was asked early is a guess: whatever goes wrong with it is forgotten, and asked again in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from edgeprov.errors import EdgeprovError
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.values import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob may be put; no session means that it is there already."""

    session: str | None


class Ahead:
    """At most one question at a time, in a thread that nobody waits for when the program ends."""

    def __init__(self, ask: Callable[[str, Descriptor], Place]) -> None:
        self._ask = ask
        self._asked: tuple[str, Digest] | None = None
        self._thread: threading.Thread | None = None
        self._answers: list[Place] = []

    def start(self, repo: str, blob: Descriptor) -> None:
        """Ask for this blob now, unless it was asked for already."""
        if self._asked == (repo, blob.digest):
            return
        answers: list[Place] = []

        def work() -> None:
            with suppress(EdgeprovError):  # the turn of this blob comes, with the caller's own patience
                answers.append(self._ask(repo, blob))

        self._asked, self._answers = (repo, blob.digest), answers
        self._thread = threading.Thread(target=work, name="registry-ahead", daemon=True)
        self._thread.start()

    def take(self, repo: str, digest: Digest) -> Place | None:
        """The answer for this blob, waited for; None when it was not asked for, or not answered."""
        if self._asked != (repo, digest) or self._thread is None:
            return None
        self._thread.join()
        answers, self._answers = self._answers, []
        self._asked = None
        return answers[0] if answers else None

    def forget(self) -> None:
        """After a cut: the registry may have been started anew, and have forgotten its sessions."""
        self._asked = None
