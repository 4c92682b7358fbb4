# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The web service: Starlette around hub.py. Read-only; TLS is a proxy's business.

With tokens every address but the health check and the page's own files needs ``Authorization: Bearer``.
Without tokens only a loopback name in ``Host`` is answered, so that no web site reaches the service through
a visitor's browser by pointing its own name here. Each client has a bucket of requests. Answers carry an
ETag, and forbid whatever the page does not need.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeprov import journal
from edgeprov.errors import EdgeprovError, FormatError, NotStored, StoreError, UsageError, VerificationError
from edgeprov.fleet.service.answers import Hub
from edgeprov.fleet.service.openapi import openapi
from edgeprov.fleet.web import asset

_CSP: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
_OPEN: Final = ("/", "/app.js", "/app.css", "/icon.svg", "/healthz")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_PROOF_COST: Final = 20.0
_CLIENTS: Final = 10_000
_URL_BYTES: Final = 4_096

Endpoint = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


@dataclass(slots=True)
class Limiter:
    """A token bucket for each client; ``rate`` requests a second, ``burst`` at once."""

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, client: str, cost: float = 1.0) -> float:
        """Seconds until this request may run; 0 takes its tokens."""
        now = self.clock()
        level, then = self._buckets.pop(client, (self.burst, now))
        level = min(self.burst, level + (now - then) * self.rate)
        allowed = level >= min(cost, self.burst)
        self._buckets[client] = (level - cost if allowed else level, now)
        while len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (min(cost, self.burst) - level) / self.rate


def make_app(hub: Hub, *, tokens: Iterable[str] = (), limiter: Limiter | None = None) -> Starlette:
    """The application.

    Args:
        hub: The data.
        tokens: Accepted bearer tokens; none at all leaves the service open (loopback only, the CLI sees to it).
        limiter: Default 20 requests a second, 60 at once, for each client.
    """
    service = _Service(
        hub, tuple(hashlib.sha256(token.encode()).digest() for token in tokens), limiter or Limiter(20.0, 60.0)
    )
    routes = [
        Route("/", service.page),
        Route("/app.js", service.script),
        Route("/app.css", service.style),
        Route("/icon.svg", service.icon),
        Route("/healthz", service.health),
        Route("/openapi.json", service.wrap(lambda _: openapi())),
        Route("/api/v1/status", service.wrap(lambda _: hub.status())),
        Route("/api/v1/kits", service.wrap(lambda request: hub.kits(_parameters(request)), link=True)),
        Route("/api/v1/kits/{digest}", service.wrap(lambda request: hub.kit(request.path_params["digest"]))),
        Route("/api/v1/models", service.wrap(lambda _: hub.models())),
        Route("/api/v1/devices", service.wrap(lambda _: hub.devices())),
        Route("/api/v1/lineage/{model:path}", service.wrap(lambda request: hub.lineage(request.path_params["model"]))),
        Route("/api/v1/proofs/{device}/{slot}/{number:int}", service.proof),
    ]
    return Starlette(routes=routes, exception_handlers={404: service.missing, 405: service.missing})


