# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The manufacturer that an endorsement key certificate names, and the level that such a TPM can have.

Spec: TCG EK Credential Profile 2.5, section 3.2.9 (TPM attributes in subjectAltName); TCG Vendor ID Registry.
"""

from __future__ import annotations

import re
from typing import Final

from edgeprov.errors import FormatError
from edgeprov.formats.distinguished_name import name_values
from edgeprov.formats.mediatypes import ASSURANCES, Assurance
from edgeprov.verify.certificates import load_certificate

_MANUFACTURER: Final = "2.23.133.2.1"  # tcg-at-tpmManufacturer
_ID: Final = re.compile("id:([0-9A-Fa-f]{8})")
# Makers of chips of their own. AMD, INTC, QCOM, MSFT, GOOG and what is unknown make firmware or virtual TPMs, too.
_CHIPS: Final = frozenset(("ATML", "IFX", "NSG", "NSM", "NTC", "NTZ", "SECE", "SMSC", "STM", "WEC"))
_SOFTWARE: Final = frozenset(("IBM", "VMW"))  # libtpms (swtpm, every QEMU guest), VMware
_LIBTPMS: Final = "00001014"  # swtpm's own CA writes IBM's number, not its letters


def tpm_manufacturer(certificate: bytes) -> str | None:
    """The manufacturer's letters, such as ``IFX``; None where the certificate names none.

    Args:
        certificate: DER.

    Raises:
        FormatError: Not a certificate, or an attribute that is no vendor id.
    """
    names = load_certificate(certificate).alternative_names
    values = [text for _, name in names if isinstance(name, tuple) for text in name_values(name, _MANUFACTURER)]
    if not values:
        return None
    found = _ID.fullmatch(values[0])
    if len(values) != 1 or found is None:
        raise FormatError(f"TPM manufacturer {values[0][:40]!r} is no TCG vendor id")
    if found[1] == _LIBTPMS:
        return "IBM"
    return bytes.fromhex(found[1]).replace(b"\0", b"").decode("ascii", "replace").strip()


def level_of_manufacturer(manufacturer: str | None) -> Assurance:
    """The highest level that a TPM of this manufacturer can have: only makers of chips are ``hardware``."""
    if manufacturer in _SOFTWARE:
        return "dev"
    return "hardware" if manufacturer in _CHIPS else "firmware"


def lower_level(first: Assurance, second: Assurance) -> Assurance:
    """The lower one of two levels."""
    return min(first, second, key=ASSURANCES.index)
