# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The enrollment of a device, as the device keeps it: one id from the first request to the last renewal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from edgeprov.device.enrollment_request import create_request
from edgeprov.device.identity import counter_base, create_identity, install_certificates
from edgeprov.errors import FormatError, IdentityError
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.devicerecord import enrollment_id
from edgeprov.formats.tpmt import name_of
from tests.support.site import Site

NONCE = bytes(range(16))


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    site = make_site()
    create_identity(site.context)
    return site


def test_the_id_is_made_of_key_name_counter_base_and_nonce(site: Site):
    request = json.loads(create_request(site.context, NONCE))
    name = name_of(parse_b64(request["ak"], "ak"))
    expected = hashlib.sha256(name + (100).to_bytes(8, "big") + NONCE).digest()
    assert enrollment_id(name, 100, NONCE) == expected
    assert site.context.enrollment == expected
    assert (request["nonce"], request["counter_base"]) == (NONCE.hex(), 100)


def test_without_a_request_there_is_no_enrollment(site: Site):
    with pytest.raises(IdentityError, match="no enrollment request") as refused:
        _ = site.context.enrollment
    assert "identity csr" in (refused.value.advice or "")
    with pytest.raises(IdentityError, match="no enrollment request"):
        counter_base(site.context.state())


def test_a_renewal_repeats_the_enrollment(site: Site):
    first = json.loads(create_request(site.context, None))
    before = site.context.enrollment
    site.tpm.increment_counter()
    for nonce in (None, bytes.fromhex(first["nonce"])):
        again = json.loads(create_request(site.context, nonce))
        kept = ("nonce", "counter_base", "certify", "counter", "ak", "sk")
        assert [again[key] for key in kept] == [first[key] for key in kept]
    assert site.context.enrollment == before


def test_another_nonce_begins_anew_while_nothing_was_recorded(site: Site):
    create_request(site.context, None)
    before = site.context.enrollment
    assert json.loads(create_request(site.context, NONCE))["nonce"] == NONCE.hex()
    assert site.context.enrollment != before


def test_another_nonce_is_refused_once_a_number_was_taken(site: Site):
    create_request(site.context, None)
    before = site.context.enrollment
    site.tpm.increment_counter()
    with pytest.raises(IdentityError, match="another nonce"):
        create_request(site.context, NONCE)
    assert site.context.enrollment == before


def test_another_nonce_is_refused_once_a_certificate_is_installed(site: Site):
    site.install_identity()
    with pytest.raises(IdentityError, match="another nonce"):
        create_request(site.context, NONCE)


def test_the_base_is_the_counter_when_the_request_is_made(site: Site):
    site.tpm.increment_counter()
    create_request(site.context, NONCE)
    assert counter_base(site.context.state()) == 101


def test_the_answer_to_another_enrollment_is_not_installed(site: Site):
    create_request(site.context, NONCE)
    with pytest.raises(IdentityError, match="another enrollment"):
        install_certificates(site.context, site.identity_document())
    document = json.loads(site.identity_document())
    del document["enrollment"]
    with pytest.raises(FormatError):
        install_certificates(site.context, json.dumps(document).encode())


def test_the_answer_carries_the_bin(site: Site):
    site.install_identity()
    assert site.context.bin is None
    document = json.loads(site.identity_document()) | {"bin": "07"}
    install_certificates(site.context, json.dumps(document).encode())
    assert site.context.bin == "07"
    with pytest.raises(FormatError, match="bin"):
        install_certificates(site.context, json.dumps(document | {"bin": "../x"}).encode())


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"v":1,"enrollment":"00"}'])
def test_a_damaged_enrollment_is_told_and_never_replaced(site: Site, damage: bytes):
    create_request(site.context, NONCE)
    path = site.context.state().identity_dir / "enrollment.json"
    path.write_bytes(damage)
    with pytest.raises(IdentityError, match="damaged"):
        create_request(site.context, None)
    assert path.read_bytes() == damage
