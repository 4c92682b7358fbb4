# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Days of the ledger in a registry: pushing, fetching by one's own desk and by an auditor, chains that do not hold."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgeprov.errors import (
    DigestMismatch,
    FormatError,
    RegistryConflict,
    SignatureInvalid,
    SignerUntrusted,
    SubjectMismatch,
    VerificationError,
)
from edgeprov.fleet.ledger.chains import load_chain, verify_chain
from edgeprov.fleet.ledger.close import Closer
from edgeprov.fleet.ledger.day_statement import encode_day_statement, parse_day_statement, repository
from edgeprov.fleet.ledger.fetch import fetch_chain
from edgeprov.fleet.ledger.ledger_folder import LedgerFolder, bundle_payload
from edgeprov.fleet.ledger.open_day import append_rows
from edgeprov.fleet.ledger.remote import fetch_bundles, push_days
from edgeprov.fleet.registries.sources import open_registry, parse_source
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.fleet.trust.trust_export import trusted_root
from edgeprov.formats.digest import digest_of
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.manifest import encode_index
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.verify.policy import parse_policy
from tests.support.ledger import DAY_NS, NOW_NS, ROOT, at, collector, content, kit, make_folder, policy
from tests.support.peers import peer, run
from tests.support.registries import docker_registry

REPO = repository("", "desk")


@pytest.fixture(scope="module")
def three_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("desk") / "desk"
    return make_folder(path, [[kit(1), kit(2)], [kit(3), kit(1, source="mirror")], [kit(4)]]).path


@pytest.fixture
def desk(three_days: Path, tmp_path: Path) -> LedgerFolder:
    """Three closed days."""
    shutil.copytree(three_days, tmp_path / "desk")
    return LedgerFolder(tmp_path / "desk")


@pytest.fixture
def registry(tmp_path: Path) -> LayoutRegistry:
    return LayoutRegistry(tmp_path / "registry", create=True)


class Counting:
    """A registry that counts what it is asked."""

    def __init__(self, registry: Any) -> None:
        self.registry, self.calls = registry, Counter()

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return getattr(self.registry, name)(*words, **options)

        return call


def bundles_of(folder: LedgerFolder) -> list[tuple[str, bytes]]:
    return [(day, folder.load_bundle(day)) for day, _ in folder.list_days()]


