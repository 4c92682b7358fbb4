# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM commands without a library: those that need no key, for the boot check and for every flow.

The TPM library costs 0.2 s and 14 MB at import, more than the rest of a boot check. PCRs, the clock and NV
reads need a few bytes of it. Everything that signs, attests, certifies or enrolls uses `esys.Connection`,
which adds the library to this class.

Responses are bounded by the transport and read strictly: tag, size, session area, nothing behind.

Spec: TPM 2.0 Library, Part 3, of each command.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, TpmError, TpmUnavailable
from edgeprov.formats.tpmt import ALG_SHA256, TpmReader
from edgeprov.limits import LIMITS
from edgeprov.tpm.device_lock import DeviceLock
from edgeprov.tpm.response_codes import (
    HEADER,
    RC_AUTH_FAIL,
    RC_BAD_AUTH,
    RC_BUSY,
    RC_HANDLE,
    RC_HIERARCHY,
    RC_INITIALIZE,
    RC_MEMORY,
    ST_NO_SESSIONS,
    ST_SESSIONS,
    TpmResponse,
    parse_response,
    tpm_error,
)
from edgeprov.tpm.transport import Transport

T = TypeVar("T")

_RS_PW: Final = 0x40000009
_RH_PLATFORM: Final = 0x4000000C
_CC_HIERARCHY_CONTROL: Final = 0x121
_CC_PCR_EVENT: Final = 0x13C
_CC_STARTUP: Final = 0x144
_CC_NV_READ: Final = 0x14E
_CC_NV_READ_PUBLIC: Final = 0x169
_CC_FLUSH_CONTEXT: Final = 0x165
_CC_POLICY_COMMAND_CODE: Final = 0x16C
_CC_START_AUTH_SESSION: Final = 0x176
_CC_PCR_READ: Final = 0x17E
_CC_READ_CLOCK: Final = 0x181
_CLOCK: Final = struct.Struct(">QQIIB")
_RH_NULL: Final = 0x40000007
# Unsalted and unbound: it protects nothing, it only meets a policy. Nonce of 16 bytes, no salt, POLICY, no symmetric.
_NONCE_BYTES: Final = 16
_POLICY_SESSION: Final = struct.pack(
    ">IIH16sHBHH", _RH_NULL, _RH_NULL, _NONCE_BYTES, bytes(_NONCE_BYTES), 0, 1, 0x0010, ALG_SHA256
)
_EVENT_BYTES: Final = 1024
_PCRS: Final = 24
_PCRS_AT_ONCE: Final = 8  # a TPM answers with at most 8 digests


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmClock:
    """TPMS_CLOCK_INFO. ``clock_ms`` counts milliseconds while powered; after a power cut it may repeat a little."""

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool


