# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The roster: published, signed by its role, never shortened; and what it lets the enroller do."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from edgeprov._dataclass import field_names
from edgeprov.cli.fleet import common
from edgeprov.formats.head import Head, HeadClaims, encode_head, head_qualifying
from edgeprov.formats.standing import Standing, encode_standing
from edgeprov.store.layout_registry import LayoutRegistry
from tests.fleet.test_enroll import Site
from tests.support.fleet import Run, fleet
from tests.support.requests import request
from tests.support.softtpm import SoftTpm


class Desk(Site):
    """An enroller's desk with an index."""

    def sync(self) -> None:
        assert fleet("sync", f"oci:{self.root}/registry", "--fleet", self.root / "fleet").code == 0

    def roster(self, verb: str, *argv: object) -> Run:
        place = (
            "--to",
            f"oci:{self.root}/registry",
            "--fleet",
            self.root / "fleet",
            "--trust",
            self.root / "ca/trust.d",
        )
        signer = () if verb == "show" else ("--ca", self.root / "ca")
        words = ("retire",) if verb == "retire" else ("roster", verb)
        return fleet(*words, *argv, *place, *signer, "--json")

    def add(self, seed: str, serial: str, *argv: object) -> str:
        run = self.enroll(request(SoftTpm(seed), serial), *argv)
        assert run.code == 0, run.out
        self.sync()
        return run.last("enrolled")["enrollment"]

    def entries(self) -> dict[str, dict]:
        run = self.roster("show")
        assert run.code == 0, run.out
        return {item["enrollment"]: item for item in run.items if item["type"] == "entry"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_roster_lists_what_was_enrolled(desk: Desk):
    one = desk.add("one", "ward-1", "--bins", "4")
    assert desk.entries() == {}
    first = desk.roster("publish").last("roster")
    assert (first["version"], first["entries"], first["active"]) == (1, 1, 1)
    assert first["signer"] == "urn:edgeprov:roster:acme-medical"
    two = desk.add("two", "ward-2")
    second = desk.roster("publish", "--days", "1").last("roster")
    assert (second["version"], second["entries"]) == (2, 2)
    entries = desk.entries()
    assert set(entries) == {one, two}
    assert (entries[one]["device"], entries[one]["base"], entries[one]["bin"]) == (
        "urn:edgeprov:device:ward-1",
        100,
        "0",
    )
    assert (entries[two]["ended"], entries[two]["until"], entries[two]["names"]) == (None, None, [])
    tags = LayoutRegistry(desk.root / "registry").list_tags("rosters")
    assert {"v0000000001", "v0000000002", "newest", "v0000000001.s1", "v0000000002.s1"} <= set(tags)


def test_a_version_without_changes_is_issued(desk: Desk):
    desk.add("one", "ward-1")
    first, second = (desk.roster("publish").last("roster") for _ in range(2))
    assert (second["version"], second["entries"]) == (first["version"] + 1, first["entries"])


def test_an_enrollment_that_was_replaced_on_its_tpm_ends_at_the_new_base(desk: Desk):
    old = desk.add("ward-1", "ward-1")
    desk.roster("publish")
    tpm = SoftTpm("ward-1")
    tpm.counter = 150
    new = desk.enroll(request(tpm, nonce=b"another nonce...")).last("enrolled")["enrollment"]
    desk.sync()
    desk.roster("publish")
    entries = desk.entries()
    assert (entries[old]["ended"], entries[old]["end"]) == ("retired", 150)
    assert (entries[new]["ended"], entries[new]["base"]) == (None, 150)


def test_retire_lost(desk: Desk):
    one = desk.add("one", "ward-1")
    two = desk.add("two", "ward-2")
    assert desk.roster("retire", one).code == 2, "without --lost a final item is needed"
    run = desk.roster("retire", one[:8], "--lost")
    assert run.code == 0, run.out
    assert run.last("retired")["ended"] == "lost"
    entries = desk.entries()
    assert (entries[one]["ended"], entries[one]["end"], entries[two]["ended"]) == ("lost", None, None)
    again = desk.roster("retire", one, "--lost")
    assert again.code == 2
    assert "ended already" in again.last("error")["message"]
    assert desk.roster("retire", "ab" * 32, "--lost").code == 2
    assert desk.roster("retire", one[:7], "--lost").code == 2
    desk.roster("publish")
    assert desk.entries()[one]["ended"] == "lost", "an end stays"


def final_head(tpm: SoftTpm, serial: str, enrollment: str, *, final: bool = True) -> bytes:
    claims = HeadClaims(
        device=f"urn:edgeprov:device:{serial}", enrollment=bytes.fromhex(enrollment), nonce=None, newest=None,
        at="2026-02-03T04:05:06Z", standing=encode_standing(Standing(at_ns=1_770_087_600_000_000_000, final=final)),
    )  # fmt: skip
    qualifying = head_qualifying(claims)
    facts = {name: getattr(claims, name) for name in field_names(HeadClaims)}
    return encode_head(Head(**facts, quote=tpm.quote(qualifying), counter=tpm.certify_counter(qualifying), log=b""))


def test_retire_with_the_final_head(desk: Desk):
    one, tpm = desk.add("one", "ward-1"), SoftTpm("one")
    tpm.counter = 117
    head = desk.root / "head.json"
    for raw, code in {
        final_head(tpm, "ward-1", one, final=False): 15,
        final_head(SoftTpm("two"), "ward-1", one): 15,
        final_head(tpm, "ward-2", one): 15,
        b"{}": 4,
    }.items():
        head.write_bytes(raw)
        assert desk.roster("retire", one, "--final", head).code == code
    head.write_bytes(final_head(tpm, "ward-1", one))
    assert desk.roster("retire", one, "--final", head, "--lost").code == 2
    run = desk.roster("retire", one, "--final", head)
    assert run.code == 0, run.out
    assert (run.last("retired")["ended"], run.last("retired")["end"]) == ("retired", 117)
    assert desk.entries()[one]["end"] == 117


def test_a_tpm_whose_enrollment_ended_may_get_another_serial(desk: Desk):
    one = desk.add("one", "ward-1")
    tpm = SoftTpm("one")
    tpm.counter = 140
    document = request(tpm, "ward-7", nonce=b"another nonce...")
    assert desk.enroll(document).code == 19
    assert desk.roster("retire", one, "--lost").code == 0
    run = desk.enroll(document)
    assert run.code == 0, run.out
    assert run.last("enrolled")["replaces"] == one


def test_only_the_role_roster_publishes(desk: Desk):
    desk.add("one", "ward-1")
    for role in ("enroller", "importer"):
        key = ("--key", desk.root / f"ca/device/{role}.key", "--certificate", desk.root / f"ca/device/{role}.pem")
        place = (
            "--to",
            f"oci:{desk.root}/registry",
            "--fleet",
            desk.root / "fleet",
            "--trust",
            desk.root / "ca/trust.d",
        )
        run = fleet("roster", "publish", *place, *key, "--json")
        assert run.code == 13, run.out
    assert desk.entries() == {}


def test_an_older_roster_in_the_registry_is_noticed(desk: Desk):
    one = desk.add("one", "ward-1")
    desk.roster("publish")
    desk.roster("retire", one, "--lost")
    registry = LayoutRegistry(desk.root / "registry")
    first = registry.fetch_manifest("rosters", "v0000000001")
    index = json.loads((desk.root / "registry/index.json").read_text())
    index["manifests"] = [
        item for item in index["manifests"]
        if not item.get("annotations", {}).get("org.opencontainers.image.ref.name", "").startswith("rosters:v0000000002")
    ]  # fmt: skip
    (desk.root / "registry/index.json").write_text(json.dumps(index))
    run = desk.roster("publish")
    assert run.code == 17
    assert "version 2" in run.last("error")["message"]
    assert str(first.digest) in run.last("error")["message"]


def test_a_strangers_roster_is_noise(desk: Desk):
    desk.add("one", "ward-1")
    desk.roster("publish")
    registry = LayoutRegistry(desk.root / "registry")
    device = registry.fetch_manifest("devices", "ward-1")
    registry.push_manifest("rosters", device, tag="v0000000009")
    registry.push_manifest("rosters", device, tag="newest")
    assert desk.roster("publish").last("roster")["version"] == 2


def test_records_that_no_enroller_signed_are_not_listed(desk: Desk):
    from tests.support.fleet import push_device
    from tests.support.world import World

    desk.add("one", "ward-1")
    push_device(LayoutRegistry(desk.root / "registry"), World().enroll("ward-9"))
    desk.sync()
    assert desk.roster("publish").last("roster")["entries"] == 1


def test_a_roster_expires(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    from edgeprov.errors import RosterInvalid
    from edgeprov.fleet.enrollment.roster_desk import RosterDesk
    from edgeprov.fleet.registries.sources import parse_source
    from edgeprov.fleet.trust.folder import load_trust
    from edgeprov.verify.roster_check import verify_current

    desk.add("one", "ward-1")
    desk.roster("publish", "--days", "2")
    now = common.now()
    policy = load_trust(desk.root / "ca/trust.d").policy
    found = RosterDesk(parse_source(f"oci:{desk.root}/registry"), policy, now).newest()
    assert found is not None
    verify_current(found.roster, now + dt.timedelta(days=1))
    for moment in (now + dt.timedelta(days=3), now - dt.timedelta(days=1)):
        with pytest.raises(RosterInvalid):
            verify_current(found.roster, moment)
