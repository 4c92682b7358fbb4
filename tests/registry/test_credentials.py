# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Accounts out of the files that docker and podman write, in every place where they put them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import ConfigError
from edgeprov.registry.credentials import Credentials, CredentialStore

HOST = "registry.example:5000"


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def store(tmp_path: Path, document: Any, *, helpers: bool = False, **environment: str) -> CredentialStore:
    file = tmp_path / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return CredentialStore(file, helpers=helpers, environment=environment)


def account(found: Credentials | None) -> tuple[str, str, str] | None:
    return found and (found.username, found.password, found.identity_token)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": basic("u", "p:with:colons")}, ("u", "p:with:colons", "")),
        ({"auth": basic("u", "p\0\0")}, ("u", "p", "")),
        ({"auth": basic("u", "p") + "\n"}, ("u", "p", "")),
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({"auth": basic("u", "p"), "email": "u@example"}, ("u", "p", "")),
        ({"auth": basic("0000-0000", ""), "identitytoken": "refresh"}, ("0000-0000", "", "refresh")),
        ({"identitytoken": "refresh"}, ("", "", "refresh")),
        ({}, None),
        ({"username": "u"}, None),
        ("text", None),
    ],
)
def test_each_form_of_an_entry(tmp_path: Path, entry: Any, expected: tuple[str, str, str] | None) -> None:
    assert account(store(tmp_path, {"auths": {HOST: entry}}).find(HOST, "a/b")) == expected


def test_a_token_for_the_registry_itself(tmp_path: Path) -> None:
    found = store(tmp_path, {"auths": {HOST: {"registrytoken": "t"}}}).find(HOST)
    assert found is not None
    assert found.registry_token == "t"


@pytest.mark.parametrize(
    "key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"http://{HOST}/v2/", "Registry.Example:5000"]
)
def test_a_key_may_carry_scheme_and_version(tmp_path: Path, key: str) -> None:
    assert account(store(tmp_path, {"auths": {key: {"auth": basic("u", "p")}}}).find(HOST)) == ("u", "p", "")


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "index.docker.io"])
def test_the_key_of_docker_hub_is_another_name(tmp_path: Path, host: str) -> None:
    keys = {"https://index.docker.io/v1/": {"auth": basic("u", "p")}}
    assert account(store(tmp_path, {"auths": keys}).find(host, "library/x")) == ("u", "p", "")


def test_the_longest_path_of_podman_counts(tmp_path: Path) -> None:
    names = ("", "/ward", "/ward/data", "/wardrobe")
    found = store(tmp_path, {"auths": {HOST + name: {"auth": basic(name or "all", "p")} for name in names}})
    for repo, user in (
        ("ward/data/x", "/ward/data"),
        ("ward/x", "/ward"),
        ("ward", "/ward"),
        ("other", "all"),
        ("", "all"),
    ):
        assert account(found.find(HOST, repo)) == (user, "p", "")
    assert found.find("registry.example", "ward") is None  # another port is another registry


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"auths":[]}',
        '{"auths":{},"credHelpers":[]}',
        '{"credsStore":7}',
        "not json",
        '{"auths":{"a":1},"auths":{}}',
    ],
)
def test_a_file_that_is_none_is_told_before_anything_is_sent(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        store(tmp_path, text)


@pytest.mark.parametrize("auth", ["!", "bm9jb2xvbg==", "/w=="])
def test_a_malformed_entry_is_told_for_its_host_only(tmp_path: Path, auth: str) -> None:
    found = store(tmp_path, {"auths": {HOST: {"auth": auth}}})
    with pytest.raises(ConfigError) as caught:
        found.find(HOST)
    assert auth not in caught.value.message
    assert found.find("other.example") is None


def test_the_usual_places_in_their_order(tmp_path: Path) -> None:
    places = {
        "REGISTRY_AUTH_FILE": tmp_path / "podman.json",
        "DOCKER_CONFIG": tmp_path / "docker",
        "XDG_RUNTIME_DIR": tmp_path / "run",
        "XDG_CONFIG_HOME": tmp_path / "config",
        "HOME": tmp_path / "home",
    }
    files = [
        places["REGISTRY_AUTH_FILE"],
        places["DOCKER_CONFIG"] / "config.json",
        places["XDG_RUNTIME_DIR"] / "containers/auth.json",
        places["XDG_CONFIG_HOME"] / "containers/auth.json",
    ]
    environment = {name: str(place) for name, place in places.items()}
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"auths": {HOST: {"auth": basic(str(number), "p")}}}))
    for number, file in enumerate(files):
        assert account(CredentialStore(None, environment=environment).find(HOST)) == (str(number), "p", "")
        file.unlink()
    assert CredentialStore(None, environment=environment).find(HOST) is None
    home = {"HOME": str(tmp_path / "home")}
    for name, user in (
        (".dockercfg", "old"),
        (".docker/config.json", "new"),
        (".config/containers/auth.json", "podman"),
    ):
        entries = {HOST: {"auth": basic(user, "p")}}
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(entries if user == "old" else {"auths": entries}))
        assert account(CredentialStore(None, environment=home).find(HOST)) == (user, "p", "")
    content = json.dumps({"auths": {HOST: {"auth": basic("ci", "p")}}})
    assert account(CredentialStore(None, environment={**home, "DOCKER_AUTH_CONFIG": content}).find(HOST)) == (
        "ci",
        "p",
        "",
    )


