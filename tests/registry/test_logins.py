# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens from another host, blobs from a store, and all that may go wrong there; behind the front is a real registry."""

from __future__ import annotations

import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import (
    ConfigError,
    DigestMismatch,
    EdgeprovError,
    LoginRefused,
    RegistryDenied,
    RegistryError,
    RegistryProtocolError,
)
from edgeprov.formats.descriptor import describe
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from tests.support.registries import docker_registry
from tests.support.registry_front import Front, registry_front
from tests.support.tls import write_credentials

BLOB = describe(b"content", "application/x-test")
MANIFEST = build_manifest(config=EMPTY_CONFIG, layers=[])
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("v2")) as host:
        yield host


@pytest.fixture
def front(upstream: str) -> Iterator[Front]:
    with registry_front(upstream) as made:
        yield made


def settings(front: Front, folder: Path, **options: Any) -> RegistrySettings:
    file = write_credentials(folder / "config.json", front.host, front.user, front.password)
    kept = {
        "plain_http": True,
        "credentials_file": file,
        "token_hosts": (front.token_host,),
        "connect_s": 2,
        "read_s": 2,
    }
    return RegistrySettings(**{**kept, **options})


def opened(front: Front, folder: Path, **options: Any) -> OrasRegistry:
    return OrasRegistry(front.host, settings=settings(front, folder, **options))


def round_trip(registry: OrasRegistry, repo: str = "hospital/data") -> None:
    registry.push_blob(repo, BLOB, b"content")
    assert b"".join(registry.fetch_blob(repo, BLOB)) == b"content"
    registry.push_blob(repo, EMPTY_CONFIG, b"{}")
    registry.push_manifest(repo, MANIFEST, tag="t")
    assert registry.fetch_manifest(repo, "t").digest == MANIFEST.digest


def test_a_password_goes_to_the_token_server_and_tokens_to_the_registry(front: Front, tmp_path: Path) -> None:
    registry = opened(front, tmp_path)
    round_trip(registry)
    assert len(front.granted) == 2, "one token to read, and one that reads and writes from then on"
    assert sum(item.endswith(" 401") for item in front.seen) == 1, "later tokens are asked for in advance"
    round_trip(registry, "hospital/other")
    assert len(front.granted) == 4
    assert sum(item.endswith(" 401") for item in front.seen) == 1


def test_an_identity_token_is_exchanged(front: Front, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {front.host: {"identitytoken": front.identity_token}}}))
    options = {"plain_http": True, "credentials_file": file, "token_hosts": (front.token_host,)}
    round_trip(OrasRegistry(front.host, settings=RegistrySettings(**options)))
    assert set(front.accounts) == {"identity token"}


def test_credentials_for_one_path_are_used_for_that_path(front: Front, tmp_path: Path) -> None:
    file = write_credentials(tmp_path / "podman.json", f"{front.host}/hospital/data", front.user, front.password)
    registry = opened(front, tmp_path, credentials_file=file)
    round_trip(registry)
    with pytest.raises(LoginRefused, match="anonymous access"):
        round_trip(registry, "other/data")


def test_a_token_that_ends_in_the_middle_of_an_upload_is_renewed_without_a_challenge(
    front: Front, tmp_path: Path
) -> None:
    registry = opened(front, tmp_path)
    for number in range(6):
        data = f"part {number}".encode()
        registry.push_blob("hospital/data", describe(data, "application/x-test"), data)
        for token, (scopes, _) in list(front.tokens.items()):
            front.tokens[token] = scopes, time.monotonic() - 1
    assert len(front.granted) >= 6


def test_a_token_is_renewed_before_it_ends(front: Front, tmp_path: Path) -> None:
    front.lifetime_s = 1.0
    registry = opened(front, tmp_path)
    registry.push_blob("hospital/data", BLOB, b"content")
    time.sleep(1.05)  # a token that was kept would be refused now
    refused = sum(item.endswith(" 401") for item in front.seen)
    registry.head_blob("hospital/data", BLOB.digest)
    assert sum(item.endswith(" 401") for item in front.seen) == refused


