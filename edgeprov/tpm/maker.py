# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a TPM says of its maker, and what its keys are worth by that."""

from __future__ import annotations

from typing import Final, Literal

from edgeprov.tpm import endorsement
from edgeprov.tpm.esys import Connection

_PT_MANUFACTURER: Final = 0x105  # four vendor strings follow
_WORDS: Final = 5
# TCG Vendor ID Registry. Chips of their own; everything unknown counts as firmware at best.
_CHIP_MAKERS: Final = frozenset(("ATML", "GOOG", "IFX", "NSM", "NTC", "NTZ", "STM", "WEC"))
_SOFTWARE: Final = frozenset(("IBM", "VMW"))  # libtpms (swtpm, every QEMU guest), VMware


def read_manufacturer(connection: Connection) -> str:
    """Maker's id and model, such as ``IFX SLB9672``; one command.

    Raises:
        TpmError: The TPM does not answer.
    """
    found = connection.tpm_properties(_PT_MANUFACTURER, _WORDS)
    words = [found.get(_PT_MANUFACTURER + place, 0).to_bytes(4, "big") for place in range(_WORDS)]
    parts = (words[0], b"".join(words[1:]))
    return " ".join(part.replace(b"\0", b"").decode("ascii", "replace").strip() for part in parts).strip()


def judge_assurance(
    connection: Connection, manufacturer: str, ek_certificate: bytes | None, *, simulated: bool
) -> Literal["dev", "firmware", "hardware"]:
    """``hardware`` is a chip whose maker certified its EK.

    A simulator, any software TPM and any TPM without certificate of EK or IAK are ``dev``. This is what
    the device says of itself; the enroller decides by the certificate.

    Raises:
        TpmError: The TPM does not answer.
    """
    maker = manufacturer.partition(" ")[0]
    if simulated or maker in _SOFTWARE:
        return "dev"
    if ek_certificate is None and endorsement.find_factory_key(connection) is None:
        return "dev"
    return "hardware" if maker in _CHIP_MAKERS else "firmware"
