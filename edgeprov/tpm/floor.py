# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The floor of each slot: the lowest securityVersion that may run there. It only rises.

A TPM never lets a counter fall: a deleted and newly defined one starts above all that ever were, even after
TPM2_Clear. The floor is a counter's distance from a base in a write-locked index, since its first value is
arbitrary. Both indices have an authValue made of the device's secret and the slot's name, so that nobody else
can use them, and no place can be passed off as another slot's.

A TPM has room for some eight NV counters (SLB9670); the kit counter takes one, `PLACES` slots one each. The
floor of a further slot, or of one for which the TPM has no room, is kept in a file alone; the file also
remembers all floors over TPM2_Clear. Reading needs no TPM library: the boot check does it.

Spec: TPM 2.0 Library, Part 1, 37.2.4 (counters).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeprov.errors import IdentityError
from edgeprov.tpm.client import Client
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, RC_NV_UNINITIALIZED
from edgeprov.tpm.saved_documents import load_document, save_document
from edgeprov.tpm.secret import SECRET_FILE, KeySecret, load_secret

PLACES: Final = 4
FLOOR_INDEX: Final = 0x01800110  # counters, one for each place
BASE_INDEX: Final = 0x01800118
FLOOR_FILE: Final = "floor.json"
VALUE_BYTES: Final = 8
_NOT_OURS: Final = (RC_HANDLE, RC_AUTH_FAIL, RC_BAD_AUTH, RC_NV_UNINITIALIZED)


def floor_auth(secret: KeySecret, slot: str) -> bytes:
    """The authValue of a slot's two indices."""
    return secret.derive(f"floor/{slot}")


class FloorReader:
    """Reads floors: two commands where the file knows the slot's place."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        """Nothing is asked of the TPM yet."""
        self._client = client
        self._state_dir = state_dir
        self._secret: KeySecret | None = None

    def read(self, slot: str) -> int:
        """The floor of a slot; 0 when none was ever set.

        Raises:
            IdentityError: The TPM holds floors that cannot be read, because the secret is lost.
            TpmError: The TPM refused.
            StoreError: The file cannot be read.
        """
        found = self.find(slot)
        return max(0 if found is None else found[1], self._saved("floors").get(slot, 0))

    def find(self, slot: str) -> tuple[int, int] | None:
        """Number of the slot's place in the TPM and the floor there; None where the TPM holds none for it.

        Raises:
            IdentityError: As `read`.
            TpmError: The TPM refused.
        """
        if self._key() is None:
            if self._client.nv_read_public(FLOOR_INDEX) is not None:
                path = self._state_dir / SECRET_FILE
                raise IdentityError(
                    f"the floors in the TPM cannot be read: {path} is missing",
                    advice=f"Put {path} back from a backup; without it move the state folder away, and enroll the "
                    "device anew.",
                )
            return None
        known = self._saved("places").get(slot, 0)
        for place in sorted(range(PLACES), key=lambda number: number != known):
            value = self._value(place, slot)
            if value is not None:
                return place, value
        return None

    def _key(self) -> KeySecret | None:
        if self._secret is None:
            self._secret = load_secret(self._state_dir)
        return self._secret

    def _value(self, place: int, slot: str) -> int | None:
        counter = self._number(FLOOR_INDEX + place, slot)
        base = None if counter is None else self._number(BASE_INDEX + place, slot)
        return None if counter is None or base is None else max(counter - base, 0)

    def _number(self, index: int, slot: str) -> int | None:
        secret = self._key()
        raw = None if secret is None else self._client.nv_read(index, VALUE_BYTES, floor_auth(secret, slot), _NOT_OURS)
        return None if raw is None else int.from_bytes(raw, "big")

    def _saved(self, key: str) -> dict[str, int]:
        document = load_document(self._state_dir / FLOOR_FILE) or {}
        table = document.get(key)
        items = table.items() if isinstance(table, dict) else ()
        return {slot: value for slot, value in items if type(value) is int and value >= 0}

    def _save(self, slot: str, floor: int, place: int | None) -> None:
        document: dict[str, Any] = {"v": 1, "floors": self._saved("floors"), "places": self._saved("places")}
        document["floors"][slot] = floor
        if place is not None:
            document["places"][slot] = place
        save_document(self._state_dir / FLOOR_FILE, document)
