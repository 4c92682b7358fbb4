# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""References as people type them: ``host[:port]/path/name[:tag][@sha256:...]`` and ``oci:DIR//repo...``.

There is no default host and no default tag: a reference means the same on every machine.

Spec: OCI distribution-spec 1.1, "Pulling manifests" (the grammar of repository names and tags).
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, UsageError
from edgeprov.formats.digest import Digest, parse_digest

LAYOUT_PREFIX: Final = "oci:"
LAYOUT_SEPARATOR: Final = "//"

_REPO = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_ADVICE: Final = "Write host[:port]/path/name@sha256:<64 hex digits>, or oci:DIR//name@sha256:..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an artifact is: ``registry_name`` is ``host[:port]`` or ``oci:DIR``."""

    registry_name: str
    repo: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def is_layout(self) -> bool:
        """Whether the registry is a folder."""
        return self.registry_name.startswith(LAYOUT_PREFIX)

    def __str__(self) -> str:
        joint = LAYOUT_SEPARATOR if self.is_layout and self.repo else "/"
        text = f"{self.registry_name}{joint}{self.repo}" if self.repo else self.registry_name
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text


def is_repository(name: str) -> bool:
    """Whether registries take this as the name of a repository."""
    return len(name) <= 255 and _REPO.fullmatch(name) is not None


def parse_reference(text: str) -> Reference:
    """Read a reference; nothing is contacted.

    Raises:
        UsageError: Not a reference; the message says which part is wrong.
    """
    if text.startswith(LAYOUT_PREFIX):
        return _parse_layout(text)
    if "://" in text:
        raise UsageError(f"{text[:200]!r} is an address, not a reference", advice=_ADVICE)
    rest, digest = _split_digest(text)
    host, slash, path = rest.partition("/")
    # A host is told from a path by its dot or port, as docker does; "name/x" has no registry.
    matched = _HOST.fullmatch(host)
    looks_like_host = "." in host or ":" in host or host == "localhost"
    if not slash or matched is None or not looks_like_host or int(matched.group(1) or 1) not in range(1, 65536):
        raise UsageError(f"{text[:200]!r} names no registry", advice=_ADVICE)
    repo, tag = _split_tag(path, text)
    if not is_repository(repo):
        raise UsageError(f"{repo[:200]!r} is not a repository name", advice=_ADVICE)
    return Reference(registry_name=host, repo=repo, tag=tag, digest=digest)


def _parse_layout(text: str) -> Reference:
    rest, digest = _split_digest(text.removeprefix(LAYOUT_PREFIX))
    folder, separator, path = rest.rpartition(LAYOUT_SEPARATOR)
    if not separator:
        folder, path = rest, ""
        head, colon, tail = rest.rpartition(":")
        if colon and _TAG.fullmatch(tail):  # oci:DIR:tag, as skopeo and oras write it
            folder, path = head, f":{tail}"
    repo, tag = _split_tag(path, text)
    if not folder:
        raise UsageError(f"{text[:200]!r} names no folder", advice=_ADVICE)
    if repo and not is_repository(repo):
        raise UsageError(f"{repo[:200]!r} is not a repository name", advice=_ADVICE)
    return Reference(registry_name=LAYOUT_PREFIX + folder, repo=repo, tag=tag, digest=digest)


def _split_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    if not at:
        return text, None
    try:
        return rest, parse_digest(digest)
    except FormatError as error:
        raise UsageError(f"{text[:200]!r}: {error.message}", advice=_ADVICE) from error


def _split_tag(path: str, text: str) -> tuple[str, str | None]:
    repo, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(f"{text[:200]!r}: {tag[:200]!r} is not a tag", advice=_ADVICE)
    return repo, tag or None
