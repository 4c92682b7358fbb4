# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""``seal.batch_kits``: several kits under one DSSE, one signature of the TPM's signing key.

Stops at each change of disk and TPM are in tests/crash ("seal in batches", "recovery of a batch").
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeprov
from edgeprov.config import load_config
from edgeprov.device.export import export
from edgeprov.device.seal import seal
from edgeprov.device.series_state import INTENT, load_head
from edgeprov.device.upload import upload
from edgeprov.errors import ConfigError, StoreError
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import Digest
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.mediatypes import SIGSTORE_BUNDLE
from edgeprov.store import atomic
from edgeprov.store.layout import Layout
from tests.support.site import CASES, Site

ROW = np.load(CASES)["X"][0].reshape(1, 30)


@pytest.fixture
def device(make_site: Callable[..., Site], request: pytest.FixtureRequest) -> Site:
    """A device with one segment of two records per kit to be."""
    signatures = getattr(request, "param", '["cosign"]')
    site = make_site(
        settings=f"[seal]\nmin_kit_interval_s = 0\nmax_records = 2\nbatch_kits = 3\nsignatures = {signatures}\n"
    )
    site.install_identity()
    site.install()
    return site


def record(site: Site, kits: int) -> None:
    for _ in range(kits):
        with edgeprov.open_device() as opened:
            model = opened.load_model()
            for _ in range(2):
                model.run(ROW, quantise=True)


def count_signatures(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    made: list[bytes] = []
    sign = site.tpm.sign_digest
    monkeypatch.setattr(site.tpm, "sign_digest", lambda digest: (made.append(digest), sign(digest))[1])
    return made


def bundles(layout: Layout, kit: Digest) -> dict[Digest, tuple[Digest, ...]]:
    """Bundle blobs on a kit, and the subjects that each names."""
    found = {}
    for entry in layout.referrers(kit, SIGSTORE_BUNDLE):
        (blob,) = layout.load_manifest(entry.digest).layers
        bundle = parse_bundle(layout.load_blob(blob, max_bytes=2**20))
        found[blob.digest] = parse_statement(bundle.payload).subjects
    return found


def test_one_signature_for_many_kits(device: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record(device, 5)
    made = count_signatures(device, monkeypatch)
    sealed = seal(device.context)
    assert [item.entry.kind for item in sealed] == ["kit"] * 5
    assert len(made) == 2  # three kits under one, two under the other
    layout = device.context.state().layout
    digests = [item.entry.digest for item in sealed]
    on_each = [bundles(layout, digest) for digest in digests]
    assert all(len(found) == 1 for found in on_each)
    subjects = [next(iter(found.values())) for found in on_each]
    assert subjects == [tuple(digests[:3])] * 3 + [tuple(digests[3:])] * 2
    assert len({next(iter(found)) for found in on_each}) == 2
    previous = None
    for digest in digests:
        verdict, _ = device.verify(layout, digest)
        assert verdict.prev == previous
        previous = digest
    assert seal(device.context) == []


@pytest.mark.parametrize("device", ['["cosign", "notation"]'], indirect=True)
def test_notation_signs_each_kit_of_a_batch(device: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    record(device, 3)
    made = count_signatures(device, monkeypatch)
    sealed = seal(device.context)
    assert len(made) == 1 + 3
    for item in sealed:
        assert len(item.entry.info["signatures"]) == 2
        device.verify(device.context.state().layout, item.entry.digest)


def test_uploaded_and_exported_like_any_other(device: Site) -> None:
    record(device, 4)
    digests = [item.entry.digest for item in seal(device.context)]
    stick = device.root / "stick"
    export(device.context, stick)
    done = upload(device.context)
    assert [entry.digest for entry in done.sent] == digests
    assert done.error is None
    assert device.context.state().outbox() == ()
    for digest in digests:
        device.verify(device.layout, digest)
        device.verify(Layout.open(stick), digest)


def test_kits_of_two_models_are_never_in_one_statement(device: Site) -> None:
    record(device, 1)
    device.install(device.publish(version="2.0.0"))
    record(device, 1)
    sealed = seal(device.context)
    layout = device.context.state().layout
    for item in sealed:
        assert list(bundles(layout, item.entry.digest).values()) == [(item.entry.digest,)]
        device.verify(layout, item.entry.digest)


def test_what_was_numbered_is_signed_in_a_later_boot(device: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TPM dies at the third kit: the first two keep their numbers, no tombstone is needed for them."""
    record(device, 3)
    certify, calls = device.tpm.certify_counter, []

    def dies(qualifying: bytes):
        calls.append(qualifying)
        if len(calls) == 3:
            raise StoreError("stopped")
        return certify(qualifying)

    monkeypatch.setattr(device.tpm, "certify_counter", dies)
    with pytest.raises(StoreError):
        seal(device.context)
    assert load_head(device.context.state()) is None
    assert device.context.state().outbox() == ()
    device.reboot()
    sealed = seal(device.context)
    assert [item.entry.kind for item in sealed] == ["kit", "kit", "tombstone", "kit"]
    assert [item.entry.seq for item in sealed] == [101, 102, 103, 104]
    layout = device.context.state().layout
    assert next(iter(bundles(layout, sealed[0].entry.digest).values())) == tuple(
        item.entry.digest for item in sealed[:2]
    )
    for item in sealed:
        device.verify(layout, item.entry.digest)


@pytest.mark.parametrize("damage", ["garbage", "manifest"])
def test_damage_between_loses_no_record(device: Site, damage: str) -> None:
    """The waiting kits cannot be signed any more: their records go into new ones, and the gap shows."""
    record(device, 1)
    seal(device.context)
    record(device, 3)

    def stop(operation: str, _path: str, argument: object, _: int) -> None:
        if operation == "rename" and str(argument).endswith("series.json"):
            raise OSError(5, "Input/output error")

    atomic.hook = stop
    try:
        with pytest.raises(StoreError):
            seal(device.context)
    finally:
        atomic.hook = None
    state = device.context.state()
    if damage == "garbage":
        (Path(device.root) / "state" / "documents" / f"{INTENT}.json").write_bytes(b"{")
    else:
        for ref, entry in state.layout.refs().items():
            if ref.startswith(device.serial) and entry.digest not in {item.digest for item in state.outbox()}:
                state.layout.remove_manifest(entry.digest)
    sealed = seal(device.context)
    kits = [item for item in sealed if item.entry.kind == "kit"]
    assert sum(item.entry.info["records"] for item in kits) == 6
    for item in sealed:
        device.verify(device.context.state().layout, item.entry.digest)


def test_refused_settings(tmp_path: Path) -> None:
    for value in ("0", "65", '"3"'):
        (tmp_path / "edgeprov.toml").write_text(f"[seal]\nbatch_kits = {value}\n")
        with pytest.raises(ConfigError, match="batch_kits"):
            load_config({"EDGEPROV_CONFIG": str(tmp_path / "edgeprov.toml")})
