# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A registry on the network, with oras as HTTP and authentication plumbing; the only importer of oras.

Of oras-py 0.2 only the session, the authentication back ends and the request hook are used: its push,
pull, login, retry and extraction are not (they verify no digest, hang without time-outs, and resend
bodies blindly). What is added here: time-outs, one fresh token after a 401, no proxy or netrc from
the environment, and a list of hosts that a request may reach at all, which covers redirects, upload
locations and token realms alike.
"""

from __future__ import annotations

import base64
import binascii
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from edgeprov._dataclass import dataclass
from edgeprov._lazyimport import later
from edgeprov.errors import ConfigError, FormatError, RegistryDenied, RegistryError, RegistryProtocolError
from edgeprov.formats.jsonx import parse_json_object
from edgeprov.limits import LIMITS
from edgeprov.registry.api_requests import SizedStream
from edgeprov.registry.distribution import DistributionClient

# For push and pull, which are not used here: an upload of a small kit would take 28 % more with it
# (`./tests/run bench tricks`).
with later("jsonschema"):
    import oras.provider

_USER_AGENT: Final = "edgeprov"
_ANOTHERS: Final = ""
_CLOCK: Final = "Check the device's clock; if it is right, the registry needs a new certificate: tell its operator."
_CERTIFICATE_ADVICE: Final = {  # by OpenSSL's X509_V_ERR number
    9: _CLOCK,  # not yet valid
    10: _CLOCK,  # expired
    62: "registry.name must be a name that the registry's certificate holds.",
    64: "registry.name must be an address that the registry's certificate holds.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """How to reach a registry.

    Attributes:
        auth: ``none`` (or an anonymous token where the registry offers one), ``basic`` or ``token``.
        credentials_file: docker's config.json form, member ``auths``.
        ca_file: PEM of a private CA.
        client_cert, client_key: PEM, for mutual TLS.
        allow_hosts: ``host[:port]`` of object stores and token servers that the registry may name.
    """

    plain_http: bool = False
    auth: str = "none"
    credentials_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: str = ""
    allow_hosts: tuple[str, ...] = ()
    connect_s: float = LIMITS.connect_s
    read_s: float = LIMITS.read_s


class OrasRegistry(DistributionClient):
    """The registry Protocol for ``host[:port]``."""

    def __init__(self, host: str, *, settings: RegistrySettings | None = None) -> None:
        """Prepare a session; nothing is contacted yet.

        Raises:
            ConfigError: A certificate or the credentials file cannot be used.
        """
        settings = settings or RegistrySettings()
        scheme = "http" if settings.plain_http else "https"
        super().__init__(host, f"{scheme}://{host}", _Plumbing(host, settings))


class _GuardedAdapter(HTTPAdapter):  # type: ignore[misc]
    """Sets the time-outs that oras never sets, and refuses hosts that were not allowed."""

    def __init__(self, timeout: tuple[float, float], allowed: frozenset[str], schemes: frozenset[str]) -> None:
        self._timeout = timeout
        self._allowed = allowed
        self._schemes = schemes
        super().__init__(max_retries=0)

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        parts = urlsplit(request.url)
        if parts.scheme not in self._schemes or parts.netloc.rpartition("@")[2].lower() not in self._allowed:
            raise RegistryDenied(
                f"the registry leads to {parts.scheme}://{parts.netloc[:200]}, which is not allowed",
                advice="If that host belongs to the registry, add it to registry.allow_hosts; if not, it may be the "
                "page of a captive portal: log in to the network first.",
            )
        kwargs["timeout"] = self._timeout
        return super().send(request, *args, **kwargs)


class _Plumbing(oras.provider.Registry):  # type: ignore[misc]
    """oras' session and authentication behind the HttpTransport Protocol."""

    def __init__(self, host: str, settings: RegistrySettings) -> None:
        verify: bool | str = True
        for file in (settings.ca_file, settings.client_cert, settings.client_key, settings.credentials_file):
            if file is not None and not file.is_file():
                raise ConfigError(f"registry: {file} is not a file")
        if settings.ca_file is not None:
            verify = str(settings.ca_file)
        super().__init__(
            hostname=host,
            insecure=settings.plain_http,
            tls_verify=verify,
            auth_backend="basic" if settings.auth == "basic" else "token",
        )
        self._host = host.lower()
        self._preemptive = settings.auth == "basic"
        self._proxy = settings.proxy
        self._renewing = threading.Lock()
        session = self.session
        session.trust_env = False
        session.max_redirects = LIMITS.redirect_count
        session.headers["User-Agent"] = _USER_AGENT
        if settings.proxy:
            session.proxies = {"http": settings.proxy, "https": settings.proxy}
        if settings.client_cert is not None:
            key = settings.client_key or settings.client_cert
            session.cert = (str(settings.client_cert), str(key))
        schemes = frozenset(("http", "https") if settings.plain_http else ("https",))
        allowed = frozenset((self._host, *(item.lower() for item in settings.allow_hosts)))
        adapter = _GuardedAdapter((settings.connect_s, settings.read_s), allowed, schemes)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if settings.auth != "none":
            if settings.credentials_file is None:
                raise ConfigError("registry.auth is set, but registry.credentials_file is not")
            self.auth.set_basic_auth(*load_credentials(settings.credentials_file, host))

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | SizedStream | None = None
    ) -> _Answer:
        """See HttpTransport.send."""
        try:
            return _Answer(self.do_request(url, method, data=data, headers=dict(headers), stream=True))
        except requests.exceptions.SSLError as error:
            raise RegistryError(f"{self._host}: TLS failed: {_reason(error)}", advice=_tls_advice(error)) from error
        except requests.exceptions.ProxyError as error:
            proxy = urlsplit(self._proxy).netloc.rpartition("@")[2]  # without a password
            raise RegistryError(
                f"{self._host}: the proxy {proxy} cannot be used: {_reason(error)}",
                advice="Check registry.proxy, and whether the proxy runs.",
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise RegistryProtocolError(f"{self._host}: unusable address in an answer: {_reason(error)}") from error
        except requests.exceptions.TooManyRedirects as error:
            raise RegistryProtocolError(f"{self._host}: redirects without end") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise RegistryError(f"{self._host}: {_reason(error)}") from error

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,  # noqa: FBT001, FBT002 - oras' own signature
    ) -> Any:
        """Oras' request hook without its retries: at most one repeat with a fresh token of its own, after a 401."""
        renewed: str | None = None
        for attempt in range(4):
            sent = dict(headers or {})
            token = renewed or self._token()
            if urlsplit(url).netloc.lower() == self._host:  # credentials go to the registry only
                sent.update(self._authorization(token))
            response = self.session.request(
                method, url, data=data, json=json, headers=sent, stream=stream, verify=self._tls_verify
            )
            if response.status_code != 401 or renewed or attempt == 3:
                return response
            # What another thread got meanwhile may be for less than this request needs: that is no repeat yet.
            renewed = self._renew(response, token)
            if renewed is None:
                return response
            response.close()
            if isinstance(data, SizedStream):
                data.rewind()
        raise AssertionError("unreachable")

    def _token(self) -> str | None:
        token: str | None = getattr(self.auth, "token", None)
        return token

    def _authorization(self, token: str | None) -> dict[str, str]:
        if self._preemptive:
            return {"Authorization": f"Basic {self.auth._basic_auth}"}  # noqa: SLF001 - oras offers no getter
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _renew(self, response: Any, used: str | None) -> str | None:
        """The token that the answer asks for; ``_ANOTHERS`` when another thread got one; None: nothing to try."""
        challenge = response.headers.get("Www-Authenticate", "")
        if self._preemptive or not challenge.lower().startswith("bearer"):
            return None
        with self._renewing:
            if self._token() != used:
                return _ANOTHERS
            self.auth.token = None  # an old one has expired or is for another repository
            try:
                _, changed = self.auth.authenticate_request(response, {})
            except (ValueError, AttributeError, TypeError) as error:  # a realm that is none, or no JSON in the body
                raise RegistryDenied(f"{self._host}: the token server's answer makes no sense") from error
            return self._token() if changed else None


