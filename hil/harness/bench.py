# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The two ends of the bench: the vendor's and auditor's side on the host, and the device under test."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.qemu import PATIENCE_S, BenchError, free_port, run
from harness.strategy import EdgeprovStrategy, State

ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / ".venv/fleet/bin/edgeprov-fleet"
RETURN_CODE = re.compile(r"^hil-exit=(\d+)$")
LONG = 1800


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command on the device said."""

    code: int
    text: str

    @property
    def items(self) -> list[dict[str, Any]]:
        """The JSON lines among the output."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def item(self, kind: str) -> dict[str, Any]:
        """The last JSON line of a type."""
        found = [item for item in self.items if item.get("type") == kind]
        assert found, f"no {kind!r} in: {self.text}"
        return found[-1]


class Vendor:
    """CA, registry, fleet index: everything that a vendor has and a device has not."""

    def __init__(self, home: Path, baked: Path, like: Path | None = None) -> None:
        """A new vendor, or one that goes on where the vendor in the folder ``like`` was."""
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        shutil.copytree((like or baked) / "ca", home / "ca")
        if like is not None:
            shutil.copytree(like / "registry", home / "registry")
        self.model = json.loads((baked / "published.json").read_text().splitlines()[0])["digest"]
        self.port = free_port()
        self.registry = f"127.0.0.1:{self.port}/hospital"
        self.fleet_dir = home / "fleet"

    def trust_maker_of(self, tpm: Path) -> None:
        """Trust the maker of a TPM (`make_tpm`): its EK certificate is judged. The assurance of a swtpm stays dev."""
        authority = tpm.parent / f"{tpm.name}-maker/ca"
        certificates = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        anchors = "".join((authority / name).read_text() for name in certificates)
        (self.home / "ca/trust.d/ek-hardware-maker.pem").write_text(anchors)

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        """Run Debian's docker-registry on a port of the loopback interface."""
        config = self.home / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.home / 'registry'}}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}', secret: hil}}\n"
        )
        with (self.home / "registry.log").open("wb") as log:
            server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                    break
                if server.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(
                        "docker-registry does not start: " + (self.home / "registry.log").read_text()[-300:]
                    )
                time.sleep(0.02)
            yield
        finally:
            server.kill()
            server.wait()

    def fleet(self, *arguments: str | Path, accept: tuple[int, ...] = (0,)) -> Answer:
        """Run edgeprov-fleet."""
        result = subprocess.run(
            [str(FLEET), *map(str, arguments), "--json"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        answer = Answer(code=result.returncode, text=result.stdout + result.stderr)
        assert answer.code in accept, (
            f"edgeprov-fleet {' '.join(map(str, arguments))}: exit {answer.code}\n{answer.text}"
        )
        return answer

    def verify(self, *filters: str, accept: tuple[int, ...] = (0,)) -> Answer:
        """Fetch what is new and verify everything, as an auditor would."""
        self.fleet("sync", self.registry, "--fleet", self.fleet_dir)
        where = ("--fleet", self.fleet_dir, "--trust", self.home / "ca/trust.d")
        return self.fleet("verify", *where, "--records", *filters, accept=accept)

    def verify_with_cosign(self, kit: dict[str, Any]) -> int:
        """Type what export-trust tells an auditor to type, with unmodified cosign; how many commands passed."""
        cosign = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprov/peers/bin/cosign"
        if not cosign.exists():
            raise BenchError("cosign is missing: ./tests/peers/install cosign")
        folder = self.home / "auditor"
        self.fleet("export-trust", "--trust", self.home / "ca/trust.d", "-o", folder)
        environment = {**os.environ, "PATH": f"{cosign.parent}:{os.environ['PATH']}", "TUF_ROOT": str(folder / "tuf")}
        environment["KIT"] = f"127.0.0.1:{self.port}/{kit['repo']}@{kit['digest']}"
        lines = (folder / "COMMANDS.txt").read_text().splitlines()
        commands = [line for line in lines if line.startswith("cosign") and '"$KIT"' in line]
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return len(commands)

    def signatures(self, kit: dict[str, Any]) -> list[str]:
        """Digests of the signatures that the registry holds of a kit, an item of `query`."""
        # This registry has no referrers API; the index under the fallback tag is what cosign and notation read too.
        tag = kit["digest"].replace(":", "-")
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/{kit['repo']}/manifests/{tag}",
            headers={"Accept": "application/vnd.oci.image.index.v1+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return [item["digest"] for item in json.load(answer)["manifests"]]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []

    def audit(self) -> Answer:
        """The auditor's report over all time."""
        where = ("--fleet", self.fleet_dir, "--trust", self.home / "ca/trust.d")
        return self.fleet("audit", *where, "--from", "1970-01-01", "--to", "2100-01-01", accept=(0, 10, 17))


class Device:
    """The device under test, through labgrid protocols."""

    registry = "10.0.2.100:5000/hospital"  # as the image's configuration names it

    def __init__(self, strategy: EdgeprovStrategy, vendor: Vendor, logs: Path, serial: str) -> None:
        self.strategy = strategy
        self.vendor = vendor
        self.logs = logs
        self.serial = serial
        strategy.enroll = self.enroll

    # -- commands -------------------------------------------------------------------------------
    def run(
        self, command: str, *, user: str = "root", accept: tuple[int, ...] | None = (0,), timeout: int = LONG
    ) -> Answer:
        """Run a shell command on the device, over SSH while its cable is in, else over the console."""
        if user != "root":
            command = f"runuser -u {user} -- sh -c {shlex.quote(command)}"
        online = self.strategy.status in (State.booted, State.enrolled, State.online)
        driver = self.strategy.ssh if online else self.strategy.shell
        out, err, code = driver.run(command, timeout=timeout)
        answer = Answer(code=code, text="\n".join([*out, *err]))
        assert accept is None or code in accept, f"{command}: exit {code}\n{answer.text}"
        return answer

    def edgeprov(self, *words: str, accept: tuple[int, ...] = (0,), timeout: int = LONG) -> Answer:
        """Run a verb of edgeprov as its service user."""
        return self.run(shlex.join(["edgeprov", *words, "--json"]), user="edgeprov", accept=accept, timeout=timeout)

    def put(self, data: bytes, path: str) -> None:
        """Write a small file; over any channel, hence as text."""
        text = base64.b64encode(data).decode()
        self.run(f": >{path}.b64; chown edgeprov {path}.b64")
        for start in range(0, len(text), 3000):
            self.run(f"printf %s {text[start : start + 3000]} >>{path}.b64")
        self.run(f"base64 -d {path}.b64 >{path} && rm {path}.b64 && chown edgeprov {path}")

    def get(self, path: str) -> bytes:
        """Read a small file."""
        return base64.b64decode(self.run(f"base64 -w0 {path}").text)

    # -- what a factory does ----------------------------------------------------------------------
    def enroll(self) -> dict[str, Any]:
        """Enroll with the vendor's CA, with the credential round where the TPM has an EK certificate."""
        if self.edgeprov("identity", "show", accept=(0, 24, 35)).code == 0 and self.has_certificate():
            return {}
        self.set_clock()
        self.edgeprov("identity", "create")
        nonce = secrets.token_hex(16)  # one for each enrollment
        self.edgeprov("identity", "csr", "--nonce", nonce, "-o", "/tmp/request.json")
        work = self.logs / "enrollment"
        work.mkdir(parents=True, exist_ok=True)
        (work / "request.json").write_bytes(self.get("/tmp/request.json"))
        vendor = self.vendor
        words = ["enroll", work / "request.json", "--to", vendor.registry, "--ca", vendor.home / "ca"]
        words += ["-o", work / "answer.json"]
        if vendor.fleet(*words, accept=(0, 100)).code == 100:
            self.put((work / "answer.json").read_bytes(), "/tmp/challenge.json")
            self.edgeprov("identity", "activate", "/tmp/challenge.json", "-o", "/tmp/response.json")
            (work / "response.json").write_bytes(self.get("/tmp/response.json"))
            vendor.fleet(*words, "--response", work / "response.json")
        self.put((work / "answer.json").read_bytes(), "/tmp/identity.json")
        self.edgeprov("identity", "install", "/tmp/identity.json")
        return json.loads((work / "request.json").read_text())

    def has_certificate(self) -> bool:
        """Whether a certificate is installed."""
        return bool(self.edgeprov("status").item("status").get("certificate"))

    def set_clock(self) -> None:
        """Give the device the host's time, as NTP would."""
        self.run(f"date -s @{int(time.time())}")

    # -- after a failure ----------------------------------------------------------------------------
    def workload(self, count: int, *mark: str) -> list[int]:
        """Run inferences and return the numbers that were acknowledged."""
        command = shlex.join(["/usr/lib/edgeprov/hil-workload", str(count), *mark])
        # Naming one group drops the others, so both are named.
        out, err, code = self.strategy.ssh.run(f"runuser -u edgeprov -G tss -G disk -- {command}", timeout=LONG)
        assert code == 0, "\n".join(err)
        return [int(line) for line in out if line.isdigit()]

    def settings(self, text: str) -> None:
        """Change the configuration until the next boot."""
        self.put(text.encode(), "/run/edgeprov/edgeprov.toml.d/50-test.toml")
        self.run("chmod 644 /run/edgeprov/edgeprov.toml.d/50-test.toml")

    def keep_evidence(self) -> None:
        """Fetch the journal, if the device still answers; serial log and TPM state lie here anyway."""
        if self.strategy.status.value < State.booted.value:
            return
        with contextlib.suppress(Exception):
            (self.logs / "journal.txt").write_text(
                self.run("journalctl --no-pager -o short-monotonic", timeout=PATIENCE_S).text
            )
        with contextlib.suppress(Exception):
            self.strategy.cut_power()


def make_tpm(folder: Path) -> None:
    """TPM state with an EK certificate of a local CA, as a chip maker leaves it."""
    folder.mkdir(parents=True)
    maker = folder.parent / f"{folder.name}-maker"
    authority = maker / "ca"
    authority.mkdir(parents=True)
    (maker / "localca.conf").write_text(
        f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\ncertserial = {authority}/certserial\n"
    )
    (maker / "localca.options").write_text(
        "--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version 2\n"
        "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n"
    )
    (maker / "setup.conf").write_text(
        f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {maker}/localca.conf\n"
        f"create_certs_tool_options = {maker}/localca.options\n"
    )
    run("swtpm_setup", "--tpm2", "--tpm-state", folder, "--ecc", "--createek", "--create-ek-cert",
        "--create-platform-cert", "--pcr-banks", "sha256", "--config", maker / "setup.conf")  # fmt: skip


def environment() -> dict[str, Path]:
    """What hil/run found or built."""
    return {name: Path(os.environ[f"LG_{name}"]) for name in ("VENDOR", "KEY")}
