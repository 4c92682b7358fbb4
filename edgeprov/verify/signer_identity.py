# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Who signed, and what a certificate may be used for: what every judge of certificates speaks of."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Literal

from edgeprov._dataclass import dataclass, field

Role = Literal["publisher", "enroller", "roster", "collector", "importer"]
"""What the trust policy allows somebody to sign; its table ``roles`` has a list of identities for each."""
Purpose = Role | Literal["device", "timestamp", "ek", "idevid"]
"""Use of a certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerIdentity:
    """Who signed.

    Attributes:
        san: The one URI or e-mail address of the certificate, ``x509.subject:...`` where it has
            none, or ``key:sha256:...`` for a bare key.
        subject: RFC 4514 text of the certificate's subject.
        serial: Certificate serial number in lower-case hex, without leading zeros.
        spki: SubjectPublicKeyInfo in DER.
        not_before: Start of the time in which the whole path is valid.
        not_after: Its end.
    """

    san: str
    subject: str
    serial: str
    spki: bytes = field(repr=False)
    not_before: dt.datetime
    not_after: dt.datetime
    rdns: tuple[tuple[str, str], ...] = ()
    certificate_sha256: str = ""
    """SHA-256 of the certificate in hex; empty for a bare key."""
    issuers: tuple[tuple[str, str, str], ...] = ()
    """Serial, SPKI SHA-256 and certificate SHA-256 of each certificate above the leaf, for the deny list."""

    @property
    def spki_sha256(self) -> str:
        """SHA-256 of the key in hex: its name in deny lists."""
        return hashlib.sha256(self.spki).hexdigest()
