# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Two NV counters: the number of the next kit, and the model-version floor.

A TPM never lets a counter fall: a deleted and newly defined one starts above all that ever were,
even after TPM2_Clear. So a lost index is defined again and the series goes on. The floor is the
counter's distance from a base in a write-locked index, since its first value is arbitrary.

Spec: TPM 2.0 Library, Part 1, 37.2.4 (counters); Part 3, TPM2_NV_Increment and TPM2_NV_Certify.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from edgeprov.errors import TpmError
from edgeprov.formats.tpmt import ALG_SHA256, COUNTER_ATTRIBUTES, COUNTER_BYTES, COUNTER_INDEX, Attestation
from edgeprov.limits import LIMITS
from edgeprov.tpm.esys import RC_HANDLE, RC_NV_UNINITIALIZED, Connection, tss
from edgeprov.tpm.quote import attestation
from edgeprov.tpm.saved_documents import load_document, save_document

FLOOR_INDEX: Final = 0x01800101
FLOOR_BASE_INDEX: Final = 0x01800102
FLOOR_FILE: Final = "floor.json"
_WRITTEN: Final = 1 << 29
_WRITE_LOCKED: Final = 1 << 11
# AUTHWRITE | WRITEDEFINE (a write lock holds for ever) | AUTHREAD | OWNERREAD | NO_DA
_BASE_ATTRIBUTES: Final = (1 << 2) | (1 << 13) | (1 << 18) | (1 << 17) | (1 << 25)


class NvIndex:
    """An NV index of 8 bytes with fixed attributes. Refuses to touch one of the same number that is not ours."""

    def __init__(self, connection: Connection, number: int, attributes: int) -> None:
        """Nothing is asked of the TPM yet."""
        self._connection = connection
        self._attributes = attributes & ~_WRITTEN
        self._handle: Any = None
        self.number = number

    def exists(self) -> bool:
        """Whether the index is defined.

        Raises:
            TpmError: Another program uses this number.
        """
        if self._handle is not None:
            return True
        esys = self._connection.esys

        def command() -> tuple[Any, bytes]:
            handle = esys.tr_from_tpmpublic(self.number)
            answer = esys.nv_read_public(handle)
            return handle, bytes(answer[0].marshal())[2:]

        there, answer = self._connection.attempt(f"look up NV index {self.number:#010x}", command, (RC_HANDLE,))
        if not there or answer is None:
            return False
        _, algorithm, attributes, policy, size = struct.unpack(">IHIHH", answer[1][:14].ljust(14, b"\0"))
        ours = (ALG_SHA256, self._attributes, 0, COUNTER_BYTES)
        if (algorithm, attributes & ~(_WRITTEN | _WRITE_LOCKED), policy, size) != ours:
            raise TpmError(
                f"NV index {self.number:#010x} is defined, but not by edgeprov",
                advice="Another program uses this index of the TPM; undefine it with the owner's password.",
            )
        self._handle = answer[0]
        return True

    def define(self) -> None:
        """Define the index unless it is there.

        Raises:
            TpmError: The TPM refused, for instance because the owner password is set.
        """
        if self.exists():
            return
        raw = struct.pack(">IHIHH", self.number, ALG_SHA256, self._attributes, 0, COUNTER_BYTES)
        public = tss.TPM2B_NV_PUBLIC.unmarshal(len(raw).to_bytes(2, "big") + raw)[0]

        def command() -> Any:
            return self._connection.esys.nv_define_space(b"", public, tss.ESYS_TR.OWNER)

        self._handle = self._connection.run(f"define NV index {self.number:#010x}", command)

    def read(self) -> int | None:
        """The value; None before the first write."""

        def command() -> bytes:
            answer = self._connection.esys.nv_read(self._handle, COUNTER_BYTES)
            return bytes(answer.marshal())[2:]

        what = f"read NV index {self.number:#010x}"
        there, raw = self._connection.attempt(what, command, (RC_NV_UNINITIALIZED,))
        return int.from_bytes(raw, "big") if there and raw is not None else None

    def increment(self) -> int:
        """Add one; on return it is durable.

        Raises:
            TpmError: The TPM refused.
        """
        self._connection.run(
            f"increment NV index {self.number:#010x}", lambda: self._connection.esys.nv_increment(self._handle)
        )
        value = self.read()
        if value is None:
            raise TpmError(f"NV index {self.number:#010x} has no value after an increment")
        return value

    def write_once(self, value: int) -> None:
        """Write the value and lock the index until it is undefined.

        Raises:
            TpmError: The TPM refused.
        """
        data = tss.TPM2B_MAX_NV_BUFFER(value.to_bytes(COUNTER_BYTES, "big"))

        def command() -> None:
            self._connection.esys.nv_write(self._handle, data)
            self._connection.esys.nv_write_lock(self._handle)

        self._connection.run(f"write NV index {self.number:#010x}", command)

    def certify(self, ak: Any, qualifying: bytes) -> Attestation:
        """Have the AK attest the value together with ``qualifying``.

        Raises:
            TpmError: The TPM refused.
        """

        def command() -> Attestation:
            scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
            answer = self._connection.esys.nv_certify(
                ak, self._handle, tss.TPM2B_DATA(qualifying), scheme, COUNTER_BYTES
            )
            return attestation(answer)

        return self._connection.run("certify its counter", command)


