# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The boot check on a file system with fs-verity: here, or else on the kernel of the hil image in QEMU."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.harness import ROOT, Figure, main, missing, run_process

GROUP = "boot check"
NAME = "fs-verity: time for 1 GB to that for 1 MB"
PROGRAM = ROOT / "tests" / "bench" / "cases" / "verity_process.py"
PATIENCE_S = 600  # where QEMU emulates, the kernel hashes 1 GB in a minute or two
TOOLS = ("qemu-system-x86_64", "mke2fs", "debugfs", "mmdebstrap")


def times_of(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line.startswith("VERITY ")]
    return dict(json.loads(lines[-1].removeprefix("VERITY "))) if lines else {}


def in_image(work: Path) -> tuple[dict[str, float], str]:
    """Times on the image's kernel; or none, and why."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in TOOLS if shutil.which(name, path=path) is None]
    if lacking or os.getuid():
        needed = ", ".join(lacking) or "root"
        return (
            {},
            f"this file system has no fs-verity, and a kernel that has it cannot be booted without {needed} (see hil/run)",
        )
    env = {**os.environ, "PATH": path}
    built = subprocess.run(
        ["/usr/bin/python3", ROOT / "hil" / "image" / "build.py", "image"], env=env, capture_output=True, text=True, check=False
    )  # fmt: skip
    if built.returncode:
        return {}, f"the hil image could not be built: {built.stderr.strip()[-200:]}"
    made = dict(line.split("=", 1) for line in built.stdout.splitlines())
    work.mkdir(parents=True)
    root, data = work / "root.ext4", work / "data.ext4"

    def run(*words: str | Path) -> None:
        subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run("cp", "--sparse=always", "--reflink=auto", made["ROOT"], root)
    run("debugfs", "-w", "-R", f"write {PROGRAM} measure-verity", root)
    run("debugfs", "-w", "-R", "set_inode_field measure-verity mode 0100755", root)
    run("truncate", "-s", "1200M", data)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", data)
    disks = [f"file={path},format=raw,if=virtio,cache=unsafe" for path in (root, data)]
    command = [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "512",
        "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", made["KERNEL"], "-initrd", made["INITRD"],
        "-append", "console=ttyS0 quiet panic=-1 root=/dev/vda init=/measure-verity",
        "-drive", disks[0], "-drive", disks[1],
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"the hil image did not answer within {PATIENCE_S} s"
    finally:
        data.unlink()
        root.unlink()
    times = times_of(done.stdout)
    return times, "" if times else f"the hil image said nothing: {(done.stdout + done.stderr).strip()[-200:]}"


def measure(args: argparse.Namespace) -> list[Figure]:
    times = times_of(run_process([sys.executable, PROGRAM, args.work / "here"]).out)
    where, why = "on this machine", ""
    if not times:
        times, why = in_image(args.work / "image")
        where = "on the kernel of the hil image, in QEMU"
    if not times:
        return [missing(GROUP, NAME, "x", "<=", 1.5, why)]
    return [
        Figure(
            GROUP, NAME, times["large"] / times["small"], "x", "<=", 1.5, ours=f"{times['large'] * 1e6:.0f} us, {where}",
            note="One ioctl gives the digest that the kernel holds, whatever the size, and the weights are not hashed again. Nothing is left to do.",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
