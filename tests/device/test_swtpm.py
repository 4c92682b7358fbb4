# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The command line in processes of its own, on a real swtpm: enrollment to upload, over a simulated reboot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeprov.device.context import Context
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.head import parse_head
from edgeprov.store.layout import Layout
from edgeprov.tpm import simulator
from edgeprov.verify.head_check import verify_head
from tests.support.box import Box
from tests.support.site import CASES

pytestmark = pytest.mark.peer("swtpm")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    simulator.stop(tmp_path / "state" / "tpm")


def test_command_line_over_a_reboot(box: Box) -> None:
    device = box.enroll()
    reference = box.site.publish().reference
    box.run("model", "install", reference)
    box.run("boot-check")
    (summary,) = box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet")
    assert (summary["first"], summary["last"]) == (1, 143)
    # The power goes; the records are sealed in the next boot, whose PCR holds nothing of the first.
    box.run("simulator", "reboot")
    box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet", code=55)
    first, _ = box.run("seal")
    assert first["records"] == 143
    box.run("boot-check")
    box.run("infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet")
    box.run("label", "--from", str(CASES), "--array", "y", "--first", "1")
    second, _ = box.run("seal")
    assert (second["records"], second["labels"], second["seq"]) == (143, 143, first["seq"] + 2)
    state = Layout.open(box.root / "state" / "layout", read_only=True)
    kits = [parse_digest(item["digest"]) for item in (first, second)]
    assert [box.verify(device, state, digest) for digest in kits] == [143, 143]

    head = parse_head(json.dumps(box.run("attest", "00112233445566778899")[0]).encode())
    verified = verify_head(head, bytes.fromhex("00112233445566778899"), device, box.site.world.policy)
    assert head.newest == kits[1]
    assert verified.seq == second["seq"]

    *_, upload = box.run("upload")
    assert (upload["sent"], upload["queued"]) == (2, 0)
    assert [box.verify(device, box.site.layout, digest) for digest in kits] == [143, 143]
    (status,) = box.run("status")
    assert (status["outbox"], status["head_seq"], status["assurance"]) == (0, second["seq"], "dev")
    assert {item["verdict"] for item in box.run("doctor")} <= {"ok", "note"}


@pytest.mark.slow
def test_killed_swtpm_is_a_new_boot(box: Box) -> None:
    """The PCR is gone while the run folder is not: nothing runs on the old verdict."""
    box.enroll()
    box.run("model", "install", box.site.publish().reference)
    np.save(box.root / "x.npy", np.zeros((1, 30), np.int8))
    box.run("infer", "--input", str(box.root / "x.npy"))
    simulator.stop(box.root / "state" / "tpm", power_cut=True)
    box.run("infer", "--input", str(box.root / "x.npy"), code=55)
    box.run("boot-check")
    box.run("infer", "--input", str(box.root / "x.npy"))


def test_simulator_is_refused_where_it_is_not_allowed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.site.config_file.write_text(box.site.config_file.read_text() + "\n[tpm]\nallow_simulator = false\n")
    if not Path("/dev/tpmrm0").exists():
        (error,) = box.run("identity", "create", code=21)
        assert error["error"] == "TpmUnavailable"
    assert isinstance(box.site.context, Context)
