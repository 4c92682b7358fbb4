# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Each trick for speed against the plain form that it replaces: instructions of the real path, counted by callgrind.

A trick stays in the code where the plain form costs 5 % of the path or more; its comment has the figure. Instructions do not
depend on what else the machine does. What the TPM library alone costs is no part of a path here. Not in a run of
all cases: `tests/run bench tricks` takes some minutes, and needs valgrind.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness import FLEET_PYTHON, PACKAGES, ROOT, Figure, main, missing, run_process, tool
from tests.bench.real_device import RealDevice
from tests.support.registries import docker_registry

GROUP = "tricks"
RECORDS = 12_000
SETTINGS = '[record]\nsync = "seal"\n'  # nothing is done at moments of its own, so counts hardly differ between runs
FLEETS = {
    "start": ("2", "5", "40"),
    "large": ("6", "12", "40"),
    "few": ("1", "1", "10"),
    "labelled": ("2", "14", "3000"),
}
"""Devices, days and records of a kit."""
FLEET = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgeprov.cli.fleet_main import main; sys.exit(main())"
PYTHON = (sys.executable, "-s", "-S", "-P")


@dataclass(frozen=True, slots=True)
class Trick:
    """``changes``: file below edgeprov/, its text, and the plain form; an empty text stands for the whole file."""

    name: str
    path: str
    changes: tuple[tuple[str, str, str], ...]


DATACLASS = "from dataclasses import dataclass, field, fields, replace\n\n\ndef field_names(kind):\n    return tuple(item.name for item in fields(kind))\n"
VERB = "from edgeprov.device.boot import boot_check\n"
LATER = """import edgeprov.cli.parsing, edgeprov.store.spool, edgeprov.store.compress, edgeprov.store.verity
import edgeprov.formats.tarball, edgeprov.formats.jws, edgeprov.verify.timestamp_check
"""
TRICKS = (
    Trick("value classes of edgeprov._dataclass, not of dataclasses", "boot", (("_dataclass.py", "", DATACLASS),)),
    Trick(
        "constructors of value classes compiled after 20 objects",
        "boot",
        (("_dataclass.py", "_COMPILE_AFTER: Final = 20", "_COMPILE_AFTER: Final = -1"),),
    ),
    Trick(
        "end of a process by os._exit",
        "boot",
        (("cli/device_main.py", "    if argv is None:\n        _end(code)\n", ""),),
    ),
    Trick(
        "argparse, spool, zstandard, tar and JWS loaded where used",
        "boot",
        (
            (
                "cli/device/boot_check.py",
                VERB,
                LATER + VERB,
            ),
        ),
    ),
    Trick(
        "one msgpack packer for all records",
        "record",
        (("formats/packing.py", "msgpack.Packer(use_bin_type=True).pack", "msgpack.packb"),),
    ),
    Trick(
        "models of one input and one output without loops",
        "record",
        (("device/runtime.py", "if self._single is not None:", "if False:"),),
    ),
    Trick(
        "jsonschema loaded where oras uses it",
        "upload",
        (("registry/oras_backend.py", 'with later("jsonschema"):', "if True:"),),
    ),
    Trick(
        "segments, event logs and keys that kits share are read once",
        "verify",
        (
            ("formats/segment.py", "@lru_cache(maxsize=64)", ""),
            ("verify/attestation.py", "@lru_cache(maxsize=1_024)", ""),
            ("verify/public_keys.py", "@lru_cache(maxsize=8_192)", ""),
        ),
    ),
    Trick(
        "kits opened for their labels kept open for their records",
        "collect of small kits",
        (("fleet/dataset/parquet_file.py", "_OPENED_KITS: Final = 512", "_OPENED_KITS: Final = 0"),),
    ),
    Trick(
        "labels that look alike read by column",
        "collect",
        (
            ("formats/label.py", " read_number_runs(", " (lambda _: None)("),
            ("formats/label.py", " read_value_runs(", " (lambda _: None)("),
        ),
    ),
)


