# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a board file as a run would, and shows which driver serves which need. Touches no hardware.

Ends with 1 and one line when the file cannot be read or a need of every test is not served. The switch
in the network cable may be absent: the tests that go offline need it, and say so.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from labgrid import Environment
from labgrid.exceptions import NoDriverFoundError
from labgrid.protocol import CommandProtocol, ConsoleProtocol, DigitalOutputProtocol, PowerProtocol

NEEDS = {"power": PowerProtocol, "console": ConsoleProtocol, "commands": CommandProtocol}
OPTIONAL = {"network cable": DigitalOutputProtocol}


def main() -> None:
    try:
        target = Environment(config_file=sys.argv[1]).get_target("main")
    except Exception as error:  # labgrid, YAML and each driver have their own
        raise SystemExit(f"hil: {sys.argv[1]}: {' '.join(str(error).split())}") from None
    if target is None:
        raise SystemExit(f"hil: {sys.argv[1]} has no target named main")
    missing = []
    for need, protocol in (NEEDS | OPTIONAL).items():
        found = [type(driver).__name__ for driver in target.drivers if isinstance(driver, protocol)]
        print(f"{need:14} {', '.join(found) or '-'}")
        if not found and need in NEEDS:
            missing.append(need)
    try:
        target.get_driver("EdgeprovStrategy", activate=False)
    except NoDriverFoundError:
        missing.append("strategy (EdgeprovStrategy)")
    if missing:
        raise SystemExit(f"hil: {sys.argv[1]} has no driver for: {', '.join(missing)}")
    print("strategy       EdgeprovStrategy")


if __name__ == "__main__":
    main()
