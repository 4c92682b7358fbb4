# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model-out, step 1: pack a Kitfile folder as a native ModelKit, sign it, push it.

Layers are what ``kit pack`` writes for the same folder, byte for byte; a layer is streamed from disk
three times (digest, fs-verity digest with it, push) and never held in memory. The signature is
pushed before the tag (registry/push_order.py), so that whoever sees the tag finds the signature.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

from edgeprov.errors import FormatError, NotStored, StoreError, UsageError
from edgeprov.fleet.dataset.destination import BUNDLE, INPUTS, STATEMENT, open_destination
from edgeprov.fleet.publishing.kitfile_yaml import parse_kitfile_yaml
from edgeprov.fleet.registries.chunk_stream import ChunkStream
from edgeprov.fleet.registries.sources import Source, open_registry
from edgeprov.fleet.trust.signers import signature_artifact
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.descriptor import Descriptor, describe
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.envelope import Signer
from edgeprov.formats.in_toto import encode_model_statement, parse_statement
from edgeprov.formats.jsonx import JsonObject
from edgeprov.formats.kitfile import EntrySpec, get_package, kitfile_entries
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    A_COLLECTION,
    A_VERITY,
    ANNOTATION_CREATED,
    COLLECTION,
    COLLECTION_INPUTS,
    COLLECTION_PREDICATE,
    COSIGN_SIGN_PREDICATE,
    IN_TOTO_PAYLOAD,
    SIGSTORE_BUNDLE,
)
from edgeprov.formats.modelkit import build_modelkit, layer_media_type, parse_modelkit
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.signature_manifest import parse_signature_tag
from edgeprov.formats.tarball import END, tar_header, tar_padding
from edgeprov.limits import LIMITS
from edgeprov.registry.push_order import push_signed
from edgeprov.store.atomic import load_bytes, translate
from edgeprov.store.verity import VerityHasher

