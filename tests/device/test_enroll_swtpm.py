# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Enrollment with a real swtpm that has an EK certificate: request, challenge, answer, identity, first kit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.tpm import simulator
from tests.device.test_swtpm import Box
from tests.support.fleet import fleet
from tests.support.tpm import make_with_ek_certificate

pytestmark = [pytest.mark.slow, pytest.mark.peer("swtpm_setup")]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[tuple[Box, Path]]:
    folder = tmp_path / "device"
    folder.mkdir()
    box = Box(folder)
    authority = make_with_ek_certificate(tmp_path / "maker" / "tpm")
    box.site.context.state()
    shutil.copytree(tmp_path / "maker" / "tpm", folder / "state" / "tpm", dirs_exist_ok=True)
    yield box, authority
    simulator.stop(folder / "state" / "tpm")


def test_a_tpm_with_an_ek_certificate_answers_the_challenge(box: tuple[Box, Path], tmp_path: Path) -> None:
    device, authority = box
    stick, ca = tmp_path / "stick", tmp_path / "ca"
    stick.mkdir()
    assert fleet("ca", "init", ca).code == 0
    (ca / "trust.d/ek-hardware.pem").write_bytes((authority / "issuercert.pem").read_bytes())
    device.run("identity", "create")
    device.run("identity", "csr", "--nonce", "ab" * 16, "-o", str(stick / "request.json"))
    place = (
        "--to",
        f"oci:{tmp_path}/registry",
        "--ca",
        ca,
        "-o",
        stick / "answer.json",
        "--nonce",
        "ab" * 16,
        "--json",
    )
    run = fleet("enroll", stick / "request.json", *place)
    assert run.code == 100, run.out
    device.run("identity", "activate", str(stick / "answer.json"), "-o", str(stick / "response.json"))
    run = fleet("enroll", stick / "request.json", *place, "--response", stick / "response.json")
    assert run.code == 0, run.out
    item = run.last("enrolled")
    assert (item["assurance"], item["proof"]) == ("dev", "activated"), (
        "a software TPM, whatever its CA's file is called"
    )
    device.run("identity", "install", str(stick / "answer.json"))
    (shown,) = device.run("identity", "show")
    assert (shown["enrollment"], shown["assurance"]) == (item["enrollment"], "dev")
    # A renewal: the same enrollment, and the challenge once more.
    device.run("identity", "csr", "-o", str(stick / "renewal.json"))
    assert json.loads((stick / "renewal.json").read_text())["nonce"] == "ab" * 16
    assert fleet("enroll", stick / "renewal.json", *place).code == 100
    device.run("identity", "activate", str(stick / "answer.json"), "-o", str(stick / "response.json"))
    again = fleet("enroll", stick / "renewal.json", *place, "--response", stick / "response.json").last("enrolled")
    assert (again["enrollment"], again["renewed"]) == (item["enrollment"], True)
    device.run("identity", "install", str(stick / "answer.json"))
