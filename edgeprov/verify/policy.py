# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The trust policy: what the files of a trust folder (trust.d) allow. What is not allowed is denied.

Files, by name:

* ``publisher*.pem``: CA certificates of publishers and collectors, and bare public keys of publishers (key mode).
* ``collector*.pem``: further CA certificates of collectors, and bare public keys of collectors.
* ``device*.pem``: CA certificates of devices, enrollers, roster signers and importers. Another root than publishers'.
* ``tsa*.pem``: CA certificates of RFC 3161 timestamp authorities.
* ``ek-hardware*.pem``, ``ek-firmware*.pem``: CA certificates of TPM manufacturers, by what they vouch for (enrollment
  only).
* ``idevid-hardware*.pem``, ``idevid-firmware*.pem``: CA certificates of device makers who put an IAK into the TPM
  (enrollment only).
* ``policy.toml``: who has which role, levels, and what is denied.

A certificate for one role never serves another: each role has its own form of name. An absent file, an
absent table and an empty list all mean: nobody.
Spec: FORMAT.md "Trust policy".
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, get_args

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import ConfigError, EdgeprovError, PolicyDenied, SignerUntrusted
from edgeprov.formats.digest import Digest
from edgeprov.formats.distinguished_name import matches_identity
from edgeprov.formats.mediatypes import ASSURANCES
from edgeprov.limits import LIMITS
from edgeprov.verify.boot_policy import DEFAULT_PCRS, BootSet, parse_boot_sets, parse_model_pcrs
from edgeprov.verify.certificates import parse_pem_certificates
from edgeprov.verify.deny import DenyList, parse_deny
from edgeprov.verify.public_keys import load_pem_key
from edgeprov.verify.signer_identity import Role, SignerIdentity
from edgeprov.verify.x509path import verify_anchor

