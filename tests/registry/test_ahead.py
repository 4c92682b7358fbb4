# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What is done before the turn of a part: early, never twice, and forgotten when it went wrong."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edgeprov.device.transfer import Tally, Transfer
from edgeprov.errors import DigestMismatch, RegistryDenied, RegistryError
from edgeprov.formats.descriptor import describe
from edgeprov.registry.base import NextBlob
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from edgeprov.registry.retry import Pace
from edgeprov.registry.upload_prefetch import Prefetcher, UploadSession
from tests.support.registries import docker_registry
from tests.support.sender import REPO, Sender

ONE, TWO = (NextBlob(describe(data, ""), partial(BytesIO, data)) for data in (b"one", b"two"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def test_an_answer_is_given_once_and_only_to_who_asked() -> None:
    asked: list[tuple[str, NextBlob]] = []

    def ask(repo: str, blob: NextBlob) -> UploadSession:
        asked.append((repo, blob))
        return UploadSession("session")

    ahead = Prefetcher(ask)
    assert ahead.take("repo", ONE.descriptor.digest) is None
    ahead.start("repo", ONE)
    ahead.start("repo", ONE)
    assert ahead.take("repo", TWO.descriptor.digest) is None
    assert ahead.take("elsewhere", ONE.descriptor.digest) is None
    assert ahead.take("repo", ONE.descriptor.digest) == UploadSession("session")
    assert ahead.take("repo", ONE.descriptor.digest) is None
    assert asked == [("repo", ONE)]


@pytest.mark.parametrize("error", [RegistryError("cut"), RegistryDenied("no"), MemoryError()])
def test_what_went_wrong_early_is_asked_again_in_turn(error: Exception) -> None:
    def ask(*_: object) -> UploadSession:
        raise error

    ahead = Prefetcher(ask)
    for _ in range(2):  # and the thread goes on
        ahead.start("repo", ONE)
        assert ahead.take("repo", ONE.descriptor.digest) is None


def test_after_a_cut_no_session_is_believed() -> None:
    ahead = Prefetcher(lambda *_: UploadSession("of a registry that was started anew"))
    ahead.start("repo", ONE)
    ahead.forget()
    assert ahead.take("repo", ONE.descriptor.digest) is None


@pytest.mark.parametrize("program", ["docker-registry", pytest.param("registry", marks=pytest.mark.slow)])
def test_the_next_part_is_prepared_during_this_one_and_one_body_is_on_the_wire(tmp_path: Path, program: str) -> None:
    sender = Sender(tmp_path / "device")
    sender.fill(5, 100_000)
    sessions = bodies = most = parts = 0
    changed = threading.Condition()
    with docker_registry(tmp_path / "registry", program=program) as host:
        registry = OrasRegistry(host, settings=RegistrySettings(plain_http=True))
        inner = registry._transport.send

        def send(method: str, url: str, **options: Any) -> Any:
            nonlocal sessions, bodies, most, parts
            is_part = method == "PUT" and len(options.get("data") or b"") == 100_000
            if is_part:
                with changed:
                    parts += 1
                    bodies += 1
                    most = max(most, bodies)
                    # This body is held back until the session of the part after it is open.
                    assert changed.wait_for(lambda: sessions > parts or parts == 5, timeout=20), "nothing was prepared"
            answer = inner(method, url, **options)
            with changed:
                bodies -= is_part
                sessions += method == "POST"
                changed.notify_all()
            return answer

        registry._transport.send = send  # type: ignore[method-assign]
        Transfer(sender.state.layout, registry, Pace(), Tally()).push(REPO, sender.kits[0][0])
        registry._transport.send = inner  # type: ignore[method-assign]
        sender.verify_arrived(registry)
    assert (parts, most) == (5, 1)


def test_the_body_of_the_next_part_is_read_early_and_only_where_it_is_missing(plain: str) -> None:
    registry = OrasRegistry(plain, settings=RegistrySettings(plain_http=True))
    opened = threading.Event()

    def read(data: bytes) -> BytesIO:
        opened.set()
        return BytesIO(data)

    missing = NextBlob(describe(b"missing", ""), lambda: read(b"missing"))
    assert registry.push_blob(REPO, describe(b"first", ""), b"first", following=missing)
    assert opened.wait(timeout=20)
    assert registry.push_blob(REPO, missing.descriptor, BytesIO(b"not looked at: it was read before"))
    opened.clear()
    assert not registry.push_blob(REPO, describe(b"first", ""), b"first", following=missing)
    assert not registry.push_blob(REPO, missing.descriptor, BytesIO(b""))
    assert not opened.is_set()


def test_a_body_that_is_another_one_is_refused_in_its_turn(plain: str) -> None:
    registry = OrasRegistry(plain, settings=RegistrySettings(plain_http=True))
    damaged = NextBlob(describe(b"as it was", ""), lambda: BytesIO(b"damaged!!"))
    assert registry.push_blob(REPO, describe(b"first of two", ""), b"first of two", following=damaged)
    with pytest.raises(DigestMismatch):
        registry.push_blob(REPO, damaged.descriptor, BytesIO(b"damaged!!"))
    assert registry.head_blob(REPO, damaged.descriptor.digest) is None


def test_nothing_keeps_a_registry_that_is_no_longer_used(plain: str) -> None:
    """Its connections would stay open in a process that goes on, as an application's."""
    registry = OrasRegistry(plain, settings=RegistrySettings(plain_http=True))
    for data, following in ((b"three", ONE), (b"one", TWO), (b"two", None)):
        registry.push_blob(REPO, describe(data, ""), data, following=following)
    for thread in threading.enumerate():
        if thread.name == "registry-ahead":  # the last may have answered, but not ended
            thread.join(10)
            assert not thread.is_alive()
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None
