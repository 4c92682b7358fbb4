# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to an OCI registry, one at a time: bounded answers, statuses as errors, lists over several pages.

Nothing is retried here: that is the caller's policy.

Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import parse_qs, urljoin, urlsplit

from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    LoginRefused,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryProtocolError,
)
from edgeprov.formats.jsonx import parse_json_object
from edgeprov.limits import LIMITS
from edgeprov.registry.responses import Response, named_status, read_media_type, read_retry_after
from edgeprov.registry.settings import OptionNames

CHUNK_BYTES: Final = 64 * 1024
_RETRY: Final = frozenset((408, 425, 429))
_LONG_HEX = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
_LATER: Final = "The registry is busy or limits its clients: the next run comes back; nothing is lost."
_ITS_OWN_FAULT: Final = "The fault is the registry's own, a full disk for instance: tell its operator; nothing is lost."
_LINK = re.compile(r"<([^>]{1,4096})>\s*;\s*rel=\"?next\"?")
_CODE = re.compile(r"[A-Z_]{1,64}")


class SizedStream:
    """A stream with a length, which keeps the transport from chunked encoding: not every registry takes that."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        """As the stream's own."""
        return self._stream.read(size)

    def rewind(self) -> None:
        """Back to the first byte, for a repeat with a fresh token."""
        self._stream.seek(0)


class HttpTransport(Protocol):
    """Sends one request; authentication, time-outs and allowed hosts are its business."""

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | SizedStream | None = None
    ) -> Response:
        """One request.

        Raises:
            RegistryError: No answer.
            RegistryDenied: The address leads to a host that is not allowed.
            LoginRefused: The token server refuses the account.
        """

    def advice(self, url: str) -> str:
        """What a user can do about a 401 or 403 to this address."""