def instructions(argv: Sequence[str | Path], environment: Mapping[str, str]) -> float:
    """Millions of instructions of a process; they differ by 1 % between runs."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *map(str, argv)],
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode not in (0, 10) or found is None:  # 10: forged kits were planted, and refused
        raise RuntimeError(f"{argv}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return int(found[1]) / 1e6


def changed(work: Path, trick: Trick | None) -> Path:
    """A folder with edgeprov, in which a trick is undone."""
    folder = work / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "edgeprov", folder / "edgeprov", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, plain in trick.changes if trick else ():
        file = folder / "edgeprov" / name
        code = file.read_text()
        assert text in code, f"edgeprov/{name} has no {text!r}: mend TRICKS"
        file.write_text(code.replace(text, plain) if text else plain)
    compileall.compile_dir(folder, quiet=1)
    return folder


class Paths:
    """What is counted: a boot check without the TPM library, what a record adds to an inference, and an upload."""

    def __init__(self, device: RealDevice) -> None:
        self._device = device
        self._environment = {"EDGEPROV_CONFIG": str(device.folder / "edgeprov.toml")}
        self._library = self._count("tpm_library.py", PACKAGES) - instructions([*PYTHON, "-c", "pass"], {})
        self._bare = self._of_one("bare", device.model)

    def _count(self, script: str, *words: str | Path) -> float:
        return instructions([*PYTHON, ROOT / "tests/bench/cases" / script, *words], self._environment)

    def _of_one(self, kind: str, place: Path) -> float:
        few, many = (
            self._count("load_application.py", kind, PACKAGES, place, runs) for runs in ("1", str(RECORDS + 1))
        )
        return (many - few) / RECORDS

    def boot(self, edgeprov: Path) -> float:
        self._device.reboot()
        return self._count("edgeprov_command.py", PACKAGES, edgeprov, "boot-check") - self._library

    def record(self, edgeprov: Path) -> float:
        return self._of_one("verified", edgeprov) - self._bare

    def upload(self, edgeprov: Path) -> float:
        """A kit of 50 records to a docker-registry; each time another repository, from a copy of the device."""
        folder = self._device.folder
        copy = folder.with_name("sender")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("simulator.sock*"))
        config = copy / "edgeprov.toml"
        with docker_registry(copy / "server") as host:
            name = f'name = "{host}/fleet"\nplain_http = true'
            config.write_text(config.read_text().replace(f'name = "oci:{folder}/registry"', name))
            words = [ROOT / "tests/bench/cases/edgeprov_command.py", PACKAGES, edgeprov, "upload", "--now"]
            return instructions([*PYTHON, *words], {"EDGEPROV_CONFIG": str(config), "no_proxy": "*"})


class Fleets:
    """What is counted of `edgeprov-fleet verify` and `collect`: the kits of a fleet without what a few kits cost."""

    def __init__(self, work: Path) -> None:
        self._work = work
        for name, (devices, days, records) in FLEETS.items():
            sizes = ["--devices", devices, "--days", days, "--records", records]
            run_process([FLEET_PYTHON, "-m", "tests.bench.fleetgen", work / name, *sizes])
            words = ["sync", f"oci:{work / name / 'registry'}", "--fleet", work / name / "index"]
            run_process([FLEET_PYTHON, "-c", FLEET, ROOT, *words])

    def verify(self, edgeprov: Path) -> float:
        large, start = (self._count(edgeprov, self._verify(name)) for name in ("large", "start"))
        return large - start

    def collect_small(self, edgeprov: Path) -> float:
        large, start = (self._collect(edgeprov, name) for name in ("large", "start"))
        return large - start

    def collect(self, edgeprov: Path) -> float:
        labelled, few = (self._collect(edgeprov, name) for name in ("labelled", "few"))
        return labelled - few

    def _verify(self, name: str) -> list[str | Path]:
        index = self._work / "index"
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(self._work / name / "index", index)
        return ["verify", "--fleet", index, "--trust", self._work / name / "trust.d", "--workers", "1"]

    def _collect(self, edgeprov: Path, name: str) -> float:
        run_process([FLEET_PYTHON, "-c", FLEET, ROOT, *self._verify(name)], check=False)
        data = self._work / "data"
        shutil.rmtree(data, ignore_errors=True)
        trust = self._work / name / "trust.d"
        words = ["collect", "--fleet", self._work / "index", "--trust", trust, "--workers", "1", "-o", data]
        return self._count(edgeprov, words)

    def _count(self, edgeprov: Path, words: Sequence[str | Path]) -> float:
        return instructions([FLEET_PYTHON, "-s", "-c", FLEET, edgeprov, *words], {})


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("valgrind") is None or tool("swtpm") is None:
        return [missing(GROUP, item.name, "%", ">=", 5, "valgrind or swtpm is not installed") for item in TRICKS]
    figures = []
    with RealDevice(args.work / "device", settings=SETTINGS, model_bytes=20_000) as device:
        device.boot_check()
        device.record(50)
        device.command("seal")
        paths = Paths(device)
        fleets = Fleets(args.work / "fleets")
        count = {
            "boot": paths.boot,
            "record": paths.record,
            "upload": paths.upload,
            "verify": fleets.verify,
            "collect": fleets.collect,
            "collect of small kits": fleets.collect_small,
        }
        usual = {name: call(changed(args.work, None)) for name, call in count.items()}
        for trick in TRICKS:
            plain = count[trick.path](changed(args.work, trick))
            figures.append(
                Figure(
                    GROUP, f"{trick.path}: {trick.name}", (plain / usual[trick.path] - 1) * 100, "%", ">=", 5,
                    ours=f"{usual[trick.path]:.4g} million instructions, in the plain form {plain:.4g}",
                    note="How much more the plain form takes. Below 5 % the plain form is the better one.",
                )
            )  # fmt: skip
    return figures


if __name__ == "__main__":
    main(measure)
