# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM commands of each verb, counted by the proxy between the command line and a real swtpm.

A slow chip takes 0.3 s a command. A bound here is a promise to the device's owner: what makes a verb ask more is
a regression, also where it is quick on this machine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeprov.tpm import simulator
from tests.device.test_swtpm import Box
from tests.support.site import DIGITS
from tests.support.slowtpm import Asked, SlowTpm

pytestmark = pytest.mark.peer("swtpm")


class Counted(Box):
    """A device whose TPM is behind the proxy; the simulated TPM itself is in the state folder."""

    def __init__(self, root: Path, slow: SlowTpm) -> None:
        super().__init__(root)
        self.slow = slow

    def settings(self, text: str) -> None:
        path = self.site.config_file
        path.write_text(path.read_text() + text)

    def count(self, *argv: str) -> list[Asked]:
        with self.slow.count() as asked:
            self.run(*argv)
        return asked

    def infer(self) -> list[Asked]:
        return self.count("infer", "--input", str(self.root / "x.npy"), "--quiet")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Counted]:
    """An enrolled device with a model that is confirmed, in a fresh boot."""
    tpm = tmp_path / "state" / "tpm"
    slow = SlowTpm(tpm / simulator.SOCKET, tmp_path, delay_s=0)
    box = Counted(tmp_path, slow)
    box.enroll()  # by `auto`, which makes the simulated TPM
    np.save(tmp_path / "x.npy", np.zeros((2, 30), np.int8))
    box.run("model", "install", box.site.publish().reference)
    box.run("infer", "--input", str(tmp_path / "x.npy"), "--quiet")
    box.run("seal")
    box.settings(f'\n[tpm]\ntcti = "{slow.tcti}"\n[seal]\nmin_kit_interval_s = 0\n')
    simulator.reboot(tpm)
    try:
        with slow:
            yield box
    finally:
        simulator.stop(tpm)


def names(asked: list[Asked]) -> str:
    return " ".join(map(str, asked))


def test_a_boot_check_asks_five_at_most_and_three_for_a_further_slot(box: Counted) -> None:
    one = box.count("boot-check")
    assert len(one) <= 5, names(one)
    assert Counter(map(str, one))["PCR_Event"] == 1
    path = box.site.config_file
    path.write_text(path.read_text().replace('["default"]', '["default", "audio"]'))
    box.run("identity", "create")  # makes the floor of the new slot
    audio = box.site.publish(DIGITS.read_bytes(), name="digits")
    box.run("model", "install", audio.reference, "--slot", "audio")
    simulator.reboot(box.root / "state" / "tpm")
    two = box.count("boot-check")
    assert len(two) <= 5 + 3, names(two)
    assert Counter(map(str, two))["PCR_Event"] == 2
    assert {item.response for item in two} == {0}, names(two)


def test_a_protected_device_asks_no_more_than_five(box: Counted) -> None:
    box.run("identity", "create", "--forget-auth")
    simulator.reboot(box.root / "state" / "tpm")
    asked = box.count("boot-check")
    assert "HierarchyControl" in names(asked)
    assert len(asked) <= 5, names(asked)


@pytest.mark.parametrize(("signatures", "most"), [('["cosign", "notation"]', 8), ('["cosign"]', 7)])
def test_a_kit_asks_eight_with_both_signatures_and_seven_with_one(box: Counted, signatures: str, most: int) -> None:
    box.settings(f"signatures = {signatures}\n")
    box.run("boot-check")
    box.infer()
    asked = box.count("seal")
    assert len(asked) <= most, names(asked)
    assert Counter(map(str, asked)) >= Counter({"NV_Increment": 1, "NV_Certify": 1, "Quote": 1, "Sign": most - 6})


def test_a_new_segment_asks_four_and_an_upload_nothing(box: Counted) -> None:
    box.run("boot-check")
    asked = box.infer()
    assert len(asked) <= 4, names(asked)
    assert "Quote" in names(asked)
    box.run("seal")
    assert box.count("upload") == []


def test_an_upload_that_leaves_a_head_asks_six_at_most(box: Counted) -> None:
    box.run("boot-check")
    box.run("upload")
    box.settings("\n[upload]\nhead_s = 1\n")
    time.sleep(1.1)
    asked = box.count("upload")
    assert Counter(map(str, asked)) >= Counter({"NV_Certify": 1, "Quote": 1})
    assert len(asked) <= 6, names(asked)
