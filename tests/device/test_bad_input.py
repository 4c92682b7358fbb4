# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every bad input: its exit code, one line of message with advice, no traceback, and nothing lost."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from typing import Any, ClassVar

import numpy as np
import pytest

from edgeprov.cli.device_main import main
from edgeprov.errors import TpmUnavailable
from edgeprov.formats.manifest import build_manifest
from tests.support.kits import encode_tar
from tests.support.site import DIGITS, WDBC, Site


class Console:
    """Runs commands in this process and keeps what a user would see."""

    seen: ClassVar[set[tuple[str, int]]] = set()

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        self.capfd.readouterr()
        code = main(argv)
        out, err = self.capfd.readouterr()
        return code, out, err

    def fails(self, expected: int, *argv: str, match: str = "") -> str:
        code, out, err = self(*argv)
        assert code == expected, (code, out, err)
        lines = err.splitlines()
        assert len(lines) == 2, err  # the message and the advice, nothing else
        assert lines[0].startswith("edgeprov: ")
        assert lines[1].startswith("  ")
        assert lines[1].strip()
        assert "Traceback" not in err
        assert match in err, err
        if (argv[0], expected) in self.seen:
            return err  # the JSON form of this verb's error was looked at
        self.seen.add((argv[0], expected))
        code, out, _ = self(*argv, "--json")
        assert code == expected
        last = json.loads(out.splitlines()[-1])
        assert (last["type"], last["code"]) == ("error", expected)
        assert last["advice"]
        return err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Console:
    return Console(capfd)


def unchanged(site: Site) -> None:
    """The first model is active, verified and runs; no other model is stored."""
    from edgeprov.device.model_store import list_models

    state = site.context.state()
    active = state.active("default")
    assert active is not None
    assert [model.manifest.digest for model in list_models(site.context, state)] == [active.model]
    assert main(("boot-check",)) == 0


def special_tar(kind: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("model/wdbc.tflite")
        data = WDBC.read_bytes()
        if kind == "dotdot":
            info.name = "model/../../etc/passwd"
        elif kind == "absolute":
            info.name = "/etc/passwd"
        elif kind in ("symlink", "hardlink", "device"):
            types = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
            info.type, info.linkname, data = types[kind], "/etc/shadow", b""
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
        if kind == "twice":
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["dotdot", "absolute", "symlink", "hardlink", "device", "twice"])
def test_hostile_archive(ready: Site, run: Console, kind: str) -> None:
    published = ready.publish(name="evil", layer=special_tar(kind))
    run.fails(4, "model", "install", published.reference)
    unchanged(ready)


def gzip_kit(site: Site, packed: bytes) -> str:
    """A signed kit whose model layer is gzip."""
    published = site.publish(name="zipped", layer=packed, sign=False)
    layer = published.manifest.layers[0]
    layer = type(layer)(media_type=layer.media_type + "+gzip", digest=layer.digest, size=layer.size)
    manifest = build_manifest(
        config=published.manifest.config, layers=[layer], artifact_type=published.manifest.artifact_type
    )
    return sign(site, manifest, "models/zipped")


def sign(site: Site, manifest: Any, repo: str) -> str:
    site.layout.save_manifest(manifest, ref=f"{repo}:x")
    signature = site.world.sign_model(manifest)
    site.layout.save_blob(signature.blob, signature.manifest.layers[0].media_type)
    site.layout.save_blob(b"{}", signature.manifest.config.media_type)
    site.layout.save_manifest(signature.manifest, ref=f"{repo}@{signature.manifest.digest}")
    return f"oci:{site.registry}//{repo}@{manifest.digest}"


def test_gzip_layer_is_taken(ready: Site, run: Console) -> None:
    packed = gzip.compress(encode_tar({"model/zipped.tflite": WDBC.read_bytes()}), mtime=0)
    code, _, err = run("model", "install", gzip_kit(ready, packed))
    assert code == 0, err


def test_gzip_bomb(ready: Site, run: Console) -> None:
    packed = gzip.compress(encode_tar({"model/zipped.tflite": bytes(64 << 20)}), mtime=0)
    run.fails(4, "model", "install", gzip_kit(ready, packed))
    unchanged(ready)


