# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The two keys of a device: AK attests, SK signs kits.

Both are primaries of the endorsement hierarchy: their template makes the same keys again after
TPM2_Clear, so persistent handles are only a cache. Both have noDA set: a key without it counts as a
failed password after each power cut, and three cuts would lock the TPM.

Spec: TPM 2.0 Library, Part 1, 14 (primary seeds), Part 3, TPM2_CreatePrimary and TPM2_EvictControl.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, IdentityError, TpmError
from edgeprov.formats import tpmt
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.tpmt import PublicArea, parse_public
from edgeprov.tpm.esys import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, RC_NV_DEFINED, Connection, tss
from edgeprov.tpm.saved_documents import load_document, save_document, set_aside

IDENTITY_FILE: Final = "identity.json"
_SIMULATED: Final = "simulated"


@dataclass(frozen=True, slots=True)
class KeyKind:
    """One of the two keys: where it is cached, and the template that makes it."""

    label: str
    handle: int
    attributes: int

    @property
    def template(self) -> bytes:
        """TPMT_PUBLIC whose unique field separates our keys from others of the same shape."""
        unique = b"edgeprov." + self.label.encode()
        return struct.pack(">HHIH", tpmt.ALG_ECC, tpmt.ALG_SHA256, self.attributes, 0) + struct.pack(
            f">HHHHHH{len(unique)}sH{len(unique)}s",
            tpmt.ALG_NULL,
            tpmt.ALG_ECDSA,
            tpmt.ALG_SHA256,
            tpmt.ECC_NIST_P256,
            tpmt.ALG_NULL,
            len(unique),
            unique,
            len(unique),
            unique,
        )


