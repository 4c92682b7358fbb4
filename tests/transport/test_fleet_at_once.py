# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Five hundred devices at once, against registries with and without the referrers API: no kit, no link is lost."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeprov.device.transfer import Tally, Transfer
from edgeprov.limits import MIB
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import Pace
from tests.support.peers import referrers_registry
from tests.support.registries import docker_registry
from tests.support.sender import REPO, Sender

DEVICES = 500
AT_ONCE = 50
PLAIN = RegistrySettings(plain_http=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["docker-registry", "registry", "referrers"])
def test_five_hundred_devices_lose_nothing(tmp_path: Path, kind: str) -> None:
    senders = []
    for number in range(DEVICES):
        sender = Sender(tmp_path / f"d{number}", f"ward-{number:03}")
        sender.fill(1, 3_000, seed=number)
        senders.append(sender)
    failed: list[BaseException] = []

    def send(sender: Sender, host: str) -> None:
        try:
            transfer = Transfer(sender.state.layout, OrasRegistry(host, settings=PLAIN), Pace(), Tally())
            for entry, _ in sender.kits:
                transfer.push(REPO, entry)
        except BaseException as error:
            failed.append(error)

    def all_of_them(host: str) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda sender: send(sender, host), senders))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert failed == []
        assert grown < 2 * AT_ONCE * MIB  # what one device holds does not grow with the fleet
        registry = OrasRegistry(host, settings=PLAIN)
        assert set(registry.list_tags(REPO)) >= {sender.kits[0][0].tag for sender in senders}
        for sender in senders:
            entry, manifests = sender.kits[0]
            found = {item.digest for item in registry.list_referrers(REPO, entry.digest)}
            assert found == {item.digest for item in manifests[1:]}

    if kind == "referrers":
        with referrers_registry() as client:
            all_of_them(client.host)
    else:
        with docker_registry(tmp_path / "server", program=kind) as host:
            all_of_them(host)
