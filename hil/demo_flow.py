# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The demo behind ./hil/demo: every step is a command that a person could type, and is shown.

Two simulated devices with a virtual TPM each run the same 143 real cases: ward-1 uses an OCI layout
folder as its registry, ward-2 a real registry server (Debian's docker-registry on loopback). The
fleet side then reads both.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "hil/model/kit"
CASES = ROOT / "hil/model/test_cases.npz"
BIN = {
    "edgeprov": ROOT / ".venv/device/bin/edgeprov",
    "edgeprov-fleet": ROOT / ".venv/fleet/bin/edgeprov-fleet",
}
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    """Terminal colours, where there is a terminal."""
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Demo:
    """Runs the steps and keeps what they said."""

    def __init__(self, folder: Path, *, kept: bool) -> None:
        self.folder = folder
        self.kept = kept
        self.step_number = 0
        self.registries: dict[str, str] = {"ward-1": f"oci:{folder / 'registry'}"}

    def step(self, title: str) -> None:
        """Announce a step."""
        self.step_number += 1
        print(f"\n{paint('1', f'{self.step_number:2}. {title}')}", flush=True)

    def run(self, program: str, *arguments: str, device: str | None = None, quiet: bool = False) -> str:
        """Show a command, run it, show its output; end the demo with its own message if it fails."""
        environment = dict(os.environ)
        shown = " ".join([program, *(self._short(item) for item in arguments)])
        if device:
            environment["EDGEPROV_CONFIG"] = str(self.home(device) / "edgeprov.toml")
            shown = f"{device}$ {shown}"
        else:
            shown = f"fleet$ {shown}"
        print(f"    {paint('2', shown)}", flush=True)
        result = subprocess.run(
            [str(BIN[program]), *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if not quiet or result.returncode:
            for line in result.stdout.splitlines():
                if self.kept or not line.startswith(("report: ", "signed; ")):  # they lead to what is removed
                    print(f"    {self._short(line)}")
        if result.returncode:
            raise SystemExit(f"demo: this step ended with exit code {result.returncode}: {shown}")
        return result.stdout

    def json(self, program: str, *arguments: str, device: str | None = None) -> list[dict[str, object]]:
        """As run, with --json, and the objects that came out."""
        text = self.run(program, *arguments, "--json", device=device, quiet=True)
        return [json.loads(line) for line in text.splitlines() if line]

    def home(self, device: str) -> Path:
        """The folder of one simulated device."""
        return self.folder / ("device" if device == "ward-1" else device)

    def _short(self, text: str) -> str:
        # In a table the columns stay where they are.
        gap = " " * (len(str(self.folder)) - len("DIR"))
        text = re.sub(re.escape(str(self.folder)) + r"(\S*)(?= {2,}\S)", rf"DIR\1{gap}", text)
        return text.replace(str(self.folder), "DIR").replace(str(ROOT) + "/", "")


def write_device(demo: Demo, device: str) -> None:
    """What an image would bring: configuration and trust anchors."""
    home = demo.home(device)
    home.mkdir(parents=True, exist_ok=True)
    plain = "true" if not demo.registries[device].startswith("oci:") else "false"
    (home / "edgeprov.toml").write_text(
        f"""# Written by the demo; an image has this in /usr/lib/edgeprov/edgeprov.toml.
[device]
serial = "{device}"
state_dir = "state"
run_dir = "run"
models_dir = "models"

[registry]
name = "{demo.registries[device]}"
plain_http = {plain}

[record]
capture = "digest"

[tpm]
tcti = "auto"

[trust]
dir = "{demo.folder / "ca" / "device-trust.d"}"
"""
    )


@contextlib.contextmanager
def registry_server(folder: Path) -> Iterator[str | None]:
    """Debian's docker-registry on a free port of the loopback interface; None where it is not installed."""
    program = shutil.which("docker-registry", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")
    if program is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: demo}}\n"
    )
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"demo: docker-registry did not start; see {folder / 'log'}")
            time.sleep(0.02)
        yield f"127.0.0.1:{port}/hospital"
    finally:
        server.terminate()
        server.wait(timeout=10)