class Client(DeviceLock):
    """A TPM behind a transport. For one thread at a time."""

    def __init__(self, link: Transport, *, lock_path: Path, shared: bool) -> None:
        """Start to talk; nothing is sent yet.

        Args:
            link: Carries the commands; closed with this client.
            lock_path: File of the lock that all processes of this device share.
            shared: True behind a resource manager, which has started the TPM and gives each process its own slots.
        """
        super().__init__(lock_path)
        self._link = link
        self._failure: TpmUnavailable | None = None
        self._shared = shared
        self._process = os.getpid()

    @property
    def name(self) -> str:
        """Where the TPM is, for messages."""
        return self._link.name

    def close(self) -> None:
        """End the connection. Never raises."""
        self._link.close()
        super().close()

    # -- commands -------------------------------------------------------------------------------
    def send(self, command: bytes) -> None:
        """Hand one command to the TPM; after the first failure nothing more is sent.

        Raises:
            TpmUnavailable: The TPM is gone.
        """
        self._guard(lambda: self._link.send(command))

    def receive(self, timeout_s: float) -> bytes:
        """The response to the last command.

        Raises:
            TpmUnavailable: The TPM is gone, or does not answer in time.
        """
        return self._guard(lambda: self._link.receive(timeout_s))

    def run(self, what: str, command: Callable[[], T]) -> T:
        """Run one command; a busy TPM is asked again for a while.

        Args:
            what: For messages, as in "TPM cannot ``what``".
            command: Talks to the TPM and returns plain values.

        Raises:
            TpmUnavailable: No TPM answers.
            TpmLockout: Dictionary-attack lockout; never asked again.
            TpmBusy: Still busy at the end.
            TpmError: Anything else.
        """
        found, value = self.attempt(what, command, ())
        assert found  # noqa: S101 - no code was declared to be an answer
        return value  # type: ignore[return-value]

    def attempt(self, what: str, command: Callable[[], T], negative: Collection[int]) -> tuple[bool, T | None]:
        """As `run`, but the response codes in ``negative`` mean "no": (False, None).

        Format-one codes in ``negative`` are given without parameter, handle or session number.
        """
        if os.getpid() != self._process:  # parent and child would read each other's answers
            raise TpmError("the TPM was opened before a fork", advice="Open the device in each process.")
        deadline = time.monotonic() + LIMITS.tpm_busy_s
        pause = 0.004
        started = self._shared
        while True:
            try:
                return True, self._ask(what, command)
            except TpmResponse as answer:
                code = answer.code
                if code in negative:
                    return False, None
                if code == RC_INITIALIZE and not started:
                    started = True
                    self._start()
                    continue
                if code not in RC_BUSY or time.monotonic() > deadline:
                    raise tpm_error(what, answer) from answer
                if code in RC_MEMORY:
                    self._reclaim()
            time.sleep(pause * (0.5 + os.urandom(1)[0] / 255))  # jitter
            pause = min(pause * 2, 0.5)

    def pcr_event(self, pcr: int, data: bytes) -> None:
        """Extend all banks of a PCR with data that the TPM itself hashes, so that no bank stays free to forge.

        Raises:
            TpmError: The TPM refused, or ``data`` is longer than 1,024 bytes.
        """
        if len(data) > _EVENT_BYTES:
            raise TpmError(f"an event has {len(data)} bytes, more than a TPM takes")
        params = len(data).to_bytes(2, "big") + data
        self.run(
            f"extend PCR {pcr}",
            lambda: self._exchange(_CC_PCR_EVENT, pcr.to_bytes(4, "big"), params, auth=b""),
        )

    def read_pcrs(self, pcrs: Sequence[int]) -> tuple[tuple[int, bytes], ...]:
        """SHA-256 values of PCRs, ascending; one command for each eight of them.

        Raises:
            TpmError: The TPM refused, or has no SHA-256 bank.
        """
        wanted = sorted(set(pcrs))
        what = f"read PCR {', '.join(map(str, wanted))}"
        values: list[tuple[int, bytes]] = []
        while chosen := wanted[len(values) :][:_PCRS_AT_ONCE]:
            selection = sum(1 << pcr for pcr in chosen).to_bytes(_PCRS // 8, "little")
            params = struct.pack(">IHB", 1, ALG_SHA256, len(selection)) + selection
            raw = self.run(what, lambda params=params: self._exchange(_CC_PCR_READ, params=params))  # type: ignore[misc]
            digests = self._parse(what, raw, lambda reader, selection=selection: _read_digests(reader, selection))  # type: ignore[misc]
            if len(digests) != len(chosen):
                raise TpmError(
                    f"PCR {chosen[0]} has no SHA-256 bank", advice="Enable the SHA-256 PCR bank in the firmware set-up."
                )
            values += zip(chosen, digests, strict=True)
        return tuple(values)

    def read_pcr(self, pcr: int) -> bytes:
        """The SHA-256 value of a PCR, 32 bytes.

        Raises:
            TpmError: The TPM refused, or has no SHA-256 bank.
        """
        return self.read_pcrs((pcr,))[0][1]

    def read_clock(self) -> TpmClock:
        """The TPM's clock and its counts of resets.

        Raises:
            TpmError: The TPM refused.
        """
        what = "tell its clock"
        raw = self.run(what, lambda: self._exchange(_CC_READ_CLOCK))
        info = self._parse(what, raw, lambda reader: reader.take(_CLOCK.size))
        _, clock, resets, restarts, safe = _CLOCK.unpack(info)
        return TpmClock(clock_ms=clock, reset_count=resets, restart_count=restarts, safe=bool(safe))

    def close_platform(self) -> None:
        """Disable the platform hierarchy until the next reset; nothing to do where the firmware has done it.

        With an open one and its empty password anybody could clear the TPM, whatever the owner's password is.

        Raises:
            TpmError: The TPM refused.
        """
        handle = _RH_PLATFORM.to_bytes(4, "big")
        self.attempt(
            "close its platform hierarchy",
            lambda: self._exchange(_CC_HIERARCHY_CONTROL, handle, handle + b"\0", auth=b""),
            (RC_HIERARCHY, RC_AUTH_FAIL, RC_BAD_AUTH),
        )

    def nv_read(self, index: int, size: int, auth: bytes, negative: Collection[int] = ()) -> bytes | None:
        """Bytes of an NV index, read under the index's own authValue, from offset 0.

        Returns:
            None when the TPM's answer is one of ``negative``.

        Raises:
            TpmError: The TPM refused.
        """
        what = f"read NV index {index:#010x}"
        handle = index.to_bytes(4, "big")
        params = struct.pack(">HH", size, 0)
        there, raw = self.attempt(what, lambda: self._exchange(_CC_NV_READ, handle * 2, params, auth=auth), negative)
        if not there or raw is None:
            return None
        data = self._parse(what, raw, lambda reader: reader.sized())
        if len(data) != size:
            raise TpmError(f"TPM cannot {what}: {len(data)} bytes came instead of {size}")
        return data

    def nv_read_open(self, index: int, size: int) -> bytes:
        """Bytes of an NV index that lets everybody read it: its policy asks for nothing but TPM2_NV_Read.

        Raises:
            TpmError: The TPM refused.
        """
        what = f"read NV index {index:#010x}"
        with self.group():
            raw = self.run(what, lambda: self._exchange(_CC_START_AUTH_SESSION, params=_POLICY_SESSION))
            session = raw[:4]
            try:
                self.run(what, lambda: self._exchange(_CC_POLICY_COMMAND_CODE, session, _CC_NV_READ.to_bytes(4, "big")))
                handle = index.to_bytes(4, "big")
                raw = self.run(
                    what, lambda: self._exchange(_CC_NV_READ, handle * 2, struct.pack(">HH", size, 0), session=session)
                )
            except BaseException:
                with suppress(TpmError, TpmResponse):
                    self._exchange(_CC_FLUSH_CONTEXT, params=session)  # a good read ends the session by itself
                raise
        data = self._parse(what, raw, lambda reader: reader.sized())
        if len(data) != size:
            raise TpmError(f"TPM cannot {what}: {len(data)} bytes came instead of {size}")
        return data

    def nv_read_public(self, index: int) -> bytes | None:
        """TPMS_NV_PUBLIC of an NV index; None when it is not defined.

        Raises:
            TpmError: The TPM refused.
        """
        what = f"look up NV index {index:#010x}"
        handle = index.to_bytes(4, "big")
        there, raw = self.attempt(what, lambda: self._exchange(_CC_NV_READ_PUBLIC, handle), (RC_HANDLE,))
        if not there or raw is None:
            return None
        return self._parse(what, raw, _read_nv_public)

    # -- beneath --------------------------------------------------------------------------------
    def _ask(self, what: str, command: Callable[[], T]) -> T:  # noqa: ARG002 - esys tells the library's errors by it
        return command()

    def _start(self) -> None:
        # Without a resource manager it may be that nobody has started the TPM since its reset.
        with suppress(TpmResponse):
            self._exchange(_CC_STARTUP, params=b"\0\0")  # CLEAR

    def _reclaim(self) -> None:
        """Free what killed processes left in the TPM; nothing to do where no key is used."""

    def _guard(self, step: Callable[[], T]) -> T:
        if self._failure is not None:
            raise self._failure
        try:
            return step()
        except TpmUnavailable as error:
            self._failure = error
            raise

    def _exchange(
        self,
        code: int,
        handles: bytes = b"",
        params: bytes = b"",
        *,
        auth: bytes | None = None,
        session: bytes | None = None,
    ) -> bytes:
        """One command, with at most one password or policy session; returns the response's handle and parameters."""
        area = b""
        nonce = 0 if session is None else _NONCE_BYTES
        if auth is not None:
            session = _RS_PW.to_bytes(4, "big")
        if session is not None:
            one = session + struct.pack(">HBH", 0, 0, len(auth or b"")) + (auth or b"")
            area = len(one).to_bytes(4, "big") + one
        body = handles + area + params
        tag = ST_NO_SESSIONS if session is None else ST_SESSIONS
        self.send(HEADER.pack(tag, HEADER.size + len(body), code) + body)
        return parse_response(self.receive(LIMITS.tpm_command_s), sessions=session is not None, nonce=nonce)

    def _parse(self, what: str, raw: bytes, read: Callable[[TpmReader], T]) -> T:
        try:
            reader = TpmReader(raw, "response")
            value = read(reader)
            reader.end()
        except FormatError as error:
            raise TpmError(f"TPM cannot {what}: {error.message}") from error
        return value


def _read_digests(reader: TpmReader, selection: bytes) -> list[bytes]:
    reader.uint(4)  # pcrUpdateCounter
    banks = [(reader.uint(2), reader.take(reader.uint(1))) for _ in range(_bounded(reader.uint(4), 16))]
    digests = [reader.sized() for _ in range(_bounded(reader.uint(4), _PCRS_AT_ONCE))]
    if banks != [(ALG_SHA256, selection)] or any(len(digest) != 32 for digest in digests):
        return []  # the bank is not there: the TPM then selects nothing
    return digests


def _read_nv_public(reader: TpmReader) -> bytes:
    public = reader.sized()
    reader.sized()  # Name, which follows from the public area
    return public


def _bounded(count: int, most: int) -> int:
    if count > most:
        raise FormatError(f"response counts {count} items")
    return count
