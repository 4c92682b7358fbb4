# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Removes from a folder of installed packages what edgeprov's device side does not need at run time.

The lock file also holds the test tools. Usage: runtime.py FOLDER edgeprov PYPROJECT
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path


def canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(found: dict[str, Distribution], wanted: list[str]) -> set[str]:
    """Names of ``wanted`` and all they depend on; extras are not followed."""
    keep: set[str] = set()
    queue = list(wanted)
    while queue:
        requirement = queue.pop()
        name = canonical(re.split(r"[\s\[<>=!~;(]", requirement.strip(), maxsplit=1)[0])
        if "extra ==" in requirement or name in keep or name not in found:
            continue
        keep.add(name)
        queue += found[name].requires or []
    return keep


def main() -> None:
    folder, project, settings = Path(sys.argv[1]), sys.argv[2], tomllib.loads(Path(sys.argv[3]).read_text())
    found = {canonical(item.metadata["Name"]): item for item in distributions(path=[str(folder)])}
    metadata = settings["project"]
    keep = needed(found, metadata["dependencies"] + metadata["optional-dependencies"]["device"])
    assert project == metadata["name"]
    for name, item in found.items():
        if name in keep:
            continue
        tops = {folder / file.parts[0] for file in item.files or () if file.parts[0] not in ("..", "__pycache__")}
        shared = {folder / file.parts[0] for other in keep for file in found[other].files or ()}
        for path in tops - shared:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print(" ".join(sorted(keep)))


if __name__ == "__main__":
    main()