def test_a_refused_login_ends_all_requests_to_the_registry(front: Front, tmp_path: Path) -> None:
    file = write_credentials(tmp_path / "bad.json", front.host, front.user, "wr0ng")
    registry = OrasRegistry(front.host, settings=settings(front, tmp_path, credentials_file=file))
    for _ in range(3):
        with pytest.raises(LoginRefused, match="token server") as caught:
            registry.list_tags("hospital/data")
        assert str(file) in caught.value.advice
        assert "wr0ng" not in str(caught.value)
        assert not caught.value.retryable
    assert len(front.granted) == 1
    assert len(front.seen) == 1


def test_a_fresh_token_that_is_refused_ends_all_requests(front: Front, tmp_path: Path) -> None:
    front.forbidden = "repository:hospital/closed"
    registry = opened(front, tmp_path)
    round_trip(registry)
    with pytest.raises(LoginRefused, match="401"):
        registry.list_tags("hospital/closed")
    before = len(front.seen)
    with pytest.raises(LoginRefused):
        registry.list_tags("hospital/data")
    assert len(front.seen) == before


@pytest.mark.parametrize(
    "path", ["_catalog?n=1000", "hospital/data/blobs/uploads/?mount=sha256:0&from=hospital/closed"]
)
def test_a_catalogue_or_a_mount_that_is_refused_ends_nothing(front: Front, tmp_path: Path, path: str) -> None:
    front.forbidden = "registry:catalog" if path.startswith("_") else "repository:hospital/closed"
    registry = opened(front, tmp_path)
    with pytest.raises(RegistryDenied) as caught:
        registry._send("GET" if path.startswith("_") else "POST", path)
    assert not isinstance(caught.value, LoginRefused)
    round_trip(registry)


def test_a_registry_that_wants_an_account_says_where_to_write_it(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    anonymous = RegistrySettings(plain_http=True, token_hosts=(front.token_host,))
    with pytest.raises(LoginRefused, match="anonymous access") as caught:
        OrasRegistry(front.host, settings=anonymous).list_tags("a")
    assert "registry.credentials_file" in caught.value.advice
    (tmp_path / ".docker").mkdir()
    write_credentials(tmp_path / ".docker/config.json", front.host, front.user, front.password)
    round_trip(OrasRegistry(front.host, settings=anonymous))


def test_a_token_server_that_was_not_allowed_gets_nothing(front: Front, tmp_path: Path) -> None:
    with pytest.raises(RegistryDenied, match="not allowed") as caught:
        round_trip(opened(front, tmp_path, token_hosts=(), allow_hosts=(front.token_host,)))
    assert "registry.token_hosts" in caught.value.advice
    assert front.granted == []


# -- bad answers of a token server -------------------------------------------------------------------

_HUGE = gzip.compress(b" " * 50_000_000)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, {}, b"{}"), RegistryProtocolError),
        ((200, {}, b'{"token": 7}'), RegistryProtocolError),
        ((200, {}, b'{"token": "a b\\r\\nX: y"}'), RegistryProtocolError),
        ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), RegistryProtocolError),
        ((200, {}, b" " * 3_000_000), RegistryProtocolError),
        ((200, {"Content-Encoding": "gzip"}, _HUGE), RegistryProtocolError),
        ((302, {"Location": "http://evil.example/"}, b""), RegistryProtocolError),
        ((401, {}, b""), LoginRefused),
        ((403, {}, b"x" * 3_000_000), LoginRefused),
        ((404, {}, b""), RegistryProtocolError),
        ((429, {"Retry-After": "7"}, b""), RegistryError),
        ((503, {}, b""), RegistryError),
        ((200, {"Content-Length": "500"}, b'{"token"'), RegistryError),
    ],
)
def test_a_bad_answer_of_a_token_server_is_an_error_of_the_table(
    front: Front, tmp_path: Path, answer: Answer, kind: type[EdgeprovError]
) -> None:
    front.token_answer = lambda: answer
    registry = opened(front, tmp_path, read_s=0.5)
    tracemalloc.start()
    try:
        with pytest.raises(EdgeprovError) as caught:
            registry.list_tags("a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(caught.value) is kind, caught.value
    assert caught.value.retryable is (kind is RegistryError)
    assert "token server" in caught.value.message or "cut" in caught.value.message
    assert peak < 10_000_000
    if answer[0] == 429:
        assert caught.value.retry_after_s == 7  # type: ignore[attr-defined]


class _Drip:
    """A raw server: the head of an answer, then a byte now and then until it is told to stop."""

    def __init__(self, head: bytes) -> None:
        import socket

        self.head = head
        self.stop = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self.head)
            try:
                while not self.stop.wait(0.1):
                    connection.sendall(b"x")
            except OSError:
                return

    def close(self) -> None:
        self.stop.set()
        self.thread.join(5)
        self.socket.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 401 No\r\nContent-Length: 99999\r\n\r\n",
    ],
    ids=["headers", "body", "refusal"],
)
@pytest.mark.parametrize("whose", ["registry", "token server"])
def test_a_server_that_drips_does_not_hold_a_run(front: Front, tmp_path: Path, head: bytes, whose: str) -> None:
    drip = _Drip(head)
    try:
        if whose == "registry":
            registry = OrasRegistry(drip.host, settings=RegistrySettings(plain_http=True, read_s=1))
        else:
            front.token_host = drip.host
            registry = opened(front, tmp_path, read_s=1)
        began = time.monotonic()
        with pytest.raises(RegistryError):
            registry.list_tags("a")
        assert time.monotonic() - began < 5
    finally:
        drip.close()