CHUNK: Final = 64 * 1024  # cache-sized pieces hash fastest
KITFILE_NAMES: Final = ("Kitfile", "kitfile", ".kitfile")
_NAME: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,123}")  # 128 with the longest ending of a signature tag


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """A layer that is read from its files when needed."""

    spec: EntrySpec
    descriptor: Descriptor
    files: tuple[tuple[str, Path | None, int, int], ...] = field(repr=False)
    """Archive path, file (None for a directory), mode, size in bytes."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the layer."""
        return _layer_chunks(self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedKit:
    """A kit ready to push."""

    manifest: Manifest
    config: bytes = field(repr=False)
    kitfile: JsonObject
    layers: tuple[PackedLayer, ...]

    @property
    def name(self) -> str:
        """Name of the package, or of the model."""
        model = self.kitfile.get("model") or {}
        return get_package(self.kitfile, "name") or str(model.get("name", ""))

    @property
    def version(self) -> str:
        """Version of the package."""
        return get_package(self.kitfile, "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A training set's statement, as `collect` wrote it; attached to the model that was trained on it."""

    statement: bytes = field(repr=False)
    bundle: bytes | None = field(repr=False)
    inputs: bytes = field(repr=False)

    @property
    def statement_digest(self) -> str:
        """What the model's annotation names."""
        return str(digest_of(self.statement))

    @property
    def annotations(self) -> dict[str, str]:
        """On the model's manifest, so that the publisher's signature covers them."""
        return {A_COLLECTION: self.statement_digest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where the kit is now."""

    reference: str
    repo: str
    tag: str
    digest: Digest
    signature: Digest
    bytes_sent: int


def load_kitfile(path: Path) -> tuple[Path, JsonObject]:
    """Find and read the Kitfile.

    Args:
        path: A Kitfile, or a folder that holds one.

    Returns:
        The folder that the Kitfile's paths are relative to, and the Kitfile.

    Raises:
        NotStored: There is none.
        FormatError: Malformed.
    """
    if path.is_dir():
        found = next((path / name for name in KITFILE_NAMES if (path / name).is_file()), None)
        if found is None:
            raise NotStored(f"{path} holds no Kitfile", advice="Write one beside the model; `kit init` makes a draft.")
        path = found
    return path.parent, parse_kitfile_yaml(load_bytes(path, max_bytes=LIMITS.config_bytes, what=str(path)))


def pack(path: Path, *, created: str | None = None, annotations: dict[str, str] | None = None) -> PackedKit:
    """Make a kit of a folder; nothing is written.

    Args:
        path: Kitfile or its folder.
        created: RFC 3339 time for the manifest. None: the same folder gives the same digest for ever.
        annotations: Further annotations of the manifest.

    Raises:
        FormatError: The Kitfile or a file that it names is unusable.
        NotStored: A file is missing.
    """
    root, kitfile = load_kitfile(path)
    layers = tuple(_pack_layer(root, spec) for spec in kitfile_entries(kitfile))
    manifest, config = build_modelkit(
        kitfile,
        [(layer.spec, layer.descriptor, layer.descriptor.digest) for layer in layers],
        created=created,
        annotations=annotations,
    )
    parse_modelkit(manifest, config)  # what devices will refuse is refused here
    return PackedKit(manifest=manifest, config=config, kitfile=kitfile, layers=layers)


def load_collection(name: str) -> Collection:
    """Read what `collect` wrote beside a data set.

    Args:
        name: The folder or URL that `collect` was given.

    Raises:
        NotStored: Not a data set of `collect`, or not a finished one.
        FormatError: The bundle signs another statement.
    """
    output = open_destination(name)
    statement = output.load(STATEMENT, max_bytes=LIMITS.statement_bytes)
    inputs = output.load(INPUTS, max_bytes=LIMITS.layer_bytes)
    if statement is None or inputs is None:
        raise NotStored(f"{name} is no finished data set", advice="Run edgeprov-fleet collect first.")
    if parse_statement(statement).predicate_type != COLLECTION_PREDICATE:
        raise FormatError(f"{name}/{STATEMENT} is no statement of `collect`")
    bundle = output.load(BUNDLE, max_bytes=LIMITS.signature_blob_bytes)
    if bundle is not None and parse_bundle(bundle).payload != statement:
        raise FormatError(f"the signature in {name} is of another statement", advice="Run `collect` again.")
    return Collection(statement=statement, bundle=bundle, inputs=inputs)


def publish(
    kit: PackedKit, to: Source, signer: Signer, *, name: str | None = None, tag: str | None = None, now: dt.datetime,
    collection: Collection | None = None,
) -> Published:  # fmt: skip
    """Push layers, config, manifest, signature, and at last the tag.

    Args:
        kit: From pack.
        to: Where.
        signer: The publisher's key.
        name: Repository below ``models/``; default the package's name.
        tag: Default the package's version, or the start of the digest where it has none.
        now: For the signature's annotation.
        collection: What the model was trained on; hangs on it as a referrer.

    Raises:
        UsageError: Name or tag is not one that a registry takes.
        RegistryError: The registry refused or cannot be reached.
    """
    name = name or re.sub(r"[^a-z0-9._-]+", "-", kit.name.lower()).strip("-._")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} is not a repository name", advice="Give one with --name, in lower case.")
    tag = tag or kit.version or kit.manifest.digest.hex[:16]
    if not _TAG.fullmatch(tag) or parse_signature_tag(tag):
        raise UsageError(f"{tag[:80]!r} is not a tag for a model", advice="Give one with --tag.")
    repo = f"{to.prefix}models/{name}"
    registry = open_registry(to, create=True)
    sent = 0
    for layer in kit.layers:
        stream = cast("BinaryIO", io.BufferedReader(ChunkStream(layer.chunks()), CHUNK))
        sent += layer.descriptor.size * registry.push_blob(repo, layer.descriptor, stream)
    registry.push_blob(repo, kit.manifest.config, kit.config)
    created = rfc3339(now)
    statement = encode_model_statement(kit.manifest.digest)
    signature, blob = signature_artifact(signer, kit.manifest.descriptor, statement, COSIGN_SIGN_PREDICATE, created)
    attached = [(signature, {signature.layers[0].digest: blob})]
    if collection is not None:
        attached.append(collection_artifact(kit.manifest, collection, created))
    push_signed(registry, repo, kit.manifest, attached, [tag])
    joint = f"{to.name}//{repo}" if to.is_layout else f"{to.host}/{repo}"
    return Published(
        reference=f"{joint}:{tag}@{kit.manifest.digest}",
        repo=repo,
        tag=tag,
        digest=kit.manifest.digest,
        signature=signature.digest,
        bytes_sent=sent,
    )


def collection_artifact(model: Manifest, collection: Collection, created: str) -> tuple[Manifest, dict[Digest, bytes]]:
    """The manifest that hangs a training set on its model, with its blobs.

    Args:
        model: The model kit.
        collection: The training set.
        created: RFC 3339, for the annotation.
    """
    blob, media_type = (
        (collection.bundle, SIGSTORE_BUNDLE) if collection.bundle else (collection.statement, IN_TOTO_PAYLOAD)
    )
    layers = [describe(blob, media_type), describe(collection.inputs, COLLECTION_INPUTS)]
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=layers,
        artifact_type=COLLECTION,
        subject=model.descriptor,
        annotations={A_COLLECTION: collection.statement_digest, ANNOTATION_CREATED: created},
    )
    return manifest, {layers[0].digest: blob, layers[1].digest: collection.inputs}


def _pack_layer(root: Path, spec: EntrySpec) -> PackedLayer:
    files = tuple(_walk(root, spec))
    sha, verity, size = hashlib.sha256(), VerityHasher(), 0
    for chunk in _layer_chunks(files):
        sha.update(chunk)
        verity.update(chunk)
        size += len(chunk)
    if size > LIMITS.layer_bytes:
        raise FormatError(f"layer {spec.path} has {size} bytes, more than {LIMITS.layer_bytes}")
    descriptor = Descriptor(
        media_type=layer_media_type(spec.kind),
        digest=Digest(sha.hexdigest()),
        size=size,
        annotations={A_VERITY: str(verity.digest())},
    )
    return PackedLayer(spec=spec, descriptor=descriptor, files=files)


def _walk(root: Path, spec: EntrySpec) -> Iterator[tuple[str, Path | None, int, int]]:
    """Entries of a layer in kit's order: parents first, then a lexical walk by path components."""
    parts = [] if spec.path == "." else spec.path.split("/")
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        yield parent, None, _mode(root / parent, spec), 0
    yield from _walk_below(root / spec.path, spec.path, spec)


def _walk_below(place: Path, path: str, spec: EntrySpec) -> Iterator[tuple[str, Path | None, int, int]]:
    try:
        info = place.lstat()
        if stat.S_ISREG(info.st_mode):
            yield path, place, stat.S_IMODE(info.st_mode), info.st_size
        elif stat.S_ISDIR(info.st_mode):
            if path != ".":
                yield path, None, stat.S_IMODE(info.st_mode), 0
            for name in sorted((item.name for item in place.iterdir()), key=os.fsencode):
                if path != "." or name not in KITFILE_NAMES:
                    yield from _walk_below(place / name, name if path == "." else f"{path}/{name}", spec)
        else:
            raise FormatError(
                f"{place} is neither a file nor a folder",
                advice="Kits hold regular files only; copy what a link names.",
            )
    except FileNotFoundError as error:
        raise NotStored(f"the Kitfile names {spec.path}, which is not there") from error
    except OSError as error:
        raise translate(error, str(place)) from error


def _mode(place: Path, spec: EntrySpec) -> int:
    try:
        return stat.S_IMODE(place.lstat().st_mode)
    except OSError as error:
        raise NotStored(f"the Kitfile names {spec.path}, which is not there") from error


def _layer_chunks(files: tuple[tuple[str, Path | None, int, int], ...]) -> Iterator[bytes]:
    for path, place, mode, size in files:
        yield tar_header(path, size, directory=place is None, mode=mode)
        if place is not None:
            yield from _file_chunks(place, size)
            yield tar_padding(size)
    yield END


def _file_chunks(place: Path, size: int) -> Iterator[bytes]:
    left = size
    try:
        with place.open("rb") as stream:
            while left and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
            grown = bool(stream.read(1))
    except OSError as error:
        raise translate(error, str(place)) from error
    if left or grown:
        raise StoreError(f"{place} changed while it was packed", advice="Publish again when nothing writes to it.")
