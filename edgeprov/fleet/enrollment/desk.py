# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The enroller's desk: from a request file to a challenge or an identity, for one device or a factory line.

Spec: FORMAT.md "Device record"; edgeprov/fleet/ENROLLMENT.md.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from dataclasses import replace as dc_replace

from edgeprov.fleet.enrollment.decision import Decision, decide
from edgeprov.fleet.enrollment.enroll import (
    Enrolled,
    Enroller,
    enroll,
    identity_file,
    push_empty_config,
    verify_response,
)
from edgeprov.fleet.enrollment.enroller_state import EnrollerState
from edgeprov.fleet.enrollment.known_devices import KnownDevices, Place
from edgeprov.fleet.enrollment.request import Request
from edgeprov.fleet.enrollment.roster_desk import RosterDesk
from edgeprov.fleet.registries.sources import ArtifactReader, Source, open_registry
from edgeprov.fleet.trust.signers import PemSigner
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import JsonObject
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that was judged: with a challenge for the device, or ready to be issued."""

    request: Request
    decision: Decision
    place: Place
    now: dt.datetime
    challenge: JsonObject | None = None
    bin: str | None = None
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back to the device."""

    prepared: Prepared
    enrolled: Enrolled
    identity: JsonObject


class Desk:
    """One enroller at one registry. Opens it once, whatever the number of requests."""

    def __init__(
        self, *, source: Source, policy: TrustPolicy, state: EnrollerState, issuer: PemSigner | None, signer: Signer,
        bins: int | None = None, listed: bool = False,
    ) -> None:  # fmt: skip
        """Nothing is asked of the registry yet.

        Args:
            source: Registry for the records, under ``devices``.
            policy: Whom and what to accept.
            state: The enroller's own folder.
            issuer: Issuing CA of devices; None where another CA issues.
            signer: Key whose certificate names an enroller.
            bins: Number of bins to give in turn, or None.
            listed: Ask for all tags once, for many requests, and not for each.
        """
        self.repo = f"{source.prefix}devices"
        self._source, self._policy, self._state, self._bins, self._listed = source, policy, state, bins, listed
        self._issuer, self._signer = issuer, signer
        self._threads = threading.local()
        self._swept = False
        self._known: KnownDevices | None = None
        self._ended_by_roster: set[bytes] | None = None
        self._now = dt.datetime.min.replace(tzinfo=dt.UTC)

    def prepare(
        self, request: Request, now: dt.datetime, *, nonce: bytes | None = None, response: bytes | None = None,
        certificates: tuple[bytes, ...] = (), replace: bool = False, rename: bool = False,
    ) -> Prepared:  # fmt: skip
        """Judge one request up to the certificate. One at a time: what is decided here is not in the registry yet.

        Args:
            request: From the device.
            now: The enroller's clock.
            nonce: What the request must answer, if the enroller gave it.
            response: The TPM's answer to the challenge of an earlier call.
            certificates: DER chain that another CA issued for the request.
            replace: The serial may be taken over from another TPM.
            rename: The enrollment may get another serial.

        Raises:
            EnrollmentRefused: The request or the answer proves nothing.
            PolicyDenied, SignerUntrusted: Not accepted by the policy, or in conflict with another device.
            RegistryError: The registry failed.
        """
        self._now = now
        decision = decide(request, self._policy, now, nonce=nonce)
        if self._known is None or not self._listed:
            registry = open_registry(self._source, create=True)
            push_empty_config(registry, self.repo)
            self._known = KnownDevices(ArtifactReader(self._source), self.repo, self._policy, now, listed=self._listed)
        place = self._known.place(request, decision, ended=self._ended, replace=replace, rename=rename)
        prepared = Prepared(request=request, decision=decision, place=place, now=now, certificates=certificates)
        if decision.proof == "activated":
            if response is None:
                if not self._swept:
                    self._state.remove_expired(now)  # once a run: it reads all that wait
                    self._swept = True
                return dc_replace(prepared, challenge=self._state.make_challenge(request, now))
            verify_response(response, self._state.take_secret(request, now))
        self._state.use_nonce(request, now)
        if self._bins is not None and place.renewed is None:
            return dc_replace(prepared, bin=self._state.next_bin(self._bins))
        return prepared

    def issue(self, prepared: Prepared) -> Answer:
        """Issue, sign and push what was prepared; several threads may do so at once, each for another device.

        Raises:
            EnrollmentRefused: The certificate of another CA is not for this request.
            PolicyDenied, SignerUntrusted: Nobody would accept this record.
            RegistryError: The registry failed.
        """
        enrolled = enroll(
            prepared.request, prepared.decision, prepared.place, self._enroller(), prepared.now, bin_=prepared.bin,
            certificates=prepared.certificates,
        )  # fmt: skip
        if self._known is not None:
            self._known.note(enrolled.tags)
        return Answer(
            prepared=prepared, enrolled=enrolled, identity=identity_file(enrolled.record, enrolled.manifest.digest)
        )

    def _enroller(self) -> Enroller:
        """One of this thread: a connection is for one thread at a time."""
        found: Enroller | None = getattr(self._threads, "enroller", None)
        if found is None:
            registry = open_registry(self._source, create=True)
            found = Enroller(
                issuer=self._issuer, signer=self._signer, policy=self._policy, registry=registry, repo=self.repo
            )
            self._threads.enroller = found
        return found

    def _ended(self, enrollment: bytes) -> bool:
        """Whether the newest roster ended an enrollment; asked in a conflict only."""
        if self._ended_by_roster is None:
            found = RosterDesk(self._source, self._policy, self._now).newest()
            entries = () if found is None else found.roster.entries
            self._ended_by_roster = {entry.enrollment for entry in entries if entry.ended is not None}
        return enrollment in self._ended_by_roster