def test_truncated_gzip(ready: Site, run: Console) -> None:
    packed = gzip.compress(encode_tar({"model/zipped.tflite": WDBC.read_bytes()}), mtime=0)[:-100]
    run.fails(4, "model", "install", gzip_kit(ready, packed))
    unchanged(ready)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("nonsense", 2),
        ("https://example.org/x@sha256:" + "0" * 64, 2),
        ("oci:{registry}//models/wdbc:1.0.0", 2),
        ("oci:{registry}//models/wdbc", 2),
        ("oci:{registry}//models/wdbc@sha256:abc", 2),
        ("oci:{registry}//models/wdbc@sha512:" + "0" * 128, 2),
        ("oci:{registry}//models/wdbc@sha256:" + "0" * 64, 42),
        ("oci:/nonexistent//models/wdbc@sha256:" + "0" * 64, 35),
    ],
)
def test_bad_reference(ready: Site, run: Console, reference: str, code: int) -> None:
    run.fails(code, "model", "install", reference.format(registry=ready.registry))
    unchanged(ready)


def test_tag_gets_advice(ready: Site, run: Console) -> None:
    err = run.fails(2, "model", "install", f"oci:{ready.registry}//models/wdbc:1.0.0")
    assert "@sha256:" in err


@pytest.mark.parametrize("change", ["truncated", "oversized", "bit"])
def test_damaged_blob(ready: Site, run: Console, change: str) -> None:
    published = ready.publish(DIGITS.read_bytes(), name="digits")
    path = ready.layout.blob_path(published.manifest.layers[0].digest)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(
        {"truncated": data[:-1], "oversized": data + b"x", "bit": data[:600] + bytes([data[600] ^ 1]) + data[601:]}[
            change
        ]
    )
    run.fails(11, "model", "install", published.reference)
    unchanged(ready)


def test_manifest_over_the_limit(ready: Site, run: Console) -> None:
    raw = b'{"schemaVersion":2,"padding":"' + b"x" * (4 << 20) + b'"}'
    descriptor = ready.layout.save_blob(raw, "application/vnd.oci.image.manifest.v1+json")
    index = json.loads((ready.registry / "index.json").read_bytes())
    index["manifests"].append(
        {
            "mediaType": descriptor.media_type,
            "digest": str(descriptor.digest),
            "size": descriptor.size,
            "annotations": {"org.opencontainers.image.ref.name": "models/big:1"},
        }
    )
    (ready.registry / "index.json").write_text(json.dumps(index))
    run.fails(4, "model", "install", f"oci:{ready.registry}//models/big@{descriptor.digest}")
    unchanged(ready)


def raw_kit(site: Site, config: bytes, layer_type: str = "application/vnd.kitops.modelkit.model.v1.tar") -> str:
    layer = site.layout.save_blob(encode_tar({"model/m.tflite": WDBC.read_bytes()}), layer_type)
    descriptor = site.layout.save_blob(config, "application/vnd.kitops.modelkit.config.v1+json")
    return sign(site, build_manifest(config=descriptor, layers=[layer]), "models/raw")


@pytest.mark.parametrize(
    "config",
    [
        b"not json",
        b'{"manifestVersion":"1.0.0","model":{"path":"a"},"model":{"path":"b"}}',
        b'{"manifestVersion":"1.0.0","model":[]}',
        b'{"manifestVersion":"1.0.0","package":{"name":"x"},"model":{"name":"m","path":"../../etc"}}',
        b"[" * 1000,
    ],
)
def test_malformed_kitfile(ready: Site, run: Console, config: bytes) -> None:
    run.fails(4, "model", "install", raw_kit(ready, config))
    unchanged(ready)


def test_unknown_media_type(ready: Site, run: Console) -> None:
    config = b'{"manifestVersion":"1.0.0","package":{"name":"x"},"model":{"name":"m","path":"model/m.tflite"}}'
    run.fails(4, "model", "install", raw_kit(ready, config, "application/vnd.kitops.modelkit.model.v1.tar+zstd"))
    unchanged(ready)


def test_model_without_signature(ready: Site, run: Console) -> None:
    run.fails(12, "model", "install", ready.publish(DIGITS.read_bytes(), name="digits", sign=False).reference)
    unchanged(ready)


def test_model_of_another_publisher(ready: Site, run: Console) -> None:
    from tests.support import pki

    stranger = pki.publisher_certificate(pki.root("Mallory"))
    run.fails(13, "model", "install", ready.publish(DIGITS.read_bytes(), name="digits", signer=stranger).reference)
    unchanged(ready)


def test_no_layer_is_fetched_before_the_signature(ready: Site, run: Console) -> None:
    published = ready.publish(DIGITS.read_bytes(), name="digits", sign=False)
    ready.layout.blob_path(published.manifest.layers[0].digest).unlink()
    run.fails(12, "model", "install", published.reference)  # and not "blob is missing"


def test_empty_trust_folder_denies(ready: Site, run: Console) -> None:
    for path in ready.trust.iterdir():
        path.unlink()
    code, _, err = run("model", "install", ready.publish(DIGITS.read_bytes(), name="digits").reference)
    assert 10 <= code <= 19, err


