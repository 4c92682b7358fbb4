# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A desk as a program of its own: appends to a ledger or closes its days, and kills itself at a step if told so.

``python -m tests.support.ledger_program FOLDER VERB DAYS [STEP]``: VERB is close, append or push; DAYS is the
desk's clock in days after the first one. With STEP it dies of a real SIGKILL before its STEP-th change to the
disk (each 40th write counts as a change). Prints what is done.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder
from edgeprov.fleet.ledger.open_day import append_rows
from edgeprov.fleet.ledger.remote import push_days
from edgeprov.store import atomic
from edgeprov.store.layout_registry import LayoutRegistry
from tests.support.ledger import DAY_NS, NOW_NS, collector, kit


def main(words: list[str]) -> int:
    path, verb, days, *step = words
    if step:
        count, writes = 0, 0

        def hook(operation: str, _path: str, _argument: object, _offset: int) -> None:
            nonlocal count, writes
            writes += operation == "write"
            if operation == "write" and writes % 40 != 1:
                return
            if count == int(step[0]):
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        atomic.hook = hook
    folder = LedgerFolder(Path(path))
    now_ns = NOW_NS + int(days) * DAY_NS
    try:
        if verb == "append":
            print(append_rows(folder, [kit(1000 + int(days), unit="late")], now_ns), flush=True)
        elif verb == "close":
            for day in Closer(folder=folder, signer=collector()).close_due(now_ns):
                print(day.day, flush=True)
        else:
            registry = LayoutRegistry(Path(path).parent / "registry", create=True)
            print(*push_days(registry, "", folder), flush=True)
    except EdgeprovError as error:
        print(f"{type(error).__name__}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
