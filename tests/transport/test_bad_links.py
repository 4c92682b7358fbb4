# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Links that fail: nothing is lost, little is sent twice, and a run always ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.device.transfer import Tally, Transfer
from edgeprov.device.upload import upload
from edgeprov.limits import MIB
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.pace import Clock, Pace
from tests.support.faultproxy import FAULTS, CutProxy, FaultProxy
from tests.support.registries import docker_registry
from tests.support.sender import REPO, Hours, Sender

QUICK = RegistrySettings(plain_http=True, connect_s=2, read_s=1)
PLAIN = RegistrySettings(plain_http=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("v2")) as host:
        yield host


def clock(hours: Hours) -> Clock:
    return Clock(monotonic=hours.monotonic, sleep=hours.sleep, chance=hours.chance)


def run_until_empty(sender: Sender, host: str, monkeypatch: pytest.MonkeyPatch, runs: int = 200) -> int:
    """Timer runs until nothing is left; returns how many it took."""
    monkeypatch.setattr("edgeprov.device.upload.open_registry", lambda *_, **__: OrasRegistry(host, settings=QUICK))
    context = sender.context(host)
    for number in range(1, runs + 1):
        result = upload(context, clock=clock(Hours(number)))
        assert not result.parked, result.parked
        sender.verify_nothing_lost()
        if not result.queued:
            return number
    raise AssertionError(f"{result.queued} left after {runs} runs: {result.error}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_faults_lose_nothing(sender: Sender, plain: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    with FaultProxy(plain, seed=seed, share=0.45, limit=100).serve() as link:
        while link.faults.total() < 100 or sender.state.outbox():
            if not sender.state.outbox():
                sender.fill(6, 2_000, seed=1000 + seed)
            run_until_empty(sender, link.host, monkeypatch)
    assert link.faults.total() == 100
    sender.verify_arrived(OrasRegistry(plain, settings=PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_survived(sender: Sender, plain: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sender.fill(2, 5_000, seed=FAULTS.index(kind))
    monkeypatch.setattr("tests.support.faultproxy.FAULTS", (kind,))
    with FaultProxy(plain, seed=7, share=0.5, limit=4).serve() as link:
        run_until_empty(sender, link.host, monkeypatch)
        assert link.faults == {kind: 4}
    sender.verify_arrived(OrasRegistry(plain, settings=PLAIN))


def payload_bytes(sender: Sender) -> int:
    return sum(
        len(manifest.raw) + sum(blob.size for blob in manifest.blobs)
        for _, manifests in sender.kits
        for manifest in manifests
    )


@pytest.mark.slow
@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("program", ["docker-registry", "registry"])
def test_a_cut_costs_at_most_one_part(sender: Sender, tmp_path: Path, program: str, half_open: bool) -> None:
    sender.fill(96, MIB, seed=1)
    with docker_registry(tmp_path / program, program=program) as upstream:
        with CutProxy(upstream, mean_bytes=8 * MIB, seed=5, half_open=half_open) as link:
            registry = OrasRegistry(link.host, settings=PLAIN)
            transfer = Transfer(sender.state.layout, registry, Pace(clock=clock(Hours())), Tally())
            transfer.push(REPO, sender.kits[0][0])
        sender.verify_arrived(OrasRegistry(upstream, settings=PLAIN))
    payload = payload_bytes(sender)
    assert link.cuts >= 5
    assert link.sent <= 1.02 * payload + link.cuts * MIB
    # Version 2.8 drops the session with the line; version 3 keeps what arrived, and the device asks for it.
    assert link.sent <= (1.10 if program == "docker-registry" else 1.02) * payload


def test_a_clean_link_carries_two_percent_more_at_most(sender: Sender, plain: str) -> None:
    sender.fill(16, MIB, seed=2)
    with CutProxy(plain, mean_bytes=0, seed=0) as link:
        transfer = Transfer(sender.state.layout, OrasRegistry(link.host, settings=PLAIN), Pace(), Tally())
        transfer.push(REPO, sender.kits[0][0])
        assert link.sent / (16 * MIB) <= 1.02
        assert link.connections <= 2  # one connection serves the whole kit
