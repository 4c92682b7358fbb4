# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The layer's testimage cases, run here command by command against a device made as the layer makes it.

oeqa is in no package index, so three of its names are stood in for, and the target runs each command in
this machine's shell with the image's paths below a folder. Device, TPM (swtpm), model, configuration and
both programs are real. The cases that look at systemd and mounts need a booted image; of them only the
names are checked.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oeprov import bake, settings

from tests.layer.test_bake import AT, EXAMPLE, LAYER, ROOT
from tests.support.tpm import simulators

CASES = LAYER / "lib/oeqa/runtime/cases/edgeprov.py"
NEED_A_BOOTED_IMAGE = {
    "test_state_is_on_the_data_partition",
    "test_units_are_active",
    "test_tpm_is_there_for_the_service_user",
    "test_a_technician_may_ask_for_an_upload",
}
RUN_HERE = [
    "test_boot_check_measured_the_baked_models",
    "test_a_tampered_model_is_refused",
    "test_records_are_sealed_by_the_tpm_uploaded_and_verified",
    "test_doctor_finds_an_interpreter",
]
# What a small image has and this machine may not, as the cases call it: one user, the services' own.
SHIMS = {"su": 'exec /bin/sh -c "$4"', "chown": "exit 0"}


class LocalTarget:
    """In the place of oeqa's SSH target: the same shell text, with the image's folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []

    def run(self, command: str, timeout: int = 300) -> tuple[int, str]:
        self.commands.append(command)
        command = re.sub(r"(?<![\w/])/(usr/lib|usr/share|run)/edgeprov", rf"{self.root}\g<0>", command)
        run = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            env={
                "PATH": f"{self.root}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.root),
                "EDGEPROV_CONFIG": f"{self.root}/usr/lib/edgeprov/edgeprov.toml", "PYTHONDONTWRITEBYTECODE": "1",
            },
        )  # fmt: skip
        return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="module")
def cases() -> Any:
    """The module of the layer, with oeqa's three names in the place of oeqa."""

    def decorate(_: object) -> Callable[[object], object]:
        return lambda method: method

    names = {
        "oeqa": {}, "oeqa.core": {}, "oeqa.core.decorator": {}, "oeqa.runtime": {}, "oeqa.runtime.decorator": {},
        "oeqa.core.decorator.depends": {"OETestDepends": decorate},
        "oeqa.runtime.case": {"OERuntimeTestCase": unittest.TestCase},
        "oeqa.runtime.decorator.package": {"OEHasPackage": decorate},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, content in names.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("edgeprov_cases", CASES)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    """A device right after its boot check: the layer's configuration, anchors and baked example."""
    conf, models = tmp_path / "usr/lib/edgeprov", tmp_path / "usr/share/edgeprov/models"
    conf.mkdir(parents=True)
    (conf / "trust.d").symlink_to(LAYER / "files/example-trust.d")
    values = {"PROVENANCE_TPM_ALLOW_SIMULATOR": "1", "PROVENANCE_RUNTIME": "none"}
    text = settings.config_toml(values, str(conf / "trust.d"))
    # Where only this machine differs from a device: its folders, and swtpm for a chip.
    places = {"state_dir": tmp_path / "state", "run_dir": tmp_path / "run/edgeprov", "models_dir": models}
    text = text.replace('"device:/dev/tpmrm0"', f'"simulator:{tmp_path / "tpm"}"')
    text = text.replace("[device]\n", "[device]\n" + "".join(f'{key} = "{path}"\n' for key, path in places.items()))
    (conf / "edgeprov.toml").write_text(text)
    bake.bake([("default", LAYER / "files/example-kit", EXAMPLE)], LAYER / "files/example-trust.d", AT, models)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in SHIMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    for name, path in {
        "edgeprov": "device/bin/edgeprov", "edgeprov-fleet": "fleet/bin/edgeprov-fleet",
        "python3": "device/bin/python",
    }.items():  # fmt: skip
        (programs / name).write_text(f'#!/bin/sh\nexec {ROOT / ".venv" / path} "$@"\n')
        (programs / name).chmod(0o755)
    with simulators(tmp_path):
        made = LocalTarget(tmp_path)
        status, output = made.run("edgeprov boot-check")
        assert status == 0, output
        made.commands.clear()
        yield made


def run_case(cases: Any, name: str, target: LocalTarget) -> unittest.TestResult:
    case = cases.EdgeprovTest(name)
    case.target = target
    result = unittest.TestResult()
    case.run(result)
    return result


def test_the_cases_pass_on_a_device_of_the_layer_again_and_again(cases: Any, target: LocalTarget) -> None:
    for name in RUN_HERE * 2:
        target.commands.clear()
        result = run_case(cases, name, target)
        assert result.wasSuccessful(), (result.failures + result.errors)[0][1]
        assert result.skipped == []
        assert target.commands
        assert not (target.root / "run/edgeprov-test").exists(), "a case cleans up"


def flip_a_baked_blob(target: LocalTarget) -> None:
    blobs = (target.root / "usr/share/edgeprov/models/blobs/sha256").iterdir()
    largest = max(blobs, key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    largest.write_bytes(bytes([largest.read_bytes()[0] ^ 1]) + largest.read_bytes()[1:])


def forget_the_boot_check(target: LocalTarget) -> None:
    (target.root / "run/edgeprov/boot.json").unlink()


def no_interpreter(target: LocalTarget) -> None:
    program = target.root / "bin/edgeprov"
    program.write_text(program.read_text().replace("exec ", "PYTHONPATH=${0%/*}/broken exec "))
    for name in ("tflite_runtime", "ai_edge_litert"):
        folder = target.root / "bin/broken" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError(__name__)\n")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (RUN_HERE[0], forget_the_boot_check),
        (RUN_HERE[2], flip_a_baked_blob),
        (RUN_HERE[3], no_interpreter),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_case_fails_on_a_device_with_a_fault(
    name: str, fault: Callable[[LocalTarget], None], cases: Any, target: LocalTarget
) -> None:
    fault(target)
    result = run_case(cases, name, target)
    assert len(result.failures) + len(result.errors) == 1


def test_the_tamper_case_fails_where_boot_check_lets_all_pass(cases: Any, target: LocalTarget) -> None:
    (target.root / "bin/edgeprov").write_text("#!/bin/sh\nexit 0\n")
    assert len(run_case(cases, RUN_HERE[1], target).failures) == 1


def test_an_enrolled_device_is_left_alone(cases: Any, target: LocalTarget) -> None:
    (target.root / "bin/edgeprov").write_text("#!/bin/sh\nexit 0\n")
    result = run_case(cases, RUN_HERE[2], target)
    assert len(result.skipped) == 1
    assert target.commands == ["su -s /bin/sh -c 'edgeprov identity show --json' edgeprov"]


def test_every_case_runs_here_or_names_units_that_are_installed_and_enabled() -> None:
    text = CASES.read_text()
    assert set(re.findall(r"def (test_\w+)", text)) == NEED_A_BOOTED_IMAGE | set(RUN_HERE)
    units = set(re.findall(r"edgeprov-[\w-]+\.(?:service|target|timer|path)", text))
    assert len(units) == 5
    recipe = (LAYER / "recipes-provenance/edgeprov").glob("python3-edgeprov_*.bb")
    enabled = next(recipe).read_text().split('SYSTEMD_SERVICE:edgeprov-services = "')[1].split('"')[0].split()
    assert units <= set(enabled)
    assert "/run/edgeprov/trigger" in (ROOT / "edgeprov/data/tmpfiles-edgeprov.conf").read_text()
    for name in re.findall(r'OETestDepends\(\["edgeprov\.EdgeprovTest\.(\w+)"\]\)', text):
        assert f"def {name}(" in text
    assert os.access(CASES, os.R_OK)