def publish(demo: Demo, registry: str) -> str:
    """Pack, sign and push the model; the reference by digest is what a device is given."""
    found = demo.json("edgeprov-fleet", "publish", str(KIT), "--to", registry, "--ca", str(demo.folder / "ca"))
    reference = str(next(item["reference"] for item in found if item.get("type") == "published"))
    print(f"    published {demo._short(reference)}")
    return reference


def enroll(demo: Demo, device: str) -> None:
    """Keys in the TPM, a request to the vendor's CA, the certificate back."""
    home = demo.home(device)
    demo.run("edgeprov", "identity", "create", device=device)
    demo.run("edgeprov", "identity", "csr", "-o", str(home / "request.json"), device=device)
    demo.run(
        "edgeprov-fleet", "enroll", str(home / "request.json"), "--to", demo.registries[device],
        "--ca", str(demo.folder / "ca"), "-o", str(home / "identity.json"),
    )  # fmt: skip
    demo.run("edgeprov", "identity", "install", str(home / "identity.json"), device=device)


def work(demo: Demo, device: str, reference: str) -> None:
    """A day on the ward: install, check, infer, label, seal, upload."""
    demo.run("edgeprov", "model", "install", reference, device=device)
    demo.run("edgeprov", "simulator", "reboot", device=device)
    demo.run("edgeprov", "boot-check", device=device)
    demo.run("edgeprov", "infer", "--input", str(CASES), "--array", "X", "--quantize", "--quiet", device=device)
    demo.run("edgeprov", "label", "--from", str(CASES), "--array", "y", "--first", "1", device=device)
    demo.run("edgeprov", "seal", device=device)
    demo.run("edgeprov", "upload", device=device)


def main() -> None:
    """Run the steps in order; each depends on the one before."""
    parser = argparse.ArgumentParser(prog="hil/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything in DIR (new or empty)")
    keep = parser.parse_args().keep
    if keep and keep.exists() and any(keep.iterdir()):
        parser.error(f"{keep} is not empty: name a new folder")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if keep:
            folder = keep.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            stack.push(lambda kind, *_: remove_unfinished(folder) if kind else None)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprov-demo-")))
        print(f"DIR is {folder}" + ("" if keep else ", which is removed at the end"))
        demo = Demo(folder, kept=bool(keep))
        server = stack.enter_context(registry_server(folder / "server"))
        if server:
            demo.registries["ward-2"] = server
        for device in demo.registries:
            # The simulated TPMs are processes of their own: never leave one behind.
            stack.callback(stop_simulator, demo, device)
        flow(demo)
    print(f"\n{paint('1;32', 'Done')} in {time.monotonic() - started:.0f} s, the set-up not counted.")
    if keep:
        print_next(folder)
    else:
        print("Run ./hil/demo --keep DIR to look around in what it made; README.md has a tour for each kind of user.")


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind, as a simulated TPM whose starter was killed."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_children() -> None:
    """Kill whatever is left of an interrupted demo."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(FileNotFoundError):  # a kernel without CONFIG_PROC_CHILDREN
        while pids := children.read_text().split():
            for pid in map(int, pids):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def remove_unfinished(folder: Path) -> None:
    """Empty the folder of --keep again: a demo that did not come to its end leaves nothing to look at."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def flow(demo: Demo) -> None:
    """The loop itself."""
    folder = demo.folder
    demo.step("The vendor's certificate authorities: one for publishers, one for devices")
    demo.run("edgeprov-fleet", "ca", "init", str(folder / "ca"))

    demo.step("Model out: pack the model as a ModelKit, sign it, publish it by digest")
    references = {device: publish(demo, registry) for device, registry in demo.registries.items()}

    for device, registry in demo.registries.items():
        write_device(demo, device)
        demo.step(f"{device}: identity in a virtual TPM, enrolled by the vendor (registry {demo._short(registry)})")
        enroll(demo, device)
        demo.step(f"{device}: install by digest, check at boot, run 143 real cases, label, seal, upload")
        work(demo, device, references[device])

    demo.step("A technician looks at the device")
    demo.run("edgeprov", "status", device="ward-1")

    demo.step("Data in: find every kit of that model version, and verify each with the ten steps")
    fleet, trust = folder / "fleet", folder / "ca" / "trust.d"
    digest = references["ward-1"].rpartition("@")[2]
    demo.run("edgeprov-fleet", "sync", *demo.registries.values(), "--fleet", str(fleet))
    demo.run("edgeprov-fleet", "query", "--fleet", str(fleet), "--model", digest)
    demo.run("edgeprov-fleet", "verify", "--fleet", str(fleet), "--trust", str(trust))

    demo.step("One labelled, verified table for retraining")
    demo.run(
        "edgeprov-fleet", "collect", "--fleet", str(fleet), "--trust", str(trust), "--model", digest,
        "-o", str(fleet / "dataset"), "--dequantise", "--ca", str(folder / "ca"),
    )  # fmt: skip

    demo.step("One result proved to somebody who trusts only the anchors, without showing the others")
    proof = str(fleet / "ward-1-17.proof")
    demo.run("edgeprov-fleet", "export-trust", "--trust", str(trust), "-o", str(folder / "trust"), quiet=True)
    demo.run("edgeprov-fleet", "prove", "ward-1/17", "--fleet", str(fleet), "--trust", str(trust), "-o", proof)
    demo.run("edgeprov-fleet", "check-proof", proof, "--trust", str(folder / "trust"))

    demo.step("The auditor's question: which model version produced these devices' results?")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    nonce = secrets.token_hex(16)
    heads: list[str] = []
    for device in demo.registries:
        # The answer to a nonce closes the series: a kit withheld at its end would show.
        head = fleet / f"head-{device}.json"
        head.write_text(demo.run("edgeprov", "attest", nonce, "--json", device=device, quiet=True))
        heads += ["--head", str(head)]
    demo.run(
        "edgeprov-fleet", "audit", "--fleet", str(fleet), "--trust", str(trust), "--from", today, "--to", today,
        "--data", str(fleet / "dataset"), "--html", str(fleet / "audit.html"), "--ca", str(folder / "ca"),
        "--sign", str(fleet / "audit.sigstore.json"), "--report", str(fleet / "audit.json"),
        *heads, "--nonce", nonce,
    )  # fmt: skip


