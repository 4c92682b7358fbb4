# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Passwords, tokens, private CAs, client certificates, proxies: against real registry servers."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprov._dataclass import replace
from edgeprov.device.upload import upload
from edgeprov.errors import ConfigError, LoginRefused, RegistryDenied, RegistryError
from edgeprov.formats.descriptor import describe
from edgeprov.registry.oras_backend import OrasRegistry, RegistrySettings
from tests.support.faultproxy import CutProxy
from tests.support.registries import Server, docker_registry
from tests.support.sender import REPO, Sender
from tests.support.tls import NOW, Authority, connect_proxy, htpasswd, token_server, write_credentials

pytestmark = pytest.mark.slow
BLOB = describe(b"content", "application/x-test")
PART = 1_000_000


@pytest.fixture(params=["docker-registry", "registry"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def round_trip(registry: OrasRegistry) -> None:
    registry.push_blob(REPO, BLOB, b"content")
    assert b"".join(registry.fetch_blob(REPO, BLOB)) == b"content"


@pytest.fixture
def with_password(tmp_path: Path, program: str) -> Iterator[tuple[str, Path]]:
    (tmp_path / "htpasswd").write_text(htpasswd("unit-1", "s3cret"))
    auth = {"htpasswd": {"realm": "ward", "path": str(tmp_path / "htpasswd")}}
    with docker_registry(tmp_path / "registry", program=program, auth=auth) as host:
        yield host, tmp_path


def test_a_password_opens_and_a_wrong_one_does_not(with_password: tuple[str, Path]) -> None:
    host, folder = with_password
    good = write_credentials(folder / "good.json", host, "unit-1", "s3cret")
    bad = write_credentials(folder / "bad.json", host, "unit-1", "wr0ng-pass")
    round_trip(OrasRegistry(host, settings=RegistrySettings(plain_http=True, credentials_file=good)))
    for settings in (
        RegistrySettings(plain_http=True, credentials_file=bad),
        RegistrySettings(plain_http=True),
    ):
        with pytest.raises(RegistryDenied) as caught:
            round_trip(OrasRegistry(host, settings=settings))
        assert not caught.value.retryable
        assert "wr0ng-pass" not in caught.value.message + caught.value.advice


@pytest.fixture
def with_tokens(tmp_path: Path, program: str) -> Iterator[tuple[str, Any, RegistrySettings]]:
    with token_server(tmp_path) as tokens:
        auth = {
            "token": {
                "realm": tokens.realm,
                "service": "registry",
                "issuer": "tests",
                "rootcertbundle": str(tokens.certificate),
            }
        }
        if program == "registry":
            auth["token"]["signingalgorithms"] = ["ES256"]  # type: ignore[assignment]
        with docker_registry(tmp_path / "registry", program=program, auth=auth) as host:
            file = write_credentials(tmp_path / "credentials.json", host, tokens.user, tokens.password)
            realm = tokens.realm.split("/")[2]
            settings = RegistrySettings(plain_http=True, credentials_file=file, token_hosts=(realm,))
            yield host, tokens, settings


def test_a_token_is_asked_for_with_the_scope_that_is_needed(with_tokens: tuple[str, Any, RegistrySettings]) -> None:
    host, tokens, settings = with_tokens
    registry = OrasRegistry(host, settings=settings)
    round_trip(registry)
    registry.push_blob("hospital/other", BLOB, b"content")
    assert any("push" in scope for scope in tokens.granted)
    assert any("hospital/other" in scope for scope in tokens.granted)


def test_tokens_that_expire_between_requests_are_renewed(
    with_tokens: tuple[str, Any, RegistrySettings], sender: Sender
) -> None:
    host, tokens, settings = with_tokens
    sender.fill(4, 10_000)
    tokens.lifetime_s = 1  # distribution allows a minute for clocks: so each token is also spoiled below
    context = sender.context(
        host,
        registry=f'plain_http = true\ncredentials_file = "{settings.credentials_file}"\ntoken_hosts = {list(settings.token_hosts)}',
    )
    registry = OrasRegistry(host, settings=settings)
    inner = registry._transport.send  # type: ignore[attr-defined]
    sent = 0

    def send(*args: Any, **kwargs: Any) -> Any:
        nonlocal sent
        sent += 1
        tokens = registry._transport.logins._tokens  # type: ignore[attr-defined]
        if sent % 3 == 0:
            for repo, token in tokens.items():
                tokens[repo] = replace(token, header="Bearer " + "expired." * 3)
        return inner(*args, **kwargs)

    registry._transport.send = send  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("edgeprov.device.upload.open_registry", lambda *_, **__: registry)
        result = upload(context)
    assert result.queued == 0
    assert len(tokens.granted) > 4
    sender.verify_arrived(OrasRegistry(host, settings=settings))


def test_a_token_server_that_refuses_is_told_plainly(with_tokens: tuple[str, Any, RegistrySettings]) -> None:
    host, tokens, settings = with_tokens
    tokens.refuse = True
    with pytest.raises(LoginRefused, match="token server"):
        round_trip(OrasRegistry(host, settings=settings))


def test_a_token_server_that_was_not_allowed_gets_nothing(with_tokens: tuple[str, Any, RegistrySettings]) -> None:
    host, tokens, settings = with_tokens
    strict = RegistrySettings(plain_http=True, credentials_file=settings.credentials_file)
    with pytest.raises(RegistryDenied, match="not allowed"):
        round_trip(OrasRegistry(host, settings=strict))
    assert tokens.granted == []


def test_a_private_authority_is_believed_only_when_it_is_named(tmp_path: Path, program: str) -> None:
    authority = Authority(tmp_path)
    pem = authority.issue("server")
    tls = {"certificate": str(pem.certificate), "key": str(pem.key)}
    with docker_registry(tmp_path / "registry", program=program, http={"tls": tls}) as host:
        round_trip(OrasRegistry(host, settings=RegistrySettings(ca_file=authority.file)))
        (tmp_path / "other").mkdir()
        for settings in (RegistrySettings(), RegistrySettings(ca_file=Authority(tmp_path / "other").file)):
            with pytest.raises(RegistryError, match="TLS") as caught:
                round_trip(OrasRegistry(host, settings=settings))
            assert "registry.ca_file" in caught.value.advice


@pytest.mark.parametrize("shift_days", [-365, 365])
def test_a_clock_that_is_wrong_for_tls_loses_nothing(tmp_path: Path, sender: Sender, shift_days: int) -> None:
    authority = Authority(tmp_path)
    pem = authority.issue("server", start=NOW + dt.timedelta(days=shift_days))
    tls = {"certificate": str(pem.certificate), "key": str(pem.key)}
    sender.fill(1, 1000)
    with docker_registry(tmp_path / "registry", http={"tls": tls}) as host:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("edgeprov.registry.retry.FIRST_WAIT_S", 0.01)
            result = upload(sender.context(host, registry=f'ca_file = "{authority.file}"'))
    assert isinstance(result.error, RegistryError)
    assert result.error.retryable  # the clock may be set before the next run
    assert "clock" in result.error.advice
    assert result.queued == 1
    sender.verify_nothing_lost()


def test_a_client_certificate_opens_and_its_absence_does_not(tmp_path: Path, program: str) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    tls = {"certificate": str(server.certificate), "key": str(server.key), "clientcas": [str(authority.file)]}
    with docker_registry(tmp_path / "registry", program=program, http={"tls": tls}) as host:
        settings = RegistrySettings(ca_file=authority.file, client_cert=client.certificate, client_key=client.key)
        round_trip(OrasRegistry(host, settings=settings))
        with pytest.raises(RegistryError):
            round_trip(OrasRegistry(host, settings=RegistrySettings(ca_file=authority.file)))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for name in ("ca_file", "client_cert", "credentials_file"):
        with pytest.raises(ConfigError, match="nowhere"):
            OrasRegistry("127.0.0.1:1", settings=RegistrySettings(**{name: tmp_path / "nowhere"}))  # type: ignore[arg-type]
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    with pytest.raises((ConfigError, RegistryError)):
        round_trip(OrasRegistry("127.0.0.1:1", settings=RegistrySettings(ca_file=garbage)))


def test_a_proxy_is_used_when_it_is_configured_and_never_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pem = authority.issue("server")
    tls = {"certificate": str(pem.certificate), "key": str(pem.key)}
    with docker_registry(tmp_path / "plain") as plain, docker_registry(tmp_path / "tls", http={"tls": tls}) as secure:
        with connect_proxy() as (address, asked):
            round_trip(OrasRegistry(plain, settings=RegistrySettings(plain_http=True, proxy=address)))
            assert asked
            assert all(plain in item for item in asked)
            asked.clear()
            round_trip(OrasRegistry(secure, settings=RegistrySettings(ca_file=authority.file, proxy=address)))
            assert set(asked) == {f"CONNECT {secure}"}
            asked.clear()
            for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, address)
            round_trip(OrasRegistry(plain, settings=RegistrySettings(plain_http=True)))
            assert asked == []


def test_a_read_only_registry_parks_nothing_for_ever(tmp_path: Path, sender: Sender, program: str) -> None:
    sender.fill(1, 1000)
    server = Server(tmp_path / "registry", program=program)
    server.config["storage"]["maintenance"] = {"readonly": {"enabled": True}}  # type: ignore[index]
    server.start()
    try:
        result = upload(sender.context(server.host))
        assert result.sent == []
        assert [type(error) for _, error in result.parked] or result.error
        assert result.queued == 1
        sender.verify_nothing_lost()
    finally:
        server.stop()
    del server.config["storage"]["maintenance"]  # type: ignore[attr-defined]
    server.start()
    try:
        assert upload(sender.context(server.host)).queued == 0
    finally:
        server.stop()


@pytest.mark.parametrize("kill", [False, True])
def test_a_registry_that_restarts_in_the_middle_costs_at_most_one_part(
    tmp_path: Path, sender: Sender, program: str, kill: bool
) -> None:
    sender.fill(12, PART)
    server = Server(tmp_path / "registry", program=program)
    server.start()
    with CutProxy(server.host, mean_bytes=0, seed=1) as proxy:
        context = sender.context(proxy.host)
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr("edgeprov.registry.retry.FIRST_WAIT_S", 0.01)
                inner = OrasRegistry._put_blob
                puts = itertools.count(1)

                def put(*args: Any) -> None:
                    if next(puts) == 5:
                        server.stop(kill=kill)
                        server.start()
                    inner(*args)

                monkeypatch.setattr(OrasRegistry, "_put_blob", put)
                result = upload(context)
            assert result.queued == 0
            again = proxy.sent - 12 * PART
            assert again <= PART + 100_000
            sender.verify_arrived(OrasRegistry(server.host, settings=RegistrySettings(plain_http=True)))
        finally:
            server.stop()


def test_what_is_wrong_with_the_way_to_a_registry_is_named_with_what_to_do(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = authority.issue("server")
    tls = {"certificate": str(pem.certificate), "key": str(pem.key)}
    refused = "127.0.0.1:1"
    with docker_registry(tmp_path / "plain") as plain, docker_registry(tmp_path / "tls", http={"tls": tls}) as host:
        named = f"0.0.0.0:{host.partition(':')[2]}"  # reaches the same server, by a name that its certificate lacks
        cases: list[tuple[str, RegistrySettings, str, str]] = [
            (plain, RegistrySettings(ca_file=authority.file), "TLS failed", "registry.plain_http"),
            (named, RegistrySettings(ca_file=authority.file), "TLS failed", "certificate holds"),
            (refused, RegistrySettings(), "refused", "the registry's name"),
            ("registry.invalid", RegistrySettings(), "registry.invalid", "the registry's name"),
            (
                "registry.invalid",
                RegistrySettings(proxy=f"http://user:secret@{refused}"),
                f"the proxy {refused} cannot be used",
                "registry.proxy",
            ),
        ]
        for name, settings, said, advice in cases:
            with pytest.raises(RegistryError, match=said) as caught:
                round_trip(OrasRegistry(name, settings=settings))
            assert advice in caught.value.advice, caught.value
            assert "secret" not in str(caught.value)
            assert caught.value.retryable


def test_a_device_needs_nothing_but_the_file_and_asks_once_when_it_is_refused(
    with_password: tuple[str, Path], sender: Sender
) -> None:
    host, folder = with_password
    for _ in range(3):
        sender.fill(1, 1000)
    bad = write_credentials(folder / "bad.json", host, "unit-1", "wr0ng-pass")
    refused = upload(sender.context(host, registry=f'plain_http = true\ncredentials_file = "{bad}"'))
    assert isinstance(refused.error, LoginRefused)
    assert str(bad) in refused.error.advice
    assert refused.parked == []
    assert refused.queued == 3
    good = write_credentials(folder / "good.json", host, "unit-1", "s3cret")
    done = upload(sender.context(host, registry=f'plain_http = true\ncredentials_file = "{good}"'))
    assert (done.queued, done.error) == (0, None)
    sender.verify_arrived(OrasRegistry(host, settings=RegistrySettings(plain_http=True, credentials_file=good)))
