# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device whose serial, certificate, state or TPM is another's records nothing, sends nothing, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeprov
from edgeprov.device.attest import attest
from edgeprov.device.boot import boot_check
from edgeprov.device.doctor import examine
from edgeprov.device.enrollment_request import create_request
from edgeprov.device.export import export
from edgeprov.device.identity import create_identity, install_certificates
from edgeprov.device.rename import install_identity
from edgeprov.device.seal import seal
from edgeprov.device.status import read_status
from edgeprov.device.upload import unsent, upload
from edgeprov.errors import IdentityError, UsageError
from tests.device.test_recorder import decoded
from tests.support.site import DeviceTpm, Site
from tests.support.world import Unit

INPUT = np.zeros((1, 30), np.int8)


def infer(site: Site, count: int = 1) -> None:
    with edgeprov.open_device(site.config_file) as device:
        model = device.load_model()
        for _ in range(count):
            model.run(INPUT)


def set_serial(site: Site, serial: str) -> None:
    text = site.config_file.read_text()
    site.config_file.write_text(text.replace(f'serial = "{site.context.serial}"', f'serial = "{serial}"'))


DEEDS: dict[str, Callable[[Site], object]] = {
    "infer": infer,
    "seal": lambda site: seal(site.context),
    "upload": lambda site: upload(site.context),
    "export": lambda site: export(site.context, site.root / "stick"),
    "attest": lambda site: attest(site.context, "00" * 16),
    "request": lambda site: create_request(site.context, None),
    "identity create": lambda site: create_identity(site.context),
    "identity install": lambda site: install_certificates(site.context, site.identity_document()),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_changed_serial_stops_everything_and_loses_nothing(ready: Site, deed: str):
    infer(ready, 3)
    seal(ready.context)
    infer(ready, 4)
    counter = ready.tpm.counter
    set_serial(ready, "unit-1b")
    with pytest.raises(IdentityError, match="unit-1b") as refused:
        DEEDS[deed](ready)
    assert refused.value.exit_code == 24
    assert ready.tpm.counter == counter
    assert len(unsent(ready.context.state())) == 1
    set_serial(ready, "unit-1")
    (sealed,) = seal(ready.context)
    assert sealed.contents is not None
    assert sealed.contents.records == 4
    assert len(upload(ready.context).sent) == 2


def test_status_and_doctor_name_the_place(ready: Site):
    set_serial(ready, "unit-1b")
    status = read_status(ready.context)
    assert "unit-1b" in (status.identity_fault or "")
    assert "device.serial" in status.advice
    (finding,) = [item for item in examine() if item.check == "identity"]
    assert (finding.verdict, finding.code) == ("fail", 24)
    assert str(ready.config_file) in finding.found


def test_a_certificate_of_another_name_stops_everything(ready: Site):
    path = ready.context.state().identity_dir / "certificates.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"device": "urn:edgeprov:device:unit-9"}))
    for deed in ("infer", "seal", "upload", "export", "attest"):
        with pytest.raises(IdentityError, match="certificate is that of urn:edgeprov:device:unit-9"):
            DEEDS[deed](ready)


def test_the_state_of_another_identity_is_refused_by_name(ready: Site, monkeypatch: pytest.MonkeyPatch):
    """The TPM module's own files and the device's identity come from two devices."""
    other = DeviceTpm("another")
    other.pcrs = dict(ready.tpm.pcrs)
    monkeypatch.setattr(ready, "tpm", other)
    for deed in ("infer", "seal", "attest", "request", "identity create"):
        with pytest.raises(IdentityError, match=r"different identities|other keys than this TPM") as refused:
            DEEDS[deed](ready)
        assert "golden image" in (refused.value.advice or "")


def test_without_an_identity_nothing_is_said_of_names(site: Site, tmp_path: Path):
    assert not upload(site.context).sent
    with pytest.raises(IdentityError, match="no identity"):
        create_request(site.context, None)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("data/{device}/{year}", "data/unit-1/"),
        ("data/{model}", "data/0000"),
        ("data/{serial}", "{serial} is not known"),
        ("data/{month}/{bin}", "this device has none"),
        ("Data/{device}", "no repository"),
    ],
)
def test_doctor_says_where_kits_go_or_why_they_go_nowhere(ready: Site, pattern: str, told: str):
    text = ready.config_file.read_text()
    assert "[registry]\n" in text
    ready.config_file.write_text(text.replace("[registry]\n", f'[registry]\ndata_template = "{pattern}"\n'))
    (finding,) = [item for item in examine() if item.check == "upload"]
    assert told in finding.found
    good = told.startswith("data/")
    assert finding.verdict == ("ok" if good else "fail")
    assert good or "data_template" in finding.fix


def renamed(site: Site) -> Unit:
    """The device's new record: the same enrollment under another serial number."""
    record = site.unit.record
    same = {"nonce": record.nonce, "counter_base": record.counter_base, "counter": record.counter}
    unit = site.world.enroll("unit-1b", tpm=site.tpm, boot=False, **same)
    assert unit.record.enrollment == record.enrollment
    return unit


def identity_of(site: Site, unit: Unit) -> bytes:
    old, site.unit = site.unit, unit
    try:
        return site.identity_document()
    finally:
        site.unit = old


def test_a_renamed_device_keeps_the_name_of_old_kits_and_gives_new_ones_the_new_name(ready: Site):
    request = json.loads(create_request(ready.context, None, rename="unit-1b"))
    assert (request["device"], request["nonce"]) == ("urn:edgeprov:device:unit-1b", ready.unit.record.nonce.hex())
    infer(ready, 3)
    unit = renamed(ready)
    assert install_identity(ready.context, identity_of(ready, unit)) == unit.urn
    (old,) = unsent(ready.context.state())  # what was recorded was sealed under the old name
    ready.verify(ready.context.state().layout, old.digest)
    with pytest.raises(IdentityError, match="unit-1b"):
        infer(ready)
    set_serial(ready, "unit-1b")
    infer(ready, 2)
    (sealed,) = seal(ready.context)
    ready.unit = unit
    kit, _ = ready.verify(ready.context.state().layout, sealed.entry.digest)
    assert (kit.device, kit.enrollment, kit.prev) == (unit.urn, unit.record.enrollment, old.digest)
    assert [row.n for row in decoded(ready, sealed)["records"]] == [4, 5]
    sent = upload(ready.context).sent
    assert [entry.repo.split("/")[1] for entry in sent] == ["unit-1", "unit-1b"]
    assert [entry.tag.split(".")[0] for entry in sent] == ["unit-1", "unit-1b"]


def test_a_device_is_not_renamed_while_a_segment_is_open(ready: Site):
    unit = renamed(ready)
    document = identity_of(ready, unit)
    with edgeprov.open_device(ready.config_file) as device:
        model = device.load_model()
        model.run(INPUT)
        with pytest.raises(UsageError, match="open segment"):
            install_identity(ready.context, document)
        assert model.run(INPUT).record.n == 2  # it goes on under the old name
    ready.reboot()
    boot_check(ready.context)
    assert install_identity(ready.context, document) == unit.urn


def test_a_new_name_is_installed_before_the_configuration_changes(ready: Site):
    document = identity_of(ready, renamed(ready))
    infer(ready, 2)
    set_serial(ready, "unit-1b")
    with pytest.raises(IdentityError, match="this device is urn:edgeprov:device:unit-1") as refused:
        install_identity(ready.context, document)
    assert "device.serial" in refused.value.advice
