# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Command lines by argparse: help, versions, the options of a verb, and errors in the words of this project."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from edgeprov import __version__
from edgeprov.cli.streams import put
from edgeprov.errors import UsageError
from edgeprov.formats.names import is_number


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As its base; that one asks shutil for the width, which loads every compressor, even where no help is shown."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
        except (OSError, ValueError):
            width = 80
        super().__init__(prog, width=width - 2)


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            put(self.format_help())  # argparse's own ignores a write that fails

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, advice=f"See {self.prog} --help.")


def parse_program(prog: str, description: str, verbs: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Answer a command line that names no known verb: help, version, or what is wrong.

    Args:
        prog: Name of the program.
        description: First line of ``--help``.
        verbs: Verb to one line of help.
        arguments: Up to the verb, or what stands in its place.

    Raises:
        UsageError: An unknown option or verb.
    """
    width = max(map(len, verbs)) + 2
    listing = "verbs:\n" + "\n".join(f"  {name:<{width}}{summary}" for name, summary in verbs.items())
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"{listing}\n\n{prog} VERB --help tells more; exit codes are listed in README.md.",
        formatter_class=_Formatter,
        usage=f"{prog} [--json] VERB ...",
    )
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.version:
        put(f"{prog} {__version__}\n")
    elif args.verb is not None:
        raise UsageError(f"unknown verb {args.verb!r}", advice=f"Known: {', '.join(verbs)}.")
    else:
        parser.print_help()


def parse_verb(prog: str, module: ModuleType, arguments: Sequence[str]) -> argparse.Namespace:
    """The options and arguments of one verb.

    Args:
        prog: Program and verb.
        module: The verb's module.
        arguments: What follows the verb.

    Raises:
        UsageError: Something is unknown, missing or malformed.
    """
    parser = _Parser(prog=prog, description=module.__doc__, formatter_class=_Formatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    if hasattr(module, "arguments"):
        module.arguments(parser)
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """For ``type=`` of an option: a whole number from 1."""
    if not is_number(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1")
    return int(text)


def subcommands(parser: argparse.ArgumentParser, actions: Mapping[str, str]) -> dict[str, argparse.ArgumentParser]:
    """Add required sub-verbs (``identity create`` ...), each with ``--json``; the choice is ``args.action``."""
    group = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    result = {}
    for name, summary in actions.items():
        result[name] = group.add_parser(name, help=summary, description=summary)
        # SUPPRESS: the parent's value stays when the option is not repeated after the sub-verb.
        result[name].add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return result
