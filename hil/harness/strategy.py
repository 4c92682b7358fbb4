# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The states of a device under test, and how to get from one to the next.

off → tpm → booted → enrolled → offline → online. Only labgrid protocols are used, so that a board
with a relay, a serial line and SSH takes the same way as the virtual device.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar

import attr
from labgrid.driver import SSHDriver
from labgrid.factory import target_factory
from labgrid.strategy import Strategy, StrategyError, never_retry
from pexpect import TIMEOUT

BOOT_S = 900  # a minute as a rule; an emulated device on a loaded machine needs as long as it needs


class State(enum.Enum):
    """In the order in which a device passes through them."""

    unknown = 0
    off = 1
    tpm = 2
    booted = 3
    enrolled = 4
    offline = 5
    online = 6


@target_factory.reg_driver
@attr.s(eq=False)
class EdgeprovStrategy(Strategy):
    """Brings a device into a state. The bench sets `enroll`, which knows the vendor's CA."""

    bindings: ClassVar = {
        "power": "PowerProtocol",
        "console": "ConsoleProtocol",
        "shell": "ShellDriver",
        "ssh": SSHDriver,
        "cable": {"DigitalOutputProtocol", None},
    }
    status = attr.ib(default=State.unknown)
    enroll: Callable[[], None] | None = None

    @never_retry
    def transition(self, status: State | str) -> None:
        """Go to a state; a lower one than the present starts from power off."""
        wanted = State[status] if isinstance(status, str) else status
        if wanted is State.unknown:
            raise StrategyError("a device cannot be made unknown")
        if wanted in (State.offline, State.online) and self.status in (State.offline, State.online):
            self._plug(wanted)
            return
        if wanted.value <= self.status.value and wanted is not self.status:
            self._to_off()
        if self.status is State.unknown:
            self._to_off()
        steps = {
            State.tpm: self._to_tpm, State.booted: self._to_booted, State.enrolled: self._to_enrolled,
            State.offline: lambda: self._plug(State.offline), State.online: lambda: self._plug(State.online),
        }  # fmt: skip
        for state in State:
            if self.status.value < state.value <= wanted.value and not (
                state is State.offline and wanted is State.online
            ):
                steps[state]()
                self.status = state

    def cut_power(self) -> None:
        """Pull the plug, whatever the device is doing."""
        self._to_off()

    def _to_off(self) -> None:
        for driver in (self.ssh, self.shell):
            self.target.deactivate(driver)
        self.target.activate(self.power)
        self.power.off()
        self.status = State.off

    def _to_tpm(self) -> None:
        self.target.activate(self.power)
        if hasattr(self.power, "start_tpm"):
            self.power.start_tpm()

    def _to_booted(self) -> None:
        self.target.activate(self.power)
        self.power.on()
        self.target.activate(self.console)
        try:
            self.target.activate(self.shell)
        except TIMEOUT:
            words = self.power.last_words() if hasattr(self.power, "last_words") else "see its log"
            raise StrategyError(f"no shell on the console; the last that it said: {words}") from None
        self.connect()
        self.shell.run("systemctl is-system-running --wait", timeout=BOOT_S)

    def connect(self) -> None:
        """Open the SSH connection, for bulk and for long commands."""
        if hasattr(self.power, "ssh_port"):
            self.ssh.networkservice.port = self.power.ssh_port
        self.target.activate(self.ssh)

    def _to_enrolled(self) -> None:
        if self.enroll is None:
            raise StrategyError("the bench gave no way to enroll")
        self.enroll()

    def _plug(self, state: State) -> None:
        if self.cable is None:
            raise StrategyError("this board has no switch in its network cable")
        self.target.activate(self.cable)
        self.cable.set(state is State.online)
        if state is State.offline:
            # SSH goes over the same cable; the console stays.
            self.target.deactivate(self.ssh)
        else:
            self.connect()
        self.status = state
