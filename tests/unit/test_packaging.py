# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The source archive and the wheel, as a build front end makes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "meta-provenance/recipes-provenance/edgeprov/python3-edgeprov_0.1.0.bb"


def copy_tree(folder: Path) -> Path:
    folder.mkdir()
    for path in (ROOT / name for name in ("edgeprov", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


def test_a_build_meets_no_warning_and_keeps_the_licence(tmp_path: Path) -> None:
    build = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", build], cwd=copy_tree(tmp_path / "tree"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "deprecat" not in (done.stdout + done.stderr).lower()
    (sdist,) = (tmp_path / "tree/out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} <= names
    (wheel,) = (tmp_path / "tree/out").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        assert "\nLicense-Expression: Apache-2.0\n" in content.read(metadata).decode()
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in content.namelist())


def test_an_older_series_of_the_layer_gets_what_its_setuptools_reads(tmp_path: Path) -> None:
    (command,) = [line for line in RECIPE.read_text().splitlines() if line.lstrip().startswith("sed ")]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-c", command.replace("${S}", str(tmp_path))], check=True)
    changed = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert changed["build-system"]["requires"] == ["setuptools"]
    assert changed["project"]["license"] == {"text": "Apache-2.0"}
    assert "license-files" not in changed["project"]
