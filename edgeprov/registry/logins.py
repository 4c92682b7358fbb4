# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Authorization for the requests to one registry: Basic, and tokens from the server that its challenge names.

oras' token back end is gone around: it sends a token again after the 401 that refused it, knows one token for all
repositories, reads answers of any length, and sends the password to whatever address a challenge names
(tests/registry/test_logins.py).

Spec: RFC 9110 section 11; distribution, "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LoginRefused, RegistryDenied, RegistryError, RegistryProtocolError
from edgeprov.formats.jsonx import parse_json_object
from edgeprov.limits import LIMITS
from edgeprov.registry.challenges import encode_scopes, parse_challenges, parse_scope, repository_of, scope_of
from edgeprov.registry.credentials import Credentials, CredentialStore
from edgeprov.registry.hosts import host_set, named_host
from edgeprov.registry.responses import Response, named_status, read_retry_after
from edgeprov.registry.settings import RegistrySettings

_TOKEN_S: Final = 60.0  # lifetime where the server says none
_TOKEN_LONGEST_S: Final = 86_400.0
_RENEW_AT: Final = 0.8  # of the lifetime
_CLIENT: Final = "edgeprov"


class Fetch(Protocol):
    """Sends one request without any credentials of its own and without following redirects."""

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None = None) -> Response:
        """One request. Raises RegistryError where there is no answer."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a request carries.

    Attributes:
        header: Value of Authorization; empty for none.
        scope: Rights that were asked for with a token.
        fresh: Nothing newer can be had: a 401 to it is a refusal.
    """

    header: str = ""
    scope: frozenset[str] = frozenset()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    scope: frozenset[str]
    renew_at_s: float


