# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The PROVENANCE_* variables: edgeprov reads what they become, and each mistake is one line with its name."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from oeprov import settings

from edgeprov import config

LAYER = Path(__file__).parents[2] / "meta-provenance"
DIGEST = "sha256:" + "ab" * 32


def load(tmp_path: Path, **values: str) -> config.Config:
    assert settings.variable_problems(values) == []
    path = tmp_path / "edgeprov.toml"
    path.write_text(settings.config_toml(values, "/usr/lib/edgeprov/trust.d", values.get("CA", "")))
    return config.load_config({config.ENVIRONMENT: str(path)})


def test_the_defaults_give_a_configuration_that_edgeprov_takes(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.trust.dir == Path("/usr/lib/edgeprov/trust.d")
    assert loaded.tpm.tcti == "device:/dev/tpmrm0"
    assert loaded.tpm.allow_simulator is False, "a product must not fall back to a TPM that anybody can copy"
    plain = config.Config()
    for section in ("record", "seal", "upload", "registry"):
        assert getattr(loaded, section) == getattr(plain, section), "the layer changes no default silently"


def test_every_value_arrives_under_its_key(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        PROVENANCE_SLOTS="camera audio",
        PROVENANCE_REGISTRY="registry.example.org:5000/factory",
        PROVENANCE_REGISTRY_ALLOW_HOSTS="store.example.org",
        PROVENANCE_REGISTRY_TOKEN_HOSTS="auth.example.org auth.example.org:8443",
        PROVENANCE_REGISTRY_CREDENTIALS="/data/credentials.json",
        PROVENANCE_REGISTRY_PLAIN_HTTP="1",
        PROVENANCE_RECORD_SYNC="every",
        PROVENANCE_RECORD_QUOTA_MB="64",
        PROVENANCE_SEAL_SIGNATURES="cosign",
        PROVENANCE_TPM_PCR="12",
        PROVENANCE_TIME_FLOOR="2026-11-24T00:00:00Z",
        PROVENANCE_RUNTIME="tflite-runtime",
        PROVENANCE_RUNTIME_THREADS="2",
    )
    assert loaded.device.slots == ("camera", "audio")
    assert loaded.registry.name == "registry.example.org:5000/factory"
    assert loaded.registry.credentials_file == Path("/data/credentials.json")
    assert loaded.registry.allow_hosts == ("store.example.org",)
    assert loaded.registry.token_hosts == ("auth.example.org", "auth.example.org:8443")
    assert loaded.registry.plain_http is True
    assert loaded.record.sync == "every"
    assert loaded.record.quota_bytes == 64 * 1024 * 1024
    assert loaded.seal.signatures == ("cosign",)
    assert loaded.tpm.pcr == 12
    assert loaded.trust.time_floor.isoformat() == "2026-11-24T00:00:00+00:00"
    assert (loaded.runtime.name, loaded.runtime.threads) == ("tflite-runtime", 2)


def test_every_setting_names_a_key_that_edgeprov_knows() -> None:
    known = {
        f"{section.name}.{item.name}"
        for section in fields(config.Config)
        if section.name != "origins"
        for item in fields(getattr(config.Config(), section.name))
    }
    named = {setting.key for setting in settings.SETTINGS.values() if setting.key}
    assert named <= known


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROVENANCE_RECORD_SYNC", "always"),
        ("PROVENANCE_RECORD_FULL", "drop"),
        ("PROVENANCE_RECORD_INTERVAL_MS", "0"),
        ("PROVENANCE_RECORD_QUOTA_MB", "1e3"),
        ("PROVENANCE_RECORD_CAPTURE", "all"),
        ("PROVENANCE_REGISTRY", "https://registry.example.org"),
        ("PROVENANCE_REGISTRY", 'host"\nname = "x'),
        ("PROVENANCE_REGISTRY_ALLOW_HOSTS", "https://store.example.org"),
        ("PROVENANCE_REGISTRY_TOKEN_HOSTS", "auth.example.org/token"),
        ("PROVENANCE_REGISTRY_CREDENTIALS", "credentials.json"),
        ("PROVENANCE_REGISTRY_PLAIN_HTTP", "yes"),
        ("PROVENANCE_RUNTIME", "tensorflow"),
        ("PROVENANCE_RUNTIME_THREADS", "0"),
        ("PROVENANCE_SEAL_SIGNATURES", ""),
        ("PROVENANCE_SEAL_SIGNATURES", "gpg"),
        ("PROVENANCE_SLOTS", "Camera"),
        ("PROVENANCE_SLOTS", ""),
        ("PROVENANCE_TPM_PCR", "7"),
        ("PROVENANCE_TPM_TCTI", "device:/dev/tpm0; rm"),
        ("PROVENANCE_TPM_ALLOW_SIMULATOR", "maybe"),
        ("PROVENANCE_TIME_FLOOR", "yesterday"),
        ("PROVENANCE_DATA_DIR", "data"),
        ("PROVENANCE_DATA_DIR", "/data!"),
        ("PROVENANCE_SERIAL_SOURCE", "mac"),
        ("PROVENANCE_ALLOW_EXAMPLE", "true"),
    ],
)
def test_a_wrong_value_is_one_line_that_starts_with_the_variable(name: str, value: str) -> None:
    problems = settings.variable_problems({name: value})
    assert len(problems) == 1
    assert problems[0].startswith(f'{name} = "')
    assert "\n" not in problems[0].replace(value, "")


