# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Roles of the trust policy, and its deny entries."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace

import pytest

from edgeprov.errors import ConfigError, EdgeprovError, PolicyDenied, SignerUntrusted
from edgeprov.formats.bundle import build_bundle
from edgeprov.formats.envelope import pae_digest
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import AUDIT_PREDICATE, DEVICE_PREDICATE, IN_TOTO_PAYLOAD
from edgeprov.formats.receipt import Receipt, encode_receipt
from edgeprov.verify.collector import verify_collector
from edgeprov.verify.deny import parse_deny
from edgeprov.verify.enrollment import verify_device_record
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.receipt_check import verify_receipt
from edgeprov.verify.signature import verify_kit_signature, verify_model_signature
from tests.support import pki
from tests.support.softtpm import soft_key, spki
from tests.support.world import Unit, World

ROLES = ("publisher", "enroller", "roster", "collector", "importer")
HEX = "ab" * 32


def signer_of(world: World, role: str) -> pki.Issued:
    return getattr(world, role)


def everything(world: World) -> TrustPolicy:
    """One CA for all by mistake, and every name listed in every role: only the names in certificates keep roles apart."""
    both = world.publisher_root.pem + world.device_root.pem
    lines = "\n".join(f'{role} = ["*"]' for role in ROLES)
    toml = f'[roles]\n{lines}\n[device]\nassurance = ["dev"]\n'
    return parse_policy({"publisher.pem": both, "device.pem": both, "policy.toml": toml.encode()})


def bundle(signer: pki.Issued, statement: bytes) -> bytes:
    signature = signer.sign_digest(pae_digest(IN_TOTO_PAYLOAD, statement))
    return build_bundle(statement=statement, signature_der=signature, certificate=signer.der)


def report_of(world: World) -> bytes:
    subject = [{"name": "audit.json", "digest": {"sha256": HEX}}]
    return encode_json(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subject,
            "predicateType": AUDIT_PREDICATE,
            "predicate": {},
        }
    )


def sign_as(world: World, unit: Unit, deed: str, signer: pki.Issued, policy: TrustPolicy) -> object:
    """What only one role may sign, judged."""
    if deed == "publisher":
        return verify_model_signature(world.model, [world.sign_model(signer=signer)], policy, pki.NOW)
    if deed == "enroller":
        signature = world.vouch(unit.record_manifest, unit.record, signer=signer)
        return verify_device_record(unit.record_manifest, unit.record_blob, [signature], policy, pki.NOW)
    if deed == "roster":
        signature = world.vouch(unit.record_manifest, unit.record, signer=signer)
        kinds = (DEVICE_PREDICATE,)
        return verify_kit_signature(
            unit.record_manifest, [signature], policy, pki.NOW, predicate_types=kinds, purpose="roster"
        )
    if deed == "collector":
        return verify_collector(bundle(signer, report_of(world)), policy, pki.NOW, "the report")
    receipt = Receipt(device=unit.urn, registry="r", at="2026-02-03T04:05:06Z", digests=(world.model.digest,))
    return verify_receipt(bundle(signer, encode_receipt(receipt)), policy, pki.NOW)


@pytest.mark.parametrize("deed", ROLES)
def test_no_certificate_serves_another_role(world: World, unit: Unit, deed: str):
    for policy in (world.policy, everything(world)):
        assert sign_as(world, unit, deed, signer_of(world, deed), policy)
        for other in ROLES:
            if other != deed:
                with pytest.raises(SignerUntrusted):
                    sign_as(world, unit, deed, signer_of(world, other), policy)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_without_identities_belongs_to_nobody(world: World, unit: Unit, role: str):
    roles = tuple(item for item in world.policy.roles if item[0] != role)
    with pytest.raises(SignerUntrusted, match=f"role {role!r}") as refused:
        sign_as(world, unit, role, signer_of(world, role), replace(world.policy, roles=roles))
    assert f"list {role} in the table [roles]" in (refused.value.advice or "")


