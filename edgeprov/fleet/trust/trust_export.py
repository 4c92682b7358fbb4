# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an auditor needs to check kits and models with cosign and notation alone, made from a trust folder.

Devices and publishers are exported apart, because they are different trust roots: a tool that trusts
both would accept a device's signature on a model. The folder is itself a trust folder for
``edgeprov-fleet check-proof --trust``.

Spec: sigstore protobuf-specs, sigstore_trustroot.proto v0.1; Notary Project trust-store-trust-policy.md 1.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from edgeprov.errors import UsageError
from edgeprov.formats.b64 import b64
from edgeprov.formats.jsonx import JsonObject, encode_json
from edgeprov.formats.mediatypes import AUDIT_PREDICATE
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.verify.certificates import certificate_facts
from edgeprov.verify.deny import DenyEntry
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.signer_identity import Role
from edgeprov.verify.x509path import anchor_chain

COMMANDS_FILE: Final = "COMMANDS.txt"
DENY_FILE: Final = "deny.txt"
_ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"


def export_trust(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files to write, by path relative to the output folder.

    Args:
        files: The trust folder: file name to content.

    Raises:
        ConfigError: The trust folder is malformed.
        UsageError: It trusts no device, so there is nothing to export.
    """
    policy = parse_policy(files)
    if not policy.device_anchors:
        raise UsageError("the trust folder holds no device anchor", advice="Name a folder with device*.pem in it.")
    result = {name: data for name, data in files.items() if name == "policy.toml" or name.endswith(".pem")}
    roles = {"devices": policy.device_anchors}
    if policy.publisher_anchors:
        roles["publishers"] = policy.publisher_anchors
    if policy.collector_anchors:
        result["cosign/collectors.trusted_root.json"] = trusted_root(policy.collector_anchors, policy.timestamp_anchors)
    for role, anchors in roles.items():
        result[f"cosign/{role}.trusted_root.json"] = trusted_root(anchors, policy.timestamp_anchors)
        identities = _notation_identities(policy) if role == "publishers" else ("*",)
        result |= {
            f"notation-{role}/notation/{name}": data
            for name, data in notation_config(role, anchors, policy.timestamp_anchors, identities).items()
        }
    result[DENY_FILE] = "".join(sorted(_deny_line(entry) for entry in policy.deny.entries)).encode()
    result[COMMANDS_FILE] = _commands(policy).encode()
    return result


def trusted_root(anchors: Sequence[bytes], timestamp_anchors: Sequence[bytes]) -> bytes:
    """A sigstore trusted_root.json for a private CA without transparency log: one entry per issuing CA."""
    return encode_json(
        {
            "mediaType": _ROOT_TYPE,
            "tlogs": [],
            "ctlogs": [],
            "certificateAuthorities": [_authority(item, anchors) for item in anchors],
            "timestampAuthorities": [_authority(item, timestamp_anchors) for item in timestamp_anchors],
        }
    )


def notation_config(
    role: str, anchors: Sequence[bytes], timestamp_anchors: Sequence[bytes], identities: Sequence[str]
) -> dict[str, bytes]:
    """The files of a notation configuration folder: trust policy and trust store."""
    store = f"edgeprov-{role}"
    verification: JsonObject = {"level": "strict"}
    stores = [f"ca:{store}"]
    files = {
        f"truststore/x509/ca/{store}/{number}.pem": certificate_facts(item).pem
        for number, item in enumerate(anchors, 1)
    }
    if timestamp_anchors:
        stores.append(f"tsa:{store}")
        # A device certificate without end needs no timestamp; one that has expired does.
        verification["verifyTimestamp"] = "afterCertExpiry"
        files |= _numbered(f"truststore/x509/tsa/{store}", timestamp_anchors)
    policy = {
        "version": "1.0",
        "trustPolicies": [
            {
                "name": store,
                "registryScopes": ["*"],
                "signatureVerification": verification,
                "trustStores": stores,
                "trustedIdentities": list(identities),
            }
        ],
    }
    return files | {"trustpolicy.json": encode_json(policy)}


def _numbered(folder: str, certificates: Sequence[bytes]) -> dict[str, bytes]:
    return {f"{folder}/{number}.pem": certificate_facts(item).pem for number, item in enumerate(certificates, 1)}


def _authority(der: bytes, anchors: Sequence[bytes]) -> JsonObject:
    facts = certificate_facts(der)
    return {
        "subject": {"organization": facts.organization, "commonName": facts.common_name},
        "uri": "",
        "certChain": {"certificates": [{"rawBytes": b64(item)} for item in anchor_chain(der, anchors)]},
        "validFor": {"start": rfc3339(facts.not_before)},
    }


def _notation_identities(policy: TrustPolicy) -> tuple[str, ...]:
    subjects = tuple(item for item in policy.identities("publisher") if item.startswith("x509.subject:"))
    return subjects or ("*",)  # notation knows no SAN: names of that kind are checked by cosign and by us only


def _commands(policy: TrustPolicy) -> str:
    """The commands, one per line; a test runs them as they stand here."""
    flags = "--insecure-ignore-sct --insecure-ignore-tlog"
    if policy.timestamp_required:
        flags += " --use-signed-timestamps"
    attestation = "--type slsaprovenance1 --trusted-root cosign/devices.trusted_root.json"
    device = "--certificate-identity-regexp '^urn:edgeprov:device:' --certificate-oidc-issuer-regexp '.*'"
    lines = [
        "# Run in this folder. KIT and MODEL are references by digest, HOST/REPO@sha256:...",
        "# cosign v2.6 and v3; the two --insecure flags say that there is no public log, which is so by design.",
        "# Never rely on 'cosign verify --local-image': it hashes nothing.",
        "",
        "# a data kit: signed by an enrolled device, and what it states",
        f'cosign verify --trusted-root cosign/devices.trusted_root.json {device} {flags} "$KIT"',
        f'cosign verify-attestation {attestation} {device} {flags} "$KIT"',
        'XDG_CONFIG_HOME="$PWD/notation-devices" notation verify "$KIT"',
        "",
        "# a data kit on a stick: its manifest (BLOB) and the bundle that hangs on it (BUNDLE), no registry",
        f'cosign verify-blob-attestation {attestation} {device} {flags} --bundle "$BUNDLE" --new-bundle-format "$BLOB"',
    ]
    if policy.publisher_anchors and policy.identities("publisher"):
        publisher = _identity_flags(policy, "publisher")
        lines += [
            "",
            "# a model: signed by its publisher, and not by a device",
            f'cosign verify --trusted-root cosign/publishers.trusted_root.json {publisher} {flags} "$MODEL"',
            'XDG_CONFIG_HOME="$PWD/notation-publishers" notation verify "$MODEL"',
        ]
    if policy.collector_anchors and policy.identities("collector"):
        collector = _identity_flags(policy, "collector")
        report = f"--type {AUDIT_PREDICATE} --trusted-root cosign/collectors.trusted_root.json"
        files = '--bundle "$STATEMENT" --new-bundle-format "$REPORT"'
        lines += [
            "",
            "# an audit report (REPORT, as JSON or as page) with its signed statement (STATEMENT)",
            f"cosign verify-blob-attestation {report} {collector} {flags} {files}",
            'edgeprov-fleet audit --check "$STATEMENT" --report "$REPORT" --trust .',
        ]
    lines += [
        "",
        "# one result, without any registry",
        'edgeprov-fleet check-proof "$PROOF" --trust .',
        "",
        f"# {DENY_FILE}: models, kits, devices, keys and certificates that no longer count. cosign and notation do",
        "# not read it: compare it with the artifact and the certificate in its bundle, or use edgeprov-fleet verify.",
    ]
    return "\n".join(lines) + "\n"


def _deny_line(entry: DenyEntry) -> str:
    since = "" if entry.since is None else f" from {rfc3339(entry.since)}"
    return f"{entry.type} {entry.value}{since}" + (f"  # {entry.reason}" if entry.reason else "") + "\n"


def _identity_flags(policy: TrustPolicy, role: Role) -> str:
    names = "|".join(_identity_regexp(item) for item in policy.identities(role))
    return f"--certificate-identity-regexp '{names}' --certificate-oidc-issuer-regexp '.*'"


def _identity_regexp(pattern: str) -> str:
    if pattern.startswith("x509.subject:"):
        return ".*"
    body, star = (pattern[:-1], True) if pattern.endswith("*") else (pattern, False)
    quoted = "".join(char if char.isalnum() or char in ":/@_-" else f"\\{char}" for char in body)
    return f"^{quoted}" + ("" if star else "$")