class KitCounter(NvIndex):
    """The number of the newest kit. One increment per kit; a chip bears some 100,000."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked of the TPM yet."""
        super().__init__(connection, COUNTER_INDEX, COUNTER_ATTRIBUTES)

    def ready(self) -> int:
        """Define the counter when it is missing, and return its value.

        Raises:
            TpmError: The TPM refused.
        """
        self.define()
        value = self.read()
        return self.increment() if value is None else value


class Floor:
    """The lowest securityVersion that this device may run; it only rises.

    The file remembers it over TPM2_Clear, the TPM over a disk that was put back: both must be undone
    to lower it.
    """

    def __init__(self, connection: Connection, state_dir: Path) -> None:
        """Nothing is asked of the TPM yet."""
        self._counter = NvIndex(connection, FLOOR_INDEX, COUNTER_ATTRIBUTES)
        self._base = NvIndex(connection, FLOOR_BASE_INDEX, _BASE_ATTRIBUTES)
        self._path = state_dir / FLOOR_FILE

    def read(self) -> int:
        """The floor; 0 when none was ever set.

        Raises:
            TpmError: The TPM refused.
            StoreError: The file cannot be read.
        """
        return max(self._of_tpm() or 0, self._of_disk())

    def raise_to(self, floor: int) -> None:
        """Raise the floor; a lower or equal value changes nothing.

        Raises:
            TpmError: The TPM refused, or the step is more than LIMITS.tpm_floor_steps at once.
            StoreError: The file cannot be written.
        """
        if floor - self.read() > LIMITS.tpm_floor_steps:
            raise TpmError(f"the floor would rise to {floor}, more than {LIMITS.tpm_floor_steps} steps at once")
        if floor <= self.read() == (self._of_tpm() or 0):
            return
        if self._of_tpm() is None:
            self._start()
        while (self._of_tpm() or 0) < max(floor, self._of_disk()):
            self._counter.increment()
        save_document(self._path, {"v": 1, "floor": self.read()})

    def _start(self) -> None:
        self._counter.define()
        start = self._counter.read()
        if start is None:
            start = self._counter.increment()
        self._base.define()
        if self._base.read() is None:
            self._base.write_once(start)

    def _of_tpm(self) -> int | None:
        if not self._counter.exists() or not self._base.exists():
            return None
        value, base = self._counter.read(), self._base.read()
        return None if value is None or base is None else max(value - base, 0)

    def _of_disk(self) -> int:
        document = load_document(self._path) or {}
        floor = document.get("floor", 0)
        return floor if isinstance(floor, int) and floor > 0 else 0
