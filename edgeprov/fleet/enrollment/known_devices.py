# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Who is enrolled already: found by serial, AK and EK with one request each, however many devices there are.

Tags in the repository ``devices``: ``<serial>`` and ``<serial>.<16 hex>`` (FORMAT.md "Device record"),
``ak.<64 hex>`` (digest in the AK's Name) and ``ek.<64 hex>`` (SHA-256 of the EK's SubjectPublicKeyInfo)
name the newest record of that key. What no trusted enroller signed is passed over.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edgeprov._dataclass import replace
from edgeprov.errors import (
    EdgeprovError,
    EnrollmentRefused,
    FormatError,
    PolicyDenied,
    RegistryNotFound,
    VerificationError,
)
from edgeprov.fleet.enrollment.decision import Decision
from edgeprov.fleet.enrollment.request import Request
from edgeprov.fleet.registries.sources import ArtifactReader
from edgeprov.formats.devicerecord import DeviceRecord
from edgeprov.limits import LIMITS
from edgeprov.verify.certificates import certificate_spki
from edgeprov.verify.deny import DenyList
from edgeprov.verify.enrollment import verify_device_record
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a new record takes over from earlier ones.

    Attributes:
        replaces: Enrollment id that ends on the same TPM, or None.
        renewed: The record that this one renews: the enrollment is the same.
        before: The record that the serial's tag names so far, whatever TPM it is of.
    """

    replaces: bytes | None = None
    renewed: DeviceRecord | None = None
    before: DeviceRecord | None = None


def key_tags(record: DeviceRecord) -> tuple[str, ...]:
    """The tags by which a record is found from its keys."""
    tags = [f"ak.{record.ak.name[2:].hex()}"]
    if record.ek_certificate is not None:
        tags.append(_ek_tag(record.ek_certificate))
    return tuple(tags)


def request_tags(request: Request) -> set[str]:
    """Tags that a request would take, if all that it shows were proved: two that share one are not judged at once."""
    tags = {request.serial, f"ak.{request.ak.name[2:].hex()}"}
    return tags if request.ek_certificate is None else tags | {_ek_tag(request.ek_certificate)}


class KnownDevices:
    """Records in one registry, as far as they verify."""

    def __init__(
        self, reader: ArtifactReader, repo: str, policy: TrustPolicy, now: dt.datetime, *, listed: bool = False
    ) -> None:
        """Nothing is asked yet, or with ``listed`` all tags at once, for many devices.

        Raises:
            RegistryError: The registry does not answer.
        """
        self._reader, self._repo, self._policy, self._now = reader, repo, policy, now
        # A denied device is found all the same: its TPM must not come back under another name.
        others = tuple(entry for entry in policy.deny.entries if entry.type != "device")
        self._lenient = replace(policy, deny=DenyList(others))
        self._tags: set[str] | None = set(reader.registry.list_tags(repo)) if listed else None

    def note(self, tags: tuple[str, ...]) -> None:
        """Tags that were written since the list was read."""
        if self._tags is not None:
            self._tags.update(tags)

    def find(self, tag: str) -> DeviceRecord | None:
        """The verified record that a tag names; None without one.

        Raises:
            RegistryError: The registry does not answer.
        """
        if self._tags is not None and tag not in self._tags:
            return None
        found = self._reader.registry.head_manifest(self._repo, tag)
        if found is None:
            return None
        try:
            manifest = self._reader.manifest(self._repo, found.digest)
            layer = self._reader.blob(self._repo, manifest.layers[0], max_bytes=LIMITS.device_record_bytes)
            signatures = self._reader.signatures(self._repo, manifest.digest)
            return verify_device_record(manifest, layer, signatures, self._lenient, self._now).record
        except (FormatError, VerificationError, RegistryNotFound, IndexError):
            return None  # vouches for nothing, and stops nobody

    def place(
        self, request: Request, decision: Decision, *, ended: Callable[[bytes], bool], replace: bool, rename: bool
    ) -> Place:
        """Check that the TPM is one active device, and that the serial is this TPM's or free.

        Args:
            request: The request.
            decision: Whether the EK counts.
            ended: Tells whether an enrollment ended by the roster; asked only in a conflict.
            replace: The serial may be taken over from another TPM.
            rename: The enrollment may get another serial.

        Raises:
            PolicyDenied: The TPM is an active device under another serial, or was denied, or another TPM holds the
                serial.
            EnrollmentRefused: The kit counter is below the base of this TPM's earlier enrollment.
            RegistryError: The registry does not answer.
        """
        found = [self.find(f"ak.{request.ak.name[2:].hex()}")]
        if decision.proof == "activated" and request.ek_certificate is not None:
            found.append(self.find(_ek_tag(request.ek_certificate)))
        replaces: bytes | None = None
        for record in (item for item in found if item is not None):
            self._policy.verify_device_allowed(record.device, record.enrollment)
            same = record.enrollment == request.enrollment
            if same and rename and record.device != request.device and not ended(record.enrollment):
                self._verify_free(request, decision, ended=ended, replace=replace)
                return Place(replaces=record.replaces, renewed=record, before=record)
            if same and record.device == request.device:
                return Place(replaces=record.replaces, renewed=record, before=record)
            if record.device != request.device and not ended(record.enrollment):
                raise PolicyDenied(
                    f"this TPM is enrolled as {record.device} already",
                    advice=f"Retire it first: edgeprov-fleet retire {record.enrollment.hex()} --final FILE, or --lost. "
                    "Where the same device gets another serial number: enroll with --rename.",
                )
            if request.counter_base < record.counter_base:
                raise EnrollmentRefused(
                    f"the kit counter stands at {request.counter_base}, below the {record.counter_base} of this TPM's "
                    "earlier enrollment: it is not the same counter"
                )
            replaces = record.enrollment
        return Place(replaces=replaces, before=self._verify_free(request, decision, ended=ended, replace=replace))

    def _verify_free(
        self, request: Request, decision: Decision, *, ended: Callable[[bytes], bool], replace: bool
    ) -> DeviceRecord | None:
        """The serial is this TPM's or free; gives the record that holds it. Errors as in place()."""
        before = self.find(request.serial)
        other = before is not None and not self._same_tpm(before, request, decision)
        if before is not None and other and not replace and not ended(before.enrollment):
            raise PolicyDenied(
                f"another TPM is enrolled as {request.device}",
                advice="Two devices must not have one serial number. Where the board or its TPM was exchanged: "
                "enroll with --replace, and retire the old enrollment with --lost.",
            )
        return before

    @staticmethod
    def _same_tpm(record: DeviceRecord, request: Request, decision: Decision) -> bool:
        if record.ak.name == request.ak.name:
            return True
        if decision.proof != "activated" or record.ek_certificate is None or request.ek_certificate is None:
            return False
        return _ek_tag(record.ek_certificate) == _ek_tag(request.ek_certificate)


def _ek_tag(certificate: bytes) -> str:
    try:
        return f"ek.{hashlib.sha256(certificate_spki(certificate)).hexdigest()}"
    except EdgeprovError:
        return f"ek.{hashlib.sha256(certificate).hexdigest()}"  # no verified record has such a certificate
