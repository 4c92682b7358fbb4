# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""edgeprov/data: units, catalog, tmpfiles and users, judged by systemd's own tools."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import pytest

from edgeprov import errors, journal
from edgeprov.device import identity
from edgeprov.store.state import State

DATA = Path(__file__).parents[2] / "edgeprov" / "data"
UNITS = sorted(
    path
    for pattern in ("*.service", "*.socket", "*.mount", "*.timer", "*.path", "*.target")
    for path in DATA.glob(pattern)
)
SERVICES = [path for path in UNITS if path.suffix == ".service"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units and the command that they start."""
    root = tmp_path_factory.mktemp("root")
    command = root / "usr/bin/edgeprov"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    system = Path("/usr/lib/systemd/system")
    for source in (system if system.is_dir() else Path("/lib/systemd/system")).glob("*.target"):
        if not source.is_symlink():
            (units / source.name).write_bytes(source.read_bytes())
    for unit in UNITS:
        (units / unit.name).write_bytes(unit.read_bytes())
    return root


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit(unit: Path, root: Path) -> None:
    name = unit.name.replace("@.", "@default.")
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={root}", name], capture_output=True, text=True
    )
    assert (run.returncode, [line for line in run.stderr.splitlines() if "edgeprov" in line]) == (0, [])


def test_the_check_would_see_a_wrong_unit(root: Path) -> None:
    wrong = root / "usr/lib/systemd/system/edgeprov-wrong.service"
    wrong.write_text("[Service]\nExecStart=/usr/bin/nothing-here\nNoSuchSetting=1\n")
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={root}", wrong.name], capture_output=True, text=True
    )
    wrong.unlink()
    assert run.returncode != 0
    assert "nothing-here" in run.stderr


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_a_service_is_confined(unit: Path) -> None:
    # The figure is systemd's exposure times ten: 20 is 2.0, a service without any setting has 92.
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_only_uploads_may_use_the_network() -> None:
    offline = [path.name for path in SERVICES if "PrivateNetwork=yes" in path.read_text().splitlines()]
    assert sorted({path.name for path in SERVICES} - set(offline)) == ["edgeprov-upload.service"]


def test_a_failed_boot_check_stops_applications_and_updates_but_not_the_boot() -> None:
    target = (DATA / "edgeprov-models.target").read_text().splitlines()
    check = (DATA / "edgeprov-boot-check.service").read_text().splitlines()
    assert "Requires=edgeprov-boot-check.service" in target
    assert "Before=edgeprov-models.target boot-complete.target" in check
    assert not [line for line in check if line.startswith(("RequiredBy=", "FailureAction=", "OnFailure="))]


def test_a_device_that_is_not_enrolled_yet_has_no_failed_unit(tmp_path: Path) -> None:
    condition = re.search(
        r"^ConditionPathExists=/var/lib/edgeprov/(.*)$", (DATA / "edgeprov-seal.service").read_text(), re.MULTILINE
    )
    assert condition is not None
    # The file that `identity install` writes, by the code's own names.
    state = State.open(tmp_path, write=True)
    assert tmp_path / condition[1] == state.identity_dir / identity._CERTIFICATES


def test_every_message_id_is_explained_once_and_no_other() -> None:
    catalog = (DATA / "edgeprov.catalog").read_text()
    explained = re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.MULTILINE)
    classes = [item for item in vars(errors).values() if inspect.isclass(item)]
    ids = {item.message_id for item in classes if issubclass(item, errors.EdgeprovError)}
    assert len(explained) == len(set(explained))
    assert set(explained) == ids | set(journal.EVENTS.values())


def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (folder / "edgeprov.catalog").write_bytes((DATA / "edgeprov.catalog").read_bytes())
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    for option in ("--update-catalog", "--list-catalog"):
        run = subprocess.run(["journalctl", f"--root={tmp_path}", option], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == (DATA / "edgeprov.catalog").read_text().count("\n-- ")


def test_systemd_makes_folders_and_users_as_the_units_want_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    for tool, name in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        more = ["--create"] if name == "tmpfiles" else []
        run = subprocess.run(
            [tool, *more, f"--root={tmp_path}", str(DATA / f"{name}-edgeprov.conf")], capture_output=True, text=True
        )
        assert "Failed to parse" not in run.stderr
        assert "Unknown" not in run.stderr, run.stderr
    users = (tmp_path / "etc/passwd").read_text()
    assert "edgeprov:" in users
    assert re.search(r"^tss:[^:]*:\d+:edgeprov$", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    assert (tmp_path / "run/edgeprov").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "run/edgeprov/trigger").stat().st_mode & 0o777 == 0o770
    assert (tmp_path / "var/lib/edgeprov").stat().st_mode & 0o777 == 0o750
