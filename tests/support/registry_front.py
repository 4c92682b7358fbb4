# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A front before a real registry with the manners of hosted ones: tokens from another host, blobs elsewhere.

The manners are those that zot with bearer tokens, distribution with its redirect middleware and object stores were
seen to have: an expired token is refused without a challenge, one action a challenge, a store that answers 400 to any
Authorization header.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from edgeprov.registry.challenges import parse_scope, scope_of


@dataclass
class Front:
    """What the front does, and what it saw.

    Attributes:
        lifetime_s: Of each token.
        forbidden: A repository that no token is good for, in `scope` form as ``repository:NAME``.
        token_answer: Gives the token server's status, headers and body in place of a token.
        redirect_blobs: GET and HEAD of blobs lead to the store.
        store_location: Gives where they lead, in place of the store's own address.
        granted: Scopes of each token request.
        seen: ``METHOD path status`` of each request to the registry.
        authorizations: Authorization headers that reached the store: there must be none.
    """

    upstream: str
    user: str = "unit-1"
    password: str = "s3cret"
    identity_token: str = "identity-of-unit-1"
    lifetime_s: float = 300
    forbidden: str = ""
    token_answer: Callable[[], tuple[int, dict[str, str], bytes]] | None = None
    redirect_blobs: bool = False
    store_location: Callable[[str], str] | None = None
    host: str = ""
    token_host: str = ""
    store_host: str = ""
    granted: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    tokens: dict[str, tuple[frozenset[str], float]] = field(default_factory=dict)

    def permits(self, method: str, path: str, authorization: str) -> bool | None:
        """None for a token that ended: zot answers it without a challenge."""
        scopes, until = self.tokens.get(authorization.removeprefix("Bearer "), (frozenset[str](), 0.0))
        if not scopes and not until:
            return False
        if time.monotonic() > until:
            return None
        wanted = scope_of(method, urlsplit(path))
        return wanted <= scopes and not any(item.startswith(f"{self.forbidden}:") for item in wanted)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: Front

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def forward(self, body: bytes, *, host: str) -> int:
        connection = HTTPConnection(self.front.upstream, timeout=20)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "authorization"}
        connection.request(self.command, self.path, body, {**headers, "Host": host})
        answer = connection.getresponse()
        data = answer.read()
        kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "connection", "date")}
        self.answer(answer.status, kept, data)
        connection.close()
        return answer.status

    def log_message(self, *_: object) -> None:
        pass


class _Registry(_Handler):
    def serve(self) -> None:
        front = self.front
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        permitted = front.permits(self.command, self.path, self.headers.get("Authorization", ""))
        status = 401
        if permitted is None:
            self.answer(401, {}, b'{"errors":[{"code":"UNSUPPORTED"}]}')
        elif not permitted:
            actions = "pull" if self.command in ("GET", "HEAD") else "push"
            name = urlsplit(self.path).path.removeprefix("/v2/").partition("/blobs")[0].partition("/manifests")[0]
            realm = f'Bearer realm="http://{front.token_host}/token",service="front"'
            challenge = {"Www-Authenticate": f'Basic realm="a, b", {realm},scope="repository:{name}:{actions}"'}
            self.answer(401, challenge, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        elif front.redirect_blobs and self.command in ("GET", "HEAD") and "/blobs/sha256:" in self.path:
            place = front.store_location(self.path) if front.store_location else f"http://{front.store_host}{self.path}"
            status = 307
            self.answer(307, {"Location": place})
        else:
            status = self.forward(body, host=front.host)
        front.seen.append(f"{self.command} {self.path} {status}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve


class _Store(_Handler):
    def serve(self) -> None:
        if "Authorization" in self.headers:
            self.front.authorizations.append(self.headers["Authorization"])
            self.answer(400, {}, b"only one auth mechanism is allowed")
            return
        self.forward(b"", host=self.front.store_host)

    do_GET = do_HEAD = serve


class _Tokens(_Handler):
    def serve(self) -> None:
        front = self.front
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        query = parse_qs(body if self.command == "POST" else urlsplit(self.path).query)
        scopes = " ".join(query.get("scope", []))
        front.granted.append(scopes)
        if front.token_answer is not None:
            self.answer(*front.token_answer())
            return
        expected = "Basic " + base64.b64encode(f"{front.user}:{front.password}".encode()).decode()
        good = (
            query.get("refresh_token") == [front.identity_token]
            if self.command == "POST"
            else self.headers.get("Authorization") == expected
        )
        front.accounts.append("identity token" if self.command == "POST" else "password")
        if not good:
            self.answer(401, {})
            return
        token = secrets.token_hex(16)
        front.tokens[token] = (parse_scope(scopes) | {"any"}, time.monotonic() + front.lifetime_s)
        self.answer(200, {}, json.dumps({"access_token": token, "expires_in": front.lifetime_s}).encode())

    do_GET = do_POST = serve


@contextmanager
def registry_front(upstream: str, *, user: str = "unit-1", password: str = "s3cret") -> Iterator[Front]:
    """Serve the front, its token server and its store on loopback, each on a port of its own."""
    front = Front(upstream=upstream, user=user, password=password)
    with ExitStack() as stack:
        for name, kind in (("host", _Registry), ("token_host", _Tokens), ("store_host", _Store)):
            handler = type(kind.__name__, (kind,), {"front": front})
            server = stack.enter_context(_Server(("127.0.0.1", 0), handler))
            setattr(front, name, f"127.0.0.1:{server.server_address[1]}")
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield front


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # the client hangs up on what it refuses
