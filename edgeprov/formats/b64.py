# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Base64 as the JSON documents of cosign, notation and in-toto use it; strict, so that one value has one spelling."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from edgeprov.errors import FormatError
from edgeprov.formats.jsonx import get_str

_FROM_URL: Final = str.maketrans("-_", "+/")


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    """Base64url without padding (JOSE)."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def parse_b64(text: str, what: str) -> bytes:
    """Read standard base64.

    Raises:
        FormatError: Other characters, missing padding, or not the one canonical spelling.
    """
    try:
        raw = text.encode("ascii")
        data = binascii.a2b_base64(raw, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not base64") from error
    if base64.b64encode(data) != raw:
        raise FormatError(f"{what} is not canonical base64")
    return data


def parse_b64url(text: str, what: str) -> bytes:
    """Read base64url without padding.

    Raises:
        FormatError: Other characters, padding, or not the one canonical spelling.
    """
    try:
        data = binascii.a2b_base64((text + "=" * (-len(text) % 4)).translate(_FROM_URL), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not base64url") from error
    if b64url(data) != text:
        raise FormatError(f"{what} is not canonical base64url")
    return data


def get_b64(obj: Mapping[str, Any], key: str, what: str) -> bytes:
    """A required member that holds standard base64."""
    return parse_b64(get_str(obj, key, what), f"{what}: {key!r}")
