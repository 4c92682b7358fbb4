# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A technician sees by `doctor` and `status` whether the keys' secret is lost, the TPM was cleared, or it is another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.tpm import simulator
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.secret import SECRET_FILE
from edgeprov.tpm.transport import SocketTransport
from tests.device.test_swtpm import Box

pytestmark = pytest.mark.peer("swtpm")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    box.enroll()
    box.run("model", "install", box.site.publish().reference)
    yield box
    simulator.stop(tmp_path / "state" / "tpm")


def identity(box: Box, code: int) -> dict:
    return next(item for item in box.run("doctor", code=code) if item.get("check") == "identity")


def test_a_lost_secret_a_cleared_tpm_and_another_tpm_are_told_apart(box: Box) -> None:
    folder = box.root / "state" / "tpm"
    assert identity(box, 0)["verdict"] == "ok"

    secret = folder / SECRET_FILE
    kept = secret.rename(box.root / "kept")
    found = identity(box, 24)
    assert found["verdict"] == "fail"
    assert "secret of this device's TPM keys is lost" in found["found"]
    assert str(secret) in found["fix"]
    (status,) = box.run("status")
    assert "secret of this device's TPM keys is lost" in status["tpm_error"]
    kept.rename(secret)

    esys = Connection(SocketTransport(folder / simulator.SOCKET), lock_path=box.root / "lock", shared=False).esys
    esys.clear(tss.ESYS_TR.LOCKOUT)
    found = identity(box, 0)
    assert found["verdict"] == "note"
    assert "the AK is not at its handle" in found["found"]
    assert box.run("status")[0]["tpm_error"] is None, "which makes the counter again, above its last value"

    simulator.stop(folder)
    (folder / "tpm2-00.permall").unlink()
    (status,) = box.run("status")
    assert "not the TPM that holds this device's AK" in status["tpm_error"]