def test_an_auditor_gets_the_chain_with_n_plus_2_requests(desk: LedgerFolder, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "server") as host:
        registry = open_registry(parse_source(f"{host}/acme", plain_http=True))
        assert push_days(registry, "acme/", desk) == ("2026-09-21", "2026-09-22", "2026-09-23")
        assert push_days(registry, "acme/", desk) == ()
        counting = Counting(open_registry(parse_source(f"{host}/acme", plain_http=True)))
        auditor = LedgerFolder(tmp_path / "auditor")
        fetched = fetch_chain(counting, "acme/", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
        assert fetched.new == ("2026-09-21", "2026-09-22", "2026-09-23")
        assert counting.calls == {"fetch_index": 1, "fetch_blob": 1 + 3}
        again = fetch_chain(counting, "acme/", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
        assert again.new == ()
        assert counting.calls == {"fetch_index": 2, "fetch_blob": 2 + 3}
    assert content(auditor) == content(desk)


def test_cosign_verifies_a_day(desk: LedgerFolder, tmp_path: Path) -> None:
    root = tmp_path / "trusted_root.json"
    root.write_bytes(trusted_root([ROOT.der], []))
    with docker_registry(tmp_path / "server") as host:
        push_days(open_registry(parse_source(f"{host}/acme", plain_http=True)), "acme/", desk)
        for who, good in (("desk", True), ("mallory", False)):
            run([
                peer("cosign"), "verify-attestation", "--type", "https://edgeprov.dev/ledger/v1", "--trusted-root", str(root),
                "--certificate-identity", f"urn:edgeprov:collector:{who}", "--certificate-oidc-issuer-regexp", ".*",
                "--insecure-ignore-sct", "--insecure-ignore-tlog", f"{host}/acme/ledger/desk:2026-09-21",
            ], ok=good)  # fmt: skip


def test_a_lost_folder_is_fetched_again_byte_for_byte(
    desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path
) -> None:
    push_days(registry, "", desk)
    new = LedgerFolder(tmp_path / "new")
    fetched = fetch_chain(registry, "", "desk", new, policy(), at(NOW_NS + 4 * DAY_NS), own=True)
    assert len(fetched.new) == 3
    for day, path in desk.list_days():
        assert new.day_path(day).read_bytes() == path.read_bytes()
        assert new.load_bundle(day) == desk.load_bundle(day)
    append_rows(new, [kit(5), kit(2)], NOW_NS + 3 * DAY_NS)
    Closer(folder=new, signer=collector()).close_due(NOW_NS + 4 * DAY_NS)
    assert push_days(registry, "", new) == ("2026-09-24",)
    assert sorted(number for _, number, _ in content(new)["kits"]) == [1, 2, 3, 4, 5]
    assert content(new)["doubled"] == [(0,)]


def test_a_registry_that_lost_a_day_gets_it_back(desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path) -> None:
    push_days(registry, "", desk)
    auditor = LedgerFolder(tmp_path / "auditor")
    fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    emptied = LayoutRegistry(tmp_path / "emptied", create=True)
    short = LedgerFolder(tmp_path / "short")
    short.make()
    for day, path in desk.list_days()[:2]:
        shutil.copy(path, short.day_path(day))
        shutil.copy(desk.bundle_path(day), short.bundle_path(day))
    push_days(emptied, "", short)
    kept = fetch_chain(emptied, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert kept.lost == ("2026-09-23",)
    assert content(auditor) == content(desk)
    assert push_days(emptied, "", desk) == ("2026-09-23",)
    assert fetch_chain(emptied, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS)).lost == ()


def test_one_identity_on_two_machines_is_noticed(desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path) -> None:
    shutil.copytree(desk.path, tmp_path / "backup")
    backup = LedgerFolder(tmp_path / "backup")
    for folder, number in ((desk, 5), (backup, 6)):
        append_rows(folder, [kit(number)], NOW_NS + 3 * DAY_NS)
        Closer(folder=folder, signer=collector()).close_due(NOW_NS + 4 * DAY_NS)
    push_days(registry, "", desk)
    before = registry.head_manifest(REPO, "2026-09-24")
    with pytest.raises(RegistryConflict, match="2026-09-24 is sha256:") as refused:
        push_days(registry, "", backup)
    assert "another number" in refused.value.advice
    assert registry.head_manifest(REPO, "2026-09-24") == before
    # The same without the index, and where the other machine is ahead.
    registry.push_index(REPO, encode_index([]), tag="index")
    with pytest.raises(RegistryConflict):
        push_days(registry, "", backup)
    old = LedgerFolder(tmp_path / "old")
    old.make()
    shutil.copy(desk.day_path("2026-09-21"), old.day_path("2026-09-21"))
    shutil.copy(desk.bundle_path("2026-09-21"), old.bundle_path("2026-09-21"))
    with pytest.raises(RegistryConflict, match="has the day 2026-09-22"):
        push_days(registry, "", old)
    # The way out: a new chain that names the old head.
    head = load_chain(backup, "desk", policy(), at(NOW_NS + 5 * DAY_NS)).head
    assert head is not None
    fresh = LedgerFolder(tmp_path / "fresh")
    append_rows(fresh, [kit(6)], NOW_NS + 3 * DAY_NS)
    Closer(folder=fresh, signer=collector(), number=2, continues=head).close_due(NOW_NS + 4 * DAY_NS)
    assert push_days(registry, "", fresh) == ("2026-09-24",)
    assert registry.head_manifest(repository("", "desk.2"), "2026-09-24") is not None


def test_a_push_that_was_cut_goes_on(desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    class Failing(Counting):
        def __init__(self, registry: Any, after: int) -> None:
            super().__init__(registry)
            self.left = after

        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)

            def cut(*words: Any, **options: Any) -> Any:
                self.left -= 1
                if self.left < 0:
                    raise Cut
                return call(*words, **options)

            return cut

    for after in range(200):
        try:
            push_days(Failing(registry, after), "", desk)
        except Cut:
            for tag in registry.list_tags(REPO):
                if len(tag) == 10:
                    assert registry.head_manifest(REPO, f"{tag}.s1") is not None, "a day without its signature"
            continue
        break
    assert 10 < after < 199
    auditor = LedgerFolder(tmp_path / "auditor")
    fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert content(auditor) == content(desk)


@pytest.mark.parametrize("damage", ["none", "text", "stale-bundles", "without-bundles", "size"])
def test_without_a_good_index_the_tags_are_read(
    desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path, damage: str
) -> None:
    push_days(registry, "", desk)
    index = registry.fetch_index(REPO, "index")
    head = index.manifests[0]
    name = "dev.edgeprov.ledger.bundles"
    entries = {
        "none": [],
        "text": [head.with_annotations({name: "zzz 12"}), *index.manifests[1:]],
        "stale-bundles": list(index.manifests[:3]),
        "without-bundles": list(index.manifests[1:]),
        "size": [head.with_annotations({name: head.annotations[name].split()[0] + " -1"}), *index.manifests[1:]],
    }
    registry.push_index(REPO, encode_index(entries[damage]), tag="index")
    assert fetch_bundles(registry, REPO) == bundles_of(desk)
    auditor = LedgerFolder(tmp_path / "auditor")
    fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert content(auditor) == content(desk)
    push_days(registry, "", desk)
    assert len(registry.fetch_index(REPO, "index").manifests) == 4


# -- chains that do not hold ----------------------------------------------------------------------
def resigned(raw: bytes, signer: Any = None, **changes: Any) -> bytes:
    """A day's signature with other values in its statement."""
    from dataclasses import replace

    statement = parse_day_statement(bundle_payload(raw)[1])
    return sign_statement(signer or collector(), encode_day_statement(replace(statement, **changes)))


def check(bundles: list[tuple[str, bytes]], name: str = "desk", trust: Any = None) -> None:
    verify_chain(name, bundles, trust or policy(), at(NOW_NS + 9 * DAY_NS))


def test_a_good_chain_is_good(desk: LedgerFolder) -> None:
    check(bundles_of(desk))


def test_a_day_that_is_missing_doubled_or_out_of_order(desk: LedgerFolder) -> None:
    one, two, three = bundles_of(desk)
    for wrong in (
        [one, three],
        [two, three],
        [one, two, two, three],
        [one, three, two],
        [one, two, ("2026-09-23", two[1])],
    ):
        with pytest.raises((VerificationError, SubjectMismatch)):
            check(wrong)


def test_a_day_that_was_replaced(desk: LedgerFolder) -> None:
    one, two, three = bundles_of(desk)
    other = (two[0], resigned(two[1], rows=1))
    with pytest.raises(VerificationError, match="2026-09-23 does not follow after 2026-09-22"):
        check([one, other, three])


def test_a_day_that_a_stranger_signed(desk: LedgerFolder) -> None:
    one, two, three = bundles_of(desk)
    from tests.support import pki

    stranger = pki.role_certificate(pki.root("somebody"), "collector", "desk")
    other = collector("mallory")
    publisher = pki.publisher_certificate(ROOT)
    for signer in (stranger, other, publisher):
        with pytest.raises(VerificationError):
            check([one, two, (three[0], resigned(three[1], signer))])
        with pytest.raises(VerificationError):
            check([(one[0], resigned(one[1], signer)), two, three])
    with pytest.raises(SubjectMismatch, match="mallory, whose ledger it is not"):
        check([one, two, (three[0], resigned(three[1], other))], trust=policy("desk", "mallory"))
    with pytest.raises(SignerUntrusted):
        check([one, two, three], trust=policy("somebody-else"))


def test_a_signature_that_was_changed(desk: LedgerFolder) -> None:
    one, two, three = bundles_of(desk)
    obj = json.loads(three[1])
    obj["dsseEnvelope"]["signatures"][0]["sig"] = json.loads(two[1])["dsseEnvelope"]["signatures"][0]["sig"]
    with pytest.raises(SignatureInvalid):
        check([one, two, (three[0], encode_json(obj))])
    with pytest.raises(FormatError):
        check([one, two, (three[0], three[1][: len(three[1]) // 2])])


def test_a_day_of_another_chain_or_under_another_name(desk: LedgerFolder) -> None:
    with pytest.raises(SubjectMismatch, match="signed as day 2026-09-21 of desk"):
        check(bundles_of(desk), name="other")
    one, two, three = bundles_of(desk)
    with pytest.raises(SubjectMismatch):
        check([one, two, ("2026-09-24", three[1])])


def test_a_chain_in_which_time_falls(desk: LedgerFolder) -> None:
    one, two, three = bundles_of(desk)
    early = (three[0], resigned(three[1], since_ns=NOW_NS - 1, until_ns=NOW_NS - 1))
    with pytest.raises(VerificationError, match="time falls"):
        check([one, two, early])
    again = ("2026-09-20", resigned(three[1], day="2026-09-20"))
    with pytest.raises(VerificationError, match="time falls"):
        check([one, two, again])


def test_a_statement_of_another_form_is_refused(desk: LedgerFolder) -> None:
    raw = bundle_payload(bundles_of(desk)[0][1])[1]
    good = json.loads(raw)

    def refuse(change: Any) -> None:
        obj = json.loads(raw)
        change(obj)
        with pytest.raises(FormatError):
            parse_day_statement(encode_json(obj))

    assert parse_day_statement(encode_json(good)).chain == "desk"
    for name, value in (
        ("schema", "00" * 32), ("rows", 2**63), ("rows", 5_000_001), ("bytes", 2**30 + 1), ("bytes", -1), ("v", 2),
        ("day", "2026-13-01"), ("day", "2026-02-30"), ("chain", "../x"), ("prev", "sha1:00"), ("since", NOW_NS + DAY_NS),
        ("table", "sha256:" + "00" * 32),
    ):  # fmt: skip
        refuse(lambda obj, name=name, value=value: obj["predicate"].update({name: value}))
    refuse(lambda obj: obj["predicate"].pop("until"))
    refuse(lambda obj: obj["predicate"].update(more=1))
    refuse(lambda obj: obj["subject"].pop())
    refuse(lambda obj: obj.update(predicateType="https://edgeprov.dev/audit/v1"))
    refuse(lambda obj: obj["predicate"].update(prev="sha256:" + "00" * 32, continues="sha256:" + "00" * 32))


def test_a_table_that_was_changed_is_noticed(desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path) -> None:
    path = desk.day_path("2026-09-22")
    raw = path.read_bytes()
    for wrong in (raw[:-1], raw + b"\0", raw[:500] + bytes([raw[500] ^ 1]) + raw[501:]):
        path.write_bytes(wrong)
        with pytest.raises(DigestMismatch, match="2026-09-22"):
            load_chain(desk, "desk", policy(), at(NOW_NS + 4 * DAY_NS))
    path.write_bytes(raw)
    push_days(registry, "", desk)
    table = parse_day_statement(bundle_payload(desk.load_bundle("2026-09-22"))[1]).table
    blob = tmp_path / "registry" / "blobs" / "sha256" / table.hex
    blob.chmod(0o644)
    blob.write_bytes(raw[:500] + bytes([raw[500] ^ 1]) + raw[501:])
    auditor = LedgerFolder(tmp_path / "auditor")
    with pytest.raises(DigestMismatch):
        fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert auditor.list_days() == ()
    blob.unlink()
    with pytest.raises(Exception, match=table.hex[:12]):
        fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert list(auditor.days.iterdir()) == []


def test_a_registry_that_shows_another_chain_than_before(
    desk: LedgerFolder, registry: LayoutRegistry, tmp_path: Path
) -> None:
    push_days(registry, "", desk)
    auditor = LedgerFolder(tmp_path / "auditor")
    fetch_chain(registry, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    other = make_folder(tmp_path / "other", [[kit(8)], [kit(9)]])
    second = LayoutRegistry(tmp_path / "second", create=True)
    push_days(second, "", other)
    with pytest.raises(VerificationError, match="another ledger desk than before"):
        fetch_chain(second, "", "desk", auditor, policy(), at(NOW_NS + 4 * DAY_NS))
    assert content(auditor) == content(desk)


def test_an_expired_certificate_of_an_old_day_is_judged_at_its_day(tmp_path: Path) -> None:
    ends = at(NOW_NS + 2 * DAY_NS)
    short = collector(start=at(NOW_NS - 30 * DAY_NS), end=ends)
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1)], NOW_NS)
    Closer(folder=folder, signer=short).close_due(NOW_NS + DAY_NS)
    with pytest.raises(VerificationError, match="expired"):
        load_chain(folder, "desk", policy(), at(NOW_NS + 3 * DAY_NS))
    append_rows(folder, [kit(2)], NOW_NS + 3 * DAY_NS)
    Closer(folder=folder, signer=collector()).close_due(NOW_NS + 4 * DAY_NS)
    load_chain(folder, "desk", policy(), at(NOW_NS + 900 * DAY_NS))


def test_a_chain_of_a_bare_key(tmp_path: Path) -> None:
    from edgeprov.fleet.trust.signers import PemSigner
    from tests.support.pki import soft_key

    signer = PemSigner(soft_key("bare collector"))
    folder = LedgerFolder(tmp_path)
    append_rows(folder, [kit(1)], NOW_NS)
    statement = Closer(folder=folder, signer=signer).close_due(NOW_NS + DAY_NS)[0]
    assert statement.chain == f"key-{digest_of(signer.public_key_spki).hex[:32]}"
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    load_chain(folder, statement.chain, parse_policy({"collector.pem": pem}), at())


def test_a_chain_that_was_written_once_is_read_for_ever(tmp_path: Path) -> None:
    """tests/vectors/ledger: it fails when the format changes, and is then made again on purpose."""
    vector = Path(__file__).parents[1] / "vectors" / "ledger"
    expected = json.loads((vector / "expected.json").read_text())
    trust = parse_policy({
        "publisher-root.pem": (vector / "root.pem").read_bytes(),
        "policy.toml": b'[roles]\ncollector = ["urn:edgeprov:collector:desk"]\n',
    })  # fmt: skip
    chain = load_chain(LedgerFolder(vector), "desk", trust, at(NOW_NS + 3 * DAY_NS))
    assert str(chain.head) == expected["head"]
    assert [day.statement.rows for day in chain.days] == expected["rows"]
    kits = [[digest.hex(), number, verdict] for digest, number, verdict in content(LedgerFolder(vector))["kits"]]
    assert kits == expected["kits"]
    copy = LedgerFolder(tmp_path / "copy")
    registry = LayoutRegistry(tmp_path / "registry", create=True)
    push_days(registry, "", LedgerFolder(vector))
    fetch_chain(registry, "", "desk", copy, trust, at(NOW_NS + 3 * DAY_NS))
    assert content(copy) == content(LedgerFolder(vector))
