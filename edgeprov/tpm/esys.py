# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One connection to a TPM with the TPM library: for commands that use a key, an owner's right or a session.

Runs on tpm2-pytss 2.3 and 3.0. Structures cross the border as bytes only: a field of a temporary
pytss object is a dangling pointer, bytes are not.

Spec: TCG TSS 2.0 Enhanced System API.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from edgeprov.errors import TpmError, TpmUnavailable
from edgeprov.limits import LIMITS
from edgeprov.tpm.client import Client
from edgeprov.tpm.response_codes import TpmResponse, response_code
from edgeprov.tpm.transport import Transport

# The C library writes to stderr unless told otherwise before it is loaded.
os.environ.setdefault("TSS2_LOG", "all+none")

import tpm2_pytss as tss
from tpm2_pytss.TCTI import PyTCTI

__all__ = ["Channel", "Connection", "tss"]

T = TypeVar("T")

_CREATE_COMMANDS: Final = frozenset((0x131, 0x153))
_CAP_HANDLES: Final = 1
_CAP_PROPERTIES: Final = 6
_TRANSIENT: Final = 0x80000000
_SESSIONS: Final = (0x02000000, 0x03000000)  # HMAC and policy sessions that are loaded


class Channel(PyTCTI):  # type: ignore[misc]  # pytss has no types
    """Carries the library's commands over our own client."""

    def __init__(self, client: Client) -> None:
        """Send and receive by ``client``."""
        super().__init__()
        self._client = client
        self._timeout_s = LIMITS.tpm_command_s

    def do_transmit(self, command: bytes) -> None:
        """Called by the library with one command."""
        code = int.from_bytes(command[6:10], "big")
        self._timeout_s = LIMITS.tpm_keygen_s if code in _CREATE_COMMANDS else LIMITS.tpm_command_s
        self._client.send(command)

    def do_receive(self, timeout: int) -> bytes:  # noqa: ARG002 - the library always says -1: for ever
        """Called by the library for the response."""
        return self._client.receive(self._timeout_s)


class Connection(Client):
    """A client with an ESAPI context. For one thread at a time."""

    def __init__(self, link: Transport, *, lock_path: Path, shared: bool) -> None:
        """As `Client`."""
        super().__init__(link, lock_path=lock_path, shared=shared)
        self._in_use = 0
        self._channel = Channel(self)
        self.esys = tss.ESAPI(self._channel)

    def close(self) -> None:
        """End the connection. Never raises."""
        self.esys.close()
        super().close()

    def _ask(self, what: str, command: Callable[[], T]) -> T:
        try:
            return command()
        except tss.TSS2_Exception as error:
            if self._failure is not None:
                raise self._failure from error
            raise TpmResponse(response_code(int(error.rc)), str(error).removeprefix("tpm:")) from error
        except TpmUnavailable as error:
            self._failure = self._failure or error
            raise
        except (IndexError, ValueError, TypeError, RuntimeError) as error:
            if self._failure is not None:
                raise self._failure from error
            raise TpmError(f"TPM cannot {what}: {error}") from error

    # -- slots ----------------------------------------------------------------------------------
    def _reclaim(self) -> None:
        # Without a resource manager, objects of a killed process stay in the TPM. Only while we hold the
        # lock is it sure that nobody uses them; ours are never loaded while another command needs a slot.
        if self._shared or self.lock_depth == 0 or self._in_use:
            return
        for first in (_TRANSIENT, *_SESSIONS):
            for handle in self.handles(first):
                try:
                    self.esys.flush_context(self.esys.tr_from_tpmpublic(handle))
                except tss.TSS2_Exception:
                    continue

    @contextmanager
    def loaded(self, handle: Any) -> Iterator[Any]:
        """Flush a transient object or a session after the body, whatever happens in it."""
        self._in_use += 1
        try:
            yield handle
        finally:
            self._in_use -= 1
            self.flush(handle)

    def flush(self, handle: Any) -> None:
        """Free a slot. A TPM that is gone has freed it by itself."""
        if self._failure is None:
            try:
                self.esys.flush_context(handle)
            except (tss.TSS2_Exception, TpmUnavailable):
                return

    # -- capabilities ---------------------------------------------------------------------------
    def handles(self, first: int) -> tuple[int, ...]:
        """Handles in use from ``first`` on, within its range."""
        raw = self._capability(_CAP_HANDLES, first, 64)
        count = int.from_bytes(raw[4:8], "big")
        found = (int.from_bytes(raw[8 + 4 * i : 12 + 4 * i], "big") for i in range(count))
        return tuple(handle for handle in found if handle >> 24 == first >> 24)

    def tpm_properties(self, first: int, count: int) -> dict[int, int]:
        """Fixed properties (TPM_PT) from ``first`` on, as far as the TPM has them; one command."""
        raw = self._capability(_CAP_PROPERTIES, first, count)
        pairs = [raw[8 + 8 * i : 16 + 8 * i] for i in range(int.from_bytes(raw[4:8], "big"))]
        return {int.from_bytes(pair[:4], "big"): int.from_bytes(pair[4:], "big") for pair in pairs}

    def _capability(self, kind: int, first: int, count: int) -> bytes:
        def command() -> bytes:
            answer = self.esys.get_capability(tss.TPM2_CAP(kind), first, count)
            return bytes(answer[1].marshal())

        return self.run("tell its properties", command)
