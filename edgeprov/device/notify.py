# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a service tells systemd: ready, alive, stopping. Nothing happens where systemd does not listen.

Spec: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

_FIRST_FD: Final = 3


def notify(state: str) -> None:
    """Send lines such as ``READY=1``; a manager that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.sendto(state.encode(), address)


def watchdog_interval_s() -> float | None:
    """Half of the watchdog's time, in seconds; None when there is no watchdog for this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000


def inherited_socket() -> socket.socket | None:
    """The listening socket of socket activation, None without one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    os.set_inheritable(_FIRST_FD, False)  # noqa: FBT003 - os's own signature
    return socket.socket(fileno=_FIRST_FD)
