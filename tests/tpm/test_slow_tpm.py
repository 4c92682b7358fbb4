# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The proxy that slows and counts a TPM's commands, on which the figures of other tests depend."""

from __future__ import annotations

import time
from pathlib import Path

from edgeprov.formats.tpmt import parse_attest
from edgeprov.tpm import simulator
from tests.support.slowtpm import SlowTpm
from tests.tpm.conftest import SimulatedDevice

NO_SUCH_COMMAND = bytes.fromhex("80010000000a00000fff")


def test_commands_are_delayed_and_their_codes_written_down(device: SimulatedDevice, tmp_path: Path) -> None:
    with device.open() as tpm:
        tpm.create_identity()
    with SlowTpm(device.folder / simulator.SOCKET, tmp_path, delay_s=0.05) as slow:
        with device.open(tcti=slow.tcti) as tpm, slow.count() as asked:
            started = time.monotonic()
            assert parse_attest(tpm.quote(bytes(32)).attest).extra_data == bytes(32)
            took = time.monotonic() - started
        assert "Quote" in [str(item) for item in asked]
        assert took >= 0.05 * len(asked)
    assert not list(tmp_path.glob("slow.sock*"))


def test_a_refused_command_is_counted_with_its_response(device: SimulatedDevice, tmp_path: Path) -> None:
    simulator.start(device.folder)
    with SlowTpm(device.folder / simulator.SOCKET, tmp_path, delay_s=0) as slow:
        link = simulator.SocketTransport(slow.path)
        with slow.count() as asked:
            link.send(NO_SUCH_COMMAND)
            link.receive(10)
        assert [(item.command, item.response) for item in asked] == [(0xFFF, 0x143)]
