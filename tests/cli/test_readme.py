# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""README's "Five minutes for each of us", typed as it stands on what `./hil/demo --keep DIR` leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("## Five minutes for each of us")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^\*\*([\w ]+)\.\*\*.*?^```(sh|python)\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that README asks for, on a demo's folder."""
    folder = tmp_path_factory.mktemp("readme") / "DIR"
    subprocess.run([ROOT / "hil/demo", "--keep", folder], check=True, stdout=subprocess.DEVNULL)
    path = f"{ROOT}/.venv/device/bin:{ROOT}/.venv/fleet/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DIR": str(folder)}
    environment["EDGEPROV_CONFIG"] = str(folder / "device/edgeprov.toml")
    subprocess.run(["edgeprov", "boot-check"], check=True, env=environment)
    yield environment
    subprocess.run(["edgeprov", "simulator", "stop"], check=False, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_the_readme_says_can_be_typed_from_top_to_bottom(demo: dict[str, str]) -> None:
    home = Path(demo["DIR"]).parent
    assert [who for who, _, _ in BLOCKS] == [
        "Hardware vendor", "Device application developer", "Field technician", "Test engineer", "ML engineer", "Auditor",
    ]  # fmt: skip
    for who, language, text in BLOCKS:
        typed = re.sub(r"\bDIR\b", demo["DIR"], text.replace("/tmp/", f"{home}/"))
        program = [sys.executable, "-c", typed] if language == "python" else ["sh", "-euc", typed]
        done = subprocess.run(program, cwd=ROOT, env=demo, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{who}: {done.stderr}"
    assert "record in the kit" in done.stdout  # the auditor's last command
    assert (home / "dataset").is_dir()
    assert (home / "audit.html").is_file()
