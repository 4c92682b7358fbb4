# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The two keys of a device: AK attests, SK signs kits.

Both are primaries of the endorsement hierarchy: template and secret make the same keys again after
TPM2_Clear, so persistent handles are only a cache. Both have noDA set: a key without it counts as a
failed password after each power cut, and three cuts would lock the TPM.

Spec: TPM 2.0 Library, Part 1, 14 (primary seeds), Part 3, TPM2_CreatePrimary and TPM2_EvictControl.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgeprov.errors import FormatError, IdentityError, TpmError
from edgeprov.formats import tpmt
from edgeprov.formats.tpmt import PublicArea, parse_public
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.identity_file import StoredIdentity, load_identity
from edgeprov.tpm.key_template import AK, KeyKind
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, RC_NV_DEFINED, code_of
from edgeprov.tpm.saved_handles import SavedHandles
from edgeprov.tpm.secret import SECRET_FILE, KeySecret, load_secret

# A TPM cannot make such a key: ASYMMETRIC, ATTRIBUTES, HASH, VALUE, TYPE, KDF, SCHEME, SIZE, SYMMETRIC, CURVE.
_RC_TEMPLATE: Final = (0x081, 0x082, 0x083, 0x084, 0x08A, 0x08C, 0x092, 0x095, 0x096, 0x0A6)


class Keys:
    """Finds or makes AK and SK. A key is used only when its Name is the stored one."""

    def __init__(self, connection: Connection, state_dir: Path, handles: SavedHandles) -> None:
        """Nothing is asked of the TPM yet."""
        self._connection = connection
        self._state_dir = state_dir
        self._handles = handles
        self._found: dict[KeyKind, Any] = {}
        self._transient: list[Any] = []
        self._identity: StoredIdentity | None = None
        self._secret: KeySecret | None = None

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

    @property
    def secret(self) -> KeySecret:
        """The secret of the keys.

        Raises:
            IdentityError: It is lost, or others can read it.
        """
        if self._secret is None:
            self._secret = load_secret(self._state_dir)
        if self._secret is None:
            path = self._state_dir / SECRET_FILE
            raise IdentityError(
                f"the secret of this device's TPM keys is lost: {path} is missing",
                advice=f"Put {path} back from a backup. Without it nobody can use the keys: move the state folder "
                "away, and enroll the device anew.",
            )
        return self._secret

    def handle(self, kind: KeyKind) -> Any:
        """A usable ESYS handle of the stored identity's key.

        Raises:
            IdentityError: No identity, no secret, or the TPM makes another key: it is not the same TPM.
            TpmError: The TPM refused.
        """
        if kind not in self._found:
            name = self._name(kind)
            auth = kind.auth(self.secret)
            handle = self._handles.get(kind.label, name)
            if handle is None:
                handle = self._find(kind, name) or self._make_again(kind, name)
            self._connection.esys.tr_set_auth(handle, auth)
            self._found[kind] = handle
        return self._found[kind]

    def create(self, kind: KeyKind, secret: KeySecret, *, evict: bool) -> PublicArea:
        """Make the key from its template, keep it at its persistent handle, and return its public part.

        Args:
            kind: Which key.
            secret: Of this device.
            evict: Take the place of a key that an earlier identity of this TPM left.

        Raises:
            TpmError: The TPM refused.
        """
        self._secret = secret
        with self._connection.group():
            handle, public = self._create_primary(kind)
            with self._connection.loaded(handle):
                if self._find(kind, public.name) is None:
                    if evict:
                        self._evict_earlier(kind)
                    self._persist(kind, handle)
        return public

    def locate(self, kind: KeyKind) -> str:
        """Tell what is at the key's persistent handle: ``present``, ``absent``, or ``other``.

        Raises:
            IdentityError: No identity.
            TpmError: The TPM refused.
        """
        found = self._look_up(kind)
        return "absent" if found is None else "present" if found[1] == self._name(kind) else "other"

    def forget(self) -> None:
        """Look the keys up again at their next use."""
        self._found = {kind: handle for kind, handle in self._found.items() if handle in self._transient}

    def close(self) -> None:
        """Flush what could not be made persistent."""
        for handle in self._transient:
            self._connection.flush(handle)
        self._transient.clear()
        self._found.clear()

    def _name(self, kind: KeyKind) -> bytes:
        return (self.identity.ak if kind is AK else self.identity.sk).name

    def _look_up(self, kind: KeyKind) -> tuple[Any, bytes] | None:
        esys = self._connection.esys

        def command() -> tuple[Any, bytes]:
            handle = esys.tr_from_tpmpublic(kind.handle)
            found = esys.tr_get_name(handle)
            return handle, bytes(found.marshal())[2:]

        return self._connection.attempt(f"look up its {kind.label.upper()}", command, (RC_HANDLE,))[1]

    def _find(self, kind: KeyKind, name: bytes) -> Any | None:
        found = self._look_up(kind)
        if found is None or found[1] != name:
            return None  # gone, or somebody else's object: never used
        self._handles.put(kind.label, found[0])
        return found[0]

    def _evict_earlier(self, kind: KeyKind) -> None:
        """Free our handle of an AK or SK whose secret is gone; another program's object stays."""
        esys = self._connection.esys

        def command() -> tuple[Any, bytes]:
            handle = esys.tr_from_tpmpublic(kind.handle)
            answer = esys.read_public(handle)
            return handle, bytes(answer[0].marshal())[2:]

        found = self._connection.attempt(f"look up its {kind.label.upper()}", command, (RC_HANDLE,))[1]
        if found is None:
            return
        try:
            if parse_public(found[1]).attributes | tpmt.USER_WITH_AUTH != kind.attributes:
                return
        except FormatError:
            return
        self._connection.attempt(
            f"remove an earlier {kind.label.upper()}",
            lambda: esys.evict_control(tss.ESYS_TR.OWNER, found[0], kind.handle),
            (RC_AUTH_FAIL, RC_BAD_AUTH),
        )

    def _make_again(self, kind: KeyKind, name: bytes) -> Any:
        with self._connection.group():
            handle, public = self._create_primary(kind)
            kept = None
            try:
                if public.name != name:
                    raise IdentityError(
                        f"this is not the TPM that holds this device's {kind.label.upper()}, "
                        f"or {self._state_dir / SECRET_FILE} is not the secret of its keys",
                        advice="Put the secret back from a backup. If the TPM was replaced, or the state folder is a "
                        "copy of another device's: `edgeprov identity create` says how to begin anew without losing "
                        "what is stored.",
                    )
                kept = self._persist(kind, handle)
            finally:
                if kept is not None or public.name != name:
                    self._connection.flush(handle)
            if kept is None:
                self._transient.append(handle)
                return handle
            self._handles.put(kind.label, kept)
            return kept

    def _persist(self, kind: KeyKind, handle: Any) -> Any | None:
        """The persistent handle; None when the owner password is set or the place is taken."""
        esys = self._connection.esys

        def command() -> Any:
            return esys.evict_control(tss.ESYS_TR.OWNER, handle, kind.handle)

        return self._connection.attempt(
            f"keep its {kind.label.upper()}", command, (RC_NV_DEFINED, RC_AUTH_FAIL, RC_BAD_AUTH)
        )[1]

    def _create_primary(self, kind: KeyKind) -> tuple[Any, PublicArea]:
        secret = self.secret
        what = f"make its {kind.label.upper()}"
        handle, raw = create_primary(self._connection, kind.template(secret), what, kind.auth(secret))
        try:
            return handle, parse_public(raw)
        except FormatError as error:
            self._connection.flush(handle)
            raise TpmError(f"the TPM makes no usable {kind.label.upper()}: {error.message}") from error