def test_no_place_is_read_before_a_registry_asks(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text("damaged")
    found = CredentialStore(None, environment={"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"\.docker/config\.json"):
        found.find(HOST)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A helper that knows two hosts, keeps what it was asked, and fails for a third."""
    program = tmp_path / "bin/docker-credential-test.1"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'read -r host; echo "$1 $host" >> {tmp_path}/asked\n'
        'case "$host" in\n'
        f'{HOST}) echo \'{{"ServerURL":"x","Username":"u","Secret":"p"}}\' ;;\n'
        'https://index.docker.io/v1/) echo \'{"Username":"<token>","Secret":"refresh"}\' ;;\n'
        "locked.example) echo 'the keychain is locked' >&2; exit 1 ;;\n"
        "*) echo 'credentials not found in native keychain'; exit 1 ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "asked"


@pytest.mark.parametrize(
    "form",
    [
        {"credsStore": "test.1"},
        {
            "credHelpers": dict.fromkeys(
                [HOST, "https://index.docker.io/v1/", "locked.example", "other.example"], "test.1"
            )
        },
    ],
)
def test_credential_helpers_at_the_desk(tmp_path: Path, helper: Path, form: dict[str, Any]) -> None:
    found = store(tmp_path, {"auths": {HOST: {}}, **form}, helpers=True)
    assert account(found.find(HOST)) == ("u", "p", "")
    assert account(found.find(HOST)) == ("u", "p", "")
    assert account(found.find("docker.io")) == ("", "", "refresh")
    assert found.find("other.example") is None
    with pytest.raises(ConfigError, match="keychain is locked"):
        found.find("locked.example")
    assert helper.read_text().splitlines().count(f"get {HOST}") == 1


@pytest.mark.parametrize("name", ["../evil", "no-such-helper", "a b", "x;y"])
def test_a_helper_that_cannot_be_run_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="credential helper"):
        store(tmp_path, {"credsStore": name}, helpers=True).find(HOST)


def test_a_device_runs_no_helper_and_says_so(tmp_path: Path, helper: Path) -> None:
    found = store(tmp_path, {"auths": {"inline.example": {"auth": basic("u", "p")}}, "credsStore": "test.1"})
    assert account(found.find("inline.example")) == ("u", "p", "")
    with pytest.raises(ConfigError, match="not run on a device") as caught:
        found.find(HOST)
    assert "auth" in caught.value.advice
    assert not helper.exists()


def test_oras_knows_no_identity_token_and_no_path(tmp_path: Path) -> None:
    """The faults for which oras' own reader is gone around."""
    from oras.auth.token import TokenAuth

    auth = TokenAuth()
    auth._auth_config = {"auths": {HOST: {"identitytoken": "t"}, f"{HOST}/ward": {"auth": basic("u", "p")}}}
    assert not auth._load_auth(HOST)
