# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a 401 asks for, and the scopes of tokens.

oras' own reader is gone around: it finds no scheme, so ``Basic realm="x", Bearer realm="https://…"`` is taken
for a bearer challenge of realm "x" (tests/registry/test_challenges.py).

Spec: RFC 9110 section 11.6.1 (WWW-Authenticate); distribution, "Token scope documentation".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, parse_qs

_CHALLENGE_CHARS: Final = 16_384
_PART = re.compile(
    r'\s*,?\s*(?:([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)|([\w-]+)(?:\s+([\w.~+/-]+=*)(?=\s*(?:,|$)))?)'
)
_REPOSITORY = re.compile(r"/v2/(.+)/(?:blobs|manifests|tags|referrers)/.*")
_CATALOGUE: Final = frozenset(("registry:catalog:*",))


def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes in lower case with their parameters, in order; several header lines come joined by commas."""
    found: list[tuple[str, dict[str, str]]] = []
    header, position = header[:_CHALLENGE_CHARS], 0
    while position < len(header) and (part := _PART.match(header, position)) and part.end() > position:
        position = part.end()
        name, value, scheme, _ = part.groups()
        if scheme:
            found.append((scheme.lower(), {}))
        elif found:
            found[-1][1][name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
    return found


def scope_of(method: str, parts: SplitResult) -> frozenset[str]:
    """Rights that a request needs, one action an item: ``repository:NAME:pull``.

    A write asks for pull too: zot names only one action in each challenge, and two tokens that replace each
    other would cost a token request for each change of method.
    """
    if parts.path == "/v2/_catalog":
        return _CATALOGUE
    matched = _REPOSITORY.fullmatch(parts.path)
    if matched is None:
        return frozenset()
    actions = ("pull",) if method in ("GET", "HEAD") else ("pull", "push")
    mounted = parse_qs(parts.query).get("from", []) if method == "POST" else []
    return frozenset(
        (*(f"repository:{matched[1]}:{action}" for action in actions), *(f"repository:{name}:pull" for name in mounted))
    )


def repository_of(parts: SplitResult) -> str:
    """The repository that a request is about; empty for the registry as a whole."""
    matched = _REPOSITORY.fullmatch(parts.path)
    return matched[1] if matched else ""


def parse_scope(text: str) -> frozenset[str]:
    """The scope of a challenge, one action an item; what has another form is left out."""
    found: set[str] = set()
    for item in text.split():
        what, colon, actions = item.rpartition(":")
        if colon and ":" in what:
            found.update(f"{what}:{action}" for action in actions.split(",") if action)
    return frozenset(found)


def encode_scopes(scope: Iterable[str]) -> list[str]:
    """``repository:NAME:pull,push`` for each thing, sorted: the form of a token request."""
    actions: dict[str, list[str]] = {}
    for item in sorted(scope):
        what, _, action = item.rpartition(":")
        actions.setdefault(what, []).append(action)
    return [f"{what}:{','.join(names)}" for what, names in actions.items()]
