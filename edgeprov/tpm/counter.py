# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""NV indices that need a right to make or change: the counter of kits and segments, and the floors.

A TPM never lets a counter fall: a deleted and newly defined one starts above all that ever were,
even after TPM2_Clear. So a lost index is defined again and the series goes on. Each index has an authValue from the
device's secret: other programs that may talk to the TPM cannot use up numbers.

Spec: TPM 2.0 Library, Part 1, 37.2.4 (counters); Part 3, TPM2_NV_Increment and TPM2_NV_Certify.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from edgeprov.errors import TpmError
from edgeprov.formats.tpmt import ALG_SHA256, COUNTER_ATTRIBUTES, COUNTER_BYTES, COUNTER_INDEX, nv_name
from edgeprov.limits import LIMITS
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.floor import (
    BASE_BYTES,
    BASE_INDEX,
    FLOOR_INDEX,
    PLACES,
    READ_POLICY,
    VALUE_BYTES,
    FloorReader,
    floor_auth,
    slot_tag,
)
from edgeprov.tpm.response_codes import (
    RC_AUTH_FAIL,
    RC_BAD_AUTH,
    RC_HANDLE,
    RC_NV_DEFINED,
    RC_NV_SPACE,
    RC_NV_UNINITIALIZED,
    code_of,
)
from edgeprov.tpm.saved_handles import SavedHandles
from edgeprov.tpm.secret import KeySecret, make_secret

_WRITTEN: Final = 1 << 29
_WRITE_LOCKED: Final = 1 << 11
# AUTHWRITE | WRITEDEFINE (a write lock holds for ever) | AUTHREAD | OWNERREAD | NO_DA
_POLICY_READ: Final = 1 << 19
_BASE_ATTRIBUTES: Final = (1 << 2) | (1 << 13) | (1 << 18) | (1 << 17) | (1 << 25)
_AUTH: Final = (RC_AUTH_FAIL, RC_BAD_AUTH)
_LABEL: Final = "counter"


class NvIndex:
    """An NV index of 8 bytes with fixed attributes and an authValue; another program's of that number is refused."""

    def __init__(
        self,
        connection: Connection,
        number: int,
        attributes: int,
        auth: bytes,
        *,
        policy: bytes = b"",
        size: int = COUNTER_BYTES,
    ) -> None:
        """Nothing is asked of the TPM yet."""
        self._connection = connection
        self._attributes = attributes & ~_WRITTEN
        self._auth = auth
        self._policy = policy
        self._size = size
        self.number = number

    def exists(self) -> bool:
        """Tell whether the index is defined.

        Raises:
            TpmError: Another program uses this number.
        """
        public = self._connection.nv_read_public(self.number)
        if public is None:
            return False
        attributes = int.from_bytes(public[6:10], "big") & ~(_WRITTEN | _WRITE_LOCKED)
        if public[:6] + attributes.to_bytes(4, "big") + public[10:] != self._public():
            raise TpmError(
                f"NV index {self.number:#010x} is defined, but not by edgeprov",
                advice="Another program uses this index of the TPM; undefine it with the owner's password.",
            )
        return True

    def _public(self) -> bytes:
        policy = len(self._policy).to_bytes(2, "big") + self._policy
        head = struct.pack(">IHI", self.number, ALG_SHA256, self._attributes)
        return head + policy + self._size.to_bytes(2, "big")

    def define(self, negative: tuple[int, ...] = ()) -> bool:
        """Define the index; False when the TPM's answer is one of ``negative``.

        Raises:
            TpmError: The TPM refused, for instance because the owner password is set.
        """
        raw = self._public()
        public = tss.TPM2B_NV_PUBLIC.unmarshal(len(raw).to_bytes(2, "big") + raw)[0]

        def command() -> Any:
            return self._connection.esys.nv_define_space(self._auth, public, tss.ESYS_TR.OWNER)

        return self._connection.attempt(f"define NV index {self.number:#010x}", command, negative)[0]

    def undefine(self, negative: tuple[int, ...] = ()) -> bool:
        """Delete the index; False when the TPM's answer is one of ``negative``.

        Raises:
            TpmError: The TPM refused.
        """
        esys = self._connection.esys

        def command() -> None:
            esys.nv_undefine_space(esys.tr_from_tpmpublic(self.number), tss.ESYS_TR.OWNER)

        return self._connection.attempt(f"delete NV index {self.number:#010x}", command, negative)[0]

    def look_up(self) -> Any:
        """An ESYS handle that knows the authValue.

        Raises:
            TpmError: The TPM refused.
        """
        esys = self._connection.esys
        handle = self._connection.run(
            f"look up NV index {self.number:#010x}", lambda: esys.tr_from_tpmpublic(self.number)
        )
        esys.tr_set_auth(handle, self._auth)
        return handle

    def read(self) -> int | None:
        """The value; None before the first write.

        Raises:
            TpmError: The TPM refused.
        """
        raw = self._connection.nv_read(self.number, self._size, self._auth, (RC_NV_UNINITIALIZED,))
        return None if raw is None else int.from_bytes(raw, "big")

    def opens(self) -> bool:
        """Tell whether the index is there and accepts our authValue.

        Raises:
            TpmError: The TPM refused for another reason.
        """
        try:
            self.read()
        except TpmError as error:
            if code_of(error) in (RC_HANDLE, *_AUTH):
                return False
            raise
        return True

    def increment(self) -> None:
        """Add one; on return it is durable.

        Raises:
            TpmError: The TPM refused.
        """
        handle = self.look_up()
        self._connection.run(
            f"increment NV index {self.number:#010x}", lambda: self._connection.esys.nv_increment(handle)
        )

    def write_once(self, value: bytes) -> None:
        """Write the bytes and lock the index until it is undefined.

        Raises:
            TpmError: The TPM refused.
        """
        data = tss.TPM2B_MAX_NV_BUFFER(value)
        handle = self.look_up()

        def command() -> None:
            self._connection.esys.nv_write(handle, data)
            self._connection.esys.nv_write_lock(handle)

        self._connection.run(f"write NV index {self.number:#010x}", command)


