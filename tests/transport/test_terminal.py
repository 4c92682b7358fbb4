# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The progress bar on a real terminal (a pty): it keeps to the width, also to a new one, and Ctrl-C is safe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from tests.support.faultproxy import SlowProxy
from tests.support.registries import docker_registry
from tests.support.sender import Sender

PARTS, PART = 30, 100_000
COMMAND = [sys.executable, "-c", "import sys; from edgeprov.cli.device_main import main; sys.exit(main())", "upload"]


@pytest.fixture
def link(tmp_path: Path, sender: Sender) -> Iterator[SlowProxy]:
    """A registry behind a link that makes the upload of `sender` take about two seconds."""
    sender.fill(PARTS, PART)
    with docker_registry(tmp_path / "registry") as host, SlowProxy(host, bytes_per_s=1.5e6, delay_s=0.001) as slow:
        sender.context(slow.host)
        yield slow


class Terminal:
    """`edgeprov upload` on a terminal of its own; what it wrote."""

    def __init__(self, config: Path, columns: int) -> None:
        self._child, self._fd = pty.fork()
        if not self._child:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # a suite in the background has it ignored, and would pass that on
            env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            os.execve(COMMAND[0], COMMAND, {**env, "EDGEPROV_CONFIG": str(config)})
        self.resize(columns)
        self.text = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, key: bytes) -> None:
        os.write(self._fd, key)

    def follow(self, until: Callable[[str], object] = lambda _text: False) -> None:
        """Read until then, or to the end."""
        with suppress(OSError):  # the other side is closed
            while not until(self.text) and (data := os.read(self._fd, 65536)):
                self.text += data.decode()

    def end(self) -> int:
        self.follow()
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])

    @property
    def bars(self) -> list[str]:
        """Each drawing of the bar."""
        return re.findall(r"\r([^\r\n\x1b]+)\x1b\[K", self.text)


def test_the_bar_keeps_to_the_width_and_to_a_new_one(sender: Sender, link: SlowProxy) -> None:
    terminal = Terminal(sender.root / "edgeprov.toml", 80)
    terminal.follow(lambda _: len(terminal.bars) > 3)
    terminal.resize(40)
    assert terminal.end() == 0
    bars = terminal.bars
    change = next(number for number, bar in enumerate(bars) if len(bar) < 40)  # some wide ones were on their way
    assert change > 3
    assert all(re.match(r"\[[#.]{20}\] .* of 3\.\d MB, 0 of 1 kits", bar) and len(bar) < 80 for bar in bars[:change])
    assert all(len(bar) < 40 for bar in bars[change:])
    assert bars[-1].startswith("3.")
    assert "1 sent (3.0 MB), 0 waiting" in terminal.text
    assert link.host


def test_ctrl_c_is_safe_and_what_was_sent_is_not_sent_again(sender: Sender, link: SlowProxy) -> None:
    terminal = Terminal(sender.root / "edgeprov.toml", 80)
    terminal.follow(lambda _: len(terminal.bars) > 4)
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert "nothing is lost" in terminal.text
    assert "Traceback" not in terminal.text
    sent = re.search(r"0 sent \((\S+) (kB|MB)\), 1 waiting", terminal.text)
    assert sent
    before = float(sent[1]) * {"kB": 1e3, "MB": 1e6}[sent[2]]
    again = Terminal(sender.root / "edgeprov.toml", 80)
    assert again.end() == 0
    rest = re.search(r"1 sent \((\S+) MB\), 0 waiting", again.text)
    assert rest
    assert float(rest[1]) * 1e6 <= PARTS * PART + 20_000 - before + PART
    sender.verify_arrived(OrasRegistry(link.host, settings=RegistrySettings(plain_http=True)))
