# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM with the stored keys: the commands of a segment, of a kit, of a head.

Saved answers spare commands, 0.3 s each on a slow chip: handles come from a file, the counter is read once within
a group, and a key or index that is not ours shows by its refusal of our authValue, or in what it attests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

from edgeprov.errors import IdentityError, TpmError
from edgeprov.formats.tpmt import Attestation, NvCertify, Quote, nv_name, parse_attest
from edgeprov.tpm import quote
from edgeprov.tpm.client import TpmClock
from edgeprov.tpm.counter import KitCounter
from edgeprov.tpm.device_keys import Keys
from edgeprov.tpm.esys import Connection
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, RC_NV_UNINITIALIZED
from edgeprov.tpm.saved_handles import SavedHandles
from edgeprov.tpm.tcti import TpmSettings
from edgeprov.tpm.transport import Transport
from edgeprov.verify.attestation import qualified_name

T = TypeVar("T")

_QUOTE_TRIES: Final = 4

# What a saved handle gets whose key or index is gone, or is another one; 0x910: no object at a handle.
_STALE: Final = (RC_HANDLE, RC_AUTH_FAIL, RC_BAD_AUTH, RC_NV_UNINITIALIZED, 0x910)


class KeyedTpm:
    """What needs no more than the stored keys: quote, count, certify, sign. One thread at a time."""

    def __init__(self, link: Transport, settings: TpmSettings, *, shared: bool, simulated: bool) -> None:
        """Talk over ``link``, which is closed with this object."""
        self._connection = Connection(link, lock_path=settings.lock_path, shared=shared)
        self._settings = settings
        self._simulated = simulated
        self._handles = SavedHandles(self._connection, settings.state_dir)
        self._keys = Keys(self._connection, settings.state_dir, self._handles)
        self._model_pcr: bytes | None = None
        self._counter = KitCounter(self._connection, self._handles)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush and disconnect. Never raises."""
        self._keys.close()
        self._connection.close()

    @contextmanager
    def group(self) -> Iterator[None]:
        """Keep other edgeprov processes off the TPM for the body; may be nested.

        Raises:
            TpmBusy: Another process keeps the lock.
        """
        with self._connection.group():
            try:
                yield
            finally:
                if self._connection.lock_depth == 1:
                    self._counter.forget_value()

    @property
    def public_key_spki(self) -> bytes:
        """SubjectPublicKeyInfo of the SK in DER.

        Raises:
            IdentityError: None was created.
        """
        return self._keys.identity.sk.spki

    # -- one activation, one kit ----------------------------------------------------------------
    def pcr_event(self, data: bytes) -> None:
        """Measure ``data`` into the model PCR.

        Raises:
            TpmError: The TPM refused.
        """
        self._model_pcr = None
        self._connection.pcr_event(self._settings.pcr, data)

    def read_pcr(self) -> bytes:
        """The model PCR, 32 bytes.

        Raises:
            TpmError: The TPM refused.
        """
        self._model_pcr = self._connection.read_pcr(self._settings.pcr)
        return self._model_pcr

    def quote(self, qualifying: bytes, *, model_pcr: bytes | None = None) -> Attestation:
        """The AK's statement of the model PCR and of `tpm.quote_pcrs`, bound to 32 bytes, with the PCRs' values.

        Args:
            qualifying: 32 bytes.
            model_pcr: Value that the caller expects of the model PCR; default the one that was read last. It spares a
                command where no further PCR is quoted. The values of the answer are those of the quote in any case.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused, or another program changes these PCRs all the time.
        """
        pcr = self._settings.pcr
        chosen = tuple(sorted({pcr, *self._settings.quote_pcrs}))
        model_pcr = model_pcr or self._model_pcr
        expected = ((pcr, model_pcr),) if model_pcr is not None and chosen == (pcr,) else None
        for _ in range(_QUOTE_TRIES):
            values = expected or self._connection.read_pcrs(chosen)
            answer = self._keyed(
                "quote its PCRs", lambda: quote.quote(self._connection, self._keys.handle(AK), chosen, qualifying)
            )
            info = parse_attest(answer.attest).info
            digest = hashlib.sha256(b"".join(value for _, value in values)).digest()
            if isinstance(info, Quote) and info.pcr_digest == digest:
                return Attestation(attest=answer.attest, signature=answer.signature, pcrs=values)
            expected = None  # extended between the two commands, or not what the caller thought
        raise TpmError(
            "PCRs change while they are quoted", advice="Another program extends them all the time; try again."
        )

    def increment_counter(self) -> int:
        """The number of the next kit; durable on return, never given again.

        One command where the counter was read within the same `group`, else two.

        Raises:
            IdentityError: No identity, or another TPM, whose counter is then left alone.
            TpmError: The TPM refused.
        """
        with self.group():
            esys = self._connection.esys
            self._keyed("increment its counter", lambda: esys.nv_increment(self._counter_handle()))
            value = self._counter.raised()
            value = self._counter.read(self._keys.secret) if value is None else value
            if value is None:
                raise TpmError("the kit counter has no value after an increment")
            return value

    def read_counter(self) -> int:
        """The number of the newest kit.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        with self.group():
            _, secret = self._keys.identity, self._keys.secret
            value = self._counter.read(secret)
            if value is None:
                self._look_up_again()  # the counter of another TPM is no business of ours
                value = self._counter.ready(secret)
            return value

    def certify_counter(self, qualifying: bytes) -> Attestation:
        """The AK's statement of the kit counter, bound to 32 bytes.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused, or the counter is not what it was a moment ago.
        """

        def command() -> Attestation:
            index = self._counter_handle()
            return quote.certify_counter(self._connection, self._keys.handle(AK), index, qualifying)

        with self.group():
            answer = self._keyed("certify its counter", command)
            info = parse_attest(answer.attest).info
            if not isinstance(info, NvCertify) or info.index_name != nv_name():
                raise TpmError("the TPM certified another NV index than the kit counter")
            known = self._counter.known
            if known is not None and int.from_bytes(info.contents, "big") != known:
                raise TpmError(f"the kit counter is no longer at {known}: another program has raised it")
            return answer

    def sign_digest(self, digest: bytes) -> bytes:
        """The SK's ECDSA signature of a SHA-256 digest, in DER.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        return self._keyed("sign", lambda: quote.sign_digest(self._connection, self._keys.handle(SK), digest))

    def clock(self) -> TpmClock:
        """The TPM's clock and its counts of resets.

        Raises:
            TpmError: The TPM refused.
        """
        return self._connection.read_clock()

    def _counter_handle(self) -> object:
        secret = self._keys.secret
        handle = self._counter.handle(secret)
        if handle is None:
            self._look_up_again()  # the counter of another TPM is left alone
            handle = self._counter.define(secret)
        return handle

    def _look_up_again(self) -> None:
        """Ask the TPM for its AK: a saved handle alone does not show whose TPM this is.

        Raises:
            IdentityError: Another TPM.
        """
        self._handles.forget()
        self._keys.forget()
        self._keys.handle(AK)

    def _keyed(self, what: str, command: Callable[[], T]) -> T:
        """Run a command that uses our keys; where saved handles are no longer right, look them up and ask again."""
        _ = self._keys.identity
        there, value = self._connection.attempt(what, command, _STALE)
        if not there:
            self._look_up_again()
            self._counter.forget()
            there, value = self._connection.attempt(what, command, (RC_AUTH_FAIL, RC_BAD_AUTH))
        if not there:
            raise IdentityError(
                "the TPM has this device's keys, but does not accept the secret beside the state for them",
                advice="Put the secret back from a backup; without it move the state folder away, and enroll anew.",
            )
        if isinstance(value, Attestation):
            signer = parse_attest(value.attest).qualified_signer
            if signer != qualified_name(self._keys.identity.ak.name):
                raise IdentityError("the TPM attested with another key than this device's AK")
        return value  # type: ignore[return-value]
