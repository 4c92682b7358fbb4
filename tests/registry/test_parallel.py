# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Many artifacts over a few connections: order, bounds, and errors of one that do not stop the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprov.errors import LimitError, LoginRefused, RegistryError, RegistryNotFound
from edgeprov.fleet.registries.parallel import ask_in_order, fetch_blobs, fetch_manifests
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import WaitClock
from tests.support.registries import Server
from tests.support.registry_front import registry_front
from tests.support.tls import write_credentials

REPO = "hospital/data"
CLOCK = WaitClock(sleep=lambda _: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "v2")
    server.start()
    yield server
    server.stop()


def filled(registry: OrasRegistry, count: int) -> tuple[list[Manifest], list[Descriptor]]:
    registry.push_blob(REPO, EMPTY_CONFIG, b"{}")
    manifests, blobs = [], []
    for number in range(count):
        data = f"blob {number}".encode() * 100
        blob = describe(data, "application/x-test")
        registry.push_blob(REPO, blob, data)
        manifest = build_manifest(config=EMPTY_CONFIG, layers=[blob])
        registry.push_manifest(REPO, manifest, tag=f"t{number}")
        manifests.append(manifest)
        blobs.append(blob)
    return manifests, blobs


def test_answers_come_in_order_and_one_fault_stops_nobody(server: Server) -> None:
    registry = OrasRegistry(server.host, settings=RegistrySettings(plain_http=True))
    manifests, blobs = filled(registry, 30)
    absent = describe(b"absent", "application/x-test")
    wanted = [(REPO, item.digest) for item in manifests]
    wanted.insert(7, (REPO, absent.digest))
    found = list(fetch_manifests(registry, iter(wanted), connections=4))
    assert [item.asked for item in found] == wanted
    assert [item.result().digest for number, item in enumerate(found) if number != 7] == [m.digest for m in manifests]
    with pytest.raises(RegistryNotFound):
        found[7].result()
    contents = list(fetch_blobs(registry, [(REPO, blob) for blob in [*blobs, absent]], max_bytes=900))
    assert [item.value for item in contents[:30]] == [f"blob {n}".encode() * 100 for n in range(30)]
    assert isinstance(contents[30].error, RegistryNotFound)
    (small,) = fetch_blobs(registry, [(REPO, blobs[0])], max_bytes=10)
    assert isinstance(small.error, LimitError)


def test_at_most_so_many_connections_and_results_are_held() -> None:
    now = most = asked = 0
    lock = threading.Lock()

    def ask(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return number

    def questions() -> Iterator[int]:
        nonlocal asked
        for number in range(10_000):
            asked += 1
            yield number

    answers = ask_in_order(ask, questions(), connections=3)
    assert [next(answers).value for _ in range(100)] == list(range(100))
    answers.close()  # type: ignore[attr-defined]
    assert most == 3
    assert asked <= 100 + 3 * 4


def test_a_busy_registry_is_asked_again_and_one_that_is_gone_ends_the_list(server: Server) -> None:
    failures = iter([RegistryError("busy", status=503), RegistryError("busy", status=429, retry_after_s=3)])

    def ask(number: int) -> int:
        if number == 1 and (error := next(failures, None)):
            raise error
        return number

    assert [item.value for item in ask_in_order(ask, range(3), connections=1, clock=CLOCK)] == [0, 1, 2]
    registry = OrasRegistry(server.host, settings=RegistrySettings(plain_http=True))
    manifests, _ = filled(registry, 3)
    server.stop()
    try:
        with pytest.raises(RegistryError):
            list(fetch_manifests(registry, [(REPO, item.digest) for item in manifests], clock=CLOCK))
    finally:
        server.start()


def test_a_refused_login_ends_the_list_with_few_requests(server: Server, tmp_path: Path) -> None:
    registry = OrasRegistry(server.host, settings=RegistrySettings(plain_http=True))
    manifests, _ = filled(registry, 1)
    with registry_front(server.host) as front:
        file = write_credentials(tmp_path / "bad.json", front.host, front.user, "wr0ng")
        settings = RegistrySettings(plain_http=True, credentials_file=file, token_hosts=(front.token_host,))
        answers = fetch_manifests(
            OrasRegistry(front.host, settings=settings), [(REPO, manifests[0].digest)] * 500, connections=4, clock=CLOCK
        )
        with pytest.raises(LoginRefused):
            list(answers)
        assert len(front.seen) <= 4
