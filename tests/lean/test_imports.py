# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What each path loads, seen from a fresh interpreter: a device pays only for what it does.

The lists name top-level packages beyond the standard library. They are allow-lists: a new package on
one of these paths is a decision, not an accident.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROBE = """
import json, sys
before = set(sys.modules)
{body}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""

BASE = {"edgeprov", "msgpack"}
# cffi and pycparser come with cryptography's and the TPM library's bindings.
CRYPTOGRAPHY = {"cryptography", "cffi", "pycparser"}
ZSTD = {"zstandard", "backports"}

PATHS = {
    "nothing": ("import edgeprov", {"edgeprov"}),
    "configuration": ("import edgeprov.device.context", BASE | ZSTD),
    "boot check": ("import edgeprov.device.boot, edgeprov.cli.device.boot_check", BASE | ZSTD | CRYPTOGRAPHY),
    "recorder": ("import edgeprov.device.recorder", BASE | ZSTD),
    "seal": ("import edgeprov.device.seal, edgeprov.cli.device.seal", BASE | ZSTD),
    "labels": ("import edgeprov.device.labels, edgeprov.cli.device.label", BASE | ZSTD),
    "API before a model is loaded": ("import edgeprov; edgeprov.open_device", BASE | ZSTD),
    "status": ("import edgeprov.device.status, edgeprov.cli.device.status", BASE | ZSTD | CRYPTOGRAPHY),
}


def loaded(body: str) -> set[str]:
    child = subprocess.run(
        [sys.executable, "-c", _PROBE.format(body=body)], capture_output=True, text=True, check=True, cwd="/"
    )
    # Names with an underscore are parts of extension modules that are listed under their own name.
    return {name for name in json.loads(child.stdout) if not name.startswith("_")} - {"cython_runtime"}


@pytest.mark.parametrize("path", list(PATHS))
def test_path_loads_only_what_is_allowed(path: str) -> None:
    body, allowed = PATHS[path]
    assert loaded(body) <= allowed


@pytest.mark.parametrize("package", ["oras", "requests", "urllib3", "jsonschema", "numpy", "tflite_runtime", "pyarrow"])
@pytest.mark.parametrize("path", ["boot check", "recorder", "seal"])
def test_path_never_loads(path: str, package: str) -> None:
    assert package not in loaded(PATHS[path][0])


@pytest.mark.parametrize("path", ["boot check", "recorder", "seal"])
def test_path_compiles_no_data_classes(path: str) -> None:
    """edgeprov.values stands for dataclasses there, whose import and decorator cost more than the work."""
    body = f"{PATHS[path][0]}; assert not {{'dataclasses', 'inspect'}} & set(sys.modules), 'dataclasses'"
    child = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {body}"], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr


def test_boot_check_does_without_x509() -> None:
    """Reading a plain certificate takes formats.certificate; cryptography.x509 costs as much as all else."""
    body = (
        PATHS["boot check"][0]
        + "; assert not {'cryptography.x509', 'cryptography.hazmat.primitives.serialization'} & set(sys.modules)"
    )
    loaded(body)


def test_help_loads_no_flow() -> None:
    body = """
import contextlib, io
from edgeprov.cli.device_main import main
with contextlib.redirect_stdout(io.StringIO()):
    with contextlib.suppress(SystemExit):
        main(["--help"])
"""
    assert loaded(body) <= {"edgeprov"}


def test_fleet_is_not_needed() -> None:
    body = """
import importlib.abc

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["edgeprov", "fleet"] or name.split(".")[0] in ("pyarrow", "yaml"):
            raise AssertionError(name)

sys.meta_path.insert(0, Refuse())
import edgeprov.device.api, edgeprov.device.boot, edgeprov.device.seal, edgeprov.device.upload, edgeprov.device.install
import edgeprov.device.doctor, edgeprov.device.status, edgeprov.device.export, edgeprov.device.attest
"""
    loaded(body)
