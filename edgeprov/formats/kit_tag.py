# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The tag of a data kit or tombstone: serial, counter value, start of the manifest digest.

Spec: FORMAT.md section "Data kit".
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.digest import Digest
from edgeprov.formats.names import SERIAL
from edgeprov.formats.segment import device_urn

SEQ_MAX: Final = 10**10 - 1
"""Largest counter value: ten digits in the tag."""

_TAG = re.compile(rf"({SERIAL})\.([0-9]{{10}})\.([0-9a-f]{{16}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KitTag:
    """The tag of a kit or tombstone: device serial, TPM counter value, first 16 hex of its digest."""

    device: str
    seq: int
    prefix: str


def kit_tag(serial: str, seq: int, digest: Digest) -> str:
    """The tag under which a kit or tombstone is pushed: a repeated push writes the same tag.

    Raises:
        FormatError: Not a serial, or a counter value of more than ten digits.
    """
    device_urn(serial)
    if not 0 <= seq <= SEQ_MAX:
        raise FormatError(f"sequence number {seq} does not fit ten digits")
    return f"{serial}.{seq:010d}.{digest.hex[:16]}"


def parse_kit_tag(tag: str) -> KitTag | None:
    """Take a tag apart; None for a tag that is no kit's (``latest``, fallback tags)."""
    match = _TAG.fullmatch(tag)
    return KitTag(device=match[1], seq=int(match[2]), prefix=match[3]) if match else None
