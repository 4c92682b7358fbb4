# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM of a device, as the flows see it.

Import this module only where a TPM is used: it loads tpm2-pytss (0.2 s, 35 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import TracebackType
from typing import Final, Literal, Self

from edgeprov._dataclass import dataclass
from edgeprov.errors import IdentityError
from edgeprov.formats.devicerecord import FactoryKey
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.tpm import endorsement, quote, simulator
from edgeprov.tpm.counter import Floor, KitCounter
from edgeprov.tpm.device_keys import AK, SK, Keys, StoredIdentity, load_identity, save_identity
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.quote import TpmClock
from edgeprov.tpm.tcti import TpmSettings, open_transport, simulator_folder
from edgeprov.tpm.transport import Transport

__all__ = ["Tpm", "TpmClock", "TpmIdentity", "TpmSettings", "open_tpm"]

_PT_MANUFACTURER: Final = 0x105
_PT_VENDOR_STRINGS: Final = range(0x106, 0x10A)
# TCG Vendor ID Registry. Chips of their own; everything unknown counts as firmware at best.
_CHIP_MAKERS: Final = frozenset(("ATML", "GOOG", "IFX", "NSM", "NTC", "NTZ", "STM", "WEC"))
_SOFTWARE: Final = frozenset(("IBM", "VMW"))  # libtpms (swtpm, every QEMU guest), VMware


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmIdentity:
    """Public parts (TPMT_PUBLIC) of the device's keys, and the kit counter's value at creation."""

    ak_public: bytes
    sk_public: bytes
    counter_value: int


class Tpm:
    """An open TPM. One thread at a time; close it, or use it as a context manager."""

    def __init__(self, link: Transport, settings: TpmSettings, *, shared: bool, simulated: bool) -> None:
        """Use `open_tpm`."""
        self._connection = Connection(link, lock_path=settings.lock_path, shared=shared)
        self._settings = settings
        self._simulated = simulated
        self._keys = Keys(self._connection, settings.state_dir)
        self._counter = KitCounter(self._connection)
        self._floor = Floor(self._connection, settings.state_dir)

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

    def group(self) -> AbstractContextManager[None]:
        """Keep other edgeprov processes off the TPM for the body; may be nested.

        Raises:
            TpmBusy: Another process keeps the lock.
        """
        return self._connection.group()

    # -- what TPM this is -----------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Where the TPM is: a device node or a socket."""
        return self._connection.name

    @cached_property
    def manufacturer(self) -> str:
        """Maker's id and model, such as ``IFX SLB9672``.

        Raises:
            TpmError: The TPM does not answer.
        """
        numbers = (_PT_MANUFACTURER, *_PT_VENDOR_STRINGS)
        words = [self._connection.tpm_property(number).to_bytes(4, "big") for number in numbers]
        maker, rest = words[0], b"".join(words[1:])
        return " ".join(part.replace(b"\0", b"").decode("ascii", "replace").strip() for part in (maker, rest)).strip()

    @cached_property
    def assurance(self) -> Literal["dev", "firmware", "hardware"]:
        """What the keys are worth: ``hardware`` is a chip whose maker certified its EK.

        A simulator, any software TPM and any TPM without certificate of EK or IAK are ``dev``. This is what
        the device says of itself; the enroller decides by the certificate.

        Raises:
            TpmError: The TPM does not answer.
        """
        maker = self.manufacturer.partition(" ")[0]
        if self._simulated or maker in _SOFTWARE:
            return "dev"
        if self.ek_certificate() is None and endorsement.find_factory_key(self._connection) is None:
            return "dev"
        return "hardware" if maker in _CHIP_MAKERS else "firmware"

    def boot_id(self) -> str | None:
        """The id of this simulated boot; None with a real TPM, where the kernel's holds."""
        folder = simulator_folder(self._settings)
        return simulator.boot_id(folder) if self._simulated and folder is not None else None

    # -- identity -------------------------------------------------------------------------------
    def create_identity(self) -> TpmIdentity:
        """Make AK, SK and the kit counter, or find them; a second call changes nothing.

        Raises:
            IdentityError: A stored identity is that of another TPM.
            TpmError: The TPM refused.
            StoreError: The identity cannot be written down.
        """
        with self.group():
            ak, sk = self._keys.create(AK), self._keys.create(SK)
            stored = load_identity(self._settings.state_dir)
            if stored is None:
                stored = StoredIdentity(ak=ak, sk=sk, counter_base=self._counter.ready(), simulated=self._simulated)
                save_identity(self._settings.state_dir, stored)
            elif (stored.ak.name, stored.sk.name) != (ak.name, sk.name):
                raise IdentityError("this device's identity belongs to another TPM")
            else:
                self._counter.ready()
        return _identity(stored)

    def identity(self) -> TpmIdentity:
        """The stored identity, not compared with the TPM.

        Raises:
            IdentityError: None was created.
        """
        return _identity(self._keys.identity)

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
        quote.pcr_event(self._connection, self._settings.pcr, data)

    def read_pcr(self) -> bytes:
        """The model PCR, 32 bytes.

        Raises:
            TpmError: The TPM refused.
        """
        return quote.read_pcr(self._connection, self._settings.pcr)

    def quote(self, qualifying: bytes, *, pcrs: Sequence[int] | None = None) -> Attestation:
        """The AK's statement of the model PCR (or of ``pcrs``), bound to 32 bytes.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        return quote.quote(self._connection, self._keys.handle(AK), pcrs or (self._settings.pcr,), qualifying)

    def increment_counter(self) -> int:
        """The number of the next kit; durable on return, never given again.

        Raises:
            IdentityError: No identity, or another TPM, whose counter is then left alone.
            TpmError: The TPM refused.
        """
        with self.group():
            self._keys.handle(AK)
            self._counter.define()
            return self._counter.increment()

    def read_counter(self) -> int:
        """The number of the newest kit.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        with self.group():
            self._keys.handle(AK)
            return self._counter.ready()

    def certify_counter(self, qualifying: bytes) -> Attestation:
        """The AK's statement of the kit counter, bound to 32 bytes.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        with self.group():
            ak = self._keys.handle(AK)
            self._counter.ready()
            return self._counter.certify(ak, qualifying)

    def sign_digest(self, digest: bytes) -> bytes:
        """The SK's ECDSA signature of a SHA-256 digest, in DER.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        return quote.sign_digest(self._connection, self._keys.handle(SK), digest)

    def clock(self) -> TpmClock:
        """The TPM's clock and its counts of resets.

        Raises:
            TpmError: The TPM refused.
        """
        return quote.read_clock(self._connection)

    def floor(self) -> int:
        """The lowest securityVersion that may run; 0 when none was ever set.

        Raises:
            TpmError: The TPM refused.
        """
        return self._floor.read()

    def raise_floor(self, to: int) -> None:
        """Raise the floor for ever; a lower value changes nothing.

        Raises:
            TpmError: The TPM refused.
        """
        with self.group():
            self._floor.raise_to(to)

    # -- enrollment ------------------------------------------------------------------------------
    def certify_sk(self, qualifying: bytes) -> Attestation:
        """The AK's statement that the SK is in this TPM, bound to 32 bytes.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        return quote.certify(self._connection, self._keys.handle(AK), self._keys.handle(SK), qualifying)

    def factory_key(self, qualifying: bytes) -> FactoryKey | None:
        """The maker's attestation key (IAK), and its statement that our AK is in the same TPM; None without one.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        with self.group():
            found = endorsement.find_factory_key(self._connection)
            if found is None:
                return None
            handle, public, certificate = found
            certify = quote.certify(self._connection, handle, self._keys.handle(AK), qualifying)
        return FactoryKey(public=parse_public(public), certificate=certificate, certify=certify)

    def ek_certificate(self) -> bytes | None:
        """The TPM maker's certificate of the EK in DER; None where the TPM has none.

        Raises:
            TpmError: The TPM refused.
        """
        return self._endorsement_key.certificate

    def ek_public(self) -> bytes:
        """TPMT_PUBLIC of the EK, for which a vendor makes the credential.

        Raises:
            TpmError: The TPM refused.
        """
        return self._endorsement_key.public

    def activate_credential(self, blob: bytes, secret: bytes) -> bytes:
        """Answer a vendor's credential: proves that EK and AK are in one TPM.

        Args:
            blob: TPM2B_ID_OBJECT without its length.
            secret: TPM2B_ENCRYPTED_SECRET without its length.

        Raises:
            EnrollmentRefused: It was made for another TPM or another AK.
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """
        with self.group():
            ak = self._keys.handle(AK)
            protect = self._settings.bus_protection
            return endorsement.activate_credential(
                self._connection, self._endorsement_key, ak, blob, secret, protect=protect
            )

    @cached_property
    def _endorsement_key(self) -> endorsement.EndorsementKey:
        with self.group():
            return endorsement.find_endorsement_key(self._connection)

    def start(self) -> None:
        """TPM2_Startup(CLEAR), which does nothing when the firmware has done it."""
        self._connection.run("start", lambda: self._connection.esys.startup(tss.TPM2_SU.CLEAR))


def open_tpm(settings: TpmSettings) -> Tpm:
    """Open the TPM that ``settings`` name. Nothing else is ever probed.

    Raises:
        TpmUnavailable: There is none, or it does not answer.
        ConfigError: ``tcti`` is not one of the known forms.
    """
    link, shared, simulated = open_transport(settings)
    try:
        tpm = Tpm(link, settings, shared=shared, simulated=simulated)
    except BaseException:
        link.close()
        raise
    try:
        if not shared:
            tpm.start()
    except BaseException:
        tpm.close()
        raise
    return tpm


def _identity(stored: StoredIdentity) -> TpmIdentity:
    return TpmIdentity(ak_public=stored.ak.raw, sk_public=stored.sk.raw, counter_value=stored.counter_base)