def test_a_misspelt_variable_is_not_ignored() -> None:
    problems = settings.variable_problems({"PROVENANCE_REGISTY": "host"})
    assert problems == ["PROVENANCE_REGISTY: meta-provenance has no such variable; did you mean PROVENANCE_REGISTRY?"]


def test_the_class_sets_the_defaults_that_the_table_has_and_the_readme_lists_all() -> None:
    text = "".join(
        (LAYER / "classes-recipe" / f"provenance_{name}.bbclass").read_text() for name in ("settings", "model", "image")
    )
    text += (LAYER / "recipes-provenance/models/provenance-models_1.0.bb").read_text()
    text += (LAYER / "recipes-provenance/edgeprov/python3-edgeprov_0.1.0.bb").read_text()
    text += (LAYER / "conf/layer.conf").read_text()
    defaults = dict(re.findall(r'^(PROVENANCE_[A-Z_]+) \?= "(.*)"$', text, re.MULTILINE))
    for name, setting in settings.SETTINGS.items():
        assert defaults[name] == setting.default, name
    assigned = set(re.findall(r"^(PROVENANCE_[A-Z_]+)(?:\[[a-z]+\])? \S?=", text, re.MULTILINE))
    assert assigned == set(settings.SETTINGS) | set(settings.OTHERS)
    readme = (LAYER / "README.md").read_text()
    internal = {
        "PROVENANCE_LAYERDIR",
        "PROVENANCE_BAKE_PYTHON",
        "PROVENANCE_WIC_EFI_PLUGIN",
        "PROVENANCE_WIC_PARTITION_PLUGIN",
    }
    for name in (set(settings.SETTINGS) | set(settings.OTHERS)) - internal:
        assert f"`{name}`" in readme, name


def test_models_are_pinned_by_digest_and_each_slot_has_one() -> None:
    assert settings.model_problems("default", {}, DIGEST, "kit") == []
    two = {"camera": (DIGEST, "kit"), "audio": (DIGEST, "other")}
    assert settings.model_problems("camera audio", two, None, None) == []
    for slots, flags, digest, layout, name in [
        ("default", {}, "", "kit", "PROVENANCE_MODEL_DIGEST is not set"),
        ("default", {}, "latest", "kit", 'PROVENANCE_MODEL_DIGEST = "latest"'),
        ("default", {}, DIGEST.upper(), "kit", "PROVENANCE_MODEL_DIGEST = "),
        ("default", {}, DIGEST, "", "PROVENANCE_MODEL_LAYOUT is not set"),
        ("default", {}, DIGEST, "/not/there", 'PROVENANCE_MODEL_LAYOUT = "/not/there"'),
        ("camera audio", {"camera": (DIGEST, "kit")}, None, None, "PROVENANCE_MODEL_DIGEST[audio] is not set"),
        ("default", {"camera": (DIGEST, "kit")}, DIGEST, "kit", 'PROVENANCE_SLOTS = "default"'),
    ]:
        assert settings.model_problems(slots, flags, digest, layout)[0].startswith(name)


