# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Accounts from docker's and podman's files, in all forms that their login commands write.

oras' own reader is gone around: it knows no identity token, no podman key with a path, one place only, and
runs credential helpers without a time limit (tests/registry/test_credentials.py).

Spec: docker CLI "docker login", credential helper protocol; containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import ConfigError, FormatError
from edgeprov.formats.jsonx import parse_json_object
from edgeprov.limits import LIMITS

_HELPER_S: Final = 60.0
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the user's name that says that the secret is an identity token
_DOCKER_HUB: Final = "index.docker.io"
_DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_NAMES: Final = frozenset(("docker.io", "registry-1.docker.io", _DOCKER_HUB))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An account; ``source`` says where it was found, for advice."""

    source: str
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def basic(self) -> str:
        """The value of an Authorization header; empty where there is no password."""
        if not self.password and not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _File:
    source: str
    auths: dict[str, Any]
    helpers: dict[str, str]
    store: str


class CredentialStore:
    """Finds the account for a repository; the most specific entry counts, as podman does it."""

    def __init__(
        self, file: Path | None, *, helpers: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        """Read a named file at once; the usual places only when a registry asks for an account.

        Args:
            file: None for the usual places of docker and podman.
            helpers: Run credential helpers that a file names.
            environment: Replaced in tests.

        Raises:
            ConfigError: The named file is unreadable or malformed.
        """
        self.file = file
        self._helpers = helpers
        self._environment = os.environ if environment is None else environment
        self._files: list[_File] | None = None if file is None else [_load(file)]
        self._found: dict[tuple[str, str], Credentials | None] = {}
        self._lock = threading.Lock()

    def find(self, host: str, repo: str = "") -> Credentials | None:
        """The account for ``host[:port]`` and a repository, None when no file has one.

        Raises:
            ConfigError: The entry or its file is malformed, or its helper cannot be used.
        """
        with self._lock:
            if (host, repo) not in self._found:
                self._found[host, repo] = self._search(host.lower(), repo)
            return self._found[host, repo]

    def _search(self, host: str, repo: str) -> Credentials | None:
        if self._files is None:
            self._files = list(_usual_files(self._environment))
        for file in self._files:
            for key in _keys(_DOCKER_HUB if host in _HUB_NAMES else host, repo):
                entry = file.auths.get(key)
                if isinstance(entry, dict) and (found := _of_entry(entry, key, file.source)):
                    return found
            if found := self._of_helper(file, host):
                return found
        return None

    def _of_helper(self, file: _File, host: str) -> Credentials | None:
        name = file.helpers.get(_DOCKER_HUB if host in _HUB_NAMES else host) or file.store
        if not name:
            return None
        if not self._helpers:
            if self.file is None:
                return None
            raise ConfigError(
                f"{file.source} keeps the account for {host} in the credential helper {name[:100]!r}, "
                "which is not run on a device",
                advice=f"Write the account itself into the file: auths, {host}, auth.",
            )
        return _ask_helper(name, _DOCKER_HUB_KEY if host in _HUB_NAMES else host, file.source)


def _keys(host: str, repo: str) -> Iterator[str]:
    """``host/a/b``, ``host/a``, ``host``."""
    name = f"{host}/{repo}" if repo else host
    while True:
        yield name
        if name == host:
            return
        name = name.rpartition("/")[0]


def _normal_key(key: str) -> str:
    """``https://host/v1/`` is ``host``; podman's ``host/path`` stays."""
    host, _, path = key.rpartition("://")[2].partition("/")
    path = path.strip("/")
    if path in ("v1", "v2"):
        path = ""
    host = _DOCKER_HUB if host.lower() in _HUB_NAMES else host.lower()
    return f"{host}/{path}" if path else host