def create_primary(connection: Connection, template: bytes, what: str, auth: bytes = b"") -> tuple[Any, bytes]:
    """TPM2_CreatePrimary in the endorsement hierarchy.

    Returns:
        The transient handle, which the caller flushes, and the TPMT_PUBLIC.

    Raises:
        TpmError: The TPM refused: such a key is not known to it, or the hierarchy has a password.
    """
    esys = connection.esys
    area = tss.TPM2B_PUBLIC.unmarshal(len(template).to_bytes(2, "big") + template)[0]
    inner = len(auth).to_bytes(2, "big") + auth + b"\0\0"  # TPMS_SENSITIVE_CREATE: authValue, no data
    sensitive = tss.TPM2B_SENSITIVE_CREATE.unmarshal(len(inner).to_bytes(2, "big") + inner)[0]

    def command() -> tuple[Any, bytes]:
        answer = esys.create_primary(sensitive, area, tss.ESYS_TR.ENDORSEMENT)
        return answer[0], bytes(answer[1].marshal())[2:]

    try:
        return connection.run(what, command)
    except TpmError as error:
        code = code_of(error)
        if code in _RC_TEMPLATE:
            raise TpmError(
                f"TPM cannot {what}: it refuses the template (0x{code:03x})",
                advice="edgeprov needs a TPM 2.0 with ECC NIST P-256, ECDSA and SHA-256; this one does not offer it.",
            ) from error
        if code in (RC_AUTH_FAIL, RC_BAD_AUTH):
            raise TpmError(
                f"TPM cannot {what}: its endorsement hierarchy has a password (0x{code:03x})",
                advice="Another program owns this hierarchy; clear the TPM in the firmware set-up.",
            ) from error
        raise
