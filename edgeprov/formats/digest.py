# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Content digests. Only SHA-256: one algorithm, so none can be mixed up.

Spec: OCI image-spec, descriptor.md, "Digests".
"""

from __future__ import annotations

import hashlib

from edgeprov._dataclass import dataclass
from edgeprov.errors import DigestMismatch, FormatError

_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest; ``str()`` gives the OCI form ``sha256:<64 lower-case hex>``."""

    hex: str

    def __post_init__(self) -> None:
        try:
            # The quickest look at 64 digits; other spellings of the same bytes do not come back.
            good = len(self.hex) == 64 and bytes.fromhex(self.hex).hex() == self.hex
        except ValueError:
            good = False
        if not good:
            raise FormatError(f"not a SHA-256 digest: {self.hex[:80]!r}")

    def __str__(self) -> str:
        return _PREFIX + self.hex

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self.hex)


def parse_digest(text: str) -> Digest:
    """Read ``sha256:<hex>``.

    Raises:
        FormatError: Another algorithm, upper case, or a wrong length.
    """
    if not text.startswith(_PREFIX):
        raise FormatError(f"not a sha256 digest: {text[:80]!r}", advice="Only sha256:<64 hex digits> is accepted.")
    return Digest(text[len(_PREFIX) :])


def digest_of(data: bytes | memoryview) -> Digest:
    """SHA-256 of bytes in memory."""
    return Digest(hashlib.sha256(data).hexdigest())


def verify_digest(data: bytes | memoryview, expected: Digest, what: str) -> None:
    """Compare bytes with a digest; neither is a secret.

    Raises:
        DigestMismatch: ``data`` is not what ``expected`` names.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected.hex:
        raise DigestMismatch(f"{what} has digest {_PREFIX}{actual}, expected {expected}")
