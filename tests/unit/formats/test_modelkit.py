# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model kits as the real kit packs them, and as we do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from edgeprov.errors import DigestMismatch, FormatError
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import digest_of
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.kitfile import kitfile_entries, parse_kitfile
from edgeprov.formats.manifest import Manifest, parse_manifest
from edgeprov.formats.modelkit import build_modelkit, layer_compression, layer_media_type, parse_modelkit
from tests.support.kits import KITS, data_kit, encode_tar, golden_kit

GOLDEN = ["kit-1.7-tar", "kit-1.7-gzip", "kit-1.11-tar", "kit-1.11-gzip", "kit-1.11-modelpack-gzip"]


@pytest.mark.parametrize("name", GOLDEN)
def test_kits_of_the_real_kit_are_read(name: str) -> None:
    manifest, config, _ = golden_kit(name)
    kit = parse_modelkit(manifest, config)
    assert (kit.name, kit.version, kit.model_path, kit.security_version) == (
        "breast-cancer-diagnosis",
        "1.0.0",
        "model/wdbc_int8.tflite",
        1,
    )
    assert [(entry.kind, entry.path) for entry in kit.entries] == [
        ("model", "model/wdbc_int8.tflite"),
        ("code", "code"),
        ("docs", "README.md"),
    ]
    assert [entry.layer for entry in kit.entries] == list(manifest.layers)
    assert kit.model.layer.digest == kit.model.digest
    assert layer_compression(kit.model.layer.media_type) == ("tar" if name.endswith("tar") else "tar+gzip")
    assert kit.selftest is None


def own_kit(change: Callable[[dict[str, Any]], object] = lambda _: None, **more: Any) -> tuple[Manifest, bytes]:
    _, config, _ = golden_kit("kit-1.11-tar")
    kitfile = json.loads(config)
    for item in (kitfile["model"], *kitfile["code"], *kitfile["docs"]):
        del item["digest"], item["diffId"]
    change(kitfile)
    layers = []
    for spec in kitfile_entries(kitfile):
        place = KITS / "source" / spec.path
        names = sorted(place.rglob("*")) if place.is_dir() else [place]
        data = encode_tar(
            {str(name.relative_to(KITS / "source")): name.read_bytes() for name in names if name.is_file()}
        )
        layers.append((spec, describe(data, layer_media_type(spec.kind)), digest_of(data)))
    return build_modelkit(kitfile, layers, **more)


def test_our_kit_has_the_layers_of_kit_pack_and_says_the_same() -> None:
    manifest, config = own_kit()
    theirs, their_config, _ = golden_kit("kit-1.11-tar")
    assert manifest.layers == theirs.layers  # digests, sizes, media types and annotations
    assert manifest.artifact_type == theirs.artifact_type
    assert json.loads(config) == json.loads(their_config)
    assert parse_modelkit(manifest, config).model_path == "model/wdbc_int8.tflite"


def test_the_same_folder_gives_the_same_kit() -> None:
    assert own_kit()[0].digest == own_kit()[0].digest
    assert own_kit(created="2026-01-01T00:00:00Z")[0].annotations == {
        "org.opencontainers.image.created": "2026-01-01T00:00:00Z"
    }


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def parameters(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda kitfile: kitfile["model"].update(parameters=values)


def test_a_known_answer_is_read() -> None:
    manifest, config = own_kit(
        parameters(securityVersion=7, selftest={"input": [b64(b"in")], "output": [b64(b"out"), ""], "tolerance": 1})
    )
    kit = parse_modelkit(manifest, config)
    assert kit.security_version == 7
    assert kit.selftest is not None
    assert (kit.selftest.inputs, kit.selftest.outputs, kit.selftest.tolerance) == ((b"in",), (b"out", b""), 1.0)


@pytest.mark.parametrize(
    "values",
    [
        {"securityVersion": -1}, {"securityVersion": "1"}, {"securityVersion": 1.5}, {"securityVersion": True}, {"securityVersion": 2**63},
        {"selftest": 5}, {"selftest": {}}, {"selftest": {"input": [], "output": [""]}}, {"selftest": {"input": ["?"], "output": [""]}}, {"selftest": {"input": [5], "output": [""]}},
        {"selftest": {"input": ["\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")], "output": [""]}},
        {"selftest": {"input": [""], "output": [""], "tolerance": -1}}, {"selftest": {"input": [""], "output": [""], "tolerance": "1"}}, {"selftest": {"input": [""], "output": [""], "tolerance": True}},
    ],
)  # fmt: skip
def test_malformed_parameters_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse_modelkit(*own_kit(parameters(**values)))


