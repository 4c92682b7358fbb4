# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device on a real swtpm whose commands and applications run as processes of their own, as on an image.

``edgeprov`` is the one file of byte code that images install, and Python starts without the ``.pth`` files
of a development environment (they cost 13 ms). A figure is that of the whole process, with the TPM library
and everything else that it loads; the time of swtpm, which is another process, is not in it.
"""

from __future__ import annotations

import py_compile
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.bench.harness import PACK, PACKAGES, ROOT, Usage, environment, run_process

BARE = (sys.executable, "-I", "-S", "-c", "pass")
_CASES = Path(__file__).with_name("cases")


class RealDevice:
    """An enrolled device with one active model. Use as a context manager: its swtpm ends with the body."""

    def __init__(self, folder: Path, *, settings: str = "", model_bytes: int = 0) -> None:
        """Make the device.

        Args:
            folder: Where; it is created.
            settings: Further sections of its configuration.
            model_bytes: Size of its model; 0 takes a MobileNet of 4 MB.
        """
        self.folder = folder
        self.model = folder / "model.tflite"  # a copy of what is installed
        self._environment = {"EDGEPROV_CONFIG": str(folder / "edgeprov.toml")}
        self._helper("make", settings, str(model_bytes))
        image = folder / "image" / "edgeprov.pyc"
        image.parent.mkdir()
        run_process([sys.executable, PACK, ROOT / "edgeprov", image])
        self.search_path: tuple[str, ...] = (PACKAGES, str(image.parent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.command("simulator", "stop")

    def command(self, *words: str, search_path: Sequence[str] = ()) -> Usage:
        """Run ``edgeprov WORDS`` to its end.

        Args:
            words: Its arguments.
            search_path: Where Python finds the packages; default those of an image.
        """
        return self.process("edgeprov_command.py", *(search_path or self.search_path), *words)

    def process(self, script: str, *words: str | Path) -> Usage:
        """Run a script of tests/bench/cases as byte code, in this device's environment."""
        return run_process(self._argv(script, words), env=self._environment)

    def start(self, script: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """As process, for one that runs on; the caller ends it."""
        return subprocess.Popen(
            list(map(str, self._argv(script, words))), env=environment(self._environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _argv(self, script: str, words: Sequence[str | Path]) -> list[str | Path]:
        compiled = self.folder / f"{script}c"
        if not compiled.exists():
            py_compile.compile(str(_CASES / script), str(compiled), doraise=True)
        return [sys.executable, "-I", "-S", compiled, *words]

    def reboot(self) -> None:
        """Reset the TPM and empty the run folder."""
        self.command("simulator", "reboot")

    def boot_check(self) -> Usage:
        """Reboot, and run the boot check; only the latter is counted."""
        self.reboot()
        return self.command("boot-check")

    def record(self, count: int, input_bytes: int = 0) -> None:
        """Record ``count`` results, with captured random inputs of ``input_bytes`` each."""
        self._helper("record", str(count), str(input_bytes))

    def _helper(self, word: str, *rest: str) -> None:
        run_process([sys.executable, "-m", "tests.bench.cases.device_process", word, self.folder, *rest])
