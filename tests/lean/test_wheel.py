# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel as an image installs it: without edgeprov/fleet."""

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
    """The unpacked wheel, split as the recipe splits it: device side only."""
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
    shutil.rmtree(folder / "site" / "edgeprov" / "fleet")
    shutil.rmtree(folder / "site" / "edgeprov" / "cli" / "fleet")
    (folder / "site" / "edgeprov" / "cli" / "fleet_main.py").unlink()
    return folder / "site"


def run(site: Path, *argv: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if config:
        environment["EDGEPROV_CONFIG"] = str(config)
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, cwd="/")


@pytest.mark.slow
def test_device_runs_without_the_fleet(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib, pathlib, sys
import edgeprov
root = pathlib.Path(edgeprov.__file__).parent
assert root.parent == pathlib.Path(sys.argv[1]), root
for path in sorted(root.rglob("*.py")):
    name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
from edgeprov.cli.device_main import VERBS
for verb in VERBS:
    importlib.import_module("edgeprov.cli.device." + verb.replace("-", "_"))
"""
    child = run(installed, "-c", script, str(installed))
    assert child.returncode == 0, child.stderr
    config = tmp_path / "edgeprov.toml"
    config.write_text(f'[device]\nserial = "x"\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    child = run(installed, "-m", "edgeprov.cli.device_main", "status", config=config)
    assert child.returncode == 0, child.stderr
    assert "urn:edgeprov:device:x" in child.stdout


@pytest.mark.slow
def test_what_the_image_needs_is_in_the_wheel(installed: Path) -> None:
    data = {path.name for path in (installed / "edgeprov" / "data").iterdir()}
    assert {"edgeprov.catalog", "edgeprov-boot-check.service", "edgeprov-record@.service"} <= data
    assert (installed / "edgeprov" / "formats" / "FORMAT.md").is_file()
    assert (installed / "edgeprov" / "py.typed").is_file()
