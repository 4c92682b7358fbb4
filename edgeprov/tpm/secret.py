# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The secret of a device's TPM keys: 32 random bytes that only the service's user can read.

Whoever may talk to the TPM (group ``tss``) could make the keys again from a public template, and use them
without a password. So the template's ``unique`` field and each authValue come from this secret by HKDF. It is
made at the first use on a device, never in an image: it is worth nothing without this one TPM.

Spec: RFC 5869; TPM 2.0 Library, Part 1, 27.3 (unique in a primary's template).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import IdentityError, StoreError
from edgeprov.tpm.saved_documents import save_file

SECRET_FILE: Final = "keys.secret"  # noqa: S105 - a file name
_BYTES: Final = 32
_SALT: Final = b"edgeprov.tpm"


@dataclass(frozen=True, slots=True)
class KeySecret:
    """The secret; its bytes never leave this module but as derived values."""

    _bytes: bytes

    def derive(self, label: str) -> bytes:
        """32 bytes for one purpose: HKDF-SHA256 with ``label`` as info."""
        extracted = hmac.digest(_SALT, self._bytes, hashlib.sha256)
        return hmac.digest(extracted, label.encode() + b"\1", hashlib.sha256)

    def __repr__(self) -> str:
        return "KeySecret(...)"


def load_secret(state_dir: Path) -> KeySecret | None:
    """The secret of this device; None when there is none.

    Raises:
        IdentityError: The file has another length, or other users could read it.
        StoreError: It cannot be read.
    """
    path = state_dir / SECRET_FILE
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(data) != _BYTES:
        raise IdentityError(
            f"{path} is damaged: it has {len(data)} bytes, not {_BYTES}", advice=f"Put {path} back from a backup."
        )
    if stat.S_IMODE(mode) & 0o077:
        raise IdentityError(
            f"{path} can be read by other users than its owner",
            advice=f"Run `chmod 600 {path}`; if others have read it, enroll the device anew.",
        )
    return KeySecret(data)


def make_secret(state_dir: Path) -> KeySecret:
    """Make and keep a new secret, durably.

    Raises:
        StoreError: The folder cannot be written.
    """
    data = os.urandom(_BYTES)
    save_file(state_dir / SECRET_FILE, data)
    return KeySecret(data)
