# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A registry on the network, with oras as HTTP plumbing; the only importer of oras.

Of oras-py 0.2 the session and the request hook are used. Gone around, because a test shows the fault: its push, pull
and extraction (they verify no digest), its retry (it resends bodies blindly), its log-in (see logins.py), and the
redirects of its session, which read bodies of any length. What is added here: time-outs and a minimum rate, no proxy
or netrc from the environment, and lists of hosts that a request may reach at all: one for redirects and upload
locations, another for token servers.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import requests

from edgeprov._lazyimport import later
from edgeprov.errors import ConfigError, RegistryDenied, RegistryError, RegistryProtocolError
from edgeprov.limits import LIMITS
from edgeprov.registry.api_requests import SizedStream
from edgeprov.registry.distribution import DistributionClient
from edgeprov.registry.hosts import host_set, named_host, without_default_port
from edgeprov.registry.logins import Login, Logins
from edgeprov.registry.minimum_rate import RatedAdapter
from edgeprov.registry.settings import OptionNames, RegistrySettings

# For push and pull, which are not used here: an upload of a small kit would take 28 % more with it
# (`./tests/run bench tricks`).
with later("jsonschema"):
    import oras.provider

__all__ = ["OptionNames", "OrasRegistry", "RegistrySettings"]

_USER_AGENT: Final = "edgeprov"
_ANSWERS_TO_401: Final = 4
_SENT_IN_ONE_PIECE: Final = 64 * 1024
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SAME_METHOD: Final = frozenset((307, 308))
_CLOCK: Final = (
    "Check the clock of this machine; if it is right, the registry needs a new certificate: tell its operator."
)
_CERTIFICATE_EXPIRED: Final = frozenset((9, 10))  # OpenSSL's X509_V_ERR numbers: not yet valid, expired
_CERTIFICATE_NAMES: Final = frozenset((62, 64))  # another name, another address


class OrasRegistry(DistributionClient):
    """The registry Protocol for ``host[:port]``."""

    def __init__(self, host: str, *, settings: RegistrySettings | None = None) -> None:
        """Prepare a session; nothing is contacted yet.

        Raises:
            ConfigError: A certificate or the credentials file cannot be used.
        """
        settings = settings or RegistrySettings()
        super().__init__(host, f"{settings.scheme}://{host}", _Plumbing(host, settings), names=settings.names)


class _Plumbing(oras.provider.Registry):  # type: ignore[misc]
    """oras' session behind the HttpTransport Protocol, with our own log-in, redirects and bounds."""

    def __init__(self, host: str, settings: RegistrySettings) -> None:
        verify: bool | str = True
        for file in (settings.ca_file, settings.client_cert, settings.client_key, settings.credentials_file):
            if file is not None and not file.is_file():
                raise ConfigError(f"registry: {file} is not a file")
        if settings.ca_file is not None:
            verify = str(settings.ca_file)
        super().__init__(hostname=host, insecure=settings.plain_http, tls_verify=verify, auth_backend="token")
        self._host = without_default_port(host, settings.scheme)
        self._settings = settings
        self._allowed = host_set(host, settings.allow_hosts, settings.scheme)
        session = self.session
        self._exchange = _Exchange(session, self._host, settings, verify=verify)
        self.logins = Logins(host, settings, self._exchange.fetch)
        session.trust_env = False
        session.headers["User-Agent"] = _USER_AGENT
        session.headers["Accept-Encoding"] = "identity"
        if settings.proxy:
            session.proxies = {"http": settings.proxy, "https": settings.proxy}
        if settings.client_cert is not None:
            key = settings.client_key or settings.client_cert
            session.cert = (str(settings.client_cert), str(key))
        adapter = RatedAdapter(
            window_s=settings.read_s,
            bytes_per_s=settings.min_bytes_per_s,
            connections=LIMITS.registry_connections,
        )
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | SizedStream | None = None
    ) -> _Answer:
        """See HttpTransport.send."""
        if isinstance(data, bytes) and len(data) > _SENT_IN_ONE_PIECE:
            # A time-out is for one piece that is sent, and a slow link needs more than that for a whole part.
            data = SizedStream(io.BytesIO(data), len(data))
        return _Answer(self.do_request(url, method, data=data, headers=dict(headers), stream=True))

    def advice(self, url: str) -> str:
        """See HttpTransport.advice."""
        return self.logins.advice(url)

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,  # noqa: FBT001, FBT002 - oras' own signature
    ) -> Any:
        """Oras' request hook without its retries: only a 401 that something can be done about is answered."""
        assert json is None and stream  # noqa: S101, PT018 - only `send` calls it
        parts = _split(url)
        ours = named_host(parts) == self._host
        login = self.logins.known(method, parts) if ours else Login()
        for _ in range(_ANSWERS_TO_401):
            response = self._follow(method, url, headers or {}, data, login)
            if response.status_code != 401 or not ours:
                return response
            newer = self.logins.after_refusal(_Answer(response), method, parts, login)
            if newer is None:
                return response
            _discard(response)
            login = newer
            if isinstance(data, SizedStream):
                data.rewind()
        return response

    def _follow(self, method: str, url: str, headers: Mapping[str, str], data: Any, login: Login) -> Any:
        """One request and its redirects, each to a host that is allowed; credentials go to the registry only."""
        for _ in range(LIMITS.redirect_count + 1):
            self._verify_host(url)
            parts = _split(url)
            own = named_host(parts) == self._host and (parts.scheme == "https" or self._settings.plain_http)
            sent = {**headers, "Authorization": login.header} if own and login.header else headers
            response = self._exchange.send(method, url, sent, data)
            if response.status_code not in _REDIRECTS or not response.headers.get("Location"):
                return response
            if method not in ("GET", "HEAD") and response.status_code not in _SAME_METHOD:
                return response
            place = response.headers["Location"]
            _discard(response)
            url = urljoin(_split(url).geturl(), _split(place).geturl())
            if isinstance(data, SizedStream):
                data.rewind()
        raise RegistryProtocolError(f"{self._host}: redirects without end")

    def _verify_host(self, url: str) -> None:
        parts = _split(url)
        if parts.scheme in self._settings.schemes and named_host(parts) in self._allowed:
            return
        names = self._settings.names
        if named_host(parts) in self._allowed and parts.scheme == "http":
            advice = "The way there has no TLS, and the registry has: tell the registry's operator."
        else:
            advice = (
                f"If that host belongs to the registry, add it to {names.allow_hosts}; if not, it may be the "
                "page of a captive portal: log in to the network first."
            )
        place = f"{parts.scheme[:20]}://{parts.netloc.rpartition('@')[2][:200]}"
        raise RegistryDenied(f"the registry leads to {place}, which is not allowed", advice=advice)


