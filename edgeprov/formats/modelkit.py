# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model kits: native ModelKits of every kit version, ModelPack with a Kitfile annotation; written native.

A kit is recognised by its config's media type, since kit 1.7 writes no artifactType. Entries and
layers are bound by order, as kit does; a digest in the Kitfile must then name the layer. ``diffId``
is only carried: kit never checks it, and writes wrong ones into ModelPack configs.

Spec: KitOps ModelKit; CNCF ModelPack v0.0.7; FORMAT.md section "Model kit".
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import JsonObject, encode_json, parse_json_object
from edgeprov.formats.kitfile import EntryKind, EntrySpec, get_package, kitfile_entries, parse_kitfile
from edgeprov.formats.manifest import Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    ANNOTATION_CREATED,
    FILEPATH,
    KIT_ARTIFACT,
    KIT_CODE_SUBTYPE,
    KIT_CONFIG,
    KIT_KITFILE_ANNOTATION,
    KIT_LAYER_PREFIX,
    MODELPACK_CONFIG,
    MODELPACK_LAYER_PREFIX,
)
from edgeprov.limits import LIMITS

Compression = Literal["tar", "tar+gzip"]

_NATIVE: Final[Mapping[EntryKind, str]] = {
    "model": "model", "modelpart": "modelpart", "code": "code", "dataset": "dataset", "docs": "docs", "prompt": "code",
}  # fmt: skip
_MODELPACK: Final[Mapping[EntryKind, str]] = {
    "model": "weight", "modelpart": "weight.config", "code": "code", "dataset": "dataset", "docs": "doc",
    "prompt": "code",
}  # fmt: skip
_LISTS: Final[Mapping[EntryKind, str]] = {"code": "code", "dataset": "datasets", "docs": "docs", "prompt": "prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the Kitfile with the layer that holds its files."""

    kind: EntryKind
    name: str
    path: str
    digest: Digest
    diff_id: Digest | None
    parameters: Mapping[str, Any]
    layer: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """A known answer: these input tensors give these output tensors, each element within ``tolerance``.

    Tensors are raw little-endian bytes; the tolerance is in units of the raw output (quantised steps
    for an int8 tensor).
    """

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKit:
    """A parsed model kit. ``model_path`` is the path of the weights inside the model's layer."""

    manifest: Manifest
    kitfile: Mapping[str, Any]
    entries: tuple[Entry, ...]
    model_path: str
    security_version: int
    selftest: SelfTest | None
    name: str
    version: str

    @property
    def model(self) -> Entry:
        """The entry that holds the weights."""
        return next(entry for entry in self.entries if entry.kind == "model")


def parse_modelkit(manifest: Manifest, config_raw: bytes) -> ModelKit:
    """Read a model kit in any of the forms that kit writes.

    Args:
        manifest: The kit's manifest.
        config_raw: Its config blob; size and digest are checked here.

    Raises:
        DigestMismatch: Not the config that the manifest names.
        FormatError: Not a model kit, or entries and layers do not fit each other.
        LimitError: Too large.
    """
    kitfile, bases, prefix = _kitfile_of(manifest, config_raw)
    entries = _bind(kitfile_entries(kitfile), manifest.layers, bases, prefix)
    model = [entry for entry in entries if entry.kind == "model"]
    if not model:
        raise FormatError("the kit holds no model", advice="Pack it with a `model` entry that has a path.")
    parameters = model[0].parameters
    return ModelKit(
        manifest=manifest,
        kitfile=kitfile,
        entries=entries,
        model_path=model[0].path,
        security_version=_security_version(parameters),
        selftest=_selftest(parameters.get("selftest")),
        name=get_package(kitfile, "name") or model[0].name,
        version=get_package(kitfile, "version"),
    )


def layer_compression(media_type: str) -> Compression:
    """How a layer is packed.

    Raises:
        FormatError: Neither a plain nor a gzipped archive.
    """
    base, dot, form = media_type.rpartition(".v1.")
    if dot and base.startswith((KIT_LAYER_PREFIX, MODELPACK_LAYER_PREFIX)):
        if form == "tar":
            return "tar"
        if form == "tar+gzip":
            return "tar+gzip"
    raise FormatError(
        f"layer of the unknown media type {media_type[:100]!r}",
        advice="Pack with `kit pack --compression none` or gzip.",
    )


def layer_media_type(kind: EntryKind) -> str:
    """The media type of a layer as this project writes it: native, not compressed."""
    return f"{KIT_LAYER_PREFIX}{_NATIVE[kind]}.v1.tar"


def build_modelkit(
    kitfile: Mapping[str, Any],
    layers: Sequence[tuple[EntrySpec, Descriptor, Digest]],
    *,
    created: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> tuple[Manifest, bytes]:
    """Write a native kit; returns its manifest and its config blob.

    Args:
        kitfile: The Kitfile, without digests.
        layers: For each entry in order: the entry, its layer (annotations are kept) and its diffId.
        created: RFC 3339 time for the manifest's annotation; None leaves it out, and the kit's
            digest then depends on the content only.
        annotations: Further annotations of the manifest.

    Raises:
        FormatError: The layers are not those of the Kitfile's entries.
    """
    entries = kitfile_entries(kitfile)
    if [(entry.kind, entry.path) for entry, _, _ in layers] != [(entry.kind, entry.path) for entry in entries]:
        raise FormatError("layers and entries of the Kitfile do not fit each other")
    config = parse_kitfile(encode_json(dict(kitfile)))  # a copy, to write digests into
    for entry, layer, diff_id in layers:
        _item(config, entry).update(digest=str(layer.digest), diffId=str(diff_id))
    raw = encode_json(config)
    marks = dict(annotations or {})
    if created:
        marks[ANNOTATION_CREATED] = created
    manifest = build_manifest(
        config=describe(raw, KIT_CONFIG),
        layers=[_annotated(entry, layer) for entry, layer, _ in layers],
        artifact_type=KIT_ARTIFACT,
        annotations=marks,
    )
    return manifest, raw


def _kitfile_of(manifest: Manifest, config_raw: bytes) -> tuple[JsonObject, Mapping[EntryKind, str], str]:
    manifest.config.verify(config_raw, "kit config")
    if manifest.config.media_type == KIT_CONFIG:
        return parse_kitfile(config_raw), _NATIVE, KIT_LAYER_PREFIX
    if manifest.config.media_type != MODELPACK_CONFIG:
        raise FormatError(f"config of type {manifest.config.media_type[:80]!r}: not a ModelKit or ModelPack")
    parse_json_object(config_raw, "ModelPack config", max_bytes=LIMITS.config_bytes)
    annotation = manifest.annotations.get(KIT_KITFILE_ANNOTATION)
    if annotation is None:
        raise FormatError(
            "ModelPack artifact without a Kitfile annotation",
            advice="Pack it with kit, so that its entries have names.",
        )
    return parse_kitfile(annotation.encode("utf-8", "replace")), _MODELPACK, MODELPACK_LAYER_PREFIX


def _bind(
    specs: Sequence[EntrySpec], layers: Sequence[Descriptor], bases: Mapping[EntryKind, str], prefix: str
) -> tuple[Entry, ...]:
    # kit matches the nth entry of a kind with the nth layer of that kind, and so do we; layers of
    # kinds that this reader does not know would be unaccounted for, and refuse the kit.
    waiting: dict[str, list[Descriptor]] = {}
    for layer in layers:
        layer_compression(layer.media_type)
        kind = layer.media_type.removeprefix(prefix).rpartition(".v1.")[0]
        if KIT_CODE_SUBTYPE in layer.annotations:
            kind += "/" + layer.annotations[KIT_CODE_SUBTYPE]
        waiting.setdefault(kind, []).append(layer)
    entries = []
    for spec in specs:
        what = f"Kitfile {spec.kind} {spec.index + 1}"
        queue = waiting.get(bases[spec.kind] + ("/prompt" if spec.kind == "prompt" else ""))
        if not queue:
            raise FormatError(f"{what} has no layer")
        layer = queue.pop(0)
        named = spec.item.get("digest")
        if named and parse_digest(named) != layer.digest:
            raise FormatError(f"{what} names the layer {named[:80]}, the manifest has {layer.digest}")
        diff_id = spec.item.get("diffId")
        entries.append(
            Entry(
                kind=spec.kind,
                name=spec.name,
                path=spec.path,
                digest=layer.digest,
                diff_id=parse_digest(diff_id) if diff_id else None,
                parameters=spec.parameters,
                layer=layer,
            )
        )
    if left := [layer.media_type for queue in waiting.values() for layer in queue]:
        raise FormatError(f"a layer of type {left[0][:80]!r} has no entry in the Kitfile")
    return tuple(entries)


def _annotated(entry: EntrySpec, layer: Descriptor) -> Descriptor:
    marks = {**layer.annotations, FILEPATH: entry.path}
    if entry.kind == "prompt":
        marks[KIT_CODE_SUBTYPE] = "prompt"
    return layer.with_annotations(marks)


def _item(config: JsonObject, entry: EntrySpec) -> dict[str, Any]:
    item: dict[str, Any]
    if entry.kind == "model":
        item = config["model"]
    elif entry.kind == "modelpart":
        item = config["model"]["parts"][entry.index]
    else:
        item = config[_LISTS[entry.kind]][entry.index]
    return item


def _security_version(parameters: Mapping[str, Any]) -> int:
    value = parameters.get("securityVersion", 0)
    if type(value) is not int or not 0 <= value < 2**63:
        raise FormatError("Kitfile: securityVersion is not an integer from 0 to 2**63-1")
    return value


def _selftest(value: object) -> SelfTest | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FormatError("Kitfile: selftest is not an object")
    tolerance = value.get("tolerance", 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 2**63:
        raise FormatError("Kitfile: selftest tolerance is not a number from 0")
    return SelfTest(
        inputs=_tensors(value.get("input"), "input"),
        outputs=_tensors(value.get("output"), "output"),
        tolerance=float(tolerance),
    )


def _tensors(value: object, what: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= LIMITS.tensors:
        raise FormatError(f"Kitfile: selftest {what} is not a list with one item for each tensor")
    try:
        return tuple(binascii.a2b_base64(item.encode(), strict_mode=True) for item in value)
    except (AttributeError, binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"Kitfile: selftest {what} holds something else than base64") from error