_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\s*", re.DOTALL)
_LEVELS: Final = ("ek-hardware", "ek-firmware", "idevid-hardware", "idevid-firmware")
_FILES: Final = ("publisher", "collector", "device", "tsa", *_LEVELS)
_KEY_FILES: Final = ("publisher", "collector")
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_KEYS: Final = {
    "": ("deny", "roles", "device", "timestamp"),
    "roles": ROLES,
    "device": ("assurance", "firmware", "pcr", "boot_pcrs"),
    "timestamp": ("required",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """Who is trusted for what. The default value denies everything.

    Attributes:
        publisher_anchors: DER of CA certificates of model publishers.
        publisher_keys: SubjectPublicKeyInfo of bare publisher keys; a listed key is allowed.
        collector_anchors: DER of CA certificates of collectors: those of publishers, and their own.
        collector_keys: SubjectPublicKeyInfo of bare collector keys.
        device_anchors: DER of CA certificates of devices, enrollers, roster signers and importers.
        roles: For each role its identities: exact SAN URIs or e-mail addresses, ``*`` at the end matching any
            rest, or, for publishers, ``x509.subject: C=.., O=..`` as in notation trust policies.
        assurance: Accepted levels.
        firmware: Accepted TPM firmware versions; empty means any.
        pcrs: Admitted model PCRs.
        boot_sets: Named sets of values of further PCRs; every quote must match one of them whole. Empty: not asked.
        timestamp_anchors: DER of CA certificates of timestamp authorities.
        timestamp_required: Refuse kits whose signature has no trusted timestamp.
        ek_hardware_anchors: DER of CA certificates of TPM manufacturers that certify chips only.
        ek_firmware_anchors: DER of those that certify other TPMs.
        idevid_hardware_anchors: DER of CA certificates of device makers whose factory keys are in chips.
        idevid_firmware_anchors: DER of those whose factory keys are in other TPMs.
        deny: Models, kits, devices, keys and certificates that no longer count.
    """

    publisher_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    publisher_keys: tuple[bytes, ...] = field(default=(), repr=False)
    collector_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    collector_keys: tuple[bytes, ...] = field(default=(), repr=False)
    device_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    roles: tuple[tuple[Role, tuple[str, ...]], ...] = ()
    assurance: frozenset[str] = frozenset()
    firmware: frozenset[int] = frozenset()
    pcrs: tuple[int, ...] = DEFAULT_PCRS
    boot_sets: tuple[BootSet, ...] = ()
    timestamp_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    timestamp_required: bool = False
    ek_hardware_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    ek_firmware_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    idevid_hardware_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    idevid_firmware_anchors: tuple[bytes, ...] = field(default=(), repr=False)
    deny: DenyList = DenyList()

    def identities(self, role: Role) -> tuple[str, ...]:
        """Who has a role; nobody where the table does not name it."""
        return dict(self.roles).get(role, ())

    def anchors(self, role: Role) -> tuple[bytes, ...]:
        """DER of the CA certificates that a certificate for this role leads to."""
        if role == "publisher":
            return self.publisher_anchors
        return self.collector_anchors if role == "collector" else self.device_anchors

    def verify_signer(self, role: Role, identity: SignerIdentity, proved: dt.datetime | None = None) -> None:
        """A signer has this role.

        Args:
            role: What he signed as.
            identity: From his certificate, which verify_chain judged for this very role.
            proved: Time at which the signature is proved to have existed (a trusted timestamp), or None.

        Raises:
            PolicyDenied: On the deny list.
            SignerUntrusted: Not listed.
        """
        self.deny.verify_signer(identity, proved)
        if not any(matches_identity(pattern, identity.san, identity.rdns) for pattern in self.identities(role)):
            raise SignerUntrusted(
                f"{identity.san} is not among the identities of the role {role!r} of the trust policy",
                advice=f"Add it to the list {role} in the table [roles] of policy.toml, if it is to have this role.",
            )

    def verify_assurance(self, assurance: str, device: str) -> None:
        """A device's level must be accepted.

        Raises:
            PolicyDenied: It is not.
        """
        if assurance not in self.assurance:
            accepted = ", ".join(sorted(self.assurance)) or "none"
            raise PolicyDenied(f"{device} has the assurance {assurance!r}; the trust policy accepts: {accepted}")

    def verify_not_denied(self, identity: SignerIdentity, proved: dt.datetime | None = None) -> None:
        """Neither the certificate nor the key, nor those above, may be on the deny list.

        Raises:
            PolicyDenied: One is.
        """
        self.deny.verify_signer(identity, proved)

    def verify_key_allowed(self, spki_sha256: str) -> None:
        """A bare key must not be on the deny list.

        Raises:
            PolicyDenied: It is.
        """
        self.deny.verify("key", (spki_sha256,), None, f"key sha256:{spki_sha256}")

    def verify_model_allowed(self, model: Digest, proved: dt.datetime | None = None) -> None:
        """A model must not be on the deny list.

        Args:
            model: Manifest digest.
            proved: Time at which what uses it is proved to have existed, or None.

        Raises:
            PolicyDenied: It is.
        """
        self.deny.verify("model", (str(model),), proved, f"model {model}")

    def verify_kit_allowed(self, kit: Digest, proved: dt.datetime | None = None) -> None:
        """A kit or tombstone must not be on the deny list.

        Raises:
            PolicyDenied: It is.
        """
        self.deny.verify("kit", (str(kit),), proved, f"kit {kit}")

    def verify_device_allowed(self, device: str, enrollment: bytes, proved: dt.datetime | None = None) -> None:
        """A device must not be on the deny list, neither by its URN nor by its enrollment id.

        Raises:
            PolicyDenied: It is.
        """
        self.deny.verify("device", (device, enrollment.hex()), proved, device)


def parse_policy(files: Mapping[str, bytes]) -> TrustPolicy:
    """Read a trust folder.

    Args:
        files: File name (no folder) to content; files of other names are ignored.

    Raises:
        ConfigError: A file is malformed, or holds an unknown key or value.
    """
    anchors: dict[str, list[bytes]] = {kind: [] for kind in _FILES}
    keys: dict[str, list[bytes]] = {kind: [] for kind in _KEY_FILES}
    for name in sorted(files):
        kind = next((kind for kind in _FILES if name.startswith(kind) and name.endswith(".pem")), None)
        if kind is not None:
            _read_pem(name, files[name], anchors[kind], keys.get(kind))
        elif name.startswith(("ek", "idevid")) and name.endswith(".pem"):
            raise ConfigError(
                f"{name} does not say what its CA vouches for",
                advice="Name it ek-hardware*.pem (chips only) or ek-firmware*.pem; idevid-... for factory keys.",
            )
    table = _read_toml(files.get("policy.toml", b""))
    device = table["device"]
    pcrs = parse_model_pcrs(device.get("pcr", list(DEFAULT_PCRS)))
    assurance = _strings(device, "device", "assurance")
    if not set(assurance) <= set(ASSURANCES):
        raise ConfigError(f"policy.toml: device.assurance knows only {', '.join(ASSURANCES)}")
    firmware = device.get("firmware", [])
    if not isinstance(firmware, list) or not all(_is_int(item) for item in firmware):
        raise ConfigError("policy.toml: device.firmware is not a list of integers")
    required = table["timestamp"].get("required", False)
    if not isinstance(required, bool):
        raise ConfigError("policy.toml: timestamp.required is not true or false")
    return TrustPolicy(
        publisher_anchors=tuple(anchors["publisher"]),
        publisher_keys=tuple(keys["publisher"]),
        collector_anchors=(*anchors["publisher"], *anchors["collector"]),
        collector_keys=tuple(keys["collector"]),
        device_anchors=tuple(anchors["device"]),
        roles=tuple((role, _strings(table["roles"], "roles", role)) for role in ROLES if role in table["roles"]),
        assurance=frozenset(assurance),
        firmware=frozenset(firmware),
        pcrs=pcrs,
        boot_sets=parse_boot_sets(device.get("boot_pcrs", {}), pcrs),
        timestamp_anchors=tuple(anchors["tsa"]),
        timestamp_required=required,
        ek_hardware_anchors=tuple(anchors["ek-hardware"]),
        ek_firmware_anchors=tuple(anchors["ek-firmware"]),
        idevid_hardware_anchors=tuple(anchors["idevid-hardware"]),
        idevid_firmware_anchors=tuple(anchors["idevid-firmware"]),
        deny=parse_deny(table[""]["deny"]),
    )


def _read_pem(name: str, data: bytes, anchors: list[bytes], keys: list[bytes] | None) -> None:
    if len(data) > LIMITS.trust_file_bytes:
        raise ConfigError(f"{name} has {len(data)} bytes, more than {LIMITS.trust_file_bytes}")
    blocks = list(_BLOCK.finditer(data))
    if not blocks:
        raise ConfigError(f"{name} holds no PEM block")
    for block in blocks:
        is_key = block[1] == b"PUBLIC KEY" and keys is not None
        if block[1] != b"CERTIFICATE" and not is_key:
            raise ConfigError(f"{name} holds a PEM block {block[1].decode()!r}, which has no place there")
        try:
            if is_key and keys is not None:
                keys.append(load_pem_key(block[0]))
                continue
            for der in parse_pem_certificates(block[0], name):
                verify_anchor(der, "trust anchor")
                anchors.append(der)
        except EdgeprovError as error:
            raise ConfigError(f"{name}: {error.message}") from error


def _read_toml(data: bytes) -> dict[str, dict[str, Any]]:
    try:
        top = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"policy.toml is not valid TOML: {error}") from error
    result: dict[str, dict[str, Any]] = {"": {"deny": top.get("deny", [])}}
    for name in _KEYS[""][1:]:
        value = top.get(name, {})
        if not isinstance(value, dict):
            raise ConfigError(f"policy.toml: {name} is not a table")
        result[name] = value
    for name, value in {**result, "": top}.items():
        unknown = sorted(set(value) - set(_KEYS[name]))
        if unknown:
            raise ConfigError(f"policy.toml: unknown key {(name + '.' if name else '') + unknown[0]!r}")
    return result


def _strings(table: Mapping[str, Any], name: str, key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"policy.toml: {name + '.' if name else ''}{key} is not a list of strings")
    return tuple(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