def test_rollback_below_the_floor(ready: Site, run: Console) -> None:
    ready.tpm.floors = {"default": 3}
    old = ready.publish(DIGITS.read_bytes(), name="digits", parameters={"securityVersion": 2})
    run.fails(16, "model", "install", old.reference)


@pytest.mark.parametrize(
    "garbage",
    [b"TFL3" * 10, b"\x1c\0\0\0TFL3" + os.urandom(392), b"\x1c\0\0\0TFL3", b"nothing of a model", b""],
    ids=["repeated", "random", "short", "other", "empty"],
)
def test_garbage_never_reaches_the_interpreter(ready: Site, run: Console, garbage: bytes) -> None:
    err = run.fails(4, "model", "install", ready.publish(garbage, name="garbage").reference)
    assert "died" not in err
    unchanged(ready)


def test_every_cut_of_a_real_model_is_refused(ready: Site) -> None:
    from edgeprov.device.flatbuffer import verify_flatbuffer
    from edgeprov.errors import FormatError

    data = WDBC.read_bytes()
    for size in range(0, len(data) - 64, 61):
        with pytest.raises(FormatError):
            verify_flatbuffer(data[:size])


def test_model_with_changed_bytes_is_refused_or_tried_in_a_child(ready: Site, run: Console) -> None:
    """What passes the structural check and kills the interpreter kills a child only; the old model stays."""
    import random

    chance = random.Random(5)
    data = WDBC.read_bytes()
    codes = set()
    for number in range(12):
        changed = bytearray(data)
        for _ in range(3):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        name = f"changed{number}"
        code, _, err = run("model", "install", ready.publish(bytes(changed), name=name).reference, "--no-activate")
        assert code in (0, 4, 50, 51), err
        assert "internal error" not in err
        codes.add(code)
    assert 4 in codes
    assert main(("boot-check",)) == 0


def test_wrong_known_answer(ready: Site, run: Console) -> None:
    import base64

    selftest = {
        "input": [base64.b64encode(bytes(30)).decode()],
        "output": [base64.b64encode(b"\x55").decode()],
        "tolerance": 1,
    }
    run.fails(54, "model", "install", ready.publish(name="second", parameters={"selftest": selftest}).reference)
    unchanged(ready)


def test_crash_of_the_trial_run(ready: Site, run: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ready.root / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    run.fails(51, "model", "install", ready.publish(DIGITS.read_bytes(), name="digits").reference, match="signal 11")
    unchanged(ready)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.zeros((4, 29), np.int8), []),
        (np.zeros((4, 30), np.uint8), []),
        (np.zeros((4, 30), np.float32), []),
        (np.full((4, 30), np.nan, np.float32), ["--quantize"]),
        (np.full((4, 30), np.inf, np.float32), ["--quantize"]),
        (np.zeros((4, 30), np.complex64), ["--quantize"]),
        (np.zeros((), np.int8), []),
        (np.zeros((2, 2, 30), np.int8), []),
    ],
)
def test_wrong_tensor(ready: Site, run: Console, array: np.ndarray, options: list[str]) -> None:
    path = ready.root / "x.npy"
    np.save(path, array)
    run.fails(52, "infer", "--input", str(path), *options)
    assert ready.context.state().spool("default").recover().next == 1  # nothing was recorded


@pytest.mark.parametrize("text", ["[1, 2]", "[[1, 2], [3]]", '["a"]', "{}", "[1e999]", "[999, " + "0, " * 28 + "0]"])
def test_wrong_json_input(ready: Site, run: Console, text: str) -> None:
    path = ready.root / "x.jsonl"
    path.write_text(text + "\n")
    code, _, err = run("infer", "--input", str(path))
    assert code in (4, 52), err
    assert len(err.splitlines()) == 2


def test_pickle_is_never_loaded(ready: Site, run: Console) -> None:
    path = ready.root / "x.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    run.fails(2, "infer", "--input", str(path))


def test_label_of_an_unknown_record(ready: Site, run: Console) -> None:
    run.fails(2, "label", "17", "1")
    run.fails(2, "label", "x", "1")
    run.fails(2, "label")


def test_second_process(ready: Site, run: Console) -> None:
    import edgeprov

    np.save(ready.root / "x.npy", np.zeros((1, 30), np.int8))
    with edgeprov.open_device() as device:
        first = device.load_model().run(np.zeros((1, 30), np.int8)).record.n
        assert main(("infer", "--input", str(ready.root / "x.npy"), "--quiet")) == 0  # a session of its own
        assert device.load_model().run(np.zeros((1, 30), np.int8)).record.n == first + 1
    with ready.context.state().lock("seal"):
        run.fails(32, "seal")
    with ready.context.state().lock("upload"):
        run.fails(32, "upload")
    with ready.context.state().lock("install"):
        run.fails(32, "model", "install", ready.publish(DIGITS.read_bytes(), name="digits").reference)


