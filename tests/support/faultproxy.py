# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bad links, seeded: one proxy that cuts connections after so many bytes, one that breaks single requests.

CutProxy knows nothing of HTTP: it counts the bytes that the client sends and cuts, either cleanly on
both sides or half-open (the server goes on waiting, as after a radio hole). FaultProxy understands
requests: it drops, stalls, truncates, repeats and delays them, and answers in the server's place. Where
it speaks TLS it can be a server whose certificate the device's clock makes worthless, and where the
registry asks for tokens it can let one expire on the way.
"""

from __future__ import annotations

import http.client
import queue
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

CHUNK = 16 * 1024


class CutProxy:
    """A TCP proxy whose connections live for an exponentially distributed number of client bytes.

    Attributes:
        sent: Bytes that clients sent, whether or not they reached the server.
        cuts: Connections that were cut.
        connections: Connections that were opened.
    """

    def __init__(self, upstream: str, *, mean_bytes: float, seed: int, half_open: bool = False) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._mean = mean_bytes
        self._random = random.Random(seed)
        self._half_open = half_open
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = self.cuts = self.connections = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for item in self._open:
                _close(item)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                for item in (client, server):
                    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self.connections += 1
                    life = int(self._random.expovariate(1 / self._mean)) if self._mean else 1 << 62
                    self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server, life), daemon=True).start()
                threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, life: int) -> None:
        with suppress(OSError):
            while data := client.recv(min(CHUNK, life) or 1):
                with self._lock:
                    self.sent += len(data)
                server.sendall(data)
                life -= len(data)
                if life <= 0:
                    with self._lock:
                        self.cuts += 1
                    _close(client)
                    if not self._half_open:
                        _close(server)
                    return
        _close(server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
                client.sendall(data)
        _close(client)


class SlowProxy(CutProxy):
    """A link with a bandwidth for what goes up, shared by all connections, and a delay each way; it never breaks."""

    def __init__(self, upstream: str, *, bytes_per_s: float, delay_s: float) -> None:
        super().__init__(upstream, mean_bytes=0, seed=0)
        self._rate = bytes_per_s
        self._delay = delay_s
        self._free_at = 0.0

    def _forward(self, client: socket.socket, server: socket.socket, life: int) -> None:
        self._carry(client, server, limited=True)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        self._carry(server, client, limited=False)

    def _carry(self, source: socket.socket, target: socket.socket, *, limited: bool) -> None:
        # What is in flight: at 20 Mbit/s and 20 ms that is 50 kB, so the sender soon feels the bandwidth.
        flying: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=8)
        threading.Thread(target=self._land, args=(flying, target), daemon=True).start()
        with suppress(OSError):
            while data := source.recv(CHUNK):
                with self._lock:
                    now = time.monotonic()
                    if limited:
                        self.sent += len(data)
                        self._free_at = now = max(now, self._free_at) + len(data) / self._rate
                flying.put((now + self._delay, data))
        flying.put((0.0, b""))

    def _land(self, flying: queue.Queue[tuple[float, bytes]], target: socket.socket) -> None:
        with suppress(OSError):
            while (landed := flying.get())[1]:
                time.sleep(max(0.0, landed[0] - time.monotonic()))
                target.sendall(landed[1])
        _close(target)


def _close(item: socket.socket) -> None:
    with suppress(OSError):
        item.shutdown(socket.SHUT_RDWR)
    item.close()


FAULTS = (
    "drop-before",  # the request never reaches the server
    "drop-inside",  # the server sees half of it
    "half-open",  # the server sees half of it and goes on waiting
    "drop-answer",  # the server does it, the client never knows
    "cut-answer",  # half an answer
    "stall",  # silence until the client gives up
    "twice",  # the server gets it two times, the client the second answer
    "late",  # an older request arrives once more, after this one
    "500",
    "502",
    "503",
    "429",  # with Retry-After
)
GUARDED_FAULTS = (
    *FAULTS,
    "token-expired",  # the server is shown a token that was good an hour ago
    "wrong-clock",  # TLS: the certificate is not valid yet, or not any more
)
WRONG_CLOCK = "wrong-clock"


class Guard:
    """What a proxy needs to stand before a registry with TLS and tokens.

    Attributes:
        good: Whose certificate is valid today.
        wrong: Whose certificates are valid on other days.
        expired_token: What the registry itself refuses as too old.
    """

    def __init__(self, good: ssl.SSLContext, wrong: Sequence[ssl.SSLContext], expired_token: str) -> None:
        self.good = good
        self.wrong = list(wrong)
        self.expired_token = expired_token


class FaultProxy:
    """An HTTP proxy in front of a registry that breaks a share of all requests, by a seed.

    The kinds come from a shuffled deck: before one occurs again, all others do.

    Attributes:
        faults: How often each kind happened.
        limit: After so many faults the link is good.
        trusted_wrongly: How many connections were made to a certificate of another day.
    """

    def __init__(
        self,
        upstream: str,
        *,
        seed: int,
        share: float = 0.3,
        limit: int = 1 << 62,
        kinds: Sequence[str] = FAULTS,
        guard: Guard | None = None,
    ) -> None:
        self.upstream = upstream
        self.share = share
        self.limit = limit
        self.kinds = kinds
        self.guard = guard
        self.faults: Counter[str] = Counter()
        self.chosen = 0
        self.deck: list[str] = []
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.before: tuple[str, str, dict[str, str], bytes] | None = None
        self.waiting: list[socket.socket] = []
        self.accepted: set[str | None] = set()  # tokens that the server has taken at least once
        self.expired: set[str | None] = set()
        self.wrong_clocks = 0  # connections that will see a certificate of another day
        self.trusted_wrongly = 0
        self.over = threading.Event()
        self.host = ""

    def choose(self, path: str, headers: dict[str, str]) -> str | None:
        """The fault of the next request, None for none; a kind that cannot happen to it waits for the next."""
        with self.lock:
            if self.chosen >= self.limit or self.random.random() >= self.share:
                return None
            if not self.deck:
                self.deck = self.random.sample(self.kinds, len(self.kinds))
            impossible = {
                "late": self.before is None,
                # For an interface that it does not have, the server asks for no token.
                "token-expired": headers.get("Authorization") not in self.accepted or "/referrers/" in path,
            }
            kind = next((item for item in self.deck if not impossible.get(item)), None)
            if kind is None:
                return None
            self.deck.remove(kind)
            self.chosen += 1
            if kind == WRONG_CLOCK:
                self.wrong_clocks += 1
            elif kind == "token-expired":
                self.accepted.discard(headers["Authorization"])
                self.expired.add(headers["Authorization"])
            else:
                self.faults[kind] += 1
            return kind

    def count(self, kind: str) -> None:
        """A fault of which only its end shows whether it happened."""
        with self.lock:
            self.faults[kind] += 1

    def encrypt(self, connection: socket.socket) -> ssl.SSLSocket:
        """The server's side of a handshake. Raises OSError when the client refuses the certificate."""
        assert self.guard is not None
        with self.lock:
            wrong = self.wrong_clocks > 0
            self.wrong_clocks -= wrong
            context = self.random.choice(self.guard.wrong) if wrong else self.guard.good
        try:
            encrypted = context.wrap_socket(connection, server_side=True)
        except ssl.SSLError:
            if wrong:
                self.count(WRONG_CLOCK)
            raise
        self.trusted_wrongly += wrong
        return encrypted

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """One request to the server."""
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.request(method, path, body, {**headers, "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def half(self, method: str, path: str, headers: dict[str, str], body: bytes, *, keep_open: bool) -> None:
        """Half of a request to the server, then the line goes dead."""
        host, _, port = self.upstream.rpartition(":")
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        raw = "\r\n".join(lines).encode() + body
        server = socket.create_connection((host, int(port)))
        self.waiting.append(server)  # closed at the end, whatever comes
        server.sendall(raw[: len(raw) // 2])
        if not keep_open:
            server.close()

    @contextmanager
    def serve(self) -> Iterator[FaultProxy]:
        """Listen on loopback while the body runs; ``host`` is the address."""
        proxy = self

        class Handler(_Handler):
            link = proxy

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # the client gave up, which is the point

        with Server(("127.0.0.1", 0), Handler) as server:
            self.host = f"127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                self.over.set()
                server.shutdown()
                thread.join()
                for item in self.waiting:
                    item.close()


class CutAfter(FaultProxy):
    """A link that ends: the server still does request number ``after``; its answer and all later requests are lost.

    Attributes:
        requests: Requests that came, lost ones included.
    """

    def __init__(self, upstream: str, *, after: int) -> None:
        super().__init__(upstream, seed=0)
        self.after = after
        self.requests = 0

    def choose(self, path: str, headers: dict[str, str]) -> str | None:
        """None before the cut."""
        del path, headers
        with self.lock:
            self.requests += 1
            if self.requests < self.after:
                return None
            return "drop-answer" if self.requests == self.after else "drop-before"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    link: FaultProxy

    def setup(self) -> None:
        if self.link.guard is not None:
            self.request = self.link.encrypt(self.request)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if isinstance(self.request, ssl.SSLSocket):  # not the socket that the server knows and closes
            _close(self.request)

    def handle_request(self) -> None:
        link = self.link
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        if link.guard is not None:
            headers["X-Forwarded-Proto"] = "https"
        request = (self.command, self.path, headers, body)
        fault = link.choose(self.path, headers)
        if fault in ("drop-before", WRONG_CLOCK):
            return self._hang_up()
        if fault in ("drop-inside", "half-open"):
            link.half(*request, keep_open=fault == "half-open")
            return self._hang_up()
        if fault == "stall":
            link.over.wait(1.5)
            return self._hang_up()
        if fault in ("500", "502", "503", "429"):
            return self._answer(int(fault), [("Retry-After", "1")] if fault == "429" else [], b"<html>sorry</html>")
        if headers.get("Authorization") in link.expired and link.guard is not None:
            headers["Authorization"] = f"Bearer {link.guard.expired_token}"
        status, answered, data = link.forward(*request)
        if fault == "twice":
            status, answered, data = link.forward(*request)
        with link.lock:
            if status < 400 and "Authorization" in headers:
                link.accepted.add(headers["Authorization"])
            if fault == "token-expired" and status == 401:
                link.faults[fault] += 1
            earlier, link.before = link.before, request
        if fault == "late" and earlier is not None:
            link.forward(*earlier)
        if fault == "drop-answer":
            return self._hang_up()
        return self._answer(status, answered, data, cut=fault == "cut-answer")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_request

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        named = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() in ("connection", "transfer-encoding"):
                continue
            self.send_header(name, value.replace(self.link.upstream, self.link.host))
        if "content-length" not in named:
            self.send_header("Content-Length", str(len(data)))
        if cut:
            self.wfile.write(b"".join(self._headers_buffer)[:40])  # type: ignore[attr-defined]
            self._headers_buffer: list[bytes] = []
            return self._hang_up()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass
