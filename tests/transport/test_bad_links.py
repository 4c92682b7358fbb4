# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Links that fail: nothing is lost, little is sent twice, and a run always ends."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgeprov.device.transfer import Tally, Transfer
from edgeprov.device.upload import upload
from edgeprov.limits import MIB
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import Pace, WaitClock
from tests.support.faultproxy import GUARDED_FAULTS, CutProxy, FaultProxy, Guard
from tests.support.registries import docker_registry
from tests.support.sender import REPO, Hours, Sender
from tests.support.tls import NOW, TokenServer, server_context, token_server, write_credentials

QUICK: dict[str, Any] = {"connect_s": 2, "read_s": 0.5}
PLAIN = RegistrySettings(plain_http=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("v2")) as host:
        yield host


@dataclass
class Ward:
    """A registry that takes tokens only, to be reached through a proxy with TLS: the way a hospital has it."""

    host: str
    tokens: TokenServer
    folder: Path

    def settings(self, host: str, **options: Any) -> RegistrySettings:
        credentials = write_credentials(self.folder / "config.json", host, self.tokens.user, self.tokens.password)
        realm = urlsplit(self.tokens.realm).netloc
        ca = self.tokens.authority.file
        return RegistrySettings(credentials_file=credentials, ca_file=ca, token_hosts=(realm,), **options)

    def link(self, *, seed: int, share: float, limit: int, kinds: Sequence[str] = GUARDED_FAULTS) -> FaultProxy:
        issue = self.tokens.authority.issue
        today, past, future = (
            server_context(issue(name, start=NOW + dt.timedelta(days=days)))
            for name, days in (("today", -1), ("past", -365), ("future", 365))
        )
        guard = Guard(today, (past, future), self.tokens.token("", lifetime_s=-3600))
        return FaultProxy(self.host, seed=seed, share=share, limit=limit, kinds=kinds, guard=guard)

    def registry(self) -> OrasRegistry:
        """The way round the proxy."""
        return OrasRegistry(self.host, settings=self.settings(self.host, plain_http=True))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    with token_server(folder, tls=True) as tokens:
        token = {"realm": tokens.realm, "service": "registry", "issuer": "tests"}
        auth = {"token": {**token, "rootcertbundle": str(tokens.certificate)}}
        with docker_registry(folder / "v2", auth=auth) as host:
            yield Ward(host, tokens, folder)


@pytest.fixture(scope="module")
def happened(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Faults of all seeds by kind; a kind that never occurred is an error."""
    faults: Counter[str] = Counter()
    yield faults
    told = ", ".join(f"{kind} {faults[kind]}" for kind in GUARDED_FAULTS)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        request.config.pluginmanager.getplugin("terminalreporter").write_line(f"\n{faults.total()} faults: {told}")
    assert all(faults[kind] for kind in GUARDED_FAULTS)


def clock(hours: Hours) -> WaitClock:
    return WaitClock(monotonic=hours.monotonic, sleep=hours.sleep, chance=hours.chance)


def run_until_empty(sender: Sender, registry: OrasRegistry, monkeypatch: pytest.MonkeyPatch, runs: int = 200) -> int:
    """Timer runs until nothing is left; returns how many it took."""
    monkeypatch.setattr("edgeprov.device.upload.open_registry", lambda *_, **__: registry)
    context = sender.context(registry.name)
    for number in range(1, runs + 1):
        result = upload(context, clock=clock(Hours(number)))
        registry._refused = None  # a run opens a registry of its own: here one keeps its connections over all runs
        assert not result.parked, result.parked
        sender.verify_nothing_lost()
        if not result.queued:
            return number
    raise AssertionError(f"{result.queued} left after {runs} runs: {result.error}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_faults_lose_nothing(
    sender: Sender, ward: Ward, monkeypatch: pytest.MonkeyPatch, happened: Counter[str], seed: int
) -> None:
    with ward.link(seed=seed, share=0.45, limit=100).serve() as link:
        registry = OrasRegistry(link.host, settings=ward.settings(link.host, **QUICK))
        while link.chosen < 100 or sender.state.outbox():
            if not sender.state.outbox():
                sender.fill(6, 2_000, seed=1000 + seed)
            run_until_empty(sender, registry, monkeypatch)
    happened.update(link.faults)
    assert link.faults.total() == 100
    assert set(link.faults) == set(GUARDED_FAULTS)
    assert link.trusted_wrongly == 0
    sender.verify_arrived(ward.registry())


@pytest.mark.slow
@pytest.mark.parametrize("kind", GUARDED_FAULTS)
def test_each_kind_of_fault_is_survived(sender: Sender, ward: Ward, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sender.fill(2, 5_000, seed=GUARDED_FAULTS.index(kind))
    with ward.link(seed=7, share=0.5, limit=4, kinds=(kind,)).serve() as link:
        run_until_empty(sender, OrasRegistry(link.host, settings=ward.settings(link.host, **QUICK)), monkeypatch)
        assert link.faults == {kind: 4}
    sender.verify_arrived(ward.registry())


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