def _usual_files(environment: Mapping[str, str]) -> Iterator[_File]:
    """Every file that is there, in the order in which the account of the first one counts."""
    if text := environment.get("DOCKER_AUTH_CONFIG"):  # the file's content itself: how CI systems hand it on
        yield _parse(text.encode(), "DOCKER_AUTH_CONFIG")
    home = Path(environment.get("HOME") or "/")
    docker = Path(environment["DOCKER_CONFIG"]) if environment.get("DOCKER_CONFIG") else home / ".docker"
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    places = [config / "containers/auth.json", docker / "config.json", home / ".dockercfg"]
    if environment.get("XDG_RUNTIME_DIR"):
        places.insert(0, Path(environment["XDG_RUNTIME_DIR"]) / "containers/auth.json")
    if environment.get("DOCKER_CONFIG"):
        places.insert(0, docker / "config.json")
    if environment.get("REGISTRY_AUTH_FILE"):
        places.insert(0, Path(environment["REGISTRY_AUTH_FILE"]))
    for place in dict.fromkeys(places):
        try:
            there = place.is_file() and os.access(place, os.R_OK)
        except OSError:  # a folder that this user may not enter
            continue
        if there:
            yield _load(place)


def _load(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.config_file_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(raw, str(path), legacy=path.name == ".dockercfg")


def _parse(raw: bytes, source: str, *, legacy: bool = False) -> _File:
    try:
        document = parse_json_object(raw, source, max_bytes=LIMITS.config_file_bytes)
    except FormatError as error:
        raise ConfigError(
            f"{source} is not a credentials file: {error.message}", advice="Write it with docker login or podman login."
        ) from error
    auths = document if legacy else document.get("auths", {})
    helpers = document.get("credHelpers", {})
    store = document.get("credsStore", "")
    if not isinstance(auths, dict) or not isinstance(helpers, dict) or not isinstance(store, str):
        raise ConfigError(f"{source} is not a credentials file", advice="Write it with docker login or podman login.")
    return _File(
        source,
        {_normal_key(key): value for key, value in auths.items()},
        {_normal_key(key): value for key, value in helpers.items() if isinstance(value, str)},
        store,
    )


def _of_entry(entry: dict[str, Any], key: str, source: str) -> Credentials | None:
    """An entry of ``auths``; None for an empty one, which only says that a helper has the account."""
    username, password = _text(entry, "username"), _text(entry, "password")
    if auth := entry.get("auth"):
        try:
            text = base64.b64decode("".join(str(auth).split()), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: auth of the entry for {key} is not base64") from error
        username, colon, password = text.partition(":")
        password = password.strip("\0")
        if not colon:
            raise ConfigError(f"{source}: the entry for {key} is not user:password in base64")
    found = Credentials(
        source=source,
        username=username,
        password=password,
        identity_token=_text(entry, "identitytoken"),
        registry_token=_text(entry, "registrytoken"),
    )
    return found if found.password or found.identity_token or found.registry_token else None


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _ask_helper(name: str, key: str, source: str) -> Credentials | None:
    import subprocess

    program = f"docker-credential-{name}"
    if not _HELPER.fullmatch(name):
        raise ConfigError(f"{source}: {name[:100]!r} is not the name of a credential helper")
    try:
        done = subprocess.run([program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else f"no answer within {_HELPER_S:.0f} s"
        raise ConfigError(
            f"{source}: the credential helper {program} cannot be used: {why}",
            advice="Install it, or name a file that holds the account itself.",
        ) from error
    if done.returncode:
        said = (done.stdout + done.stderr)[:200].decode("utf-8", "replace").strip()
        if "credentials not found" in said:
            return None
        raise ConfigError(
            f"{source}: the credential helper {program} failed: {said.splitlines()[0] if said else done.returncode}",
            advice=f"Try it: echo {key} | {program} get",
        )
    try:
        answer = parse_json_object(done.stdout, program, max_bytes=LIMITS.config_file_bytes)
    except FormatError as error:
        raise ConfigError(f"{source}: the credential helper {program} answered no JSON object") from error
    user, secret = _text(answer, "Username"), _text(answer, "Secret")
    if not secret:
        return None
    if user == _TOKEN_USER:
        return Credentials(source=f"{source} ({program})", identity_token=secret)
    return Credentials(source=f"{source} ({program})", username=user, password=secret)