def test_tpm_gone(ready: Site, run: Console) -> None:
    import edgeprov

    np.save(ready.root / "x.npy", np.zeros((3, 30), np.int8))
    assert main(("infer", "--input", str(ready.root / "x.npy"), "--quiet")) == 0
    ready.tpm.fails = TpmUnavailable("the TPM does not answer")
    for verb in (("boot-check",), ("seal",)):
        run.fails(21, *verb)
    # A session of the same kind goes on in the segment that has its evidence; another kind needs some.
    assert main(("infer", "--input", str(ready.root / "x.npy"), "--quiet")) == 0
    ready.context.state().spool("default").end_open()
    run.fails(21, "infer", "--input", str(ready.root / "x.npy"))
    ready.tpm.fails = None
    # In the middle of an application: what is loaded goes on, what needs evidence waits.
    with edgeprov.open_device() as device:
        model = device.load_model()
        ready.tpm.fails = TpmUnavailable("the TPM does not answer")
        assert model.run(np.zeros((1, 30), np.int8)).record.n == 7
        ready.tpm.fails = None
    code, out, _ = run("seal", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[0])["records"] == 7


def test_state_of_a_newer_version(ready: Site, run: Console) -> None:
    version = ready.root / "state" / "VERSION"
    version.write_text("99\n")
    before = sorted(path.relative_to(ready.root) for path in (ready.root / "state").rglob("*"))
    for verb in (("seal",), ("upload",), ("boot-check",), ("status",), ("label", "1", "1")):
        run.fails(33, *verb)
    assert sorted(path.relative_to(ready.root) for path in (ready.root / "state").rglob("*")) == before


def test_unknown_key(ready: Site, run: Console) -> None:
    ready.config_file.write_text(ready.config_file.read_text() + "\n[record]\nsynk = 'every'\n")
    err = run.fails(3, "status")
    assert "record.synk" in err
    assert str(ready.config_file) in err


def test_clock_at_1970(ready: Site, run: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    np.save(ready.root / "x.npy", np.zeros((2, 30), np.int8))
    offset = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: max(0, 1_000_000_000))
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert offset
    ready.reboot()
    assert main(("boot-check",)) == 0
    assert main(("infer", "--input", str(ready.root / "x.npy"), "--quiet")) == 0
    code, out, _ = run("seal", "--json")
    assert code == 0
    digest = json.loads(out.splitlines()[0])["digest"]
    from edgeprov.formats.digest import parse_digest

    ready.verify(ready.context.state().layout, parse_digest(digest))
    _, out, _ = run("status")
    assert "never set" in out


def test_read_only_state(ready: Site, run: Console) -> None:
    """In a process that file modes bind, as they do an unprivileged user's."""
    state = ready.root / "state"
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    for path in (state, *state.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        for verb in (("seal",), ("label", "1", "1"), ("upload",)):
            child = subprocess.run(
                [*bound, sys.executable, "-m", "edgeprov.cli.device_main", *verb], capture_output=True, text=True
            )
            assert child.returncode == 34, child
            assert len(child.stderr.splitlines()) == 2, child.stderr
    finally:
        for path in (state, *state.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


def test_unwritable_disk_keeps_the_model(ready: Site, run: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeprov.device.install as module

    monkeypatch.setattr(module, "free_bytes", lambda _path: 100)
    err = run.fails(30, "model", "install", ready.publish(DIGITS.read_bytes(), name="digits").reference)
    assert "nothing was fetched" in err
    monkeypatch.undo()


def test_spool_quota_stops_the_application(make_site: Any, run: Console) -> None:
    site = make_site(settings="[record]\nquota_bytes = 65536\n")
    site.install_identity()
    site.install()
    np.save(site.root / "x.npy", np.zeros((5000, 30), np.int8))
    code, _, err = run("infer", "--input", str(site.root / "x.npy"), "--quiet")
    assert code == 30, err
    assert "edgeprov upload" in err
    code, out, _ = run("seal", "--json")
    kept = json.loads(out.splitlines()[0])["records"]
    assert kept > 100  # what was acknowledged before is there


def test_unknown_verb_and_options(ready: Site, run: Console) -> None:
    run.fails(2, "sing")
    run.fails(2, "infer")
    run.fails(2, "seal", "--loud")
    run.fails(2, "model", "destroy")


def test_bug_is_one_line(ready: Site, run: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeprov.device.seal as module

    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(module, "seal", broken)
    run.fails(1, "seal", match="ZeroDivisionError")
