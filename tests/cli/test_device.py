# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a person and a script see of `edgeprov`: help, tables, the next action, and JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edgeprov.cli.device_main import VERBS, main
from edgeprov.errors import TpmUnavailable
from tests.support.site import DIGITS, Site


def call(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    capfd.readouterr()
    assert main(argv) == code
    return capfd.readouterr().out


def lines(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(capfd, *argv, "--json", code=code).splitlines()]


def test_help_lists_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    out = call(capfd)
    for verb, summary in VERBS.items():
        assert verb in out
        assert summary in out


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main((verb, "--help")) == 0
    assert f"edgeprov {verb}" in capfd.readouterr().out


def test_every_line_of_json_is_an_object_with_a_type(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(ready.root / "x.npy", np.zeros((3, 30), np.int8))
    commands: list[tuple[str, ...]] = [
        ("identity", "show"),
        ("model", "install", ready.publish(DIGITS.read_bytes(), name="digits").reference, "--no-activate"),
        ("model", "list"),
        ("model", "show"),
        ("boot-check",),
        ("infer", "--input", str(ready.root / "x.npy")),
        ("label", "2", "1"),
        ("seal",),
        ("export", str(ready.root / "stick")),
        ("upload",),
        ("status",),
        ("status", "--config"),
        ("doctor",),
        ("attest", "00" * 8),
    ]
    for command in commands:
        for item in lines(capfd, *command):
            if command[0] != "attest":  # its output is the auditor's document
                assert item["type"], command


def test_json_may_stand_in_front(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(call(capfd, "--json", "status"))["type"] == "status"


def test_text_ends_with_the_next_action(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(capfd, "status").splitlines()[-1] == "next: edgeprov identity create"
    site.install_identity()
    assert "edgeprov model install" in call(capfd, "status").splitlines()[-1]
    site.install()
    np.save(site.root / "x.npy", np.zeros((3, 30), np.int8))
    assert "all is well" in call(capfd, "status").splitlines()[-1]
    call(capfd, "infer", "--input", str(site.root / "x.npy"))
    assert call(capfd, "status").splitlines()[-1] == "next: edgeprov seal"
    call(capfd, "seal")
    assert "edgeprov upload" in call(capfd, "status").splitlines()[-1]
    call(capfd, "upload")
    assert "all is well" in call(capfd, "status").splitlines()[-1]


def test_status_is_one_screen_with_everything(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(ready.root / "x.npy", np.zeros((7, 30), np.int8))
    call(capfd, "infer", "--input", str(ready.root / "x.npy"))
    out = call(capfd, "status")
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 110
    for word in (
        "urn:edgeprov:device:unit-1",
        "assurance dev",
        "wdbc 1.0.0",
        "verified",
        "7 records",
        "free",
        "writes left",
    ):
        assert word in out
    (status,) = lines(capfd, "status")
    assert status["slots"][0]["records"] == 7
    assert status["counter_left"] == 99_999  # one segment was opened
    assert status["quota"] == 256 << 20


def test_status_without_the_tpm_still_answers(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    ready.tpm.fails = TpmUnavailable("no TPM at /dev/tpmrm0")
    out = call(capfd, "status")
    assert "no TPM at /dev/tpmrm0" in out
    assert out.splitlines()[-1] == "next: edgeprov doctor"


def test_status_of_a_full_disk_sends_to_the_doctor(
    ready: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprov.device.status.free_bytes", lambda _path: 1000)
    assert call(capfd, "status").splitlines()[-1] == "next: edgeprov doctor"


@pytest.mark.parametrize(
    ("fault", "check", "code"),
    [
        ("tpm", "TPM", 21),
        ("trust", "trust", 19),
        ("model", "models", 11),
        ("boot", "boot check", 55),
        ("identity", "identity", 24),
        ("config", "configuration", 3),
        ("version", "state folder", 33),
    ],
)
def test_doctor_names_the_fault_and_its_fix(
    ready: Site, capfd: pytest.CaptureFixture[str], fault: str, check: str, code: int
) -> None:
    state = ready.context.state()
    active = state.active("default")
    assert active is not None
    if fault == "tpm":
        ready.tpm.fails = TpmUnavailable("gone")
    elif fault == "trust":
        for path in ready.trust.iterdir():
            path.unlink()
    elif fault == "model":
        path = state.layout.blob_path(state.layout.load_manifest(active.model).layers[0].digest)
        data = bytearray(path.read_bytes())
        data[-600] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    elif fault == "boot":
        (ready.root / "run" / "boot.json").unlink()
    elif fault == "identity":
        ready.tpm.sk = ready.tpm.ak
    elif fault == "config":
        ready.config_file.write_text("nonsense = 1\n")
    else:
        (ready.root / "state" / "VERSION").write_text("7\n")
    findings = lines(capfd, "doctor", code=code)
    failed = [item for item in findings if item["verdict"] == "fail"]
    assert failed[0]["check"] == check
    assert all(item["fix"] and "doctor" not in item["fix"] for item in failed)
    if fault == "tpm":
        assert [item["check"] for item in failed[1:]] == [
            "identity",
            "kit counter",
            "model floors",
            "TPM passwords",
            "models",
        ]
        assert all(item["found"] == "not checked: it needs the TPM" for item in failed[1:]), "one fault, told once"


@pytest.mark.parametrize(
    ("fault", "check", "verdict"),
    [
        ("full", "disk space", "fail"),
        ("clock", "clock", "note"),
        ("burnt", "kit counter", "note"),
        ("worn", "kit counter", "note"),
        ("interpreter", "interpreter", "fail"),
        ("registry", "upload", "note"),
        ("quarantine", "state folder", "note"),
        ("simulated", "TPM", "note"),
    ],
)
def test_doctor_finds_what_is_not_broken_yet(
    ready: Site,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    check: str,
    verdict: str,
) -> None:
    if fault == "full":
        monkeypatch.setattr("edgeprov.device.doctor.free_bytes", lambda _path: 1000)
    elif fault == "clock":
        monkeypatch.setattr("edgeprov.device.context.time.time", lambda: 1000.0)
    elif fault == "burnt":
        ready.tpm.increment_counter()
    elif fault == "worn":
        monkeypatch.setattr("edgeprov.device.status.COUNTER_ENDURANCE", 10)
    elif fault == "interpreter":
        absent = "ai-edge-litert" if sys.version_info < (3, 12) else "tflite-runtime"
        ready.config_file.write_text(ready.config_file.read_text() + f'[runtime]\nname = "{absent}"\n')
    elif fault == "registry":
        ready.config_file.write_text(ready.config_file.read_text().replace(f'name = "oci:{ready.registry}"', ""))
    elif fault == "quarantine":
        state = ready.context.state()
        (state.root / "documents" / "x.json").write_text("x")
        state.quarantine(state.root / "documents" / "x.json", "a test")
    codes = {"full": 30, "interpreter": 53}
    (found,) = [item for item in lines(capfd, "doctor", code=codes.get(fault, 0)) if item.get("check") == check]
    assert found["verdict"] == verdict, found
    assert found["fix"]


def test_doctor_changes_nothing(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ready.root / "state").rglob("*") if path.is_file()}
    call(capfd, "doctor")
    call(capfd, "status")
    assert {path: path.stat().st_mtime_ns for path in (ready.root / "state").rglob("*") if path.is_file()} == before


def test_reader_that_goes_away_is_no_error(ready: Site) -> None:
    script = f"{sys.executable} -m edgeprov.cli.device_main status --config --json | head -n 1"
    child = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, env={**os.environ}
    )
    assert child.stderr == ""
    assert child.returncode in (0, 141)


def test_names_from_outside_cannot_move_the_cursor(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    evil = "x\x1b[2Jy"
    kitfile = {
        "manifestVersion": "1.0.0",
        "package": {"name": evil, "version": "1\n2"},
        "model": {"name": "m", "path": "model/digits.tflite"},
    }
    published = ready.publish(DIGITS.read_bytes(), name="digits", kitfile=kitfile)
    out = call(capfd, "model", "install", published.reference)
    out += call(capfd, "model", "list") + call(capfd, "status") + call(capfd, "model", "show")
    assert "\x1b" not in out
    assert "1\n2" not in out


@pytest.mark.parametrize("record", ["²", "9" * 5000, "9" * 19, "default:²", "default:", ":1:", "../x:1", "a b:1", "-1"])
def test_what_is_no_record_is_a_usage_error(record: str, ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    (error,) = [json.loads(line) for line in call(capfd, "label", "--json", "--", record, "1", code=2).splitlines()]
    assert error["error"] == "UsageError"
