# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a registry's answers say, read without trusting them: headers, lengths, lists.

Spec: OCI distribution-spec 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Protocol

from edgeprov.errors import RegistryError, RegistryProtocolError
from edgeprov.formats.mediatypes import OCI_MANIFEST
from edgeprov.limits import LIMITS


class Response(Protocol):
    """An HTTP answer whose body has not been read yet."""

    status: int
    headers: Mapping[str, str]  # names in any case

    def chunks(self, size: int) -> Iterator[bytes]:
        """The body in pieces of at most ``size`` bytes. Raises RegistryError when the line is cut."""

    def close(self) -> None:
        """Give the connection back."""


def named_status(status: int) -> str:
    """``507 Insufficient Storage``: a number alone says little to a technician."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def read_header(answer: Response, name: str, what: str) -> str:
    """A header that must be there.

    Raises:
        RegistryError: It is not.
    """
    value = answer.headers.get(name)
    if not value:
        # A line cut among the headers looks like this, and is worth another try.
        raise RegistryError(f"{what}: the answer has no {name}")
    return value


def read_length(answer: Response, what: str) -> int:
    """Content-Length in bytes.

    Raises:
        RegistryProtocolError: Not a number of bytes.
    """
    text = read_header(answer, "Content-Length", what)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise RegistryProtocolError(f"{what}: Content-Length is {text[:40]!r}")
    return int(text)


def read_media_type(answer: Response) -> str:
    """Media type of the body, without parameters."""
    return answer.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0].strip()


def read_retry_after(answer: Response) -> float | None:
    """Seconds that the registry asks to wait, None when it does not say.

    The date form counts from the registry's own clock (``Date`` of the same answer): a device's may be wrong.
    """
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 7 else None
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until - parsedate_to_datetime(answer.headers.get("Date", ""))).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one with a zone and one without
        return None


def read_strings(page: Mapping[str, Any], key: str) -> list[str]:
    """A list of strings in a page of JSON; empty when it is not there.

    Raises:
        RegistryProtocolError: Something else, or too long.
    """
    items = page.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RegistryProtocolError(f"the list has no {key}")
    if len(items) > LIMITS.list_entries:
        raise RegistryProtocolError(f"the list has {len(items)} {key}")
    return items
