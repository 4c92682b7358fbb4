# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The trust folder: what it may hold, and that nothing in it is guessed."""

from __future__ import annotations

import datetime as dt

import pytest

from edgeprov.errors import ConfigError, PolicyDenied, SignerUntrusted
from edgeprov.verify.policy import TrustPolicy, parse_policy
from tests.support import pki


def test_default_denies_everything(unit, world):
    policy = TrustPolicy()
    assert parse_policy({}) == policy
    with pytest.raises(PolicyDenied, match="accepts: none"):
        policy.verify_assurance("hardware", "x")
    with pytest.raises(SignerUntrusted):
        unit.verified(policy)


def test_full_policy(world):
    toml = b"""
[roles]
publisher = ["https://acme.example/*", "ci@acme.example"]
enroller = ["urn:edgeprov:enroller:line1"]
importer = []
[device]
assurance = ["hardware", "firmware"]
firmware = [1, 2]
pcr = 8
[device.boot_pcrs.release-1]
7 = "%s"
4 = "%s"
[device.boot_pcrs."board.b"]
4 = "%s"
[timestamp]
required = true
[[deny]]
type = "certificate"
value = "serial:00:AB:cd"
[[deny]]
type = "key"
value = "sha256:%s"
from = "2026-01-31T00:00:00Z"
reason = "lost"
""" % (b"0e" * 32, b"0f" * 32, b"ff" * 32, b"A" * 64)
    files = {
        "policy.toml": toml,
        "tsa-1.pem": world.device_root.pem,
        "ek-hardware-maker.pem": world.publisher_root.pem,
        "README": b"?",
    }
    policy = parse_policy(files)
    serial, key = policy.deny.entries
    assert (serial.type, serial.value, serial.since, serial.reason) == ("certificate", "serial:abcd", None, "")
    assert (key.type, key.value, key.reason) == ("key", "a" * 64, "lost")
    assert key.since == dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    assert policy.identities("publisher") == ("https://acme.example/*", "ci@acme.example")
    assert policy.identities("enroller") == ("urn:edgeprov:enroller:line1",)
    assert [policy.identities(role) for role in ("importer", "roster", "collector")] == [(), (), ()]
    assert policy.boot_sets == (
        ("board.b", ((4, b"\xff" * 32),)),
        ("release-1", ((4, b"\x0f" * 32), (7, b"\x0e" * 32))),
    )
    assert (policy.pcrs, policy.timestamp_required, policy.firmware) == ((8,), True, {1, 2})
    assert policy.timestamp_anchors == (world.device_root.der,)
    assert policy.ek_hardware_anchors == (world.publisher_root.der,)
    policy.verify_assurance("firmware", "x")


@pytest.mark.parametrize(
    "toml",
    [
        b"[publisher]\nidentities = []",
        b"[roles]\nauditor = []",
        b"[devices]",
        b"unknown = 1",
        b"[roles]\npublisher = 'all'",
        b"[roles]\npublisher = [5]",
        b"[roles]\npublisher = ['']",
        b"roles = 5",
        b"[device]\nenrollers = []",
        b"[device]\nassurance = ['perfect']",
        b"[device]\nfirmware = ['1']",
        b"[device]\nfirmware = [true]",
        b"[device]\npcr = 23",
        b"[device]\npcr = 16",
        b"[device]\npcr = -1",
        b"[device]\npcr = []",
        b"[device]\npcr = [14, 16]",
        b"[device]\npcr = [14, '12']",
        b"[device]\npcr = true",
        b"[device]\nboot_pcrs = { 4 = '%s' }" % (b"00" * 32),
        b"[device.boot_pcrs.a]\n4 = 'zz'",
        b"[device.boot_pcrs.a]\n4 = '00'",
        b"[device.boot_pcrs.a]\n24 = '%s'" % (b"00" * 32),
        b"[device.boot_pcrs.a]\n4 = '%s'\n04 = '%s'" % (b"00" * 32, b"00" * 32),
        b"[device.boot_pcrs.a]\n14 = '%s'" % (b"00" * 32),
        b"[device]\npcr = [8, 12]\n[device.boot_pcrs.a]\n12 = '%s'" % (b"00" * 32),
        b"[device.boot_pcrs.a]",
        b"[device.boot_pcrs.'a b']\n4 = '%s'" % (b"00" * 32),
        b"[device]\nboot_pcrs = []",
        b"deny = ['00AB']",
        b"deny = 'abc'",
        b"[deny]\ntype = 'kit'\nvalue = 'sha256:%s'" % (b"0" * 64),
        b"[timestamp]\nrequired = 1",
        b"\xff",
        b"[",
    ],
)
def test_policy_refuses(toml):
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        parse_policy({"policy.toml": toml})


def test_anchor_files_refuse(world):
    for name, data in {
        "ek.pem": world.publisher_root.pem,  # whether of chips, it does not say
        "idevid-maker.pem": world.publisher_root.pem,
        "publisher.pem": b"",
        "device.pem": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "publisher-2.pem": world.publisher.pem,  # a leaf is no anchor
        "publisher-3.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "publisher-4.pem": b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
        "device-5.pem": b"x" * (1 << 20) + world.device_root.pem,
    }.items():
        with pytest.raises(ConfigError, match=name.partition(".")[0]):
            parse_policy({name: data})


def test_files_of_other_roles_are_not_mixed(world):
    policy = parse_policy({"publisher.pem": world.publisher_root.pem, "device.pem": world.device_root.pem})
    assert policy.publisher_anchors == (world.publisher_root.der,)
    assert policy.device_anchors == (world.device_root.der,)
    assert policy.publisher_keys == ()


def test_bundle_of_several_anchors_in_one_file(world):
    other = pki.root("Second Root")
    policy = parse_policy({"device.pem": b"# both\n" + world.device_root.pem + other.pem})
    assert policy.device_anchors == (world.device_root.der, other.der)
