# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Publishing: kit's own layer digests, signatures that devices accept, and every unusable folder refused."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest

from edgeprov.errors import FormatError
from edgeprov.fleet.publishing.kitfile_yaml import parse_kitfile_yaml
from edgeprov.fleet.publishing.publish import pack
from edgeprov.fleet.registries.sources import ArtifactReader, parse_source
from edgeprov.fleet.trust.folder import load_trust
from edgeprov.formats.digest import parse_digest
from edgeprov.formats.mediatypes import A_VERITY
from edgeprov.store.layout_registry import LayoutRegistry
from edgeprov.store.verity import VerityHasher
from edgeprov.verify.signature import verify_model_signature
from tests.support.fleet import fleet
from tests.support.kits import golden_kit

KIT = Path(__file__).parents[2] / "hil" / "model" / "kit"
SOURCE = Path(__file__).parents[1] / "data" / "kits" / "source"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    assert fleet("ca", "init", tmp_path / "ca", "--name", "Acme Medical").code == 0
    return tmp_path / "ca"


def write_kit(folder: Path, kitfile: str = "", **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Kitfile").write_text(
        kitfile or "manifestVersion: 1.0.0\npackage: {name: demo, version: 1.2.3}\nmodel: {name: m, path: m.bin}\n"
    )
    for name, data in (files or {"m.bin": b"weights"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o644)
    return folder


@pytest.mark.parametrize("packed", ["kit-1.7-tar", "kit-1.11-tar"])
def test_layers_are_those_of_kit_pack(packed: str, tmp_path: Path):
    """tests/data/kits holds what the real kit made of the same folder."""
    shutil.copytree(SOURCE, tmp_path / "kit")
    for path in (tmp_path / "kit").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # modes are in the archive; a checkout may have others
    manifest, _, _ = golden_kit(packed)
    assert [layer.descriptor.digest for layer in pack(tmp_path / "kit").layers] == [
        layer.digest for layer in manifest.layers
    ]


def test_published_model_is_what_a_device_accepts(ca: Path, tmp_path: Path):
    to = f"oci:{tmp_path}/registry"
    run = fleet("publish", KIT, "--to", to, "--ca", ca, "--json")
    assert run.code == 0, run.err
    item = run.last("published")
    assert item["reference"] == f"{to}//models/breast-cancer-diagnosis:1.0.0@{item['digest']}"
    reader = ArtifactReader(parse_source(to))
    digest = parse_digest(item["digest"])
    manifest = reader.manifest(item["repo"], digest)
    policy = load_trust(ca / "device-trust.d").policy
    identity = verify_model_signature(
        manifest, reader.signatures(item["repo"], digest), policy, dt.datetime.now(dt.UTC)
    )
    assert identity.san == "urn:edgeprov:publisher:acme-medical"
    for layer in manifest.layers:
        data = reader.blob(item["repo"], layer, max_bytes=10**6)
        assert layer.annotations[A_VERITY] == str(VerityHasher().update(data).digest())


def test_same_folder_same_digest_and_nothing_is_sent_twice(ca: Path, tmp_path: Path):
    first, second = (
        fleet("publish", KIT, "--to", f"oci:{tmp_path}/r", "--ca", ca, "--json").last("published") for _ in range(2)
    )
    assert first["digest"] == second["digest"]
    assert first["bytes_sent"] > 0
    assert second["bytes_sent"] == 0


def test_bare_key_gives_a_key_signature(ca: Path, tmp_path: Path):
    key = ca / "publisher" / "publisher.key"
    run = fleet("publish", KIT, "--to", f"oci:{tmp_path}/r", "--key", key, "--json")
    assert run.code == 0
    item = run.last("published")
    reader = ArtifactReader(parse_source(f"oci:{tmp_path}/r"))
    signature = reader.signatures(item["repo"], parse_digest(item["digest"]))[0]
    assert b'"publicKey"' in signature.blob
    assert b'"certificate"' not in signature.blob


def test_a_folder_as_a_layer_keeps_kits_order_and_leaves_the_kitfile_out(tmp_path: Path):
    files = {"code/b.py": b"b", "code/a/z.py": b"z", "code/a.py": b"a"}
    kitfile = "manifestVersion: 1.0.0\npackage: {name: demo}\nmodel: {name: m, path: m.bin}\ncode: [{path: code}]\n"
    kit = pack(write_kit(tmp_path / "kit", kitfile, **{"m.bin": b"w"}, **files))
    assert [name for name, *_ in kit.layers[1].files] == ["code", "code/a", "code/a/z.py", "code/a.py", "code/b.py"]


@pytest.mark.parametrize(
    ("kitfile", "says"),
    [
        ("[1, 2]", "not a map"),
        ("a: [", "not valid YAML"),
        ("manifestVersion: 1.0.0\nmodel: {path: m.bin, nonsense: 1}", "unknown key 'model.nonsense'"),
        ("manifestVersion: 1.0.0\nmodel: {path: m.bin}\nmodel: {path: n.bin}", "twice"),
        ("manifestVersion: 1.0.0\nmodel: &a {path: m.bin}\ncode: [*a]", "aliases"),
        ("manifestVersion: 1.0.0\nmodel: {path: ../m.bin}", "path"),
        ("manifestVersion: 1.0.0\nmodel: {path: /etc/passwd}", "path"),
        ("manifestVersion: 1.0.0\nmodel: {path: m.bin, parameters: {securityVersion: -1}}", "securityVersion"),
        ("manifestVersion: 1.0.0\ndocs: [{path: m.bin}]", "no model"),
        ("manifestVersion: 1.0.0\nmodel: {path: !!python/object/apply:os.system [id]}", "not valid YAML"),
        ("model: {path: m.bin, parameters: {x: .nan}}\nmanifestVersion: 1.0.0", "Kitfile"),
    ],
)
def test_unusable_kitfiles_are_refused(tmp_path: Path, ca: Path, kitfile: str, says: str):
    run = fleet(
        "publish", write_kit(tmp_path / "kit", kitfile, **{"m.bin": b"w"}), "--to", f"oci:{tmp_path}/r", "--ca", ca
    )
    assert run.code == 4
    assert says in run.err
    assert len(run.err.strip().splitlines()) == 2  # message and advice
    assert not (tmp_path / "r" / "index.json").exists()


def test_dates_stay_text_as_in_go():
    kitfile = parse_kitfile_yaml(b"manifestVersion: 1.0.0\npackage: {version: 2026-01-02}\nmodel: {path: m}\n")
    assert kitfile["package"]["version"] == "2026-01-02"


def test_links_and_devices_are_refused(tmp_path: Path, ca: Path):
    folder = write_kit(tmp_path / "kit")
    (folder / "m.bin").unlink()
    os.symlink("/etc/passwd", folder / "m.bin")
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", "--ca", ca).code == 4
    (folder / "m.bin").unlink()
    os.mkfifo(folder / "m.bin")
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", "--ca", ca).code == 4


def test_missing_files_names_and_signers_are_told(tmp_path: Path, ca: Path):
    folder = write_kit(tmp_path / "kit")
    (folder / "m.bin").unlink()
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", "--ca", ca).code == 35
    assert fleet("publish", tmp_path, "--to", f"oci:{tmp_path}/r", "--ca", ca).code == 35
    folder = write_kit(tmp_path / "kit")
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r").code == 2
    assert fleet("publish", folder, "--to", "not a registry", "--ca", ca).code == 2
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", "--ca", ca, "--name", "Not/A/Name").code == 2
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", "--ca", ca, "--tag", "bad tag").code == 2
    other = fleet("ca", "init", tmp_path / "other")
    assert other.code == 0
    wrong = ("--key", ca / "publisher/publisher.key", "--certificate", tmp_path / "other/publisher/publisher.pem")
    assert fleet("publish", folder, "--to", f"oci:{tmp_path}/r", *wrong).code == 3


def test_a_file_that_changes_while_packing_is_refused(tmp_path: Path):
    kit = pack(write_kit(tmp_path / "kit"))
    (tmp_path / "kit" / "m.bin").write_bytes(b"weights, but more")
    with pytest.raises(Exception, match="changed while it was packed"):
        b"".join(kit.layers[0].chunks())


def test_a_ca_is_never_overwritten(ca: Path):
    before = (ca / "device" / "issuing.key").read_bytes()
    assert fleet("ca", "init", ca).code == 2
    assert (ca / "device" / "issuing.key").read_bytes() == before
    assert (ca / "device" / "issuing.key").stat().st_mode & 0o077 == 0


def test_the_two_roots_do_not_vouch_for_each_other(ca: Path, tmp_path: Path):
    """A device's signature is never a publisher's: an enroller's key signs a model and is refused."""
    enroller = ("--key", ca / "device/enroller.key", "--certificate", ca / "device/enroller.pem")
    item = fleet("publish", KIT, "--to", f"oci:{tmp_path}/r", *enroller, "--json").last("published")
    reader, digest = ArtifactReader(parse_source(f"oci:{tmp_path}/r")), parse_digest(item["digest"])
    policy = load_trust(ca / "device-trust.d").policy
    with pytest.raises(Exception, match="leads to no publisher trust anchor"):
        verify_model_signature(
            reader.manifest(item["repo"], digest),
            reader.signatures(item["repo"], digest),
            policy,
            dt.datetime.now(dt.UTC),
        )
    # Nor does a collector of the publishers' own CA sign models: its name is that of another role.
    collector = ("--key", ca / "collector/collector.key", "--certificate", ca / "collector/collector.pem")
    item = fleet("publish", KIT, "--to", f"oci:{tmp_path}/r2", *collector, "--json").last("published")
    reader = ArtifactReader(parse_source(f"oci:{tmp_path}/r2"))
    with pytest.raises(Exception, match="is a collector, not a publisher"):
        verify_model_signature(
            reader.manifest(item["repo"], digest),
            reader.signatures(item["repo"], digest),
            policy,
            dt.datetime.now(dt.UTC),
        )


def test_kitfile_parser_keeps_its_bounds():
    with pytest.raises(FormatError):
        parse_kitfile_yaml(b"a: " + b"[" * 5000)
    with pytest.raises(FormatError):
        parse_kitfile_yaml(b"\xff\xfe")


def test_publish_leaves_a_layout_that_others_read(ca: Path, tmp_path: Path):
    fleet("publish", KIT, "--to", f"oci:{tmp_path}/r", "--ca", ca)
    registry = LayoutRegistry(tmp_path / "r")
    assert registry.list_tags("models/breast-cancer-diagnosis") == ("1.0.0", "1.0.0.s1")
