# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Boot check, baked models, fs-verity, and the switch of models: A/B with a way back, and a floor without one."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable

import numpy as np
import pytest

import edgeprov
from edgeprov.device.boot import activate, boot_check
from edgeprov.device.boot_stamp import load_stamp
from edgeprov.device.event_log import load_event_log
from edgeprov.device.install import install_model, remove_model
from edgeprov.device.trial import MAX_LOADS
from edgeprov.errors import DigestMismatch, ModelNotReady, Rollback, SignerUntrusted, TpmError, UsageError
from edgeprov.formats.digest import Digest
from edgeprov.formats.eventlog import active_model, parse_event_log, replay
from edgeprov.formats.mediatypes import A_VERITY
from edgeprov.store import verity
from edgeprov.store.layout import Layout
from tests.support.site import DIGITS, WDBC, Site

X = np.zeros((1, 30), np.int8)


def run_once(slot: str | None = None) -> Digest:
    with edgeprov.open_device() as device:
        model = device.load_model(slot)
        model.run(np.zeros(model.inputs[0].shape, np.int8))
        return model.digest


def damage(site: Site, digest: Digest) -> None:
    layout = site.context.state().layout
    path = layout.blob_path(layout.load_manifest(digest).layers[0].digest)
    data = bytearray(path.read_bytes())
    data[700] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(data)


def events(site: Site) -> list[tuple[str, str]]:
    log = parse_event_log(load_event_log(site.context))
    assert replay(log) == site.tpm.read_pcr()
    return [(event.type, str(event.model)) for event in log]


def test_boot_check_measures_each_slot_once(make_site: Callable[..., Site]) -> None:
    site = make_site(slots='["camera", "lab"]')
    site.install_identity()
    camera = site.install(site.publish(DIGITS.read_bytes(), name="digits"), slot="camera")
    lab = site.install(slot="lab")
    site.reboot()
    assert [verdict.model for verdict in boot_check(site.context)] == [camera, lab]
    assert events(site) == [("activate", str(camera)), ("activate", str(lab))]