class Logins:
    """Credentials and tokens for one registry; may be used by several threads."""

    def __init__(
        self,
        host: str,
        settings: RegistrySettings,
        fetch: Fetch,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the credentials file, if one is named.

        Raises:
            ConfigError: It is unreadable or malformed.
        """
        self._host = host
        self._names = settings.names
        self._scheme = settings.scheme
        self._schemes = settings.schemes
        self._realms = host_set(host, settings.token_hosts, settings.scheme)
        self._store = CredentialStore(settings.credentials_file, helpers=settings.helpers)
        self._fetch = fetch
        self._monotonic = monotonic  # the clock of a device may be wrong: lifetimes are counted from the request
        self._lock = threading.Lock()
        self._tokens: dict[str, _Token] = {}  # by repository
        self._bearer: dict[str, str] | None = None  # parameters of the challenge that came last
        self._basic = False

    def known(self, method: str, parts: SplitResult) -> Login:
        """What to send without having been asked: what this registry wanted before.

        Raises:
            LoginRefused: The token server refuses the account.
            RegistryError: The token server cannot be reached, or answers nonsense.
        """
        repo = repository_of(parts)
        if self._bearer is not None:
            scope = scope_of(method, parts)
            with self._lock:
                token = self._tokens.get(repo)
                if token is not None and scope <= token.scope and self._monotonic() < token.renew_at_s:
                    return Login(token.header, token.scope)
                return self._renew(repo, scope)
        if self._basic and (found := self._store.find(self._host, repo)) and (basic := found.basic()):
            return Login(basic, fresh=True)
        return Login()

    def after_refusal(self, answer: Response, method: str, parts: SplitResult, used: Login) -> Login | None:
        """What to send after a 401; None when there is nothing more to try. Errors as in known."""
        repo = repository_of(parts)
        challenges = parse_challenges(answer.headers.get("Www-Authenticate", ""))
        bearer = next((params for scheme, params in challenges if scheme == "bearer" and params.get("realm")), None)
        if bearer is None and not challenges and self._bearer is not None:
            bearer = self._bearer  # zot refuses an expired token without a challenge
        if bearer is not None:
            scope = scope_of(method, parts) | parse_scope(bearer.get("scope", ""))
            if used.fresh and used.header and scope <= used.scope:
                return None
            with self._lock:
                self._bearer = bearer
                token = self._tokens.get(repo)
                if token is not None and token.header != used.header and scope <= token.scope:
                    return Login(token.header, token.scope)  # another thread was faster
                return self._renew(repo, scope)
        if any(scheme == "basic" for scheme, _ in challenges):
            found = self._store.find(self._host, repo)
            basic = found.basic() if found is not None else ""
            if basic and basic != used.header:
                self._basic = True
                return Login(basic, fresh=True)
        return None

    def advice(self, url: str) -> str:
        """What a user can do about a 401 or 403."""
        found = self._store.find(self._host, repository_of(urlsplit(url)))
        if found is not None:
            return f"Check the credentials of {self._host} in {found.source}, and the rights of this account."
        place = f"; {self._store.file} has none" if self._store.file is not None else ""
        return f"The registry wants credentials for {self._host}{place}: name a file with {self._names.credentials}."

    def _renew(self, repo: str, scope: frozenset[str]) -> Login:
        assert self._bearer is not None  # noqa: S101 - narrowing for mypy
        if (old := self._tokens.pop(repo, None)) is not None:
            scope |= old.scope
        account = self._store.find(self._host, repo)
        if account is not None and account.registry_token:
            token = _Token(f"Bearer {account.registry_token}", scope, float("inf"))
        else:
            token = self._request(self._bearer, scope, account)
        self._tokens[repo] = token
        return Login(token.header, token.scope, fresh=True)

    def _request(self, bearer: Mapping[str, str], scope: frozenset[str], account: Credentials | None) -> _Token:
        asked_at = self._monotonic()
        realm = self._verify_realm(bearer["realm"])
        fields = [("service", bearer["service"])] if bearer.get("service") else []
        if account is not None and account.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                *fields,
                ("client_id", _CLIENT),
                ("scope", " ".join(encode_scopes(scope))),
                ("refresh_token", account.identity_token),
            ]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._fetch("POST", realm, headers=headers, data=urlencode(form).encode())
            if answer.status not in (404, 405) or not account.basic():
                return self._token_of(answer, realm, scope, asked_at, account)
            answer.close()
        basic = account.basic() if account is not None else ""
        if account is not None and account.username:
            fields.append(("account", account.username))
        query = urlencode([*fields, *(("scope", item) for item in encode_scopes(scope))])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}" if query else realm
        answer = self._fetch("GET", url, headers={"Authorization": basic} if basic else {})
        return self._token_of(answer, realm, scope, asked_at, account)

    def _verify_realm(self, realm: str) -> str:
        parts = urlsplit(realm)
        if parts.scheme not in self._schemes or named_host(parts) not in self._realms or "@" in parts.netloc:
            raise RegistryDenied(
                f"{self._host} names the token server {parts.scheme[:10]}://{parts.netloc[:200]}, which is not allowed",
                advice=f"If that server belongs to the registry, add its host to {self._names.token_hosts}"
                f"{'' if self._scheme == 'http' else '; it must use https'}.",
            )
        return realm

    def _token_of(
        self, answer: Response, realm: str, scope: frozenset[str], asked_at_s: float, account: Credentials | None
    ) -> _Token:
        place = f"the token server {urlsplit(realm).netloc} of {self._host}"
        status = answer.status
        try:
            if status in (401, 403):
                whose = f"the account in {account.source}" if account is not None else "anonymous access"
                raise LoginRefused(
                    f"{place} refuses {whose}: {named_status(status)}",
                    advice=self.advice(f"{self._scheme}://{self._host}/"),
                    status=status,
                )
            if status == 429 or status >= 500:
                raise RegistryError(
                    f"{place} answered {named_status(status)}", status=status, retry_after_s=read_retry_after(answer)
                )
            if status != 200:
                raise RegistryProtocolError(f"{place} answered {named_status(status)}", status=status)
            document = _read_json(answer, place, lambda: self._monotonic() - asked_at_s)
        finally:
            answer.close()
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryProtocolError(f"{place} gave no token")
        lifetime_s = document.get("expires_in")
        if not isinstance(lifetime_s, int | float) or isinstance(lifetime_s, bool) or lifetime_s <= 0:
            lifetime_s = _TOKEN_S
        renew_at_s = asked_at_s + _RENEW_AT * min(lifetime_s, _TOKEN_LONGEST_S)
        return _Token(f"Bearer {token}", scope, renew_at_s)


def _read_json(answer: Response, place: str, elapsed_s: Callable[[], float]) -> dict[str, Any]:
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RegistryProtocolError(f"{place} sent a compressed answer that nobody asked for")
    raw = bytearray()
    for chunk in answer.chunks(16 * 1024):
        raw += chunk
        if len(raw) > LIMITS.token_bytes:
            raise RegistryProtocolError(f"{place} sent more than {LIMITS.token_bytes} bytes")
        if elapsed_s() > LIMITS.read_s:
            raise RegistryError(f"{place} sends its answer too slowly")
    try:
        return parse_json_object(bytes(raw), "token", max_bytes=LIMITS.token_bytes)
    except FormatError as error:
        raise RegistryProtocolError(f"{place} sent no JSON object") from error