class _Service:
    def __init__(self, hub: Hub, tokens: tuple[bytes, ...], limiter: Limiter) -> None:
        self.hub, self.tokens, self.limiter = hub, tokens, limiter

    def wrap(self, answer: Callable[[Request], dict[str, Any]], *, link: bool = False) -> Endpoint:
        """An endpoint that answers JSON."""

        async def endpoint(request: Request) -> Response:
            if (refusal := self.refuse(request)) is not None:
                return refusal
            value = await _run(answer, request)
            if isinstance(value, Response):
                return value
            headers = {}
            if link and value.get("next"):
                # Relative: a proxy's name, scheme and prefix are none of our knowledge.
                query = request.url.include_query_params(cursor=value["next"]).query
                headers["Link"] = f'<?{query}>; rel="next"'
            return _reply(request, json.dumps(value, separators=(",", ":")).encode(), "application/json", headers)

        return endpoint

    async def proof(self, request: Request) -> Response:
        """A proof file to download; it costs many ordinary requests."""
        if (refusal := self.refuse(request) or self._charge(request, _PROOF_COST - 1)) is not None:
            return refusal
        path = request.path_params
        raw = await _run(self.hub.proof, path["device"], path["slot"], path["number"])
        if isinstance(raw, Response):
            return raw
        name = f"{path['device']}-{path['slot']}-{path['number']}.proof.json"
        return _reply(request, raw, "application/json", {"Content-Disposition": f'attachment; filename="{name}"'})

    async def page(self, request: Request) -> Response:
        """The web page."""
        return self.refuse(request) or _reply(request, asset("hub.html").encode(), "text/html; charset=utf-8")

    async def script(self, request: Request) -> Response:
        """Its script."""
        return self.refuse(request) or _reply(request, asset("hub.js").encode(), "text/javascript; charset=utf-8")

    async def style(self, request: Request) -> Response:
        """Its style sheet: that of the audit page, and a little more."""
        style = asset("report.css") + asset("hub.css")
        return self.refuse(request) or _reply(request, style.encode(), "text/css; charset=utf-8")

    async def icon(self, request: Request) -> Response:
        """Its icon."""
        return self.refuse(request) or _reply(request, asset("icon.svg").encode(), "image/svg+xml")

    async def health(self, request: Request) -> Response:
        """Whether the service runs; says nothing of the data."""
        return self.refuse(request) or _reply(request, b'{"ok":true}', "application/json")

    async def missing(self, request: Request, error: Exception) -> Response:
        """Unknown addresses and methods."""
        status = getattr(error, "status_code", 404)
        text = "only GET and HEAD" if status == 405 else "no such address; see /openapi.json"
        return self.refuse(request) or _plain(status, "NotFound", text)

    def refuse(self, request: Request) -> Response | None:
        """A refusal, or None when the request may go on."""
        if (refusal := self._charge(request, 1.0)) is not None:
            return refusal
        if len(str(request.url)) > _URL_BYTES:
            return _plain(414, "LimitError", "address too long")
        host = request.headers.get("Host", "")
        if not self.tokens and (host if host.endswith("]") else host.rpartition(":")[0] or host) not in _LOOPBACK:
            return _plain(421, "Misdirected", "without tokens this service answers on this machine only")
        if not self.tokens or request.url.path in _OPEN:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = hashlib.sha256(token.strip().encode()).digest()
        # All are compared, so that time does not tell which.
        if scheme.lower() == "bearer" and any([hmac.compare_digest(given, known) for known in self.tokens]):  # noqa: C419
            return None
        return _plain(401, "Unauthorized", "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    def _charge(self, request: Request, cost: float) -> Response | None:
        client = request.client.host if request.client else "?"
        if (seconds := self.limiter.wait(client, cost)) > 0:
            return _plain(429, "TooManyRequests", "too many requests", {"Retry-After": str(int(seconds) + 1)})
        return None


def _parameters(request: Request) -> dict[str, str]:
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise UsageError("a parameter stands there twice")
    return dict(request.query_params)


def _reply(request: Request, body: bytes, media_type: str, headers: dict[str, str] | None = None) -> Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    every = {**_HEADERS, "ETag": tag, **(headers or {})}
    asked = [item.strip().removeprefix("W/") for item in request.headers.get("If-None-Match", "").split(",")]
    if tag in asked or "*" in asked:
        return Response(status_code=304, headers=every)
    return Response(body, media_type=media_type, headers=every)


async def _run(answer: Callable[..., T], *arguments: Any) -> T | Response:
    """What a blocking function answers, or a refusal that tells why; never a traceback."""
    try:
        return await run_in_threadpool(answer, *arguments)
    except EdgeprovError as error:
        return _error(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: the service goes on
        known = EdgeprovError(f"internal error: {type(error).__name__}: {error}")
        journal.failure(known)
        sys.stderr.write(f"{known.message}\n")
        return _plain(500, "InternalError", "internal error: the service's log tells more")


def _error(error: EdgeprovError) -> Response:
    status = 500
    if isinstance(error, StoreError) and not isinstance(error, NotStored):
        status = 503  # the index is missing, locked or damaged, or a folder of kits is
    elif isinstance(error, UsageError | FormatError):
        status = 400
    elif isinstance(error, NotStored):
        status = 404
    elif isinstance(error, VerificationError):
        status = 409
    elif error.retryable:
        status = 503
    return _plain(status, type(error).__name__, error.message, advice=error.advice)


def _plain(
    status: int, name: str, message: str, headers: dict[str, str] | None = None, advice: str | None = None
) -> Response:
    body = {"error": name, "message": message} | ({"advice": advice} if advice else {})
    return Response(
        json.dumps(body), status_code=status, media_type="application/json", headers={**_HEADERS, **(headers or {})}
    )
