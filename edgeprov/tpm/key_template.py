# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The one template of AK and SK, and their authValues.

``unique`` and authValue come from the device's secret: others who may talk to the TPM can neither make nor use the
keys. An authValue is no part of what makes a primary key, so it would be worth nothing without a secret ``unique``.

Spec: TPM 2.0 Library, Part 1, 27.3 (unique in the template of a primary key); FORMAT.md section 19, R-key and W-key.
"""

from __future__ import annotations

import struct
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.formats import tpmt
from edgeprov.tpm.secret import KeySecret


@dataclass(frozen=True, slots=True)
class KeyKind:
    """One of the two keys: where it is cached, and the template that makes it."""

    label: str
    handle: int
    attributes: int

    def template(self, secret: KeySecret, auth_policy: bytes = b"") -> bytes:
        """TPMT_PUBLIC of the primary key.

        Args:
            secret: Of this device.
            auth_policy: Digest of an authorized policy; with one, the authValue alone no longer suffices.
        """
        attributes = self.attributes & ~tpmt.USER_WITH_AUTH if auth_policy else self.attributes
        x, y = (secret.derive(f"{self.label}/unique.{axis}") for axis in "xy")
        return (
            struct.pack(">HHIH", tpmt.ALG_ECC, tpmt.ALG_SHA256, attributes, len(auth_policy))
            + auth_policy
            + struct.pack(
                ">HHHHHH32sH32s",
                tpmt.ALG_NULL,
                tpmt.ALG_ECDSA,
                tpmt.ALG_SHA256,
                tpmt.ECC_NIST_P256,
                tpmt.ALG_NULL,
                len(x),
                x,
                len(y),
                y,
            )
        )

    def auth(self, secret: KeySecret) -> bytes:
        """The key's authValue."""
        return secret.derive(f"{self.label}/auth")


AK: Final = KeyKind("ak", 0x81010020, tpmt.AK_ATTRIBUTES)
SK: Final = KeyKind("sk", 0x81010021, tpmt.SK_ATTRIBUTES)
