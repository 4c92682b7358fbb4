# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of the source tree that no linter checks: headers, sizes, the fixed top level."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Container
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "edgeprov").rglob("*.py"))
TOP_LEVEL = {
    "meta-provenance", "edgeprov", "tests", "hil", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md",
    "requirements-device.lock", "requirements-fleet.lock", ".ci", ".gitignore",
}  # fmt: skip


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


def test_the_top_level_holds_only_its_few_names() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


@pytest.mark.parametrize("path", list(SOURCES), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_source_file_has_its_header_its_purpose_and_a_readable_size(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    assert lines[0].startswith("# SPDX-FileCopyrightText:")
    assert lines[1] == "# SPDX-License-Identifier: Apache-2.0"
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"
    assert len(lines) <= 400, "a file this long is two files"


def test_no_path_of_a_workplace_and_no_private_host_is_in_the_tree() -> None:
    bad = []
    for name in tracked():
        path = ROOT / name
        if path.suffix in {".tflite", ".npz", ".png", ".bin", ".zst"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        bad += [name for word in ("/work/" + "main", "/work/" + "shared", "/root/" + ".cache") if word in text]
    assert bad == []


def test_no_comment_cites_a_document_that_is_not_in_the_tree() -> None:
    """ "design section 3" or "facts on PCRs" tell a reader of this repository nothing."""
    citation = re.compile(r"design section|\bfacts[ /](on|tpm)|\(facts( on|:|/)")
    bad = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("edgeprov", "hil", "meta-provenance")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if citation.search(line)
    ]
    assert bad == []


def test_a_file_name_stands_in_one_room_and_a_class_name_once() -> None:
    """The command line repeats its verbs; everything else has a name of its own."""
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for path in SOURCES:
        place = str(path.relative_to(ROOT))
        if path.name != "__init__.py" and "cli" not in path.parts:
            files.setdefault(path.name, []).append(place)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(place)
    assert [places for places in (*files.values(), *classes.values()) if len(places) > 1] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside of functions count too; only those for type checks do not."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
    }
    needs = {name: imported_by(ast.parse(path.read_text()), modules) - {name} for name, path in modules.items()}
    needs["edgeprov"].discard("edgeprov.device.api")  # on purpose: the package resolves its API on first use
    while leaves := {name for name, needed in needs.items() if not needed & needs.keys()}:
        for name in leaves:
            del needs[name]
    assert sorted(needs) == []


def imported_by(tree: ast.AST, modules: Container[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{item.name}" for item in node.names]
            found |= {name if name in modules else node.module for name in names}
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        found |= imported_by(node, modules)
    return found
