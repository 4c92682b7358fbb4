# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What makes the keys of a device, and opens them, is in no public place."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgeprov.formats import tpmt
from edgeprov.tpm.floor import floor_auth
from edgeprov.tpm.key_template import AK, SK, KeyKind
from edgeprov.tpm.secret import KeySecret

ONE, OTHER = KeySecret(bytes(range(32))), KeySecret(bytes(32))


@pytest.mark.parametrize("kind", [AK, SK])
def test_template_and_passwords_come_from_the_secret(kind: KeyKind) -> None:
    x, y = ONE.derive(f"{kind.label}/unique.x"), ONE.derive(f"{kind.label}/unique.y")
    template = kind.template(ONE)
    assert template.endswith(b"\0\x20" + x + b"\0\x20" + y)
    assert template != kind.template(OTHER)
    assert kind.auth(ONE) != kind.auth(OTHER)
    values = {x, y, AK.auth(ONE), SK.auth(ONE), ONE.derive("counter"), floor_auth(ONE, "a"), floor_auth(ONE, "b")}
    assert len(values) == 7, "one value for one purpose"


@pytest.mark.parametrize("kind", [AK, SK])
def test_a_policy_takes_the_place_of_the_password(kind: KeyKind) -> None:
    plain, bound = tpmt.parse_public(kind.template(ONE)), tpmt.parse_public(kind.template(ONE, b"\7" * 32))
    assert (plain.attributes, plain.auth_policy) == (kind.attributes, b"")
    assert (bound.attributes, bound.auth_policy) == (kind.attributes & ~tpmt.USER_WITH_AUTH, b"\7" * 32)


@pytest.mark.parametrize("label", ["ak/auth", "sk/unique.x", "counter", "floor/default"])
def test_each_value_is_hkdf_of_the_secret(label: str) -> None:
    known = HKDF(algorithm=SHA256(), length=32, salt=b"edgeprov.tpm", info=label.encode()).derive(bytes(range(32)))
    assert ONE.derive(label) == known
