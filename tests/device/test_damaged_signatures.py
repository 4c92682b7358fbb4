# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A damaged signature beside a good one: the model is installed, boots and stays, whatever the form and the order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgeprov import journal
from edgeprov.cli.device_main import main
from edgeprov.device.boot import boot_check
from edgeprov.device.doctor import examine
from edgeprov.device.install import install_model, remove_model
from edgeprov.device.stored_signatures import load_model_signatures
from edgeprov.errors import DigestMismatch, RegistryNotFound, SignatureInvalid
from edgeprov.formats.b64 import b64
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import COSIGN_CERTIFICATE, COSIGN_SIGNATURE, COSIGN_SIMPLE_SIGNING
from edgeprov.formats.signature_manifest import classic_tag
from edgeprov.store.layout import Layout
from tests.device.conftest import use
from tests.support import pki
from tests.support.site import DIGITS, Published, Site
from tests.support.world import sign_notation

COUNT = 3
SUBSETS = [
    places for size in range(1, COUNT) for places in itertools.combinations(range(COUNT), size)
]  # proper ones: at least one signature stays whole

TARGETS = [
    ("bundle", "blob"), ("bundle", "manifest"), ("notation", "blob"), ("notation", "manifest"), ("cosign 2", "blob"),
]  # fmt: skip

