# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel as an image installs it: one archive of byte code, without the fleet's side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, and beside it the archive that the recipe makes of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("edgeprov", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    for name in ("edgeprov.zip", "again.zip"):
        pack = [
            sys.executable,
            ROOT / "meta-provenance/lib/oeprov/pack.py",
            folder / "site/edgeprov",
            folder / "site" / name,
        ]
        subprocess.run(pack, check=True)
    return folder / "site"


def run(site: Path, *argv: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if config:
        environment["EDGEPROV_CONFIG"] = str(config)
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, cwd="/")


@pytest.mark.slow
def test_device_runs_without_the_fleet(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib, sys, zipfile
import edgeprov
assert edgeprov.__file__ == sys.argv[1] + "/edgeprov/__init__.pyc", edgeprov.__file__
names = [name.removesuffix(".pyc").removesuffix("/__init__") for name in zipfile.ZipFile(sys.argv[1]).namelist()]
assert len(names) > 100 and not [name for name in names if "fleet" in name], names
for name in names:
    assert importlib.import_module(name.replace("/", ".")).__doc__ is None or "/cli" in name, name
from edgeprov.cli.device_main import VERBS
for verb in VERBS:
    importlib.import_module("edgeprov.cli.device." + verb.replace("-", "_"))
"""
    archive = installed / "edgeprov.zip"
    child = run(archive, "-c", script, str(archive))
    assert child.returncode == 0, child.stderr
    config = tmp_path / "edgeprov.toml"
    config.write_text(f'[device]\nserial = "x"\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    child = run(archive, "-m", "edgeprov.cli.device_main", "status", config=config)
    assert child.returncode == 0, child.stderr
    assert "urn:edgeprov:device:x" in child.stdout


@pytest.mark.slow
def test_what_the_image_needs_is_in_the_wheel(installed: Path) -> None:
    data = {path.name for path in (installed / "edgeprov" / "data").iterdir()}
    assert {"edgeprov.catalog", "edgeprov-boot-check.service", "edgeprov-record@.service"} <= data
    assert (installed / "edgeprov" / "formats" / "FORMAT.md").is_file()
    assert (installed / "edgeprov" / "py.typed").is_file()


@pytest.mark.slow
def test_the_archive_is_small_and_the_same_each_time(installed: Path) -> None:
    packed = (installed / "edgeprov.zip").read_bytes()
    assert packed == (installed / "again.zip").read_bytes()
    assert len(packed) <= 600_000