AK: Final = KeyKind("ak", 0x81010020, tpmt.AK_ATTRIBUTES)
SK: Final = KeyKind("sk", 0x81010021, tpmt.SK_ATTRIBUTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIdentity:
    """What `identity create` wrote down: by these public parts the TPM is known again."""

    ak: PublicArea
    sk: PublicArea
    counter_base: int
    simulated: bool


def load_identity(state_dir: Path) -> StoredIdentity | None:
    """The identity of this device; None when there is none (a damaged file is moved aside).

    Raises:
        StoreError: The file cannot be read.
    """
    path = state_dir / IDENTITY_FILE
    document = load_document(path)
    if document is None:
        return None
    try:
        base, simulated = document.get("counter_base"), document.get(_SIMULATED)
        if document.get("v") != 1 or not isinstance(base, int) or not isinstance(simulated, bool):
            raise FormatError(f"{path}: a member is missing")  # noqa: TRY301 - one handler for all damage
        return StoredIdentity(
            ak=parse_public(get_b64(document, "ak", path.name)),
            sk=parse_public(get_b64(document, "sk", path.name)),
            counter_base=base,
            simulated=simulated,
        )
    except FormatError:
        set_aside(path)
        return None


def save_identity(state_dir: Path, identity: StoredIdentity) -> None:
    """Write the identity down, durably.

    Raises:
        StoreError: The folder cannot be written.
    """
    save_document(
        state_dir / IDENTITY_FILE,
        {
            "v": 1,
            "ak": b64(identity.ak.raw),
            "sk": b64(identity.sk.raw),
            "counter_base": identity.counter_base,
            _SIMULATED: identity.simulated,
        },
    )


class Keys:
    """Finds or makes AK and SK. A key is used only when its Name is the stored one."""

    def __init__(self, connection: Connection, state_dir: Path) -> None:
        """Nothing is asked of the TPM yet."""
        self._connection = connection
        self._state_dir = state_dir
        self._found: dict[KeyKind, Any] = {}
        self._transient: list[Any] = []
        self._identity: StoredIdentity | None = None

    @property
    def identity(self) -> StoredIdentity:
        """The stored identity.

        Raises:
            IdentityError: None was created, or its file was damaged.
        """
        if self._identity is None:
            self._identity = load_identity(self._state_dir)
        if self._identity is None:
            raise IdentityError("this device has no identity yet")
        return self._identity

    def handle(self, kind: KeyKind) -> Any:
        """A usable ESYS handle of the stored identity's key.

        Raises:
            IdentityError: No identity, or the TPM makes another key: it is not the same TPM.
            TpmError: The TPM refused.
        """
        if kind not in self._found:
            stored = self.identity.ak if kind is AK else self.identity.sk
            self._found[kind] = self._find(kind, stored.name) or self._make_again(kind, stored.name)
        return self._found[kind]

    def create(self, kind: KeyKind) -> PublicArea:
        """Make the key from its template, keep it at its persistent handle, and return its public part.

        Raises:
            TpmError: The TPM refused.
        """
        with self._connection.group():
            handle, public = self._create_primary(kind)
            with self._connection.loaded(handle):
                if self._find(kind, public.name) is None:
                    self._persist(kind, handle)
        return public

    def close(self) -> None:
        """Flush what could not be made persistent."""
        for handle in self._transient:
            self._connection.flush(handle)
        self._transient.clear()
        self._found.clear()

    def _find(self, kind: KeyKind, name: bytes) -> Any | None:
        esys = self._connection.esys

        def command() -> tuple[Any, bytes]:
            handle = esys.tr_from_tpmpublic(kind.handle)
            found = esys.tr_get_name(handle)
            return handle, bytes(found.marshal())[2:]

        what = f"look up its {kind.label.upper()}"
        there, answer = self._connection.attempt(what, command, (RC_HANDLE,))
        if not there or answer is None or answer[1] != name:
            return None  # gone, or somebody else's object: never used, never removed
        return answer[0]

    def _make_again(self, kind: KeyKind, name: bytes) -> Any:
        with self._connection.group():
            handle, public = self._create_primary(kind)
            kept = None
            try:
                if public.name != name:
                    raise IdentityError(
                        f"this is not the TPM that holds this device's {kind.label.upper()}",
                        advice="The TPM was cleared or replaced, or the state folder is a copy of another device's: "
                        "`edgeprov identity create` says how to begin anew without losing what is stored.",
                    )
                kept = self._persist(kind, handle)
            finally:
                if kept is not None or public.name != name:
                    self._connection.flush(handle)
            if kept is None:
                self._transient.append(handle)
            return kept or handle

    def _persist(self, kind: KeyKind, handle: Any) -> Any | None:
        """The persistent handle; None when the owner password is set or the place is taken."""
        esys = self._connection.esys

        def command() -> Any:
            return esys.evict_control(tss.ESYS_TR.OWNER, handle, kind.handle)

        return self._connection.attempt(
            f"keep its {kind.label.upper()}", command, (RC_NV_DEFINED, RC_AUTH_FAIL, RC_BAD_AUTH)
        )[1]

    def _create_primary(self, kind: KeyKind) -> tuple[Any, PublicArea]:
        handle, raw = create_primary(self._connection, kind.template, f"make its {kind.label.upper()}")
        try:
            return handle, parse_public(raw)
        except FormatError as error:
            self._connection.flush(handle)
            raise TpmError(f"the TPM makes no usable {kind.label.upper()}: {error.message}") from error


def create_primary(connection: Connection, template: bytes, what: str) -> tuple[Any, bytes]:
    """TPM2_CreatePrimary in the endorsement hierarchy.

    Returns:
        The transient handle, which the caller flushes, and the TPMT_PUBLIC.

    Raises:
        TpmError: The TPM refused.
    """
    esys = connection.esys
    area = tss.TPM2B_PUBLIC.unmarshal(len(template).to_bytes(2, "big") + template)[0]
    sensitive = tss.TPM2B_SENSITIVE_CREATE()

    def command() -> tuple[Any, bytes]:
        answer = esys.create_primary(sensitive, area, tss.ESYS_TR.ENDORSEMENT)
        return answer[0], bytes(answer[1].marshal())[2:]

    return connection.run(what, command)
