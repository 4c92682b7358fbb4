# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a 401 asks for, read as RFC 9110 says; names of hosts, parsed."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from edgeprov.registry.challenges import encode_scopes, parse_challenges, parse_scope, scope_of
from edgeprov.registry.hosts import is_loopback, named_host

BEARER = ("bearer", {"realm": "https://auth.example/token", "service": "r", "scope": "repository:a/b:pull,push"})


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push"', [BEARER]),
        ('bearer  Realm = "https://auth.example/token" , service=r, scope="repository:a/b:pull,push"', [BEARER]),
        (
            'Basic realm="x, y", Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push"',
            [("basic", {"realm": "x, y"}), BEARER],
        ),
        ('Negotiate abc==, Basic realm="say \\"hi\\""', [("negotiate", {}), ("basic", {"realm": 'say "hi"'})]),
        ("Negotiate", [("negotiate", {})]),
        ('realm="x"', []),
        ('=,"', []),
        ("", []),
    ],
)
def test_challenges_are_read_whatever_their_form(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == found


def test_oras_takes_the_realm_of_another_scheme() -> None:
    """The fault for which oras' own reader is gone around."""
    from oras.auth.utils import parse_auth_header

    assert parse_auth_header('Basic realm="x", Bearer service="r"').realm == "x"


def test_an_endless_challenge_costs_little() -> None:
    assert len(parse_challenges('Bearer realm="x",' * 100_000)) < 2000


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2/a/b/manifests/t", ["repository:a/b:pull"]),
        ("HEAD", "/v2/a/blobs/sha256:1", ["repository:a:pull"]),
        ("PUT", "/v2/a/manifests/t", ["repository:a:pull,push"]),
        ("POST", "/v2/a/blobs/uploads/?mount=sha256:1&from=m/x", ["repository:a:pull,push", "repository:m/x:pull"]),
        ("GET", "/v2/_catalog?n=1000", ["registry:catalog:*"]),
        ("GET", "/v2/", []),
    ],
)
def test_each_request_asks_for_the_rights_that_it_needs(method: str, path: str, scope: list[str]) -> None:
    needed = scope_of(method, urlsplit(f"https://host{path}"))
    assert encode_scopes(needed) == scope
    assert parse_scope(" ".join(scope)) == needed


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:5000", "LOCALHOST", "127.0.0.1", "127.8.9.10:80", "[::1]", "[::1]:5000"]
)
def test_this_machine_is_known_by_its_names(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name",
    [
        "localhost.example.com:5000",
        "localhostregistry.corp",
        "127.hospital.example",
        "127.1.example:1",
        "10.0.0.1",
        "[::2]",
        "128.0.0.1",
        "",
    ],
)
def test_no_other_host_is_taken_for_this_machine(name: str) -> None:
    assert not is_loopback(name)


def test_a_port_that_the_scheme_implies_makes_no_other_host() -> None:
    assert named_host(urlsplit("https://user@Registry.example:443/v2/")) == "registry.example"
    assert named_host(urlsplit("http://registry.example:443/")) == "registry.example:443"
