# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What every layer of the image is made with: the cache, tools that are run, byte code."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprov" / "hil"
PYTHON = ROOT / ".venv/device/bin/python"


def say(text: str) -> None:
    """Tell the person who waits."""
    print(f"\033[2mimage: {text}\033[0m", file=sys.stderr, flush=True)


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a tool; on failure end with its last words."""
    words = [str(word) for word in command]
    result = subprocess.run(  # type: ignore[call-overload]
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options
    )
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-15:])
        raise SystemExit(f"image: {' '.join(words[:6])} … failed:\n{tail}")
    return result


def layer(name: str, inputs: list[str], make: Callable[[Path], None], what: str, *, as_root: bool = False) -> Path:
    """The folder of a layer; made in a temporary folder and renamed, so that a broken run leaves none."""
    key = hashlib.sha256("\0".join([name, *inputs]).encode()).hexdigest()[:16]
    home = CACHE / f"{name}-{key}"
    if home.is_dir():
        return home
    if as_root and os.getuid() != 0:
        raise SystemExit(f"image: making the layer '{name}' needs root (owners of files): run ./hil/run with sudo")
    say(what)
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix=f"new-{name}-", dir=CACHE))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        make(work)
        work.chmod(0o755)
        work.rename(home)
        for old in CACHE.glob(f"{name}-*"):
            # Another run may still use what is not a day old.
            if time.time() - old.stat().st_mtime > 24 * 3600:
                shutil.rmtree(old, ignore_errors=True)
    return home


def compile_all(root: Path, folder: Path) -> None:
    """Byte-compile with the paths that the device will see; never checked again there."""
    run(PYTHON, "-m", "compileall", "-q", "-s", root, "-p", "/", "--invalidation-mode", "unchecked-hash", folder)
