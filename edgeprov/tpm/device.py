# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM of a device, as the flows see it.

Import this module only where a TPM is used: it loads tpm2-pytss (0.2 s, 35 MB).
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

from edgeprov._dataclass import dataclass, replace
from edgeprov.errors import IdentityError
from edgeprov.formats.devicerecord import FactoryKey
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.tpm import endorsement, quote, simulator
from edgeprov.tpm.client import TpmClock
from edgeprov.tpm.counter import Floor
from edgeprov.tpm.identity_file import StoredIdentity, load_identity, save_identity
from edgeprov.tpm.key_template import AK, SK
from edgeprov.tpm.keyed import KeyedTpm
from edgeprov.tpm.maker import judge_assurance, read_manufacturer
from edgeprov.tpm.protection import Protection, protect, read_weaknesses, use_owner
from edgeprov.tpm.secret import load_secret, make_secret
from edgeprov.tpm.tcti import TpmSettings, open_transport, simulator_folder
from edgeprov.tpm.transport import Transport

__all__ = ["Tpm", "TpmClock", "TpmIdentity", "TpmSettings", "open_tpm"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmIdentity:
    """Public parts (TPMT_PUBLIC) of the device's keys, and the kit counter's value at creation."""

    ak_public: bytes
    sk_public: bytes
    counter_value: int


class Tpm(KeyedTpm):
    """An open TPM. One thread at a time; close it, or use it as a context manager."""

    def __init__(self, link: Transport, settings: TpmSettings, *, shared: bool, simulated: bool) -> None:
        """Use `open_tpm`."""
        super().__init__(link, settings, shared=shared, simulated=simulated)
        self._floor = Floor(self._connection, settings.state_dir)

    # -- what TPM this is -----------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Where the TPM is: a device node or a socket."""
        return self._connection.name

    @cached_property
    def manufacturer(self) -> str:
        """Maker's id and model, such as ``IFX SLB9672``; asked once in the life of an identity.

        Raises:
            TpmError: The TPM does not answer.
        """
        stored = load_identity(self._settings.state_dir)
        return stored.manufacturer if stored else read_manufacturer(self._connection)

    @cached_property
    def assurance(self) -> str:
        """What the keys are worth, as `maker.judge_assurance`; asked once in the life of an identity.

        Raises:
            TpmError: The TPM does not answer.
        """
        stored = load_identity(self._settings.state_dir)
        if stored is not None:
            return stored.assurance
        certificate = None if self._simulated else self.ek_certificate()
        return judge_assurance(self._connection, self.manufacturer, certificate, simulated=self._simulated)

    def boot_id(self) -> str | None:
        """The id of this simulated boot; None with a real TPM, where the kernel's holds."""
        folder = simulator_folder(self._settings)
        return simulator.boot_id(folder) if self._simulated and folder is not None else None

    # -- identity -------------------------------------------------------------------------------
    def create_identity(self, protection: Protection | None = None) -> TpmIdentity:
        """Make secret, AK, SK, the kit counter and the slots' floors, or find them; a second call changes nothing.

        Args:
            protection: Passwords of owner and lockout to set at the end, or to use where they are set.

        Raises:
            IdentityError: A stored identity is that of another TPM, or its secret is lost.
            TpmError: The TPM refused.
            StoreError: The identity cannot be written down.
        """
        folder = self._settings.state_dir
        protection = protection or Protection()
        with self.group():
            use_owner(self._connection, protection)
            stored = load_identity(folder)
            secret = load_secret(folder)
            if secret is None:
                secret = make_secret(folder) if stored is None else self._keys.secret  # the latter raises
            ak, sk = (self._keys.create(kind, secret, evict=stored is None) for kind in (AK, SK))
            if stored is None:
                stored = StoredIdentity(
                    ak=ak,
                    sk=sk,
                    counter_base=self._counter.create(secret),
                    simulated=self._simulated,
                    manufacturer=self.manufacturer,
                    assurance=self.assurance,
                )
                self._floor.create(self._settings.slots, secret, anew=True)
                save_identity(folder, stored)
            elif (stored.ak.name, stored.sk.name) != (ak.name, sk.name):
                raise IdentityError(
                    "this device's identity belongs to another TPM",
                    advice="The TPM was cleared or replaced, or this state folder is a copy (a golden image): move "
                    "the state folder away, run `edgeprov identity create`, and enroll the device anew. Records and "
                    "kits of the old state stay in the folder.",
                )
            else:
                self._counter.ready(secret)
                self._floor.create(self._settings.slots, secret, anew=False)
            if protection.asked:
                protect(self._connection, protection)
                save_identity(folder, replace(stored, protected=not read_weaknesses(self._connection)))
        return _identity(stored)

    def weaknesses(self) -> tuple[str, ...]:
        """What any program that may talk to this TPM can do with it, for a technician.

        Raises:
            TpmError: The TPM does not answer.
        """
        return read_weaknesses(self._connection)

    def identity(self) -> TpmIdentity:
        """The stored identity, not compared with the TPM.

        Raises:
            IdentityError: None was created.
        """
        return _identity(self._keys.identity)

    def verify_keys(self) -> tuple[str, ...]:
        """Compare identity, secret and TPM, and change nothing.

        Returns:
            What slows or endangers the keys, for a technician; empty when all is well.

        Raises:
            IdentityError: No identity, or the secret is lost.
            TpmError: The TPM refused.
        """
        _ = self._keys.secret
        places = {kind.label.upper(): (kind, self._keys.locate(kind)) for kind in (AK, SK)}
        notes = [
            f"handle {kind.handle:#010x} holds another key than this device's {name}"
            if state == "other"
            else f"the {name} is not at its handle {kind.handle:#010x}; each command makes it again"
            for name, (kind, state) in places.items()
            if state != "present"
        ]
        if self._counter.read(self._keys.secret) is None:
            notes.append("the kit counter is not in the TPM, or does not accept this device's secret")
        return tuple(notes)

    # -- floors ---------------------------------------------------------------------------------
    def floor(self, slot: str) -> int:
        """The lowest securityVersion that may run in a slot; 0 when none was ever set.

        Raises:
            TpmError: The TPM refused.
        """
        return self._floor.read(slot)

    def raise_floor(self, slot: str, to: int) -> None:
        """Raise a slot's floor for ever; a lower value changes nothing.

        Raises:
            TpmError: The TPM refused.
        """
        with self.group():
            self._floor.raise_to(slot, to)

    def floors_on_disk(self) -> tuple[str, ...]:
        """Slots whose floor the TPM does not hold: beyond `floor.PLACES`, or without room for it.

        Raises:
            TpmError: The TPM refused.
        """
        return tuple(slot for slot in self._settings.slots if self._floor.find(slot) is None)

    # -- enrollment ------------------------------------------------------------------------------
    def certify_sk(self, qualifying: bytes) -> Attestation:
        """The AK's statement that the SK is in this TPM, bound to 32 bytes.

        Raises:
            IdentityError: No identity, or another TPM.
            TpmError: The TPM refused.
        """

        def command() -> Attestation:
            return quote.certify(self._connection, self._keys.handle(AK), self._keys.handle(SK), qualifying)

        return self._keyed("certify a key", command)

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
            ak = self._keys.handle(AK)
            certify = self._connection.run(
                "certify a key", lambda: quote.certify(self._connection, handle, ak, qualifying)
            )
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
            self._look_up_again()
            ak = self._keys.handle(AK)
            protect = self._settings.bus_protection
            return endorsement.activate_credential(
                self._connection, self._endorsement_key, ak, blob, secret, protect=protect
            )

    @cached_property
    def _endorsement_key(self) -> endorsement.EndorsementKey:
        with self.group():
            return endorsement.find_endorsement_key(self._connection)


def open_tpm(settings: TpmSettings) -> Tpm:
    """Open the TPM that ``settings`` name. Nothing else is ever probed.

    Raises:
        TpmUnavailable: There is none, or it does not answer.
        ConfigError: ``tcti`` is not one of the known forms.
    """
    link, shared, simulated = open_transport(settings)
    try:
        return Tpm(link, settings, shared=shared, simulated=simulated)
    except BaseException:
        link.close()
        raise


def _identity(stored: StoredIdentity) -> TpmIdentity:
    return TpmIdentity(ak_public=stored.ak.raw, sk_public=stored.sk.raw, counter_value=stored.counter_base)
