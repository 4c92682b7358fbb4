# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Response codes of a TPM, and the strict reading of its responses.

Spec: TPM 2.0 Library, Part 1, 18 (command and response structure); Part 2, 6.6 (response codes).
"""

from __future__ import annotations

import struct
from typing import Final

from edgeprov.errors import TpmBusy, TpmError, TpmLockout, TpmUnavailable
from edgeprov.limits import LIMITS

# Response codes; format-one codes without handle, parameter or session number.
RC_INITIALIZE: Final = 0x100
RC_NV_RANGE: Final = 0x146
RC_NV_UNINITIALIZED: Final = 0x14A
RC_NV_SPACE: Final = 0x14B
RC_NV_DEFINED: Final = 0x14C
RC_VALUE: Final = 0x084
RC_HIERARCHY: Final = 0x085
RC_HANDLE: Final = 0x08B
RC_AUTH_FAIL: Final = 0x08E
RC_INTEGRITY: Final = 0x09F
RC_BAD_AUTH: Final = 0x0A2
_RC_FAILURE: Final = 0x101
RC_MEMORY: Final = frozenset((0x902, 0x903))  # object and session slots
RC_BUSY: Final = RC_MEMORY | {0x908, 0x920, 0x922, 0x923}  # yielded, NV rate, retry, NV unavailable
_RC_LOCKOUT: Final = 0x921

ST_NO_SESSIONS: Final = 0x8001
ST_SESSIONS: Final = 0x8002
HEADER: Final = struct.Struct(">HII")  # tag, size, command or response code


class TpmResponse(Exception):
    """A response code other than success, on its way to `Client.attempt`."""

    def __init__(self, code: int, text: str = "") -> None:
        """Keep the code without handle, parameter and session number, and the library's words for it."""
        super().__init__(f"0x{code:03x} {text}".rstrip())
        self.code = code


def parse_response(raw: bytes, *, sessions: bool, nonce: int = 0) -> bytes:
    """The parameters of a response to a command that returns no handle.

    Args:
        raw: The whole response.
        sessions: The command had one session.
        nonce: Bytes of the TPM's nonce in the answer: 0 for a password, 16 for our policy session.

    Raises:
        TpmResponse: Another response code than success.
        TpmError: Not a response of this form.
    """
    if len(raw) < HEADER.size or len(raw) > LIMITS.tpm_response_bytes:
        raise TpmError(f"the TPM answered with {len(raw)} bytes, which is no response")
    tag, size, code = HEADER.unpack_from(raw)
    if size != len(raw):
        raise TpmError(f"the TPM answered with {len(raw)} bytes that claim to be {size}")
    if code:
        raise TpmResponse(response_code(code))
    body = raw[HEADER.size :]
    if not sessions:
        if tag != ST_NO_SESSIONS:
            raise TpmError(f"the TPM answered with the tag 0x{tag:04x}")
        return body
    end = 4 + int.from_bytes(body[:4], "big")
    # What a password or an unsalted policy session answers: its nonce, some attributes, no HMAC.
    area = (body[end : end + 2], body[-2:])
    if tag != ST_SESSIONS or len(body) != end + 5 + nonce or area != (nonce.to_bytes(2, "big"), b"\0\0"):
        raise TpmError("the TPM's answer to a session is malformed")
    return body[4:end]


def response_code(rc: int) -> int:
    """A TPM's own response code without handle, parameter and session numbers; -1 for the library's errors."""
    if rc >> 16 not in (0, 0xB):  # 0xB: the TPM's code, passed on by a resource manager
        return -1
    code = rc & 0xFFFF
    return code & 0xBF if code & 0x80 else code


def code_of(error: TpmError) -> int:
    """The response code behind an error, as `response_code` gives it; 0 where no response is behind it."""
    cause = error.__cause__
    return cause.code if isinstance(cause, TpmResponse) else 0


def tpm_error(what: str, answer: TpmResponse) -> TpmError:
    """The error that an unexpected response becomes; ``what`` as in "TPM cannot ``what``"."""
    code, text = answer.code, f"TPM cannot {what}: {answer}"
    if code == _RC_LOCKOUT:
        return TpmLockout(text)
    if code in RC_BUSY:
        return TpmBusy(text)
    if code == RC_INITIALIZE:
        return TpmUnavailable(text, advice="The firmware did not start the TPM; power-cycle the device.")
    if code == _RC_FAILURE:
        return TpmUnavailable(text, advice="The TPM is in failure mode; power-cycle the device.")
    if code in (RC_AUTH_FAIL, RC_BAD_AUTH):
        return TpmError(text, advice="This needs a password of the TPM: `edgeprov identity create --owner-auth FILE`.")
    return TpmError(text)
