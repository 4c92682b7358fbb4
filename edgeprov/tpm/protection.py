# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Passwords of the TPM's owner and lockout: only who knows them can clear the TPM, or delete kit counter and floors.

They are set once, at `identity create`, from files that the vendor keeps, or to random values that nobody keeps. With
the passwords empty, as a TPM comes, any program that may talk to it can do all of this.

Spec: TPM 2.0 Library, Part 1, 13 (hierarchies); Part 3, TPM2_HierarchyChangeAuth, TPM2_ClearControl.
"""

from __future__ import annotations

import os
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import TpmError, UsageError
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH

MOST_BYTES: Final = 32
_PT_PERMANENT: Final = 0x200
_OWNER_SET: Final = 1 << 0
_LOCKOUT_SET: Final = 1 << 2
_CLEAR_DISABLED: Final = 1 << 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """Passwords to set, or to use where they are set already.

    Attributes:
        owner: Of the owner hierarchy; None leaves it as it is.
        lockout: Of the lockout hierarchy; None leaves it as it is.
        forget: Set those that are not given here to random values that nobody keeps.
        disable_clear: Forbid TPM2_Clear, which then only the platform's firmware can allow again.
    """

    owner: bytes | None = None
    lockout: bytes | None = None
    forget: bool = False
    disable_clear: bool = False

    def __post_init__(self) -> None:
        for name, value in (("owner", self.owner), ("lockout", self.lockout)):
            if value is not None and not 1 <= len(value) <= MOST_BYTES:
                raise UsageError(f"the {name}'s password has {len(value)} bytes, not 1 to {MOST_BYTES}")

    @property
    def asked(self) -> bool:
        """True where anything is to be set."""
        return bool(self.owner or self.lockout or self.forget or self.disable_clear)


def use_owner(connection: Connection, protection: Protection) -> None:
    """Let the following commands of the owner use the given password, where the TPM has one.

    Raises:
        TpmError: The TPM has another one.
    """
    if protection.owner is not None and _permanent(connection) & _OWNER_SET:
        _change(connection, tss.ESYS_TR.OWNER, "owner", protection.owner, protection.owner)  # only tries it


def protect(connection: Connection, protection: Protection) -> None:
    """Set what is not set yet; a second call changes nothing.

    Raises:
        TpmError: The TPM refused, for instance because it has another password.
    """
    state = _permanent(connection)
    lockout = protection.lockout if state & _LOCKOUT_SET else None
    if protection.disable_clear and not state & _CLEAR_DISABLED:
        _authorize(connection, tss.ESYS_TR.LOCKOUT, lockout)
        _run(connection, "lockout", lambda: connection.esys.clear_control(tss.ESYS_TR.LOCKOUT, disable=True))
    for handle, name, given, bit in (
        (tss.ESYS_TR.LOCKOUT, "lockout", protection.lockout, _LOCKOUT_SET),
        (tss.ESYS_TR.OWNER, "owner", protection.owner, _OWNER_SET),
    ):
        new = given or (os.urandom(MOST_BYTES) if protection.forget else None)
        if new is not None and not state & bit:
            _change(connection, handle, name, None, new)
        elif given is not None:
            _change(connection, handle, name, given, given)  # set already: only tries it


def read_weaknesses(connection: Connection) -> tuple[str, ...]:
    """What any program that may talk to the TPM can do with it; empty when owner and lockout are protected.

    Raises:
        TpmError: The TPM does not answer.
    """
    state = _permanent(connection)
    found = []
    if not state & _OWNER_SET:
        found.append("the owner's password is empty: any member of group tss can delete the kit counter and floors")
    if not state & (_LOCKOUT_SET | _CLEAR_DISABLED):
        found.append("the lockout's password is empty: any member of group tss can clear the TPM")
    return tuple(found)


def _permanent(connection: Connection) -> int:
    return connection.tpm_properties(_PT_PERMANENT, 1).get(_PT_PERMANENT, 0)


def _change(connection: Connection, handle: Any, name: str, old: bytes | None, new: bytes) -> None:
    _authorize(connection, handle, old)
    _run(connection, name, lambda: connection.esys.hierarchy_change_auth(handle, tss.TPM2B_AUTH(new)))


def _authorize(connection: Connection, handle: Any, password: bytes | None) -> None:
    connection.esys.tr_set_auth(handle, password or b"")


def _run(connection: Connection, name: str, command: Any) -> None:
    there, _ = connection.attempt(f"use its {name}", command, (RC_AUTH_FAIL, RC_BAD_AUTH))
    if not there:
        raise TpmError(
            f"the TPM does not accept the {name}'s password that was given",
            advice=f"Give the file with the password that this TPM's {name} has: --{name}-auth FILE.",
        )
