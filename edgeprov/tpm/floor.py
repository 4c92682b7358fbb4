# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The floor of each slot: the lowest securityVersion that may run there. It only rises.

A TPM never lets a counter fall: a deleted and newly defined one starts above all that ever were, even after
TPM2_Clear. The floor is a counter's distance from a base in a write-locked index, since its first value is
arbitrary; the base also names the slot, so no place can be passed off as another slot's. To raise a floor needs an
authValue from the device's secret. To read it needs nothing: a disk that was wiped lowers no floor.

A TPM has room for some eight NV counters (SLB9670); the kit counter takes one, `PLACES` slots one each. The
floor of a further slot, or of one for which the TPM has no room, is kept in a file alone; the file also
remembers all floors over TPM2_Clear. Reading needs no TPM library: the boot check does it.

Spec: TPM 2.0 Library, Part 1, 37.2.4 (counters).
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, Final

from edgeprov.tpm.client import Client
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, RC_NV_RANGE, RC_NV_UNINITIALIZED
from edgeprov.tpm.saved_documents import load_document, save_document
from edgeprov.tpm.secret import KeySecret, load_secret

PLACES: Final = 4
FLOOR_INDEX: Final = 0x01800110  # counters, one for each place
BASE_INDEX: Final = 0x01800118
FLOOR_FILE: Final = "floor.json"
VALUE_BYTES: Final = 8
BASE_BYTES: Final = 16
_TAG_BYTES: Final = 8
_NOT_OURS: Final = (RC_HANDLE, RC_AUTH_FAIL, RC_BAD_AUTH, RC_NV_UNINITIALIZED, RC_NV_RANGE)
# PolicyCommandCode(TPM2_NV_Read): everybody can meet it, for reading only.
READ_POLICY: Final = hashlib.sha256(bytes(32) + struct.pack(">II", 0x16C, 0x14E)).digest()


def slot_tag(slot: str) -> bytes:
    """Names a slot in the base of its floor."""
    return hashlib.sha256(slot.encode()).digest()[:_TAG_BYTES]


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
            TpmError: The TPM refused.
            StoreError: The file cannot be read.
        """
        found = self.find(slot)
        saved = self._saved("floors").get(slot, 0)
        # Without a place of our own, those of an earlier secret count.
        return max(saved, found[1] if found else max(self._of_others(slot).values(), default=0))

    def find(self, slot: str) -> tuple[int, int] | None:
        """Number of the slot's place that this device's secret opens, and the floor there; None without one.

        Raises:
            TpmError: The TPM refused.
        """
        secret = self._key()
        if secret is None:
            return None
        known = self._saved("places").get(slot, 0)
        for place in sorted(range(PLACES), key=lambda number: number != known):
            auth = floor_auth(secret, slot)
            counter = self._client.nv_read(FLOOR_INDEX + place, VALUE_BYTES, auth, _NOT_OURS)
            base = counter and self._client.nv_read(BASE_INDEX + place, BASE_BYTES, auth, _NOT_OURS)
            if counter and base and base[VALUE_BYTES:] == slot_tag(slot):
                return place, _distance(counter, base)
        return None

    def _of_others(self, slot: str) -> dict[int, int]:
        """Floors of a slot by place, read without the secret."""
        found = {}
        for place in range(PLACES):
            public = self._client.nv_read_public(BASE_INDEX + place)
            if public is None or READ_POLICY not in public:
                continue
            base = self._client.nv_read_open(BASE_INDEX + place, BASE_BYTES)
            if base[VALUE_BYTES:] == slot_tag(slot) and self._client.nv_read_public(FLOOR_INDEX + place) is not None:
                found[place] = _distance(self._client.nv_read_open(FLOOR_INDEX + place, VALUE_BYTES), base)
        return found

    def _key(self) -> KeySecret | None:
        if self._secret is None:
            self._secret = load_secret(self._state_dir)
        return self._secret

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


def _distance(counter: bytes, base: bytes) -> int:
    return max(int.from_bytes(counter, "big") - int.from_bytes(base[:VALUE_BYTES], "big"), 0)
