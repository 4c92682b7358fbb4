# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every test here talks to a real swtpm. None outlives its test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeprov.tpm import simulator
from edgeprov.tpm.device import Tpm, TpmSettings, open_tpm
from tests.support.tpm import make_with_ek_certificate, stop_simulators


class SimulatedDevice:
    """A device whose TPM is a background swtpm, as with `tcti = "auto"` on a machine without a TPM."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.folder = root / "tpm"
        self.lock = root / "tpm.lock"
        self.state.mkdir(parents=True)

    def settings(self, **changes: object) -> TpmSettings:
        values = {"tcti": f"simulator:{self.folder}", "state_dir": self.state, "lock_path": self.lock, **changes}
        return TpmSettings(**values)  # type: ignore[arg-type]

    def open(self, **changes: object) -> Tpm:
        return open_tpm(self.settings(**changes))

    def reboot(self, *, power_cut: bool = False) -> str:
        return simulator.reboot(self.folder, power_cut=power_cut)


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[[str], SimulatedDevice]]:
    yield lambda name: SimulatedDevice(tmp_path / name)
    stop_simulators(tmp_path)


@pytest.fixture
def device(make_device: Callable[[str], SimulatedDevice]) -> SimulatedDevice:
    return make_device("device")


@pytest.fixture(scope="session")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """TPM state with an EK certificate, and the folder of the CA that issued it."""
    root = tmp_path_factory.mktemp("manufactured")
    authority = make_with_ek_certificate(root / "tpm")
    return root / "tpm", authority


@pytest.fixture
def certified(device: SimulatedDevice, manufactured: tuple[Path, Path]) -> SimulatedDevice:
    """A device whose TPM has an EK certificate."""
    device.folder.mkdir()
    shutil.copy(manufactured[0] / "tpm2-00.permall", device.folder)
    return device
