# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What each path loads, seen from a fresh interpreter: a device pays only for what it does.

The lists name top-level packages beyond the standard library. They are allow-lists: a new package on
one of these paths is a decision, not an accident.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tpm import simulators

ROOT = Path(__file__).parents[2]

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
# Not jsonschema, which oras imports for what is not used of it.
# urllib3 looks for backports.zstd, and finds the folder of another backport that ai-edge-litert brings.
HTTP = {"oras", "requests", "urllib3", "idna", "certifi", "charset_normalizer", "backports"}
ZSTD = {"zstandard", "backports"}

PATHS = {
    "nothing": ("import edgeprov", {"edgeprov"}),
    "configuration": ("import edgeprov.device.context", {"edgeprov"}),
    "boot check": ("import edgeprov.device.boot, edgeprov.cli.device.boot_check", {"edgeprov"} | CRYPTOGRAPHY),
    "recorder": ("import edgeprov.device.recorder", BASE | ZSTD),
    "seal": ("import edgeprov.device.seal, edgeprov.cli.device.seal", BASE | ZSTD),
    "upload, until a registry is opened": ("import edgeprov.device.upload, edgeprov.cli.device.upload", {"edgeprov"}),
    "network registry": ("import edgeprov.registry.oras_backend", {"edgeprov"} | HTTP),
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
def test_path_loads_no_data_classes(path: str) -> None:
    """edgeprov._dataclass stands for dataclasses there, whose import and decorator cost more than the work."""
    body = f"{PATHS[path][0]}; assert not {{'dataclasses', 'inspect'}} & set(sys.modules), 'dataclasses'"
    run_bare(body)


def run_bare(body: str) -> None:
    child = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {body}"], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr


MODULES_AT_BOOT = 77  # thirteen are for the TPM, eight read certificates and keys in place of cryptography.x509

# Modules that a boot check needs nothing of. Some come with cryptography, so each is held twice: no module of
# edgeprov imports it, and none is loaded that cryptography does not bring. Names of packages stand for what is in them.
NOT_AT_BOOT = (
    "argparse", "calendar", "copy", "cryptography.hazmat.backends", "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.primitives.asymmetric.rsa", "cryptography.hazmat.primitives.serialization", "cryptography.x509", "dataclasses", "edgeprov.cli.parsing", "edgeprov.device.api", "edgeprov.device.install", "edgeprov.formats.packing",
    "edgeprov.formats.statement", "edgeprov.formats.tarball", "edgeprov.registry", "edgeprov.store.compress", "edgeprov.store.partial",
    "edgeprov.store.spool", "edgeprov.store.verity", "email", "gettext", "http", "inspect", "locale", "logging", "msgpack", "numpy", "oras", "requests",
    "random", "ssl", "tflite_runtime", "tpm2_pytss", "urllib.request", "weakref", "zstandard",
)  # fmt: skip
# Folders and processes of a simulated TPM, which is what this test has.
ONLY_FOR_THE_TPM = ("shutil", "subprocess", "tempfile", "uuid")

_WATCHED = """
import builtins, os, sys
importing, imported = builtins.__import__, set()

def watching(name, globals=None, locals=None, fromlist=(), level=0):
    by = (globals or {}).get("__name__", "")
    if by.partition(".")[0] == "edgeprov":
        imported.update((by, found) for found in (name, *(f"{name}.{item}" for item in fromlist or ())))
    return importing(name, globals, locals, fromlist, level)

builtins.__import__ = watching
os._exit = sys.exit  # how it ends: here its modules are still to be printed
try:
    exec(open(COMMAND).read())
except SystemExit as end:
    assert not end.code, end.code
print("IMPORTED", *(f"{by}>{name}" for by, name in sorted(imported)))
print("LOADED", *sorted(sys.modules))
"""


def names(out: str, kind: str) -> set[str]:
    """The words of one line of the output, without a site's customizations."""
    (line,) = [line for line in out.splitlines() if line.startswith(kind)]
    return set(line.split()[1:])


def denied(name: str, deny: tuple[str, ...]) -> bool:
    return any(name == item or name.startswith(item + ".") for item in deny)


def test_a_whole_boot_check_stays_on_its_path(tmp_path: Path) -> None:
    """The real command on a real TPM: its modules are looked at when it is done."""
    folder = tmp_path / "device"
    # In processes of their own: a site in this one would bring its modules, and its state into later tests.
    made = subprocess.run(
        [sys.executable, "-m", "tests.bench.cases.device_process", "make", str(folder), "", "0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    with simulators(folder):
        assert made.returncode == 0, made.stderr
        script = f"import sys\nCOMMAND = {str(ROOT / 'tests/bench/cases/edgeprov_command.py')!r}\n"
        script += (
            f"sys.path[:0] = {[item for item in sys.path if item]!r}\nsys.argv = ['edgeprov', '.', '.', 'boot-check']\n"
        )
        child = subprocess.run(
            [sys.executable, "-S", "-c", script + _WATCHED],
            capture_output=True, text=True, cwd="/", env={**os.environ, "EDGEPROV_CONFIG": str(folder / "edgeprov.toml")},
        )  # fmt: skip
    assert "verified and measured" in child.stdout, child.stdout + child.stderr
    loaded = names(child.stdout, "LOADED")
    assert {"edgeprov.tpm.boot_tpm", "cryptography.hazmat.primitives.asymmetric.ec"} <= loaded
    imports = [pair.split(">") for pair in names(child.stdout, "IMPORTED")]
    assert (
        sorted(
            f"{by} imports {name}"
            for by, name in imports
            if denied(name, NOT_AT_BOOT) or (denied(name, ONLY_FOR_THE_TPM) and not by.startswith("edgeprov.tpm."))
        )
        == []
    )
    assert sorted(name for name in loaded - with_cryptography() if denied(name, NOT_AT_BOOT)) == []
    own = [name for name in loaded if name.partition(".")[0] == "edgeprov"]
    assert len(own) <= MODULES_AT_BOOT, f"{len(own)} modules of edgeprov are loaded"


def with_cryptography() -> set[str]:
    """Modules that are loaded where nothing but cryptography is imported, and what starts a simulated TPM."""
    body = f"import sys; sys.path[:0] = {[item for item in sys.path if item]!r}; import subprocess, uuid, shutil; "
    body += "from cryptography.hazmat.primitives.asymmetric import ec; "
    body += "print('LOADED', *sys.modules)"
    child = subprocess.run([sys.executable, "-S", "-c", body], capture_output=True, text=True, check=True, cwd="/")
    return names(child.stdout, "LOADED")


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


def test_what_was_put_off_is_there_when_it_is_used() -> None:
    body = """
import edgeprov.registry.oras_backend
import oras.provider
import oras.schemas
try:
    oras.provider.jsonschema.validate({}, schema=oras.schemas.manifest)
except oras.provider.jsonschema.exceptions.ValidationError:
    pass
else:
    raise AssertionError("an empty manifest was valid")
import jsonschema
assert jsonschema.__spec__ and jsonschema.validate is oras.provider.jsonschema.validate
"""
    assert "jsonschema" in loaded(body)
