# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel as an image installs it: one file of byte code, without the fleet's side."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel in ``site``, and in ``image`` the file that the recipe makes of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("edgeprov", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
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
    for name in ("image", "again"):
        (folder / name).mkdir()
        pack = [
            sys.executable,
            ROOT / "meta-provenance/lib/oeprov/pack.py",
            folder / "site/edgeprov",
            folder / name / "edgeprov.pyc",
        ]
        subprocess.run(pack, check=True)
    return folder


def run(site: Path, *argv: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if config:
        environment["EDGEPROV_CONFIG"] = str(config)
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, cwd="/")


@pytest.mark.slow
def test_device_runs_without_the_fleet(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib, sys
import edgeprov
assert edgeprov.__file__ == sys.argv[1] + "/edgeprov.pyc", edgeprov.__file__
assert len(edgeprov.MODULES) > 100 and not [name for name in edgeprov.MODULES if "fleet" in name], edgeprov.MODULES
for name, (is_package, _) in edgeprov.MODULES.items():
    module = importlib.import_module(name)
    assert hasattr(module, "__path__") == is_package, name
    assert module.__package__ == (name if is_package else name.rpartition(".")[0]), name
    assert module.__doc__ is None or ".cli" in name, name
from edgeprov.cli.device_main import VERBS
for verb in VERBS:
    importlib.import_module("edgeprov.cli.device." + verb.replace("-", "_"))
"""
    image = installed / "image"
    child = run(image, "-c", script, str(image))
    assert child.returncode == 0, child.stderr
    config = tmp_path / "edgeprov.toml"
    config.write_text(f'[device]\nserial = "x"\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n')
    child = run(image, "-m", "edgeprov.cli.device_main", "status", config=config)
    assert child.returncode == 0, child.stderr
    assert "urn:edgeprov:device:x" in child.stdout


@pytest.mark.slow
def test_the_folder_of_the_fleets_package_goes_before_the_file(installed: Path, tmp_path: Path) -> None:
    shutil.copy(installed / "image/edgeprov.pyc", tmp_path)
    shutil.copytree(installed / "site/edgeprov", tmp_path / "edgeprov")
    child = run(tmp_path, "-c", "import edgeprov.fleet.index.database; print(edgeprov.__file__)")
    assert child.stdout.strip() == str(tmp_path / "edgeprov/__init__.py"), child.stderr


@pytest.mark.slow
def test_an_error_in_the_file_shows_module_and_line(installed: Path) -> None:
    child = run(installed / "image", "-c", "from edgeprov.formats.digest import parse_digest; parse_digest('md5:x')")
    assert re.search(r'File "edgeprov/formats/digest.py", line \d+, in parse_digest', child.stderr), child.stderr


@pytest.mark.slow
def test_what_the_image_needs_is_in_the_wheel(installed: Path) -> None:
    data = {path.name for path in (installed / "site/edgeprov/data").iterdir()}
    assert {"edgeprov.catalog", "edgeprov-boot-check.service", "edgeprov-record@.service"} <= data
    assert (installed / "site/edgeprov/formats/FORMAT.md").is_file()
    assert (installed / "site/edgeprov/py.typed").is_file()


@pytest.mark.slow
def test_the_file_is_small_and_the_same_each_time(installed: Path) -> None:
    packed = (installed / "image/edgeprov.pyc").read_bytes()
    assert packed == (installed / "again/edgeprov.pyc").read_bytes()
    assert len(packed) <= 600_000
