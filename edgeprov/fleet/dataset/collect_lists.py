# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The lists beside a data set: its files, the kits that went in, and those that did not. Written as they come.

Spec: FLEET.md section "Data set".
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from edgeprov.fleet.dataset.destination import OWN, Destination, DigestFile
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.jsonx import encode_json
from edgeprov.store.atomic import translated


class Lists:
    """The three lists that the statement covers, written as their lines come; nothing is held."""

    def __init__(self, output: Destination, stack: ExitStack) -> None:
        self.files, self.inputs, self._refused = (
            stack.enter_context(_lines(output, f"{OWN}/{name}.jsonl")) for name in ("files", "inputs", "refused")
        )
        # Refused kits are met long before those that turn out unusable: each in an order of its own.
        self._late = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        stack.callback(self._end)
        self.refused = 0

    def refuse(self, **row: Any) -> None:
        """A kit that the index refuses."""
        self._refused.add(row)
        self.refused += 1

    def leave_out(self, **row: Any) -> None:
        """A kit that a task could not use."""
        with translated(tempfile.gettempdir()):
            self._late.write(encode_json(row) + b"\n")
        self.refused += 1

    def _end(self) -> None:
        with translated(tempfile.gettempdir()):
            self._late.seek(0)
            for line in self._late:
                self._refused.add_line(line)

    def subjects(self) -> list[dict[str, Any]]:
        """Names and digests, for the statement."""
        return [
            {"name": lines.path, "digest": {"sha256": parse_digest(lines.digest).hex}}
            for lines in (self.files, self.inputs, self._refused)
        ]


class _Lines:
    """JSON lines on their way into a file."""

    def __init__(self, path: str, file: DigestFile) -> None:
        self.path = path
        self._file = file

    def add(self, row: Mapping[str, Any]) -> None:
        self.add_line(encode_json(row) + b"\n")

    def add_line(self, line: bytes) -> None:
        self._file.write(line)

    @property
    def digest(self) -> str:
        return self._file.digest


@contextmanager
def _lines(output: Destination, path: str) -> Iterator[_Lines]:
    with output.writing(path) as temporary:
        file = DigestFile(temporary)
        try:
            yield _Lines(path, file)
            file.flush()
        finally:
            file.close()