FAULTS: dict[str, Callable[[Path], object]] = {
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def referrers(model: Manifest, site: Site, form: str) -> list[tuple[Manifest, list[bytes]]]:
    """COUNT manifests with one signature of the publisher each; spaces after the JSON make their blobs differ."""
    publisher = site.world.publisher
    first = site.world.sign_model(model) if form == "bundle" else sign_notation(model.descriptor, publisher)
    found = []
    for number in range(COUNT):
        blob = first.blob + b" " * number
        layer = describe(blob, first.manifest.layers[0].media_type)
        manifest = build_manifest(
            config=first.manifest.config,
            layers=[layer],
            artifact_type=first.manifest.artifact_type,
            subject=model.descriptor,
            annotations={**first.manifest.annotations, "number": str(number)},
        )
        found.append((manifest, [blob]))
    return found


def payload_of(model: Manifest, number: int) -> bytes:
    image = {"docker-manifest-digest": str(model.digest)}
    critical = {"identity": {"docker-reference": ""}, "image": image, "type": "cosign container image signature"}
    return json.dumps({"critical": critical, "optional": {"number": number}}).encode()


def classic(model: Manifest, signers: Sequence[pki.Issued], payloads: Sequence[bytes]) -> tuple[Manifest, list[bytes]]:
    """What cosign 2 stores under its tag: one manifest, a layer for each signature, certificates in annotations."""
    layers = []
    for signer, payload in zip(signers, payloads, strict=True):
        certificate = x509.load_der_x509_certificate(signer.certificate_chain[0]).public_bytes(Encoding.PEM)
        notes = {
            COSIGN_SIGNATURE: b64(signer.sign_digest(sha256(payload).digest())),
            COSIGN_CERTIFICATE: certificate.decode(),
        }
        layers.append(describe(payload, COSIGN_SIMPLE_SIGNING, notes))
    config = describe(b'{"architecture":""}', "application/vnd.oci.image.config.v1+json")
    return build_manifest(config=config, layers=layers), [*payloads, b'{"architecture":""}']


def save(layout: Layout, manifest: Manifest, blobs: Sequence[bytes], ref: str | None) -> None:
    for blob in [*blobs, b"{}"]:
        layout.save_blob(blob, "application/octet-stream")
    layout.save_manifest(manifest, ref=ref)


def publish(site: Site, form: str) -> tuple[Published, list[Digest], list[Digest]]:
    """A model with COUNT signatures; also the digests of their manifests and of their blobs, in order."""
    published = site.publish(DIGITS.read_bytes(), name="digits", sign=False)
    model = published.manifest
    if form == "cosign 2":
        publisher = site.world.publisher
        manifest, blobs = classic(model, [publisher] * COUNT, [payload_of(model, number) for number in range(COUNT)])
        save(site.layout, manifest, blobs, f"models/digits:{classic_tag(model.digest)}")
        return published, [manifest.digest], [layer.digest for layer in manifest.layers]
    made = referrers(model, site, form)
    for manifest, blobs in made:
        save(site.layout, manifest, blobs, f"models/digits@{manifest.digest}")
    return published, [item[0].digest for item in made], [item[0].layers[0].digest for item in made]


@pytest.fixture(autouse=True)
def without_trial(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the trial run of each install: it has nothing to do with signatures and takes a second."""
    if "trial" not in request.keywords:
        monkeypatch.setattr("edgeprov.device.install.verify_model_runs", lambda *_: {"selftest": "left out"})


def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = journal.event
    monkeypatch.setattr(
        journal, "event", lambda name, *args, **values: (names.append(name), real(name, *args, **values))
    )
    return names


# -- at boot ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def installed(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Site, list[Digest], list[Digest]]]:
    """A device with a model that has COUNT signatures of a form; installed once for each form."""

    @lru_cache
    def make(form: str) -> tuple[Site, list[Digest], list[Digest]]:
        site = template.clone(tmp_path_factory.mktemp("installed"))
        with pytest.MonkeyPatch.context() as monkeypatch:
            use(site, monkeypatch)
            published, manifests, blobs = publish(site, form)
            site.install(published)
        return site, manifests, blobs

    return make


@pytest.mark.parametrize("places", SUBSETS, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("form", "of"), TARGETS)
def test_a_model_boots_as_long_as_one_signature_is_whole(
    installed: Callable[[str], tuple[Site, list[Digest], list[Digest]]],
    tmp_path: Path,
    form: str,
    of: str,
    fault: str,
    places: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, manifests, blobs = installed(form)
    ready = use(original.clone(tmp_path), monkeypatch)
    model = ready.context.state().active("default").model
    names = told(monkeypatch)
    layout = ready.context.state().layout
    for place in places:
        FAULTS[fault](layout.blob_path((blobs if of == "blob" else manifests)[place]))
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.error, verdict.returned_from) == (model, None, None)
    assert names.count("signature-damaged") == (len(places))
    assert "model-returned" not in names
    assert len(load_model_signatures(layout, model).artifacts) == COUNT - len(places)


@pytest.mark.parametrize("form", ["bundle", "notation", "cosign 2"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_without_a_whole_signature_is_refused_and_each_loss_is_counted(
    ready: Site, form: str, fault: str
) -> None:
    published, _manifests, blobs = publish(ready, form)
    old = ready.context.state().active("default").model
    model = ready.install(published)
    layout = ready.context.state().layout
    for digest in blobs:
        FAULTS[fault](layout.blob_path(digest))
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.returned_from) == (old, model)


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_to_another_manifest_in_the_folder_refuses_nothing(ready: Site, fault: str) -> None:
    """Manifests that other tools wrote do not tell their subject in the index: they are read, and may be damaged."""
    published, _manifests, _blobs = publish(ready, "bundle")
    model = ready.install(published)
    layout = ready.context.state().layout
    layout.save_blob(b"weights", "application/octet-stream")
    other = build_manifest(
        config=describe(b"{}", "application/vnd.oci.empty.v1+json"),
        layers=[describe(b"weights", "application/octet-stream")],
    )
    layout.save_manifest(other)
    FAULTS[fault](layout.blob_path(other.digest))
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.error, verdict.returned_from) == (model, None, None)


@pytest.mark.parametrize("of", ["blob", "manifest"])
@pytest.mark.parametrize("place", range(COUNT))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_baked_model_boots_as_long_as_one_signature_is_whole(
    make_site: Callable[..., Site], fault: str, place: int, of: str
) -> None:
    """An image with one model that no slot is named after: the model is found by looking at every manifest."""
    site = make_site()
    published, manifests, blobs = publish(site, "bundle")
    (site.root / "registry").rename(site.root / "baked")
    layout = Layout.open(site.root / "baked")
    FAULTS[fault](layout.blob_path((blobs if of == "blob" else manifests)[place]))
    (verdict,) = boot_check(site.context)
    assert (verdict.model, verdict.error) == (published.manifest.digest, None)


def test_an_image_whose_only_model_is_damaged_says_so_and_not_that_there_is_none(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    published, _manifests, _blobs = publish(site, "bundle")
    (site.root / "registry").rename(site.root / "baked")
    FAULTS["one bit"](Layout.open(site.root / "baked").blob_path(published.manifest.digest))
    with pytest.raises(DigestMismatch):
        boot_check(site.context)


# -- at install -------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", SUBSETS, ids=str)
@pytest.mark.parametrize("fault", ["one bit", "empty", "missing"])
@pytest.mark.parametrize(("form", "of"), TARGETS)
def test_a_model_installs_from_a_registry_where_one_signature_is_whole(
    ready: Site, form: str, of: str, fault: str, places: tuple[int, ...]
) -> None:
    published, manifests, blobs = publish(ready, form)
    for place in places:
        FAULTS[fault](ready.layout.blob_path((blobs if of == "blob" else manifests)[place]))
    model = ready.install(published)
    layout = ready.context.state().layout
    assert len(load_model_signatures(layout, model).artifacts) == COUNT - len(places)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.error, verdict.returned_from) == (model, None, None)


@pytest.mark.parametrize("form", ["bundle", "notation", "cosign 2"])
def test_a_model_that_is_removed_leaves_no_signature(ready: Site, form: str) -> None:
    published, _manifests, blobs = publish(ready, form)
    FAULTS["one bit"](ready.layout.blob_path(blobs[0]))
    model = published.manifest.digest
    install_model(ready.context, published.reference)
    assert remove_model(ready.context, model) > 0
    layout = ready.context.state().layout
    assert not load_model_signatures(layout, model).artifacts
    assert not [ref for ref in layout.refs() if ref.endswith(classic_tag(model))]


def test_cosign_2_config_that_is_lost_takes_no_signature_along(ready: Site) -> None:
    published, manifests, _blobs = publish(ready, "cosign 2")
    config = ready.layout.load_manifest(manifests[0]).config
    ready.layout.blob_path(config.digest).unlink()
    model = ready.install(published)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.error) == (model, None)
    assert len(load_model_signatures(ready.context.state().layout, model).artifacts) == COUNT


@pytest.mark.parametrize("form", ["bundle", "notation", "cosign 2"])
@pytest.mark.parametrize("fault", ["one bit", "missing"])
def test_an_install_without_a_whole_signature_names_the_loss(ready: Site, form: str, fault: str) -> None:
    published, _manifests, blobs = publish(ready, form)
    for digest in blobs:
        FAULTS[fault](ready.layout.blob_path(digest))
    expected = RegistryNotFound if fault == "missing" else SignatureInvalid
    with pytest.raises(expected) as caught:
        install_model(ready.context, published.reference)
    assert any(str(digest) in caught.value.message for digest in blobs)
    assert not ready.context.state().layout.has_manifest(published.manifest.digest)


# -- two signers under one tag ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_signers_of_one_cosign_2_payload_are_both_considered(ready: Site, order: tuple[int, int]) -> None:
    """The payload is the same for both, so the layers differ in nothing but their annotations."""
    published = ready.publish(DIGITS.read_bytes(), name="digits", sign=False)
    model = published.manifest
    stranger = pki.publisher_certificate(pki.root("Stranger Root"))
    signers = [(ready.world.publisher, stranger)[place] for place in order]
    manifest, blobs = classic(model, signers, [payload_of(model, 0)] * 2)
    save(ready.layout, manifest, blobs, f"models/digits:{classic_tag(model.digest)}")
    installed = ready.install(published)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.error) == (installed, None)


# -- what a person is told --------------------------------------------------------------------------


def test_doctor_notes_a_signature_that_cannot_be_read(ready: Site) -> None:
    published, _manifests, blobs = publish(ready, "bundle")
    ready.install(published)
    FAULTS["one bit"](ready.context.state().layout.blob_path(blobs[0]))
    (finding,) = (item for item in examine() if item.check == "models")
    assert (finding.verdict, finding.found) == ("note", "1 signatures of active models cannot be read; others are good")


def test_a_slot_that_runs_an_older_model_says_so_until_somebody_accepts_it(
    ready: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    old = ready.context.state().active("default").model
    published, _manifests, blobs = publish(ready, "bundle")
    new = ready.install(published)
    for digest in blobs:
        FAULTS["one bit"](ready.context.state().layout.blob_path(digest))
    for _boot in range(2):
        ready.reboot()
        (verdict,) = boot_check(ready.context)
        assert (verdict.model, verdict.returned_from) == (old, new)
        capfd.readouterr()
        assert main(("boot-check",)) == 0
        assert f"verified, after {new} was refused" in capfd.readouterr().out
        assert main(("status",)) == 0
        shown = capfd.readouterr().out
        assert "runs an older model" in shown
        assert "next: edgeprov doctor" in shown
        (finding,) = (item for item in examine() if item.check == "models")
        assert (finding.verdict, finding.code) == ("fail", 55)
        assert str(new) in finding.found
    command = finding.fix.split("`")[1].split()[1:]
    assert main(command) == 0, "the advice is a command of this program"
    capfd.readouterr()
    (finding,) = (item for item in examine() if item.check == "models")
    assert finding.verdict == "ok"
    assert main(("status",)) == 0
    assert "older model" not in capfd.readouterr().out


def test_a_model_that_is_removed_takes_no_data_kit_along(ready: Site) -> None:
    """Data kits refer to their model, as its signatures do."""
    published, _manifests, _blobs = publish(ready, "bundle")
    install_model(ready.context, published.reference)
    layout = ready.context.state().layout
    kit = build_manifest(
        config=describe(b"{}", "application/vnd.oci.empty.v1+json"),
        layers=[],
        artifact_type="application/vnd.kitops.modelkit.manifest.v1+json",
        subject=published.manifest.descriptor,
    )
    layout.save_manifest(kit)
    remove_model(ready.context, published.manifest.digest)
    assert layout.has_manifest(kit.digest)