class _Exchange:
    """Single requests over one session: bounded in time, and every failure an error of the table."""

    def __init__(self, session: Any, host: str, settings: RegistrySettings, *, verify: bool | str) -> None:
        self._session = session
        self._host = host
        self._settings = settings
        self._verify = verify
        # The session would read the whole body of a redirect, however long, and stumble over addresses that are none.
        session.get_redirect_target = lambda _: None

    def fetch(self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None = None) -> _Answer:
        """See logins.Fetch."""
        return _Answer(self.send(method, url, headers, data))

    def send(self, method: str, url: str, headers: Mapping[str, str], data: Any) -> Any:
        try:
            return self._session.request(
                method,
                url,
                data=data,
                headers=dict(headers),
                stream=True,
                verify=self._verify,
                timeout=(self._settings.connect_s, self._settings.read_s),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            what = f"{self._host}: TLS failed: {_reason(error)}"
            raise RegistryError(what, advice=self._tls_advice(error)) from error
        except requests.exceptions.ProxyError as error:
            proxy = urlsplit(self._settings.proxy).netloc.rpartition("@")[2]  # without a password
            raise RegistryError(
                f"{self._host}: the proxy {proxy} cannot be used: {_reason(error)}",
                advice=f"Check {self._settings.names.proxy}, and that the proxy runs.",
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise RegistryProtocolError(f"{self._host}: unusable address in an answer: {_reason(error)}") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise RegistryError(f"{self._host}: {_reason(error)}") from error
        except UnicodeError as error:  # a host name in an answer that is none
            raise RegistryProtocolError(f"{self._host}: unusable address in an answer") from error

    def _tls_advice(self, error: Exception) -> str:
        names, inner = self._settings.names, _innermost(error)
        if not isinstance(inner, ssl.SSLCertVerificationError):
            return f"That port may not speak TLS: check {names.name}, and for a registry without it {names.plain_http}."
        if inner.verify_code in _CERTIFICATE_EXPIRED:
            return _CLOCK
        if inner.verify_code in _CERTIFICATE_NAMES:
            return f"{names.name} must be a name or address that the registry's certificate holds."
        return f"Name the CA that issued the registry's certificate with {names.ca_file}."


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise RegistryProtocolError(f"unusable address in an answer: {url[:100]!r}") from error


def _discard(response: Any) -> None:
    """Read a short body, so that the connection serves the next request too; a long one costs the connection."""
    try:
        left = LIMITS.challenge_bytes
        for chunk in response.iter_content(16 * 1024):
            left -= len(chunk)
            if left < 0:
                break
    except (requests.exceptions.RequestException, OSError):
        pass
    finally:
        response.close()


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


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _reason(error: Exception) -> str:
    """The innermost cause in one line, without addresses that may carry secrets."""
    inner = _innermost(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return f"{type(inner).__name__}: {str(inner).split('?', 1)[0]}"[:200]