def make_trust(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("-----BEGIN PUBLIC KEY-----\n")
    return folder


def test_a_trust_folder_without_anchor_or_policy_or_with_a_private_key_is_refused(tmp_path: Path) -> None:
    assert settings.trust_problem(str(make_trust(tmp_path / "good", "publisher.pem", "policy.toml"))) is None
    assert "no such folder" in settings.trust_problem(str(tmp_path / "none"))
    assert "no publisher" in settings.trust_problem(str(make_trust(tmp_path / "a", "policy.toml")))
    assert "no policy.toml" in settings.trust_problem(str(make_trust(tmp_path / "b", "publisher.pem")))
    folder = make_trust(tmp_path / "c", "publisher.pem", "policy.toml")
    (folder / "publisher.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    assert "publisher.key holds a private key" in settings.trust_problem(str(folder))
    for name in ("none", "a", "b", "c"):
        assert settings.trust_problem(str(tmp_path / name)).startswith("PROVENANCE_TRUST_DIR")


def test_a_folder_is_found_where_bitbake_unpacks_it(tmp_path: Path) -> None:
    (tmp_path / "srv/pki/trust.d").mkdir(parents=True)
    (tmp_path / "example").mkdir()
    assert settings.unpacked(str(tmp_path), "/srv/pki/trust.d") == str(tmp_path / "srv/pki/trust.d")
    assert settings.unpacked(str(tmp_path), "example") == str(tmp_path / "example")
    assert settings.unpacked(str(tmp_path), "/srv/ca.pem") == str(tmp_path / "ca.pem")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    for name in (
        "usr/bin/edgeprov",
        "usr/share/edgeprov/models/index.json",
        "usr/lib/edgeprov/trust.d/publisher.pem",
        "usr/lib/systemd/system/var-lib-edgeprov.mount",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data").mkdir()
    return tmp_path


def test_a_complete_image_passes(rootfs: Path) -> None:
    assert settings.rootfs_problems(str(rootfs), {}, ["read-only-rootfs"]) == []


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("usr/bin/edgeprov", "IMAGE_INSTALL: lacks packagegroup-provenance"),
        ("usr/share/edgeprov/models/index.json", "IMAGE_INSTALL: lacks a recipe that inherits provenance_model"),
        ("usr/lib/systemd/system/var-lib-edgeprov.mount", "PROVENANCE_DATA_DIR: nothing mounts"),
    ],
)
def test_an_image_that_could_not_work_is_refused(rootfs: Path, missing: str, named: str) -> None:
    (rootfs / missing).unlink()
    (line,) = settings.rootfs_problems(str(rootfs), {}, [])
    assert line.startswith(named)


def test_an_image_with_the_example_anchors_is_a_demonstration_only(rootfs: Path) -> None:
    (rootfs / "usr/lib/edgeprov/trust.d/EXAMPLE").touch()
    (line,) = settings.rootfs_problems(str(rootfs), {}, [])
    assert line.startswith("PROVENANCE_TRUST_DIR: is still the layer's example")
    assert settings.rootfs_problems(str(rootfs), {"PROVENANCE_ALLOW_EXAMPLE": "1"}, []) == []


def test_a_read_only_root_needs_its_mount_point(rootfs: Path) -> None:
    (rootfs / "data").rmdir()
    (line,) = settings.rootfs_problems(str(rootfs), {}, ["read-only-rootfs"])
    assert line.startswith("PROVENANCE_DATA_DIR: the mount point is missing")
    assert settings.rootfs_problems(str(rootfs), {}, []) == []


def test_bitbake_runs_this_on_its_oldest_python() -> None:
    import ast

    source = (LAYER / "lib/oeprov/settings.py").read_text()
    ast.parse(source, feature_version=(3, 9))
    imports = {node.names[0].name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)}
    assert imports == {"difflib", "json", "os", "re"}
