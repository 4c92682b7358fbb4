# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A server that is no registry, or lies: every answer is an error of the table, bounded in time and memory."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edgeprov.errors import (
    DigestMismatch,
    EdgeprovError,
    FormatError,
    RegistryDenied,
    RegistryError,
    RegistryProtocolError,
)
from edgeprov.formats.descriptor import describe
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings

BLOB = describe(b"x" * 1000, "application/x-test")
MANIFEST = build_manifest(config=EMPTY_CONFIG, layers=[])
CUT_LATER = "X-Cut-Later"
CUT = b"the line is cut among the headers of the answer"
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def server(respond: Callable[[str, str, int], Answer]) -> Iterator[OrasRegistry]:
    """A registry at whose other end ``respond(method, path, call number)`` gives every answer."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            if length := int(self.headers.get("Content-Length") or 0):
                self.rfile.read(length)
            calls.append(self.path)
            status, headers, body = respond(self.command, self.path, len(calls))
            if body is CUT:
                self.wfile.write(
                    f"HTTP/1.1 {status} Whatever\r\n".encode()
                    + (b"Content-Length: 0" if CUT_LATER in headers else b"Content-Ty")
                )
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            if len(body) < int(headers.get("Content-Length", 0)):
                self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # the client hangs up on what it refuses

    with Server(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            settings = RegistrySettings(plain_http=True, connect_s=2, read_s=2)
            yield OrasRegistry(f"127.0.0.1:{httpd.server_address[1]}", settings=settings)
        finally:
            httpd.shutdown()
            thread.join()


PORTAL: Answer = (200, {"Content-Type": "text/html"}, b"<html>Welcome to the hotel. Please pay.</html>")


CALLS = pytest.mark.parametrize(
    "call",
    [
        lambda r: r.fetch_manifest("a", MANIFEST.digest),
        lambda r: r.fetch_manifest("a", "tag"),
        lambda r: r.head_manifest("a", "tag"),
        lambda r: r.head_manifest("a", str(MANIFEST.digest)),
        lambda r: list(r.fetch_blob("a", BLOB)),
        lambda r: r.push_blob("a", BLOB, b"x" * 1000),
        lambda r: r.push_manifest("a", MANIFEST, tag="t"),
        lambda r: r.list_tags("a"),
        lambda r: r.list_referrers("a", MANIFEST.digest),
        lambda r: r.list_repositories(),
    ],
)


@CALLS
def test_a_captive_portal_is_never_believed(call: Callable[[OrasRegistry], object]) -> None:
    with server(lambda *_: PORTAL) as registry, pytest.raises(EdgeprovError) as caught:
        call(registry)
    assert isinstance(caught.value, RegistryError | DigestMismatch | FormatError)


def _keep_the_error(call: Callable[[OrasRegistry], object], registry: OrasRegistry) -> None:
    """An error that is kept holds its frames, and they hold the error: only the collector ends what they hold."""
    kept = None
    try:
        call(registry)
    except EdgeprovError as error:
        kept = error
    assert kept is None or kept.__traceback__ is not None


@CALLS
@pytest.mark.slow
@pytest.mark.parametrize("status", [201, 202, 401])
@pytest.mark.parametrize("headers", [{}, {CUT_LATER: "yes"}], ids=["early", "later"])
def test_an_answer_that_was_cut_leaves_no_socket_open(
    call: Callable[[OrasRegistry], object], status: int, headers: dict[str, str]
) -> None:
    def respond(method: str, *_: object) -> Answer:
        return (404, {}, b"") if method == "HEAD" else (status, headers, CUT)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with server(respond) as registry:
            _keep_the_error(call, registry)
        del registry
        gc.collect()
    assert not [str(item.message) for item in told if issubclass(item.category, ResourceWarning)]


def test_a_longer_blob_is_cut_off_at_its_size() -> None:
    with server(lambda *_: (200, {}, b"x" * 5_000_000)) as registry:
        got = 0
        with pytest.raises(DigestMismatch):
            for chunk in registry.fetch_blob("a", BLOB):
                got += len(chunk)
        assert got <= BLOB.size


def test_a_truncated_blob_is_worth_a_retry_and_other_bytes_are_not() -> None:
    with server(lambda *_: (200, {}, b"x" * 10)) as registry, pytest.raises(RegistryError) as caught:
        list(registry.fetch_blob("a", BLOB))
    assert caught.value.retryable
    with server(lambda *_: (200, {"Content-Length": "1000"}, b"x" * 10)) as registry, pytest.raises(RegistryError):
        list(registry.fetch_blob("a", BLOB))
    with server(lambda *_: (200, {}, b"y" * 1000)) as registry, pytest.raises(DigestMismatch):
        list(registry.fetch_blob("a", BLOB))


def test_a_manifest_over_four_mebibytes_is_refused_before_it_is_parsed() -> None:
    with server(lambda *_: (200, {}, b" " * (4 * 1024 * 1024 + 1))) as registry, pytest.raises(RegistryProtocolError):
        registry.fetch_manifest("a", "tag")


def test_another_manifest_for_a_digest_or_a_lying_digest_header_is_refused() -> None:
    with server(lambda *_: (200, {}, MANIFEST.raw)) as registry, pytest.raises(DigestMismatch):
        registry.fetch_manifest("a", BLOB.digest)
    lying = {"Docker-Content-Digest": str(BLOB.digest)}
    with server(lambda *_: (200, lying, MANIFEST.raw)) as registry, pytest.raises(DigestMismatch):
        registry.fetch_manifest("a", "tag")
    with server(lambda *_: (201, lying, b"")) as registry, pytest.raises(DigestMismatch):
        registry.push_manifest("a", MANIFEST)


def test_an_endless_list_ends() -> None:
    def next_page(_: str, path: str, number: int) -> Answer:
        return 200, {"Link": f'</v2/a/tags/list?last={number % 3}>; rel="next"'}, b'{"tags":["t"]}'

    with server(next_page) as registry, pytest.raises(RegistryProtocolError, match="does not end"):
        registry.list_tags("a")


@pytest.mark.parametrize(
    "body", [b"[]", b'{"tags":{}}', b'{"tags":[1]}', b'{"tags":["a"],"tags":["b"]}', b"{", b"\xff"]
)
def test_a_list_of_the_wrong_type_is_refused(body: bytes) -> None:
    with server(lambda *_: (200, {}, body)) as registry, pytest.raises(RegistryProtocolError):
        registry.list_tags("a")


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/upload", "http://evil.example/upload", "file:///etc/passwd"])
def test_an_upload_is_not_led_to_another_host(place: str) -> None:
    def respond(method: str, _: str, __: int) -> Answer:
        return (404, {}, b"") if method == "HEAD" else (202, {"Location": place}, b"")

    with server(respond) as registry, pytest.raises(RegistryError) as caught:
        registry.push_blob("a", BLOB, b"x" * 1000)
    assert isinstance(caught.value, RegistryDenied | RegistryProtocolError)


def test_a_download_is_not_led_to_another_host() -> None:
    with server(lambda *_: (307, {"Location": "http://evil.example/blob"}, b"")) as registry:
        with pytest.raises(RegistryDenied, match="not allowed") as caught:
            list(registry.fetch_blob("a", BLOB))
    assert "allow_hosts" in caught.value.advice


def test_redirects_without_end_end() -> None:
    with server(lambda _, path, __: (307, {"Location": path}, b"")) as registry, pytest.raises(RegistryProtocolError):
        list(registry.fetch_blob("a", BLOB))


@pytest.mark.parametrize("place", ["/v2/other", "http://evil.example/x", "http://[::1/x"])
def test_the_body_of_a_redirect_is_not_read_into_memory(place: str) -> None:
    page = b"x" * 40_000_000
    with server(lambda *_: (307, {"Location": place}, page)) as registry:
        tracemalloc.start()
        try:
            with pytest.raises(RegistryError):
                list(registry.fetch_blob("a", BLOB))
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def test_a_token_realm_elsewhere_gets_no_credentials() -> None:
    challenge = {"Www-Authenticate": 'Bearer realm="http://evil.example/token",service="x",scope="y"'}
    with server(lambda *_: (401, challenge, b"")) as registry, pytest.raises(RegistryDenied):
        registry.list_tags("a")


def test_a_refusal_that_was_cut_is_worth_another_try() -> None:
    """A challenge that did not arrive refuses nothing: the kit is not parked for it."""
    with server(lambda *_: (401, {}, CUT)) as registry, pytest.raises(RegistryError) as caught:
        registry.list_tags("a")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(401, False), (403, False), (400, False), (429, True), (500, True), (502, True), (503, True)],
)
def test_each_status_is_an_error_of_the_table(status: int, retryable: bool) -> None:
    with server(lambda *_: (status, {"Retry-After": "7"}, b"{}")) as registry, pytest.raises(RegistryError) as caught:
        registry.list_tags("a")
    assert caught.value.retryable is retryable
    assert caught.value.status == status
    if retryable:
        assert caught.value.retry_after_s == 7


def test_a_compressed_answer_that_nobody_asked_for_is_refused() -> None:
    with server(lambda *_: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")) as registry:
        with pytest.raises(RegistryError):
            registry.fetch_manifest("a", "tag")


def test_a_silent_server_does_not_hold_the_device() -> None:
    hang = threading.Event()

    def respond(*_: object) -> Answer:
        hang.wait(10)
        return PORTAL

    with server(respond) as registry:
        try:
            with pytest.raises(RegistryError, match="timed out"):
                registry.list_tags("a")
        finally:
            hang.set()


@pytest.mark.parametrize(
    ("answer", "code", "said", "advice"),
    [
        ((401, {}, b""), 41, "401 Unauthorized", "credentials"),
        ((401, {"Www-Authenticate": "Negotiate"}, b""), 41, "401 Unauthorized", "credentials"),
        ((302, {"Location": "http://portal.example/login"}, b""), 41, "http://portal.example", "captive portal"),
        ((413, {}, b"<html>"), 44, "413", "seal.part_bytes"),
        ((429, {"Retry-After": "3600"}, b""), 40, "429 Too Many Requests, and asks to wait 3600 s", "next run"),
        ((500, {}, b'{"errors": [{"code": "UNKNOWN"}]}'), 40, "500 Internal Server Error (UNKNOWN)", "its operator"),
        ((507, {}, b""), 40, "507 Insufficient Storage", "its operator"),
        ((599, {}, b""), 40, "answered 599", "its operator"),
    ],
)
def test_a_refusal_says_what_why_and_what_to_do(answer: Answer, code: int, said: str, advice: str) -> None:
    repo = f"a/{'8f7649b1b36b' * 5}abcd"
    with server(lambda *_: answer) as registry, pytest.raises(RegistryError) as caught:
        registry.list_tags(repo)
    assert caught.value.exit_code == code
    assert said in caught.value.message
    assert advice in caught.value.advice
    assert len(caught.value.message) < 150, "digests are cut short: a person reads this"


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.fetch_manifest("a", MANIFEST.digest),
        lambda r: b"".join(r.fetch_blob("a", BLOB)),
        lambda r: b"".join(r.fetch_blob("a", BLOB, offset=10)),
    ],
)
def test_the_page_of_a_captive_portal_is_not_taken_for_damage(call: Callable[[OrasRegistry], object]) -> None:
    with server(lambda *_: PORTAL) as registry, pytest.raises(RegistryProtocolError, match="web page") as caught:
        call(registry)
    assert "captive portal" in caught.value.advice


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "Tue, 01 Dec 2026 10:00:30 GMT", "Date": "Tue, 01 Dec 2026 10:00:00 GMT"}, 30),
        ({"Retry-After": "Tue, 01 Dec 2026 09:00:00 GMT", "Date": "Tue, 01 Dec 2026 10:00:00 GMT"}, 0),
        ({"Retry-After": "soon", "Date": "Tue, 01 Dec 2026 10:00:00 GMT"}, None),
        ({"Retry-After": "99999999999"}, None),
    ],
)
def test_a_date_to_come_back_counts_from_the_registrys_clock(headers: dict[str, str], seconds: float | None) -> None:
    from types import SimpleNamespace

    from edgeprov.registry.responses import read_retry_after

    assert read_retry_after(SimpleNamespace(headers=headers)) == seconds  # type: ignore[arg-type]


def test_a_catalogue_without_end_is_refused() -> None:
    names = ",".join(f'"repository-{number}"' for number in range(400_000)).encode()

    def page(_: str, __: str, number: int) -> Answer:
        body = b'{"repositories":[' + names.replace(b"repository", b"r%d" % number) + b"]}"
        return 200, {"Link": f'</v2/_catalog?last={number}>; rel="next"'}, body

    with server(page) as registry, pytest.raises(RegistryProtocolError, match="lists more than 1000000"):
        registry.list_repositories()
