# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TrustRules policy as plain values: who may sign what, which devices and boots are admitted, what is denied.

Spec: FORMAT.md part "Conclusion".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprov.fleet.conclusion.types import Pcrs

TrustRole = Literal["publisher", "enroller", "roster", "collector", "importer", "device", "timestamp"]
DenyType = Literal["model", "kit", "device", "key", "certificate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """An entry of the deny list.

    Attributes:
        type: What ``value`` names.
        value: ``sha256:HEX`` of a manifest (model, kit); a URN or an enrollment id in hex (device); SHA-256 of a key in
            hex (key); ``serial:HEX``, or SHA-256 of a certificate in hex (certificate).
        since: What a trusted stamp proves to be signed before this still counts; None denies all.
        reason: For people.
    """

    type: DenyType
    value: str
    since: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Whom the policy admits for a role.

    Attributes:
        name: ``device``: who may be a device; ``timestamp``: who may stamp.
        identities: Exact, or with ``*`` at the end, or ``x509.subject: C=..., O=...``; not used for device and
            timestamp.
        anchors: SHA-256 of the anchor certificates that its paths may end at, and of bare keys.
    """

    name: TrustRole
    identities: tuple[str, ...] = ()
    anchors: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSet:
    """A named set of boot PCR values that a quote must match whole."""

    name: str
    pcrs: Pcrs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRules:
    """The trust policy.

    Attributes:
        roles: Each role at most once; a role that is absent admits nobody.
        assurance: Levels that are admitted.
        firmware: TPM firmware versions that are admitted; empty admits all.
        model_pcrs: PCRs that are admitted as the one in which models are measured.
        boot_sets: Empty: boot PCRs are not looked at.
        stamps_required: Kits and tombstones need a trusted stamp.
        deny: Deny list.
        digest: SHA-256 over the trust folder, for people; None.
    """

    roles: tuple[Role, ...] = ()
    assurance: tuple[str, ...] = ()
    firmware: tuple[int, ...] = ()
    model_pcrs: tuple[int, ...] = (14,)
    boot_sets: tuple[BootSet, ...] = ()
    stamps_required: bool = False
    deny: tuple[Denial, ...] = ()
    digest: bytes | None = None
