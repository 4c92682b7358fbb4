# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a board file as a run would, and shows which driver serves which need. Touches no hardware."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from labgrid import Environment
from labgrid.protocol import CommandProtocol, ConsoleProtocol, DigitalOutputProtocol, PowerProtocol

NEEDS = {
    "power": PowerProtocol,
    "console": ConsoleProtocol,
    "commands": CommandProtocol,
    "network cable": DigitalOutputProtocol,
}


def main() -> None:
    target = Environment(config_file=sys.argv[1]).get_target("main")
    if target is None:
        raise SystemExit("hil: the board file has no target named main")
    for need, protocol in NEEDS.items():
        found = [type(driver).__name__ for driver in target.drivers if isinstance(driver, protocol)]
        print(f"{need:14} {', '.join(found) or '-'}")
    target.get_driver("EdgeprovStrategy", activate=False)
    print("strategy       EdgeprovStrategy")


if __name__ == "__main__":
    main()