def test_a_publishers_bare_key_signs_no_report(world: World):
    key = soft_key("bare")
    statement = report_of(world)
    raw = build_bundle(
        statement=statement,
        signature_der=pki.Issued(world.publisher.certificate, key).sign_digest(pae_digest(IN_TOTO_PAYLOAD, statement)),
        key_hint=hashlib.sha256(spki(key)).digest(),
    )
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files = world.policy_files
    with pytest.raises(SignerUntrusted, match="no collector's key"):
        verify_collector(raw, parse_policy(files | {"publisher-2.pem": pem}), pki.NOW, "the report")
    listed = files | {"collector-2.pem": pem}
    name = f"key:sha256:{hashlib.sha256(spki(key)).hexdigest()}"
    assert verify_collector(raw, parse_policy(listed), pki.NOW, "the report")[1] == name
    denied = parse_deny([{"type": "key", "value": hashlib.sha256(spki(key)).hexdigest()}])
    with pytest.raises(PolicyDenied):
        verify_collector(raw, replace(parse_policy(listed), deny=denied), pki.NOW, "the report")


def test_a_denied_collector_signs_nothing(world: World):
    fingerprint = hashlib.sha256(world.collector.der).hexdigest()
    policy = replace(world.policy, deny=parse_deny([{"type": "certificate", "value": fingerprint}]))
    with pytest.raises(PolicyDenied, match="urn:edgeprov:collector:desk"):
        verify_collector(bundle(world.collector, report_of(world)), policy, pki.NOW, "the report")


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "model", "value": HEX},
        {"type": "model", "value": "wdbc:v1"},
        {"type": "kit", "value": "sha256:" + HEX.upper()},
        {"type": "device", "value": "ward-1"},
        {"type": "device", "value": "urn:edgeprov:device:a.b"},
        {"type": "key", "value": "serial:abcd"},
        {"type": "key", "value": HEX[:-2]},
        {"type": "certificate", "value": "123456789"},  # a serial number in decimal, as some tools print it
        {"type": "certificate", "value": "serial:0"},
        {"type": "certificate", "value": "serial:xyz"},
        {"type": "keys", "value": HEX},
        {"type": "key"},
        {"value": HEX},
        {"type": "key", "value": HEX, "since": "2026-01-01T00:00:00Z"},
        {"type": "key", "value": HEX, "from": "yesterday"},
        {"type": "key", "value": HEX, "from": 5},
        {"type": "key", "value": HEX, "from": dt.datetime(2026, 1, 1)},
        {"type": "key", "value": HEX, "reason": 5},
    ],
)
def test_a_deny_entry_that_can_match_nothing_is_an_error(entry: dict):
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        parse_deny([entry])


def test_a_key_and_a_certificate_are_denied_in_each_spelling(world: World, unit: Unit):
    certificate = world.device_root.certificate  # a CA above counts, too
    digest = hashlib.sha256(world.device_root.der).hexdigest()
    colons = ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper()
    key = hashlib.sha256(spki(world.device_root.key)).hexdigest()
    for kind, value in (
        ("certificate", digest), ("certificate", colons), ("certificate", f"sha256:{digest}"),
        ("certificate", f"serial:{certificate.serial_number:X}"), ("certificate", f"serial:00{certificate.serial_number:x}"),
        ("key", key), ("key", f"SHA256:{key.upper()}"),
    ):  # fmt: skip
        policy = replace(world.policy, deny=parse_deny([{"type": kind, "value": value}]))
        with pytest.raises(PolicyDenied, match="deny list"):
            unit.verified(policy)


def test_only_a_trusted_timestamp_spares_what_is_older(world: World, unit: Unit):
    """The kit says that it was sealed before the entry's date; nothing proves it."""
    sealed, device = unit.seal(), unit.verified()
    for kind, value in (
        ("kit", str(sealed.digest)), ("model", str(world.model.digest)), ("device", unit.urn),
        ("device", unit.record.enrollment.hex()), ("key", hashlib.sha256(unit.tpm.public_key_spki).hexdigest()),
    ):  # fmt: skip
        entry = {"type": kind, "value": value, "from": "2026-02-20T00:00:00Z"}
        policy = replace(world.policy, deny=parse_deny([entry]))
        with pytest.raises(PolicyDenied, match="from 2026-02-20"):
            verify_kit(sealed.evidence(), device, policy, pki.NOW)
        assert unit.verified(policy)  # the enroller vouches that the record is older
    (entry,) = parse_deny([entry]).entries
    day = dt.datetime(2026, 2, 20, tzinfo=dt.UTC)
    assert [entry.applies(moment) for moment in (None, day, day - dt.timedelta(seconds=1))] == [True, True, False]


def test_an_unreadable_policy_denies_more_not_less(world: World):
    with pytest.raises(EdgeprovError):
        parse_policy(world.policy_files | {"policy.toml": world.policy_files["policy.toml"] + b"[[deny]]\n"})