class KitCounter:
    """The number of the newest kit or segment. A chip bears some 100,000 increments.

    Within `Client.group` nobody else changes it, so there it is read once, and an increment adds one to what was
    read; NV_Certify then shows the value that the kit claims.
    """

    def __init__(self, connection: Connection, handles: SavedHandles) -> None:
        """Nothing is asked of the TPM yet."""
        self._connection = connection
        self._handles = handles
        self._handle: Any = None
        self.known: int | None = None

    def index(self, secret: KeySecret) -> NvIndex:
        """The index, with the authValue of this device."""
        return NvIndex(self._connection, COUNTER_INDEX, COUNTER_ATTRIBUTES, secret.derive(_LABEL))

    def create(self, secret: KeySecret) -> int:
        """Make the counter of a new identity, or find it; one whose secret is gone is replaced.

        Returns:
            Its value.

        Raises:
            TpmError: The TPM refused, for instance because the owner password is set.
        """
        index = self.index(secret)
        if index.exists() and not index.opens():
            index.undefine()
            self._handles.forget()
        return self.ready(secret)

    def ready(self, secret: KeySecret) -> int:
        """Define the counter when it is missing, and return its value.

        Raises:
            TpmError: The TPM refused.
        """
        self.define(secret)
        index = self.index(secret)
        value = index.read()
        if value is None:
            index.increment()
            value = index.read()
        if value is None:
            raise TpmError("the kit counter has no value after an increment")
        self.known = value
        return value

    def define(self, secret: KeySecret) -> Any:
        """Define the counter when it is missing; a new one has no value before its first increment.

        Returns:
            An ESYS handle.

        Raises:
            TpmError: The TPM refused.
        """
        index = self.index(secret)
        if not index.exists():
            index.define()
        self._handle, self.known = index.look_up(), None
        self._handles.put(_LABEL, self._handle)
        return self._handle

    def handle(self, secret: KeySecret) -> Any | None:
        """An ESYS handle of the counter; None where `ready` must look it up. Asks the TPM nothing."""
        if self._handle is None:
            self._handle = self._handles.get(_LABEL, nv_name())
            if self._handle is not None:
                self._connection.esys.tr_set_auth(self._handle, secret.derive(_LABEL))
        return self._handle

    def read(self, secret: KeySecret) -> int | None:
        """The value; None where the index is missing, was never incremented, or has another authValue.

        Raises:
            TpmError: The TPM refused.
        """
        negative = (RC_HANDLE, RC_NV_UNINITIALIZED, *_AUTH)
        raw = self._connection.nv_read(COUNTER_INDEX, COUNTER_BYTES, secret.derive(_LABEL), negative)
        self.known = None if raw is None else int.from_bytes(raw, "big")
        return self.known

    def raised(self) -> int | None:
        """The value after an increment that was just made; None where the value before was not read."""
        if self.known is not None:
            self.known += 1
        return self.known

    def forget(self) -> None:
        """Ask for value and handle again."""
        self._handle = self.known = None

    def forget_value(self) -> None:
        """Ask for the value again: others may have raised it."""
        self.known = None


