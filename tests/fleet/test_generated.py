# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A made-up fleet through the commands, from folders and from a real registry: all that was planted is found, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.fleetgen import fleet as generator
from tests.bench.fleetgen.fleet import Fleet, make_fleet
from tests.bench.fleetgen.plan import FAULTS, UNPUSHABLE, Settings
from tests.support.fleet import Run, fleet
from tests.support.registries import docker_registry

SETTINGS = Settings(devices=5, days=45, seed=11, records=8)
EVER = ("--from", "1970-01", "--to", "2030-12")


@dataclass
class Site:
    made: Fleet
    root: Path

    def run(self, verb: str, *argv: object) -> Run:
        workers = () if verb == "query" else ("--workers", "1")
        return fleet(verb, "--fleet", self.root / "index", "--trust", self.made.trust, *workers, *argv, "--json")

    def sync(self, *names: str) -> Run:
        return fleet("sync", *names, "--fleet", self.root / "index", "--json")

    def audit(self, *argv: object) -> dict[str, dict]:
        run = self.run("audit", *(argv or EVER), *self.made.head_options)
        assert run.code == 0, run.err
        return {device["serial"]: device for device in run.last("audit")["devices"]}

    def kits(self, *argv: str) -> list[dict]:
        run = self.run("query", *argv, "--limit", "9999")
        assert run.code == 0, run.out + run.err
        return run.items

    @property
    def enrolled(self) -> list[dict]:
        return [device for device in self.made.truth["devices"] if device["enrolled"]]

    def planted(self, name: str) -> Counter[str]:
        return Counter(kind for device in self.enrolled for kind in device[name].values())


@pytest.fixture(scope="module", params=["folders", pytest.param("registry", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "registry":
        with docker_registry(root / "server", program="registry") as host:
            yield Site(make_fleet(root / "made", SETTINGS, to=f"{host}/fleet"), root)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "SPLIT_ABOVE", 10)
        yield Site(make_fleet(root / "made", SETTINGS), root)


@pytest.fixture(scope="module")
def judged(site: Site) -> Site:
    assert site.sync(*site.made.registries).code == 0
    assert site.run("verify").code == 10
    return site


def test_everything_is_planted(site):
    pushed = "://" not in site.made.registries[0] and not site.made.registries[0].startswith("oci:")
    found = site.planted("refused") + site.planted("odd")
    for name in ("lost", "voided", "forks"):
        found[name] = sum(len(device[name]) for device in site.enrolled)
    wanted = (FAULTS.keys() - {"lost", "crash", "discarded", "fork"}) | {"lost", "voided", "forks"}
    wanted |= {"dead-clock", "fast-clock"}
    assert {kind for kind, count in found.items() if count} == wanted - (set(UNPUSHABLE) if pushed else set())
    assert any(last - first >= 13 for device in site.enrolled for first, last in device["offline"])  # two weeks
    assert any(device["last_seq"] in device["lost"] for device in site.enrolled)  # behind the newest kit
    assert len({tuple(device["updates"]) for device in site.enrolled}) > 1  # waves
    assert [device["serial"] for device in site.made.truth["devices"] if not device["enrolled"]] == ["unknown1"]


def test_what_was_forged_is_refused_and_nothing_else(judged):
    refused = {item["digest"]: item for item in judged.kits("--verdict", "refused")}
    forged = {digest: kind for device in judged.enrolled for digest, kind in device["refused"].items()}
    strangers = {digest for digest, item in refused.items() if item["device"].endswith(":unknown1")}
    assert refused.keys() - strangers == forged.keys()
    assert len(strangers) == sum(
        d["good"] + len(d["tombstones"]) for d in judged.made.truth["devices"] if not d["enrolled"]
    )
    assert all(refused[digest]["step"] == 1 for digest in strangers)
    ok = judged.kits("--verdict", "ok")
    assert len(ok) == sum(d["good"] + len(d["tombstones"]) + len(d["twins"]) for d in judged.enrolled)


def test_the_audit_finds_what_is_lost_voided_forked_and_doubtful(judged):
    devices, numbers = judged.audit(), {}
    for item in judged.kits("--verdict", "ok"):
        numbers.setdefault(item["device"], set()).add(item["seq"])
    for truth in judged.enrolled:
        found = devices[truth["serial"]]
        series = found["series"]
        assert [n for first, last in series["missing"] for n in range(first, last + 1)] == truth["lost"]
        assert (series["voided"], series["forks"]) == (truth["voided"], truth["forks"])
        assert (series["reordered"], series["head"]) == ([], truth["last_seq"])
        clocks = {digest for digest, kind in truth["odd"].items() if kind.endswith("clock")}
        doubtful = {item["kit"]: item for item in found["doubtful"]}
        assert clocks <= doubtful.keys()
        # The first kit after a fast clock was set right is in doubt too: its clock ran back.
        wrong = {doubtful[kit]["seq"] for kit in clocks}
        for kit in doubtful.keys() - clocks:
            assert "ran back" in doubtful[kit]["why"]
            assert max(seq for seq in numbers[found["device"]] if seq < doubtful[kit]["seq"]) in wrong
        assert found["record_fault"] is None
    assert "unknown device" in devices["unknown1"]["record_fault"]
    assert devices["unknown1"]["results"] == 0


def test_waves_are_seen_as_intervals_by_model(judged):
    models = [model["digest"] for model in judged.made.truth["models"]]
    devices = judged.audit()
    for truth in judged.enrolled:
        intervals = devices[truth["serial"]]["intervals"]
        assert [item["model"] for item in intervals] == [
            model for model, day in zip(models, truth["updates"], strict=True) if day < SETTINGS.days
        ]
        assert sum(item["results"] for item in intervals) <= sum(truth["rows"].values())


def test_the_data_set_holds_the_rows_and_the_late_labels_of_the_truth(judged, tmp_path):
    run = judged.run("collect", "-o", tmp_path / "data")
    assert run.code == 0, run.err
    item = run.last("collected")
    rows: Counter[str] = Counter()
    for device in judged.enrolled:
        rows.update(device["rows"])
    assert item["models"] == dict(rows)
    assert item["labelled"] == sum(device["labelled"] for device in judged.enrolled) > 100


def test_what_arrives_weeks_late_is_no_gap_before_nor_after(site, tmp_path):
    """A device without a link until the end of January: its kits come in February."""
    if len(site.made.registries) < 2:
        pytest.skip("a registry has no months of arrival; the folders have")
    late = Site(site.made, tmp_path)
    january, february = site.made.registries
    (truth,) = (d for d in site.enrolled if any(first < 31 <= last + 1 for first, last in d["offline"]))
    ((first, last),) = truth["offline"]
    month = ("--from", "2026-01", "--to", "2026-01", "--device", truth["serial"])
    late.sync(january)
    before = fleet("audit", *month, "--fleet", tmp_path / "index", "--trust", late.made.trust, "--json").last("audit")
    late.sync(february)
    after = late.audit(*month)[truth["serial"]]
    (early,) = before["devices"]
    lost = {n for n in truth["lost"] if n <= early["series"]["last"]}
    assert {n for a, b in early["series"]["missing"] for n in range(a, b + 1)} == lost
    assert early["results"] < after["results"]
    assert max(day for day in early["days"] if day < "2027") == f"2026-01-{first:02}"
    assert max(day for day in after["days"] if day < "2027") >= f"2026-01-{last:02}"