def stop_simulator(demo: Demo, device: str) -> None:
    """End the virtual TPM of one device, if it was started."""
    config = demo.home(device) / "edgeprov.toml"
    if config.exists():
        subprocess.run(
            [str(BIN["edgeprov"]), "simulator", "stop"],
            env={**os.environ, "EDGEPROV_CONFIG": str(config)},
            stdout=subprocess.DEVNULL,
            check=False,
        )


def print_next(folder: Path) -> None:
    """Say where to look after --keep."""
    config, fleet, trust, page, commands, blobs, device_bin, fleet_bin = (
        shlex.quote(str(path))
        for path in (
            folder / "device/edgeprov.toml", folder / "fleet", folder / "trust", folder / "fleet/audit.html",
            folder / "trust/COMMANDS.txt", folder / "registry/blobs", *(program.parent for program in BIN.values()),
        )
    )  # fmt: skip
    print(
        f"""
Look at next:
    export EDGEPROV_CONFIG={config}
    export PATH={device_bin}:{fleet_bin}:"$PATH"
    edgeprov boot-check                      the demo has switched the device off: check and measure the model again
    edgeprov status                          the device: identity, model, what waits
    edgeprov doctor                          each check with its fix
    edgeprov-fleet query --fleet {fleet}
    {page}                the report as one page, for a browser
    {commands}            how to check all of it with cosign and notation alone
Flip one byte of any file under {blobs}, then run
    edgeprov-fleet verify --again --fleet {fleet} --trust {trust}    and see it refused"""
    )


def interrupt(_number: int, _frame: object) -> None:
    """End the demo by an exception, once, so that servers, simulated TPMs and folders go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(130)


if __name__ == "__main__":
    adopt_orphans()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader went away (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(141) from None
    finally:
        end_children()
