# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What both programs share: verbs, text or JSON output, and the one place where errors end.

A verb module has ``run(args, out) -> int | None``, and ``arguments(parser)`` unless it takes none. Only
the module of the verb that was asked for is imported, so `edgeprov boot-check` never pays for `edgeprov
upload`; nor for argparse (cli.parsing), which is loaded where there is something to parse or to explain.
With ``--json`` each line of stdout is one object with a ``type``; fields are only ever added. No
traceback reaches a user: a bug is reported in one line (``EDGEPROV_DEBUG=1`` shows where).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from edgeprov.cli.streams import FULL, discard, mend, put
from edgeprov.errors import EXIT_DONE, EdgeprovError, StoreError, StoreFull, UsageError

_OPTIONS = frozenset(("--json",))  # what every verb takes, before or after its name


class Output:
    """Writes results: JSON objects for programs, or lines and tables for a person."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def item(self, kind: str, text: str | None = None, /, **values: Any) -> None:
        """One result: ``values`` with ``type`` in JSON mode, else the line of text (None: nothing)."""
        if self.as_json:
            # One write per line, so that a reader of a pipe never sees half an object.
            put(json.dumps({"type": kind, **values}, default=_plain, ensure_ascii=False) + "\n")
        elif text is not None:
            self.text(text)

    def text(self, line: str = "") -> None:
        """A line for a person; nothing in JSON mode."""
        if not self.as_json:
            put("\n".join(map(_printable, line.split("\n"))) + "\n")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """An aligned table for a person; numbers stand right. Nothing in JSON mode."""
        if self.as_json:
            return
        raw = [list(row) for row in rows]
        cells = [["" if cell is None else _printable(str(cell)) for cell in row] for row in raw]
        widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
        right = [bool(raw) and all(isinstance(row[i], int | float | None) for row in raw) for i in range(len(header))]
        for line in [list(header), *cells]:
            padded = [
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(line, widths, right, strict=True)
            ]
            put("  ".join(padded).rstrip() + "\n")

    def next(self, action: str) -> None:
        """What to do next; the last line of a text output."""
        self.text(f"next: {action}")

    def progress(self, title: str, total: int) -> Progress:
        """A progress bar on stderr: only for a person at a terminal, and only when the work is long.

        Args:
            title: What is going on.
            total: Steps in all; 0 when nobody knows, then bytes are counted.
        """
        return Progress(title, total, shown=not self.as_json and sys.stderr.isatty())


class Progress:
    """Context manager; ``advance`` after each step. Silent for the first half second."""

    def __init__(self, title: str, total: int, *, shown: bool) -> None:
        self._title = title
        self._total = total
        self._shown = shown
        self._done = 0
        self._next_draw = time.monotonic() + 0.5
        self._drawn = False

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""
        self._done += steps
        if self._shown and time.monotonic() >= self._next_draw:
            self._next_draw = time.monotonic() + 0.1
            self._drawn = True
            if self._total:
                filled = min(30, 30 * self._done // self._total)
                percent = min(100, 100 * self._done // self._total)
                sys.stderr.write(f"\r{self._title} [{'#' * filled}{'.' * (30 - filled)}] {percent:3d} %")
            else:
                sys.stderr.write(f"\r{self._title} {size(self._done)}   ")
            sys.stderr.flush()

    def update(self, done: int, total: int) -> None:
        """Set the count, where the work itself finds out how much there is."""
        self._total = total
        self.advance(done - self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the bar away, so that a line can be written."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def run_program(
    prog: str, description: str, package: str, verbs: Mapping[str, str], argv: Sequence[str] | None = None
) -> int:
    """Parse, run one verb and turn every outcome into an exit code.

    Args:
        prog: Name of the program in messages.
        description: First line of ``--help``.
        package: Where the verb modules are; ``boot-check`` is in ``boot_check.py``.
        verbs: Verb to one line of help, in the order in which a person meets them.
        argv: Arguments without the program; default ``sys.argv``.

    Returns:
        The exit status: 0, 100 (work remains queued) or that of the error's class.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    out = Output(as_json="--json" in arguments)
    mend(as_json=out.as_json)
    try:
        try:
            code = _dispatch(prog, description, package, verbs, arguments, out)
        except SystemExit as end:  # how argparse ends after a help text
            code = int(end.code or EXIT_DONE)
        put("", flush=True)
    except BrokenPipeError:
        discard(sys.stdout)  # the reader went away (| head): not an error
        return 141
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user
        return _fail(prog, error, out)
    return code


