# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The made-up fleet is what its truth says, judged by the verifier kit by kit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import EdgeprovError
from edgeprov.formats.datakit import parse_datakit, parse_evidence, parse_part, parse_tombstone
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX, KIT_ARTIFACT, TOMBSTONE
from edgeprov.formats.signature_manifest import parse_signature_tag
from edgeprov.formats.tarball import iter_tar
from edgeprov.store.compress import decompress
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.verify.content import ContentCheck
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.evidence import verify_kit
from edgeprov.verify.kit_evidence import evidence_of_kit, evidence_of_tombstone
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.series import SeriesItem, check_series, series_item
from edgeprov.verify.signature import SignatureArtifact
from tests.bench.fleetgen.fleet import Fleet, make_fleet
from tests.bench.fleetgen.plan import FAULTS, Settings, plan_fleet

AT = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
SETTINGS = Settings(devices=5, days=14, seed=3, records=12)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("fleet"), SETTINGS)


def folder_of(fleet: Fleet) -> Path:
    return Path(fleet.registries[0].removeprefix("oci:"))


class Judge:
    """Reads kits as the fleet side does, without its index."""

    def __init__(self, folder: Path, policy: TrustPolicy) -> None:
        self.registry = LayoutRegistry(folder, read_only=True)
        self.layout = self.registry.layout
        self.policy = policy
        self.devices: dict[str, VerifiedDevice] = {}

    def blob(self, descriptor: Descriptor) -> bytes:
        return self.layout.load_blob(descriptor, max_bytes=1 << 26)

    def signatures(self, manifest: Manifest) -> list[SignatureArtifact]:
        return [
            SignatureArtifact(manifest=signature, blob=self.blob(signature.layers[0]))
            for signature in (self.layout.load_manifest(d.digest) for d in self.layout.referrers(manifest.digest))
            if signature.artifact_type not in (KIT_ARTIFACT, TOMBSTONE)
        ]

    def load_devices(self) -> None:
        for tag in self.registry.list_tags("devices"):
            if parse_signature_tag(tag):
                continue
            manifest = self.registry.fetch_manifest("devices", tag)
            raw = self.blob(manifest.layers[0])
            self.devices[tag] = verify_device_record(manifest, raw, self.signatures(manifest), self.policy, AT)

    def judge(self, manifest: Manifest) -> SeriesItem:
        """All ten steps and the content; raises what refuses it."""
        signatures = self.signatures(manifest)
        if manifest.artifact_type == TOMBSTONE:
            evidence = evidence_of_tombstone(parse_tombstone(manifest, self.blob(manifest.layers[0])), signatures)
        else:
            kit = parse_datakit(manifest, self.blob(manifest.config))
            plain = {part.name: self.unpack(self.blob(part.layer)) for part in kit.parts}
            evidence_part = parse_evidence(plain["evidence"])
            content = ContentCheck(kit, evidence_part.segments)
            for one, other in kit.pairs("records"):
                content.add_records(parse_part(plain[one.name]), parse_part(plain[other.name]))
            for one, other in kit.pairs("labels"):
                content.add_labels(parse_part(plain[one.name]), parse_part(plain[other.name]))
            content.finish()
            evidence = evidence_of_kit(kit, signatures, evidence_part)
        device = self.devices[evidence.device.removeprefix(DEVICE_URN_PREFIX)]
        return series_item(verify_kit(evidence, device, self.policy, AT))

    @staticmethod
    def unpack(layer: bytes) -> bytes:
        import io

        (data,) = (b"".join(content) for member, content in iter_tar(io.BytesIO(layer).read) if not member.is_dir)
        return decompress(data, 1 << 26)


@pytest.fixture(scope="module")
def judge(fleet: Fleet) -> Judge:
    policy = parse_policy({path.name: path.read_bytes() for path in fleet.trust.iterdir()})
    judge = Judge(folder_of(fleet), policy)
    judge.load_devices()
    return judge


def data_manifests(judge: Judge, serial: str) -> Iterator[Manifest]:
    for repo in judge.registry.list_repositories():
        if repo.startswith("data/"):
            for tag in judge.registry.list_tags(repo):
                if tag.startswith(serial + ".") and not parse_signature_tag(tag):
                    yield judge.registry.fetch_manifest(repo, tag)


def test_every_kind_of_fault_is_planted_in_a_small_fleet() -> None:
    assert {kind for plan in plan_fleet(SETTINGS) for kind in plan.faults.values()} == set(FAULTS)


def test_the_verifier_finds_exactly_what_was_planted(fleet: Fleet, judge: Judge) -> None:
    for truth in fleet.truth["devices"]:
        if not truth["enrolled"]:
            assert truth["serial"] not in judge.devices
            continue
        items, refused = [], set()
        records = 0
        for manifest in data_manifests(judge, truth["serial"]):
            try:
                items.append(judge.judge(manifest))
            except EdgeprovError:
                refused.add(str(manifest.digest))
                continue
            if str(manifest.digest) not in truth["twins"] and manifest.artifact_type == KIT_ARTIFACT:
                records += int(manifest.annotations["dev.edgeprov.records"])
        assert refused == set(truth["refused"])
        assert len(items) == truth["good"] + len(truth["tombstones"]) + len(truth["twins"])
        assert records == sum(truth["records"].values())
        report = check_series(items, truth["counter_base"])
        numbers = {
            str(judge_seq(judge, digest)) for digest, kind in truth["refused"].items() if kind in ("unsigned", "rotten")
        }
        missing = {str(seq) for first, last in report.gaps for seq in range(first, last + 1)}
        last = max(item.seq for item in items)
        assert missing == {str(seq) for seq in truth["lost"] if seq < last} | {n for n in numbers if int(n) < last}
        assert set(report.forks) == set(truth["forks"])
        assert set(report.voided) == set(truth["voided"])
        assert report.reordered == ()


def judge_seq(judge: Judge, digest: str) -> int:
    return int(judge.layout.load_manifest(parse_digest(digest)).annotations["dev.edgeprov.seq"])


def test_the_same_arguments_give_the_same_bytes(fleet: Fleet, tmp_path: Path) -> None:
    again = make_fleet(tmp_path / "again", SETTINGS, workers=2)
    assert again.truth == fleet.truth
    assert (folder_of(again) / "index.json").read_bytes() == (folder_of(fleet) / "index.json").read_bytes()
    other: dict[str, Any] = make_fleet(tmp_path / "other", Settings(devices=2, days=4, seed=4, records=5)).truth
    assert other["devices"][0] != fleet.truth["devices"][0]


def test_a_large_fleet_is_split_by_month_of_arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.fleetgen.fleet.SPLIT_ABOVE", 10)
    made = make_fleet(tmp_path, Settings(devices=1, days=40, records=3))
    assert [Path(name).name for name in made.registries] == ["registry-2026-01", "registry-2026-02"]
