# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Write what an auditor needs to check with cosign and notation alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeprov.cli.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trust", metavar="DIR", required=True, help="the trust folder of the fleet (trust.d)")
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="folder to write")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.fleet.trust.trust_export import COMMANDS_FILE, export_trust
    from edgeprov.store.atomic import make_dirs, save_bytes

    files = export_trust(dict(load_trust(Path(args.trust)).files))
    target = Path(args.out)
    for name, data in sorted(files.items()):
        path = target / name
        make_dirs(path.parent, 0o755)
        save_bytes(path, data, mode=0o644 if not name.endswith("trustpolicy.json") else 0o600)
        out.item("file", None, path=str(path), size=len(data))
    out.item("exported", f"{len(files)} files in {target}", path=str(target), files=len(files))
    out.text()
    out.text(files[COMMANDS_FILE].decode())
    out.next(f"give {target} to the auditor; {COMMANDS_FILE} in it holds the commands above")