class _Answer:
    """A requests answer behind the Answer Protocol."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def chunks(self, size: int) -> Iterator[bytes]:
        """See Answer.chunks."""
        try:
            yield from self._response.iter_content(size)
        except (requests.exceptions.RequestException, OSError) as error:
            raise RegistryError(f"the answer was cut: {_reason(error)}") from error

    def close(self) -> None:
        """See Answer.close."""
        self._response.close()


def load_credentials(path: Path, host: str) -> tuple[str, str]:
    """User and password for ``host`` from a file in docker's config.json form.

    Raises:
        ConfigError: Unreadable, malformed, or without an entry for the host.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.config_file_bytes + 1)
        auths = parse_json_object(raw, str(path), max_bytes=LIMITS.config_file_bytes).get("auths")
        entry = auths.get(host) if isinstance(auths, dict) else None
        if not isinstance(entry, dict):
            raise ConfigError(f"{path} has no credentials for {host}", advice="Add an entry under auths.")
        if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
            return entry["username"], entry["password"]
        user, colon, password = base64.b64decode(str(entry.get("auth")), validate=True).decode().partition(":")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (FormatError, binascii.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a credentials file") from error
    if not colon:
        raise ConfigError(f"{path}: the entry for {host} is not user:password in base64")
    return user, password


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _tls_advice(error: Exception) -> str:
    """What a person can do about it."""
    inner = _innermost(error)
    if not isinstance(inner, ssl.SSLCertVerificationError):
        return "That port may not speak TLS: check registry.name, and registry.plain_http for a registry without TLS."
    return _CERTIFICATE_ADVICE.get(
        inner.verify_code, "Set registry.ca_file to the CA that issued the registry's certificate."
    )


def _reason(error: Exception) -> str:
    """The innermost cause in one line, without addresses that may carry secrets."""
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return f"{type(inner).__name__}: {str(inner).split('?', 1)[0]}"[:200]