def test_boot_check_on_a_read_only_state(ready: Site) -> None:
    ready.reboot()
    state = ready.root / "state"
    paths = [state, *state.rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    before = {path: path.stat().st_mtime_ns for path in paths}
    for path in reversed(paths):
        path.chmod(modes[path] & 0o555)
    try:
        (verdict,) = boot_check(ready.context)
    finally:
        for path in paths:
            path.chmod(modes[path])
    assert verdict.error is None
    # Root may write anywhere, so the modes alone prove nothing: nothing was touched, either.
    assert {path: path.stat().st_mtime_ns for path in paths} == before


@pytest.mark.parametrize("fault", ["bit", "missing", "manifest", "anchor", "floor"])
def test_boot_check_refuses_and_says_so_in_the_log(ready: Site, fault: str) -> None:
    state = ready.context.state()
    active = state.active("default")
    assert active is not None
    layout = state.layout
    layer = layout.load_manifest(active.model).layers[0]
    if fault == "bit":
        damage(ready, active.model)
    elif fault == "missing":
        layout.blob_path(layer.digest).unlink()
    elif fault == "manifest":
        layout.blob_path(active.model).write_bytes(b"{}")
    elif fault == "anchor":
        (ready.trust / "publisher.pem").unlink()
    else:
        ready.tpm.floors = {"default": 7}
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert verdict.error is not None
    assert events(ready) == [("refused", str(active.model))]
    assert load_stamp(ready.context)["default"]["verdict"] == "refused"
    with edgeprov.open_device() as device, pytest.raises(ModelNotReady, match="refused"):
        device.load_model()


def test_model_changed_after_the_boot_check_never_reaches_the_interpreter(ready: Site) -> None:
    active = ready.context.state().active("default")
    assert active is not None
    damage(ready, active.model)
    with edgeprov.open_device() as device, pytest.raises(DigestMismatch):
        device.load_model()


def test_stamp_of_another_boot_is_worth_nothing(ready: Site) -> None:
    ready.boot_id = "another"
    with edgeprov.open_device() as device, pytest.raises(ModelNotReady):
        device.load_model()


def test_stamp_without_a_measurement_is_worth_nothing(ready: Site) -> None:
    """Somebody wrote boot.json; the TPM knows better."""
    ready.tpm.reboot()
    with edgeprov.open_device() as device, pytest.raises(ModelNotReady, match="not measured"):
        device.load_model()


def test_forged_event_log_is_not_believed(ready: Site) -> None:
    ready.tpm.pcr_event(b"something else")
    with edgeprov.open_device() as device, pytest.raises(TpmError, match="does not explain"):
        device.load_model()


def test_cut_between_log_and_pcr_is_mended(ready: Site) -> None:
    log = ready.root / "run" / "events.log"
    raw = log.read_bytes()
    log.write_bytes(raw + raw.replace(b'"recnum":0', b'"recnum":1'))
    run_once()
    ready.context.state().spool("default").end_open()  # the next session has to open a segment
    assert log.read_bytes() == raw
    log.write_bytes(raw + b'\x1e{"recnum":1,"pc')
    run_once()
    assert log.read_bytes() == raw


def test_previous_model_returns_when_the_new_one_rots(ready: Site) -> None:
    old = ready.context.state().active("default").model
    new = ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
    assert run_once() == new
    damage(ready, new)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert (verdict.model, verdict.returned_from, verdict.error) == (old, new, None)
    assert events(ready) == [("refused", str(new)), ("activate", str(old))]
    assert run_once() == old


def test_model_that_kills_the_application_goes_back_by_itself(ready: Site) -> None:
    old = ready.context.state().active("default").model
    run_once()
    new = ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
    for _ in range(MAX_LOADS):
        with edgeprov.open_device() as device:
            assert device.load_model().digest == new  # and dies before its first record
    with edgeprov.open_device() as device:
        with pytest.raises(ModelNotReady, match="active again"):
            device.load_model()
        assert device.load_model().digest == old
        device.load_model().run(X)
    log = parse_event_log(load_event_log(ready.context))
    assert active_model(log, "default") == old
    assert ("refused", str(new)) in events(ready)


def test_one_record_confirms_the_new_model_for_good(ready: Site) -> None:
    new = ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
    assert run_once() == new
    for _ in range(MAX_LOADS + 2):
        with edgeprov.open_device() as device:
            assert device.load_model().digest == new


def test_floor_rises_with_the_first_record_and_not_before(ready: Site) -> None:
    old = ready.context.state().active("default").model
    revoking = ready.publish(DIGITS.read_bytes(), name="digits", parameters={"securityVersion": 5})
    new = ready.install(revoking)
    assert ready.tpm.floor("default") == 0
    run_once()
    assert ready.tpm.floor("default") == 5
    with pytest.raises(Rollback):
        activate(ready.context, old, "default")
    with pytest.raises(Rollback):
        install_model(ready.context, ready.publish(version="0.9.0").reference)
    active = ready.context.state().active("default")
    assert active is not None
    assert active.model == new
    assert active_model(parse_event_log(load_event_log(ready.context)), "default") == new
    assert run_once() == new


def test_refused_activation_keeps_the_running_model_provable(ready: Site) -> None:
    run_once()
    stored = ready.publish(DIGITS.read_bytes(), name="digits")
    install_model(ready.context, stored.reference)
    damage(ready, stored.manifest.digest)
    with pytest.raises(DigestMismatch):
        activate(ready.context, stored.manifest.digest, "default")
    assert [kind for kind, _ in events(ready)] == ["activate", "refused", "activate"]
    run_once()


def test_unknown_slot(ready: Site) -> None:
    active = ready.context.state().active("default")
    assert active is not None
    with pytest.raises(UsageError, match="not configured"):
        activate(ready.context, active.model, "camera")


def test_remove_never_takes_what_is_needed(ready: Site) -> None:
    old = ready.context.state().active("default").model
    new = ready.install(ready.publish(DIGITS.read_bytes(), name="digits"))
    for needed in (old, new):
        with pytest.raises(UsageError):
            remove_model(ready.context, needed)
    third = ready.publish(WDBC.read_bytes(), version="3.0.0")
    install_model(ready.context, third.reference)
    assert remove_model(ready.context, third.manifest.digest) > 0
    ready.reboot()
    assert boot_check(ready.context)[0].model == new
    assert run_once() == new


def bake(site: Site, slots: dict[str, str]) -> None:
    """Copy published models into the image's layout, as the build does."""
    shutil.copytree(site.registry, site.root / "baked")
    layout = Layout.open(site.root / "baked")
    for slot, reference in slots.items():
        manifest = layout.load_manifest(Digest(reference.rpartition(":")[2]))
        layout.save_manifest(manifest, ref=f"slot.{slot}")


def test_baked_models_run_from_the_first_boot(make_site: Callable[..., Site]) -> None:
    site = make_site(slots='["camera", "lab"]')
    digits, wdbc = site.publish(DIGITS.read_bytes(), name="digits"), site.publish()
    bake(site, {"camera": digits.reference, "lab": wdbc.reference})
    assert [verdict.model for verdict in boot_check(site.context)] == [digits.manifest.digest, wdbc.manifest.digest]
    site.install_identity()
    assert run_once("camera") == digits.manifest.digest
    assert run_once("lab") == wdbc.manifest.digest


def test_downloaded_model_beside_a_baked_one(make_site: Callable[..., Site]) -> None:
    site = make_site()
    baked = site.publish()
    bake(site, {})
    boot_check(site.context)
    site.install_identity()
    assert run_once() == baked.manifest.digest
    new = site.install(site.publish(DIGITS.read_bytes(), name="digits"))
    assert run_once() == new
    site.reboot()
    damage(site, new)
    (verdict,) = boot_check(site.context)
    assert verdict.error is None
    assert verdict.model == baked.manifest.digest  # the image's model is always there to return to


def test_fs_verity_replaces_hashing(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's part is played here: it vouches, or it enforces another content than was signed."""
    published = publish_with_verity(ready)
    kernel: dict[str, Digest] = {}
    monkeypatch.setattr(verity, "enable", lambda path: bool(kernel.setdefault(path.name, verity_of(path))))
    monkeypatch.setattr(verity, "measure", lambda path: kernel.get(path.name))
    monkeypatch.setattr(verity, "measure_open", lambda fd: kernel.get(json.dumps(fd), next(iter(kernel.values()))))
    installed = install_model(ready.context, published.reference)
    assert installed.trial["verity"] is True
    activate(ready.context, published.manifest.digest, "default")
    hashed: list[str] = []
    real = Layout.verify_blob
    monkeypatch.setattr(Layout, "verify_blob", lambda self, d: (hashed.append(d.media_type), real(self, d))[1])
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert verdict.error is None
    assert verdict.kit.vouched == 1
    assert not any("model.v1" in item for item in hashed)
    assert run_once() == published.manifest.digest
    kernel[next(iter(kernel))] = Digest("0" * 64)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert verdict.returned_from == published.manifest.digest


def test_without_fs_verity_everything_is_hashed(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish_with_verity(ready)
    monkeypatch.setattr(verity, "enable", lambda _path: False)
    monkeypatch.setattr(verity, "measure", lambda _path: None)
    assert install_model(ready.context, published.reference).trial["verity"] is False
    assert activate(ready.context, published.manifest.digest, "default").kit.vouched == 0
    assert run_once() == published.manifest.digest
    damage(ready, published.manifest.digest)
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert verdict.returned_from == published.manifest.digest


def verity_of(path: object) -> Digest:
    return verity.VerityHasher().update(path.read_bytes()).digest()  # type: ignore[attr-defined]


def publish_with_verity(site: Site) -> object:
    from edgeprov.formats.manifest import build_manifest
    from tests.support.site import Published

    plain = site.publish(DIGITS.read_bytes(), name="digits", sign=False)
    layer = plain.manifest.layers[0]
    digest = verity_of(site.layout.blob_path(layer.digest))
    manifest = build_manifest(
        config=plain.manifest.config,
        layers=[layer.with_annotations({A_VERITY: str(digest)})],
        artifact_type=plain.manifest.artifact_type,
    )
    site.layout.save_manifest(manifest, ref="models/digits:verity")
    signature = site.world.sign_model(manifest)
    site.layout.save_blob(signature.blob, signature.manifest.layers[0].media_type)
    site.layout.save_blob(b"{}", signature.manifest.config.media_type)
    site.layout.save_manifest(signature.manifest, ref=f"models/digits@{signature.manifest.digest}")
    return Published(manifest, f"oci:{site.registry}//models/digits@{manifest.digest}", signature)


def test_untrusted_after_install(ready: Site) -> None:
    """A publisher whose anchor left trust.d is not trusted at the next boot."""
    (ready.trust / "policy.toml").write_text(
        (ready.trust / "policy.toml").read_text().replace("https://acme.example/models", "https://other.example/")
    )
    ready.reboot()
    (verdict,) = boot_check(ready.context)
    assert isinstance(verdict.error, SignerUntrusted) or verdict.error is not None


def test_boot_check_twice_measures_once(ready: Site) -> None:
    boot_check(ready.context)
    boot_check(ready.context)
    assert len(events(ready)) == 1


def test_damaged_pointer_falls_back_to_the_baked_model(make_site: Callable[..., Site]) -> None:
    site = make_site()
    baked = site.publish()
    bake(site, {})
    site.install_identity()
    site.install(site.publish(DIGITS.read_bytes(), name="digits"))
    (site.root / "state" / "active" / "default.json").write_bytes(b"{")
    site.reboot()
    (verdict,) = boot_check(site.context)
    assert (verdict.model, verdict.error) == (baked.manifest.digest, None)
    assert len(site.context.state().quarantined()) == 1
    assert run_once() == baked.manifest.digest


def test_unused_models_go_and_the_outbox_stays(ready: Site, capfd: pytest.CaptureFixture[str]) -> None:
    from edgeprov.cli.device_main import main
    from edgeprov.device.seal import seal

    run_once()
    (sealed,) = seal(ready.context)
    third = ready.publish(DIGITS.read_bytes(), name="digits")
    install_model(ready.context, third.reference)
    assert main(("model", "remove", "--unused", "--json")) == 0
    removed = [json.loads(line)["model"] for line in capfd.readouterr().out.splitlines()]
    assert removed == [str(third.manifest.digest)]
    ready.verify(ready.context.state().layout, sealed.entry.digest)
    run_once()
    assert main(("model", "remove", "--unused")) == 0
    assert main(("model", "remove")) == 2
