# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Deny entries of the trust policy: models, kits, devices, keys and certificates that no longer count.

An entry has a type, so that a value which can match nothing is refused when the policy is read. With a
date it spares what is proved to be older: nothing that a thief can write makes his signature older.

Spec: FORMAT.md "Trust policy".
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import ConfigError, EdgeprovError, PolicyDenied
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.formats.names import is_serial
from edgeprov.formats.rfc3339 import parse_rfc3339, rfc3339
from edgeprov.verify.signer_identity import SignerIdentity

DenyType = Literal["model", "kit", "device", "key", "certificate"]
DENY_TYPES: Final[tuple[DenyType, ...]] = ("model", "kit", "device", "key", "certificate")

_KEYS: Final = {"type", "value", "from", "reason"}
_HEX64: Final = re.compile("[0-9a-f]{64}")
_SERIAL: Final = re.compile("serial:0*([1-9a-f][0-9a-f]{0,39})")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyEntry:
    """One thing that no longer counts.

    Attributes:
        type: What ``value`` names.
        value: In the one form that is compared: ``sha256:...`` of a manifest (model, kit), a device URN or an
            enrollment id in hex (device), SHA-256 of a SubjectPublicKeyInfo in hex (key), ``serial:HEX`` or SHA-256
            of a certificate in hex (certificate).
        since: What is proved to be signed before this time still counts; None denies all.
        reason: For people.
    """

    type: DenyType
    value: str
    since: dt.datetime | None = None
    reason: str = ""

    def applies(self, proved: dt.datetime | None) -> bool:
        """Whether it denies something that was proved to exist at this time (None: nothing proved)."""
        return self.since is None or proved is None or proved >= self.since


@dataclass(frozen=True, slots=True)
class DenyList:
    """All entries of a policy."""

    entries: tuple[DenyEntry, ...] = ()

    def verify(self, kind: DenyType, values: Iterable[str], proved: dt.datetime | None, what: str) -> None:
        """None of these values is denied.

        Args:
            kind: What they name.
            values: In the form of DenyEntry.value.
            proved: Time at which the artifact is proved to have existed, or None.
            what: Named in the error.

        Raises:
            PolicyDenied: One is.
        """
        if not self.entries:
            return
        names = set(values)
        for entry in self.entries:
            if entry.type == kind and entry.value in names and entry.applies(proved):
                since = "" if entry.since is None else f" from {rfc3339(entry.since)} on"
                why = f": {entry.reason}" if entry.reason else ""
                raise PolicyDenied(f"{what} is on the deny list of the trust policy ({kind}{since}{why})")

    def verify_signer(self, identity: SignerIdentity, proved: dt.datetime | None) -> None:
        """Neither the signer's certificate and key nor those above it are denied.

        Raises:
            PolicyDenied: One is.
        """
        if not self.entries:
            return
        keys, certificates = signer_names(identity)
        self.verify("key", keys, proved, identity.san)
        self.verify("certificate", certificates, proved, identity.san)


def signer_names(identity: SignerIdentity) -> tuple[set[str], set[str]]:
    """Keys and certificates of a signer and of the CAs above, as deny entries name them."""
    keys, certificates = {identity.spki_sha256}, set()
    if identity.certificate_sha256:
        certificates = {f"serial:{identity.serial}", identity.certificate_sha256}
    for serial, spki, certificate in identity.issuers:
        keys.add(spki)
        certificates |= {f"serial:{serial}", certificate}
    return keys, certificates


def parse_deny(value: object) -> DenyList:
    """Read the ``[[deny]]`` tables of policy.toml.

    Raises:
        ConfigError: An unknown key or type, or a value that can match nothing of this type.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(
            "policy.toml: deny is not a list of tables",
            advice=f"Write each entry as [[deny]] with value and a type of {', '.join(DENY_TYPES)}.",
        )
    return DenyList(tuple(_entry(item) for item in value))


def _entry(table: Mapping[str, Any]) -> DenyEntry:
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise ConfigError(f"policy.toml: unknown key 'deny.{unknown[0]}'")
    kind = next((known for known in DENY_TYPES if table.get("type") == known), None)
    if kind is None:
        raise ConfigError(f"policy.toml: deny.type is none of {', '.join(DENY_TYPES)}")
    text, reason = table.get("value"), table.get("reason", "")
    if not isinstance(text, str) or not isinstance(reason, str):
        raise ConfigError("policy.toml: deny.value and deny.reason are text")
    return DenyEntry(type=kind, value=_value(kind, text), since=_since(table.get("from")), reason=reason)


def _value(kind: DenyType, text: str) -> str:
    bare = text.lower().removeprefix("sha256:").replace(":", "")
    if kind in ("model", "kit"):
        try:
            return str(parse_digest(text))
        except EdgeprovError as error:
            raise ConfigError(f"policy.toml: deny.value {text[:80]!r} is not a manifest digest sha256:...") from error
    if kind == "device":
        if _HEX64.fullmatch(text) or (is_serial(text.removeprefix(DEVICE_URN_PREFIX)) and text.startswith("urn:")):
            return text
        raise ConfigError(
            f"policy.toml: deny.value {text[:80]!r} is neither {DEVICE_URN_PREFIX}SERIAL nor an enrollment id"
        )
    if _HEX64.fullmatch(bare):
        return bare
    serial = _SERIAL.fullmatch("serial:" + text.lower().removeprefix("serial:").replace(":", ""))
    if kind == "certificate" and serial and text.lower().startswith("serial:"):
        return f"serial:{serial[1]}"
    wanted = "a key's SHA-256 (64 hex digits)" if kind == "key" else "a certificate's SHA-256 or serial:HEX"
    raise ConfigError(f"policy.toml: deny.value {text[:80]!r} is not {wanted}")


def _since(value: object) -> dt.datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = parse_rfc3339(value)
        except EdgeprovError as error:
            raise ConfigError(f"policy.toml: deny.from is not a time: {error.message}") from error
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise ConfigError("policy.toml: deny.from is not a time with a time zone, as 2026-01-31T00:00:00Z")
    return value.astimezone(dt.UTC)