def rebuilt(name: str, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> tuple[Manifest, bytes]:
    golden, config_raw, _ = golden_kit(name)
    manifest, config = json.loads(golden.raw), json.loads(config_raw)
    change(manifest, config)
    raw = encode_json(config)
    manifest["config"].update(digest=str(digest_of(raw)), size=len(raw))
    return parse_manifest(encode_json(manifest)), raw


@pytest.mark.parametrize(
    "change",
    [
        lambda m, _: m["layers"].pop(), lambda m, _: m["layers"].append(m["layers"][0]), lambda m, _: m["layers"].reverse() or m["layers"].pop(0),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.kitops.modelkit.model.v1.tar+zstd"),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.kitops.modelkit.model.v1.raw"),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.kitops.modelkit.unknown.v1.tar"),
        lambda m, _: m["layers"][0].update(mediaType="application/octet-stream"),
        lambda m, _: m["layers"][0].update(mediaType="application/vnd.cncf.model.weight.v1.tar"),
        lambda m, _: m["config"].update(mediaType="application/vnd.oci.image.config.v1+json"),
        lambda _, c: c["model"].update(digest=str(digest_of(b"other"))), lambda _, c: c["model"].update(digest="nonsense"), lambda _, c: c["model"].update(digest=5),
        lambda _, c: c["model"].update(diffId="nonsense"), lambda _, c: c["model"].update(path="../model"), lambda _, c: c["model"].update(path="/model"),
        lambda _, c: c["model"].update(path="registry.example/model:v1"), lambda _, c: c["model"].update(path="r/m@sha256:" + "0" * 64), lambda _, c: c["model"].update(path=5),
        lambda _, c: c.pop("model"), lambda _, c: c.update(model=5), lambda _, c: c.update(code=5), lambda _, c: c.update(code=[5]), lambda _, c: c.update(package=5),
        lambda _, c: c.pop("manifestVersion"), lambda _, c: c["code"].append({"path": "README.md"}), lambda _, c: c["code"].append({"path": "more"}),
    ],
)  # fmt: skip
def test_a_kit_that_does_not_hold_together_is_refused(change: Callable[..., object]) -> None:
    with pytest.raises(FormatError):
        parse_modelkit(*rebuilt("kit-1.11-tar", change))


def test_modelpack_without_or_with_a_broken_kitfile_is_refused() -> None:
    key = "ml.kitops.modelkit.kitfile"
    for change in (
        lambda m, _: m["annotations"].pop(key),
        lambda m, _: m["annotations"].update({key: "{"}),
        lambda m, _: m["annotations"].update({key: "[]"}),
    ):
        with pytest.raises(FormatError):
            parse_modelkit(*rebuilt("kit-1.11-modelpack-gzip", change))


def test_a_changed_config_is_refused() -> None:
    manifest, config, _ = golden_kit("kit-1.11-tar")
    with pytest.raises(DigestMismatch):
        parse_modelkit(manifest, config.replace(b"wdbc", b"wdbd"))


def test_a_data_kit_is_no_model_kit() -> None:
    kit = data_kit()
    with pytest.raises(FormatError):
        parse_modelkit(kit.manifest, kit.config)


def test_unknown_keys_remote_data_and_clean_paths() -> None:
    kitfile = {
        "manifestVersion": "1.0.0", "future": {"x": 1},
        "model": {"path": "./model/", "parts": [{"path": "adapter"}]},
        "datasets": [{"path": "far", "remotePath": "s3://bucket/key"}, {"name": "near", "path": "near", "parameters": {"a": 1}}],
        "prompts": [{"path": "hello.prompt"}],
    }  # fmt: skip
    entries = kitfile_entries(kitfile)
    assert [(entry.kind, entry.path, entry.index) for entry in entries] == [
        ("model", "model", 0),
        ("modelpart", "adapter", 0),
        ("dataset", "near", 1),
        ("prompt", "hello.prompt", 0),
    ]
    assert entries[2].parameters == {"a": 1}
    layers = [(entry, describe(entry.path.encode(), layer_media_type(entry.kind)), digest_of(b"")) for entry in entries]
    manifest, config = build_modelkit(kitfile, layers)
    kit = parse_modelkit(manifest, config)
    assert [(entry.kind, entry.path) for entry in kit.entries] == [(entry.kind, entry.path) for entry in entries]
    with pytest.raises(FormatError):
        build_modelkit(kitfile, layers[::-1])


def test_a_kitfile_has_bounds() -> None:
    for raw in (
        b"",
        b"[]",
        b"{}",
        b'{"manifestVersion":""}',
        b'{"manifestVersion":"1.0.0","code":[{"path":"a"},{"path":"a/"}]}',
        b'{"manifestVersion":"1","x":' + b'"' + b"x" * 5_000_000 + b'"}',
    ):
        with pytest.raises(FormatError):
            kitfile_entries(parse_kitfile(raw))