def _dispatch(
    prog: str, description: str, package: str, verbs: Mapping[str, str], arguments: list[str], out: Output
) -> int:
    position = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    before, verb, after = arguments[:position], "".join(arguments[position : position + 1]), arguments[position + 1 :]
    if verb not in verbs or not _OPTIONS.issuperset(before):
        from edgeprov.cli.parsing import parse_program

        parse_program(prog, description, verbs, arguments[: position + 1])
        return EXIT_DONE
    module = importlib.import_module(f"{package}.{verb.replace('-', '_')}")
    args = None
    if hasattr(module, "arguments") or not _OPTIONS.issuperset(after):
        from edgeprov.cli.parsing import parse_verb

        args = parse_verb(f"{prog} {verb}", module, after)
    code = module.run(args, out)
    return EXIT_DONE if code is None else int(code)


def _fail(prog: str, error: Exception, out: Output) -> int:
    from edgeprov import journal

    if os.environ.get("EDGEPROV_DEBUG"):
        import traceback

        traceback.print_exception(error)
    known = _translate(error)
    told = False
    try:
        if out.as_json:
            out.item(
                "error",
                code=known.exit_code,
                error=type(known).__name__,
                message=known.message,
                advice=known.advice,
                retryable=known.retryable,
            )
        sys.stdout.flush()
        told = out.as_json
    except (OSError, EdgeprovError):
        discard(sys.stdout)  # nobody reads there: stderr and the exit code still tell
    if not told:
        try:
            advice = f"  {one_line(known.advice)}\n" if known.advice else ""
            sys.stderr.write(f"{prog}: {one_line(known.message)}\n{advice}")
        except OSError:
            discard(sys.stderr)
    journal.failure(known)
    return known.exit_code


def _translate(error: Exception) -> EdgeprovError:
    if isinstance(error, EdgeprovError):
        return error
    if isinstance(error, OSError):
        # Owner modules translate; what is left comes from files that the user named.
        where = f"{error.filename}: " if error.filename else ""
        kind = StoreFull if error.errno in FULL else StoreError
        return kind(f"{where}{error.strerror or error}", advice="Check the file's name, its rights and the disk.")
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("edgeprov"):
        return UsageError(
            f"the package {error.name!r} is not installed beside edgeprov",
            advice="Install edgeprov[device] on a device, edgeprov[fleet] (and serve, cluster) at the back end.",
        )
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":  # from the command line
        return UsageError(f"{error.object[:80]!r} is not UTF-8", advice="Names of models, devices and slots are UTF-8.")
    if isinstance(error, MemoryError):
        return EdgeprovError("out of memory", advice="Give the process more memory, or a smaller model.")
    return EdgeprovError(f"internal error: {type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """Printable text on one line: names in messages may come from a registry or a stick."""
    return _printable(text.replace("\n", "; "))


def _printable(text: str) -> str:
    # Names come from registries: one could hold what moves a terminal's cursor, or hides text.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def short(digest: object) -> str:
    """The first 12 hex digits of a digest, for a person."""
    return str(digest).removeprefix("sha256:")[:12]


def size(count: int) -> str:
    """Bytes for a person: ``5.2 kB``, ``3.9 MB`` (decimal, as disks and registries count)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
