# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of PEM files. Spec: RFC 7468."""

from __future__ import annotations

import binascii

from edgeprov.errors import FormatError


def parse_pem(pem: bytes, label: str) -> tuple[bytes, ...]:
    """Decode all blocks of one label, such as ``CERTIFICATE``. Text and other blocks beside them are passed over.

    Raises:
        FormatError: None, or one that is damaged.
    """
    begin, end = (f"-----{word} {label}-----".encode() for word in ("BEGIN", "END"))
    found = []
    for piece in pem.split(begin)[1:]:
        body, closed, _ = piece.partition(end)
        try:
            block = binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
        except binascii.Error as error:
            raise FormatError(f"a PEM block {label} is damaged") from error
        if not closed or not block:
            raise FormatError(f"a PEM block {label} is cut short")
        found.append(block)
    if not found:
        raise FormatError(f"there is no PEM block {label}")
    return tuple(found)


def encode_pem(der: bytes, label: str) -> bytes:
    """One block, in lines of 64 characters."""
    text = binascii.b2a_base64(der, newline=False)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join((f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----\n".encode()))
