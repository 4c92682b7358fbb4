# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A factory line: a folder of enrollment requests in one run, over docker-registry on loopback."""

from __future__ import annotations

import argparse
import base64
import json
import time
from pathlib import Path

from edgeprov.formats.b64 import b64
from edgeprov.formats.tpmt import name_of
from tests.bench.cases.fleet import fleet
from tests.bench.harness import Figure, main, missing, tool
from tests.support import pki
from tests.support.endorsement import SoftEk
from tests.support.registries import Server
from tests.support.requests import request
from tests.support.softtpm import SoftTpm

GROUP = "enrollment"
RATE = "a folder of requests, each TPM with an EK certificate and a challenge: devices a second"
COUNT = 1000
LATER = 50  # devices of a second folder, when COUNT are enrolled already


class Line:
    """Devices with an EK each, and the vendor's desk."""

    def __init__(self, work: Path, host: str) -> None:
        self.work, self.host = work, host
        self.maker = pki.root("TPM Maker")
        fleet("ca", "init", work / "ca", "--assurance", "hardware")
        (work / "ca/trust.d/ek-hardware.pem").write_bytes(self.maker.pem)

    def enroll(self, name: str, first: int, count: int, server: Server) -> tuple[float, float, float]:
        """Both rounds for some devices: wall seconds, CPU seconds and requests of the registry, each for all of them."""
        folder = self.work / name
        for part in ("requests", "answers", "responses"):
            (folder / part).mkdir(parents=True)
        devices = {f"unit-{number:06d}": SoftTpm(f"unit-{number:06d}") for number in range(first, first + count)}
        eks = {serial: SoftEk(serial, self.maker) for serial in devices}
        for serial, tpm in devices.items():
            document = request(tpm, serial, ek=eks[serial])
            (folder / "requests" / f"{serial}.json").write_text(json.dumps(document))
        words = ("enroll", folder / "requests", "--to", self.host, "--ca", self.work / "ca", "-o", folder / "answers")
        before = server.requests()
        challenges = fleet(*words)
        for serial, tpm in devices.items():
            challenge = json.loads((folder / "answers" / f"{serial}.challenge.json").read_text())
            blob, secret = (base64.b64decode(challenge[key]) for key in ("blob", "secret"))
            credential = eks[serial].activate(blob, secret, name_of(tpm.ak_public))
            answer = {"type": "edgeprov.credential-response", "v": 1, "credential": b64(credential)}
            (folder / "responses" / f"{serial}.response.json").write_text(json.dumps(answer))
        identities = fleet(*words, "--response", folder / "responses")
        assert len(list((folder / "answers").glob("*.identity.json"))) == count, identities.out[-2000:]
        time.sleep(0.2)  # the log is written behind the answer
        wall_s, cpu_s = challenges.wall_s + identities.wall_s, challenges.cpu_s + identities.cpu_s
        return wall_s, cpu_s, server.requests() - before


def measure(args: argparse.Namespace) -> list[Figure]:
    if tool("docker-registry") is None:
        return [missing(GROUP, RATE, "devices/s", ">=", 5, "docker-registry is not installed")]
    server = Server(args.work / "server", log={"level": "error", "accesslog": {"disabled": False}})
    server.start()
    try:
        line = Line(args.work, server.host)
        wall_s, cpu_s, requests = line.enroll("first", 0, COUNT, server)
        _, _, later = line.enroll("later", COUNT, LATER, server)
    finally:
        server.stop()
    return [
        Figure(
            GROUP, RATE, COUNT / wall_s, "devices/s", ">=", 5,
            ours=f"{COUNT} devices in {wall_s:.0f} s, both rounds; {cpu_s / COUNT * 1e3:.1f} ms CPU each",
            note="Eight connections. The registry syncs each blob and manifest to disk before it answers.",
        ),
        Figure(
            GROUP, "the same: registry requests a device", requests / COUNT, "requests", "<=", 12,
            ours=f"{later / LATER:.2f} each for {LATER} more, when {COUNT} are there",
            note="Two blobs at two requests, record and signature, their index, four tags; all tags are listed once a run.",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure)