class Floor(FloorReader):
    """Floors that can also be raised."""

    def __init__(self, connection: Connection, state_dir: Path) -> None:
        """Nothing is asked of the TPM yet."""
        super().__init__(connection, state_dir)
        self._connection = connection

    def create(self, slots: tuple[str, ...], secret: KeySecret, *, anew: bool) -> None:
        """Make the floors of these slots, as far as the TPM has room: later the owner's password may be unknown.

        Args:
            slots: Names.
            secret: Of this device.
            anew: Take the places of floors whose secret is gone.

        Raises:
            TpmError: The TPM refused.
        """
        self._secret = secret
        before = {slot: self.read(slot) for slot in slots[:PLACES]}
        if anew:
            self._free_unreadable(slots)
        for slot, floor in before.items():
            self._set(slot, floor)

    def raise_to(self, slot: str, floor: int) -> None:
        """Raise a slot's floor; a lower or equal value changes nothing.

        Raises:
            TpmError: The TPM refused, or the step is more than LIMITS.tpm_floor_steps at once.
            StoreError: The file cannot be written.
        """
        before = self.read(slot)
        if floor - before > LIMITS.tpm_floor_steps:
            raise TpmError(f"the floor would rise to {floor}, more than {LIMITS.tpm_floor_steps} steps at once")
        if self._key() is None:
            self._secret = make_secret(self._state_dir)
        self._set(slot, max(floor, before))

    def _set(self, slot: str, floor: int) -> None:
        found = self.find(slot)
        place = found[0] if found else self._define(slot)
        if place is not None:
            index = self._index(FLOOR_INDEX + place, slot)
            for _ in range(floor - (found[1] if found else 0)):
                index.increment()
        if (floor, place) != (self._saved("floors").get(slot), self._saved("places").get(slot)):
            self._save(slot, floor, place)

    def _define(self, slot: str) -> int | None:
        """Define the two indices of a slot at the first free place; None where the TPM has no room, or an owner."""
        for place in range(PLACES):
            counter = self._index(FLOOR_INDEX + place, slot)
            base = self._index(BASE_INDEX + place, slot)
            made = counter.define((RC_NV_DEFINED, RC_NV_SPACE, *_AUTH))
            if not made and (not counter.opens() or counter.read() is not None):
                continue  # another slot's, another program's, no room, or the owner has a password
            counter.increment()
            start = counter.read()
            if start is not None and (base.define((RC_NV_DEFINED, RC_NV_SPACE, *_AUTH)) or base.opens()):
                base.write_once(start.to_bytes(VALUE_BYTES, "big") + slot_tag(slot))
                return place
        return None

    def _free_unreadable(self, slots: tuple[str, ...]) -> None:
        """Delete the floors of these slots whose secret is gone, if the owner lets us; their values were read."""
        for slot in slots[:PLACES]:
            own = self.find(slot)
            for place in self._of_others(slot):
                if own is None or own[0] != place:
                    for number in (FLOOR_INDEX, BASE_INDEX):
                        self._index(number + place, slot).undefine((RC_HANDLE, *_AUTH))

    def _index(self, number: int, slot: str) -> NvIndex:
        secret = self._key()
        if secret is None:
            raise TpmError("the secret of this device's TPM keys is missing")
        base = number >= BASE_INDEX
        attributes = (_BASE_ATTRIBUTES if base else COUNTER_ATTRIBUTES) | _POLICY_READ
        size = BASE_BYTES if base else VALUE_BYTES
        auth = floor_auth(secret, slot)
        return NvIndex(self._connection, number, attributes, auth, policy=READ_POLICY, size=size)