def test_a_slow_answer_that_goes_on_is_waited_for() -> None:
    """The rate is judged in windows: an answer that takes several of them is none that drips."""
    import socket

    body = b'{"tags":["t"]}' + b" " * 4000
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                for at in range(0, len(body), 200):
                    time.sleep(0.1)
                    connection.sendall(body[at : at + 200])

        thread = threading.Thread(target=serve)
        thread.start()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        registry = OrasRegistry(host, settings=RegistrySettings(plain_http=True, read_s=0.5, min_bytes_per_s=500))
        assert registry.list_tags("a") == ("t",)
        thread.join()


# -- blobs from a store ------------------------------------------------------------------------------


def test_blobs_come_from_an_allowed_store_that_gets_no_credentials(front: Front, tmp_path: Path) -> None:
    front.redirect_blobs = True
    registry = opened(front, tmp_path, allow_hosts=(front.store_host,))
    round_trip(registry)
    assert registry.head_blob("hospital/data", BLOB.digest) == BLOB.size
    assert b"".join(registry.fetch_blob("hospital/data", BLOB, offset=3)) == b"tent"
    assert front.authorizations == []


@pytest.mark.parametrize(
    "place",
    [
        "http://evil.example/blob",
        "http://127.0.0.1:1/blob",
        "file:///etc/passwd",
        "http://[::1/x",
        "//user@evil.example/x",
    ],
)
def test_blobs_come_from_nowhere_else(front: Front, tmp_path: Path, place: str) -> None:
    registry = opened(front, tmp_path)
    round_trip(registry)
    front.redirect_blobs, front.store_location = True, lambda _: place
    with pytest.raises((RegistryDenied, RegistryProtocolError)):
        list(registry.fetch_blob("hospital/data", BLOB))


def test_a_token_host_is_no_blob_host(front: Front, tmp_path: Path) -> None:
    registry = opened(front, tmp_path)
    round_trip(registry)
    front.redirect_blobs, front.store_location = True, lambda path: f"http://{front.token_host}{path}"
    with pytest.raises(RegistryDenied, match="not allowed") as caught:
        list(registry.fetch_blob("hospital/data", BLOB))
    assert "registry.allow_hosts" in caught.value.advice


def test_a_store_that_sends_other_bytes_is_found_out(front: Front, tmp_path: Path) -> None:
    registry = opened(front, tmp_path, allow_hosts=(front.store_host,))
    round_trip(registry)
    other = describe(b"0therwi", "application/x-test")
    registry.push_blob("hospital/data", other, b"0therwi")
    front.redirect_blobs = True
    front.store_location = lambda path: f"http://{front.store_host}{path.replace(str(BLOB.digest), str(other.digest))}"
    with pytest.raises(DigestMismatch):
        list(registry.fetch_blob("hospital/data", BLOB))


def test_a_credentials_file_that_is_damaged_is_told_before_anything_is_sent(front: Front, tmp_path: Path) -> None:
    file = tmp_path / "damaged.json"
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"damaged\.json"):
        OrasRegistry(front.host, settings=settings(front, tmp_path, credentials_file=file))
    assert front.seen == []


def test_threads_share_tokens(front: Front, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    registry = opened(front, tmp_path)
    round_trip(registry)
    fetched = len(front.granted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.head_manifest("hospital/data", "t"), range(40)))
    assert {item.digest for item in found if item} == {MANIFEST.digest}
    assert len(front.granted) == fetched