class ApiRequests:
    """Requests to one registry.

    Attributes:
        name: ``host[:port]``.
    """

    def __init__(self, name: str, base_url: str, transport: HttpTransport, *, names: OptionNames | None = None) -> None:
        """Contact nothing yet."""
        self.name = name
        self._base = base_url
        self._transport = transport
        self._names = names or OptionNames()
        self._refused: tuple[str, str] | None = None  # message and advice of a login that was refused in this run

    def _url(self, path: str) -> str:
        return f"{self._base}/v2/{path}"

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | SizedStream | None = None,
        expected: tuple[int, ...],
    ) -> Response:
        answer = self._send(method, url, headers=headers, data=data, expected=expected)
        assert answer is not None  # noqa: S101 - missing=False raises instead
        return answer

    def _drain(self, answer: Response) -> None:
        """Read what is left, so that the connection serves the next request too."""
        self._body(answer, LIMITS.error_body_bytes)

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | SizedStream | None = None,
        expected: tuple[int, ...] = (200, 206),
        missing: bool = False,
    ) -> Response | None:
        url = path if "://" in path else self._url(path)
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._refused is not None:
            raise LoginRefused(self._refused[0], advice=self._refused[1], status=401)
        try:
            answer = self._transport.send(method, url, headers=sent, data=data)
        except LoginRefused as error:
            self._refused = error.message, error.advice
            raise
        if answer.status in expected:
            return answer
        if missing and answer.status == 404:
            self._body(answer, LIMITS.error_body_bytes)
            return None
        raise self._failure(answer, method, url)

    def _failure(self, answer: Response, method: str, url: str) -> RegistryError | DigestMismatch:
        code = self._error_code(answer)
        status = answer.status
        path = _LONG_HEX.sub(r"\1...", urlsplit(url).path)  # without the query: upload addresses carry signed state
        what = f"{self.name}: {method} {path} answered {named_status(status)}{f' ({code})' if code else ''}"
        if status == 401 and not {"Www-Authenticate", "Content-Length", "Transfer-Encoding"} & _titles(answer):
            return RegistryError(f"{what}, and was cut among its headers", status=status)
        if status == 401 and not _asks_for_more(url):
            self._refused = what, self._transport.advice(url)
            return LoginRefused(what, advice=self._refused[1], status=status, code=code)
        if status in (401, 403):
            return RegistryDenied(what, advice=self._transport.advice(url), status=status, code=code)
        if status == 404:
            return RegistryNotFound(what, status=status, code=code)
        if code == "DIGEST_INVALID":
            return DigestMismatch(what, advice="The blob changed on its way or on disk; check the local copy.")
        if status in _RETRY or status >= 500:
            wait_s = read_retry_after(answer)
            asked = f", and asks to wait {wait_s:.0f} s" if wait_s else ""
            advice = _LATER if status in _RETRY else _ITS_OWN_FAULT
            return RegistryError(what + asked, advice=advice, status=status, code=code, retry_after_s=wait_s)
        too_large = (
            "A proxy in front of the registry limits the size of a request: "
            f"its limit must be above {self._names.part_bytes}."
        )
        return RegistryProtocolError(what, advice=too_large if status == 413 else None, status=status, code=code)

    def _error_code(self, answer: Response) -> str:
        try:
            body = parse_json_object(self._body(answer, LIMITS.error_body_bytes), "error body")
            code = str(body["errors"][0]["code"])
        except (FormatError, RegistryError, LookupError, TypeError):
            return ""
        return code if _CODE.fullmatch(code) else ""

    def _body(self, answer: Response, max_bytes: int) -> bytes:
        """The whole body, at most ``max_bytes``; the connection is given back."""
        try:
            body = bytearray()
            refuse_encoding(answer)
            for chunk in answer.chunks(CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    raise RegistryProtocolError(f"{self.name}: an answer is longer than {max_bytes} bytes")
            return bytes(body)
        finally:
            answer.close()

    def _refuse_page(self, answer: Response) -> None:
        """A captive portal answers everything with its page: that is no damage, and nobody's forgery."""
        if read_media_type(answer) == "text/html":
            answer.close()
            raise RegistryProtocolError(f"{self.name}: a web page came instead of what was asked for")

    def _document(self, answer: Response, max_bytes: int) -> bytes:
        raw = self._body(answer, max_bytes)
        if not raw and "Content-Length" not in answer.headers:
            raise RegistryError(f"{self.name}: the answer was cut among its headers")
        return raw

    def _pages(self, path: str, *, missing: bool = False) -> Iterator[Mapping[str, Any]]:
        for raw in self._raw_pages(path, missing=missing):
            try:
                yield parse_json_object(raw, "list", max_bytes=LIMITS.index_bytes)
            except FormatError as error:
                raise RegistryProtocolError(f"{self.name}: {path} is not a list: {error.message}") from error

    def _raw_pages(self, path: str, *, missing: bool = False) -> Iterator[bytes]:
        url = self._url(path)
        seen: set[str] = set()
        total = 0
        end = time.monotonic() + LIMITS.list_s
        while True:
            answer = self._send("GET", url, missing=missing)
            if answer is None:
                return
            raw = self._document(answer, LIMITS.index_bytes)
            total += len(raw)
            yield raw
            link = _LINK.search(answer.headers.get("Link", ""))
            if link is None:
                return
            seen.add(url)
            url = urljoin(url, link.group(1))
            endless = len(seen) >= LIMITS.list_pages or total > LIMITS.list_bytes or time.monotonic() > end
            if url in seen or endless:
                raise RegistryProtocolError(f"{self.name}: the list {path} does not end")


def _asks_for_more(url: str) -> bool:
    """A request that many accounts may not make: its 401 says nothing about the account as a whole."""
    parts = urlsplit(url)
    return parts.path == "/v2/_catalog" or "mount" in parse_qs(parts.query)


def _titles(answer: Response) -> set[str]:
    return {name.title() for name in answer.headers}


def refuse_encoding(answer: Response) -> None:
    """Refuse an answer whose bytes are not those that were asked for.

    Raises:
        RegistryProtocolError: It is compressed.
    """
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RegistryProtocolError("the answer is encoded although that was not asked for")
