# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Stored models: where they lie, whether their bytes are right, and the weights as one verified buffer.

The buffer that is handed out is the one that was hashed: the file is read once, and the digest is
compared before a single byte can reach an interpreter.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import DigestMismatch, EdgeprovError, FormatError, LimitError, NotStored, StoreError
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import A_VERITY
from edgeprov.formats.modelkit import ModelKit, layer_compression, parse_modelkit
from edgeprov.limits import KIB, LIMITS
from edgeprov.store.atomic import exists, translated
from edgeprov.store.layout import Layout

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.tarball import Member
    from edgeprov.store.state import State

# Pieces that stay in the processor's cache.
READ_BYTES = 64 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model kit in a local layout.

    ``source`` is ``image`` for one baked into the image; ``vouched`` counts the blobs that the kernel
    checks by fs-verity, so that they were not hashed.
    """

    layout: Layout
    manifest: Manifest
    kit: ModelKit
    source: Literal["state", "image"]
    vouched: int = 0


def model_layouts(context: Context, state: State | None) -> list[tuple[Literal["state", "image"], Layout]]:
    """The layouts that may hold models: the state's, then the image's where there is one."""
    found: list[tuple[Literal["state", "image"], Layout]] = []
    if state is not None:
        found.append(("state", state.layout))
    if exists(context.config.device.models_dir / "index.json"):
        found.append(("image", Layout.open(context.config.device.models_dir, read_only=True)))
    return found


def find_model(context: Context, state: State | None, digest: Digest) -> StoredModel:
    """Load manifest and Kitfile of a stored model; both are checked against their digests.

    Raises:
        NotStored: No layout has it.
        DigestMismatch: Its bytes changed.
        FormatError: It is not a model kit.
    """
    for source, layout in model_layouts(context, state):
        if layout.has_manifest(digest):
            return load_model(layout, digest, source)
    raise NotStored(f"model {digest} is not on this device")


def load_model(layout: Layout, digest: Digest, source: Literal["state", "image"]) -> StoredModel:
    """As find_model, from one layout."""
    manifest = layout.load_manifest(digest)
    config = layout.load_blob(manifest.config, max_bytes=LIMITS.config_bytes)
    return StoredModel(layout=layout, manifest=manifest, kit=parse_modelkit(manifest, config), source=source)


def list_models(
    context: Context, state: State | None, *, damaged: list[EdgeprovError] | None = None
) -> list[StoredModel]:
    """All model kits on the device, each once; what is no model kit is left out.

    Args:
        context: The device.
        state: Its state folder, None where there is none.
        damaged: Gets the error of each manifest or Kitfile that cannot be read: it may be a model, or not.
    """
    result: dict[Digest, StoredModel] = {}
    for source, layout in model_layouts(context, state):
        for descriptor in layout.manifests():
            if descriptor.digest in result:
                continue
            try:
                model = load_model(layout, descriptor.digest, source)
            except (FormatError, NotStored):
                continue  # data kits, signatures and tombstones share the layout
            except (DigestMismatch, StoreError) as error:
                if damaged is not None:
                    damaged.append(error)
                continue
            if any(entry.kind == "model" for entry in model.kit.entries):
                result[descriptor.digest] = model
    return list(result.values())


def verify_blobs(model: StoredModel) -> int:
    """Every blob of the model against its digest.

    Where the kernel keeps the fs-verity digest that the signed manifest names, it checks every page
    that is read: the blob is not hashed here, whatever its size.

    Returns:
        How many blobs the kernel vouches for.

    Raises:
        DigestMismatch: A blob changed.
        NotStored: A blob is missing.
    """
    measured = 0
    for descriptor in model.manifest.blobs:
        if _kernel_vouches(model.layout, descriptor):
            measured += 1
        else:
            model.layout.verify_blob(descriptor)
    return measured


def enable_verity(model: StoredModel) -> int:
    """Have the kernel keep the digests of all layers whose fs-verity digest the manifest names.

    Returns:
        How many layers it keeps now; 0 on a file system without fs-verity.

    Raises:
        DigestMismatch: The manifest names another fs-verity digest than the layer has.
        StoreFull: No space for the hash trees.
    """
    from edgeprov.store import verity

    kept = 0
    for layer in model.manifest.layers:
        if A_VERITY in layer.annotations and verity.enable(model.layout.blob_path(layer.digest)):
            kept += _kernel_vouches(model.layout, layer)
    return kept


def load_weights(model: StoredModel) -> bytes:
    """Read the model file, once: the bytes returned are those whose blob was hashed.

    Memory: one buffer of the model's size.

    Raises:
        DigestMismatch: The blob changed.
        FormatError: The archive is malformed or does not hold the file that the Kitfile names.
    """
    # BytesIO hands out its own buffer without a copy; joining chunks would hold the model twice.
    buffer = io.BytesIO()
    copy_weights(model, buffer)
    return buffer.getvalue()


def copy_weights(model: StoredModel, target: io.BytesIO | io.BufferedWriter) -> None:
    """Write the model file into a file, piece by piece. Nothing written may be used before this returns.

    Raises:
        DigestMismatch: The blob changed.
        FormatError: The archive is malformed or does not hold the file that the Kitfile names.
        LimitError: The file is larger than a model may be.
    """
    path, found = model.kit.model_path, 0
    for member, chunks in open_archive(model.layout, _model_layer(model.kit)):
        if member.is_dir or member.path != path:
            continue
        if member.size > LIMITS.model_bytes:
            raise LimitError(f"the model file has {member.size} bytes, more than {LIMITS.model_bytes}")
        found += 1
        for chunk in chunks:
            target.write(chunk)
    # open_archive drained the blob and compared its digest, so only now may the bytes be used.
    if found != 1:
        raise FormatError(f"the model layer does not hold {path!r}, which the Kitfile names, exactly once")


def verify_archives(model: StoredModel) -> None:
    """Walk every layer's archive: no path leaves the kit, no links or devices, no bombs, no file twice.

    Raises:
        FormatError: An archive is malformed or holds what a kit must not hold.
        LimitError: It unpacks to more than the bounds.
        DigestMismatch: A blob changed.
    """
    total = 0
    for layer in model.manifest.layers:
        for _member, chunks in open_archive(model.layout, layer):
            for chunk in chunks:
                total += len(chunk)
                if total > LIMITS.unpacked_bytes:
                    raise LimitError(f"the kit unpacks to more than {LIMITS.unpacked_bytes} bytes")


def open_archive(layout: Layout, layer: Descriptor) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Iterate the members of a stored layer; at the end the whole blob has been hashed and compared.

    Raises:
        DigestMismatch: Only at the end: nothing that was yielded may be trusted before.
        FormatError: The archive is malformed.
    """
    from edgeprov.formats.tarball import iter_tar  # a boot check hashes archives without looking into them

    kind = layer_compression(layer.media_type)
    with _open_vouched(layout, layer) or layout.open_blob(layer) as blob:
        read: Callable[[int], bytes] = blob.read
        if kind == "tar+gzip":
            from edgeprov.store.compress import gunzip  # it brings zstandard, which a boot rarely needs

            bound = min(LIMITS.unpacked_bytes, layer.size * LIMITS.unpack_ratio)
            read = _reader(gunzip(_chunks(blob.read), bound))
        try:
            yield from iter_tar(read)
        except FormatError:
            _drain(blob.read)  # a blob that is not what was signed is told as that
            raise
        _drain(blob.read)


def _open_vouched(layout: Layout, descriptor: Descriptor) -> io.BufferedIOBase | None:
    """The blob unhashed, if the kernel checks what is read through this very open file."""
    if A_VERITY not in descriptor.annotations or not _kernel_vouches(layout, descriptor):
        return None
    from edgeprov.store import verity

    with translated(path := layout.blob_path(descriptor.digest)):
        file = path.open("rb")
    if verity.measure_open(file.fileno()) != parse_digest(descriptor.annotations[A_VERITY]):
        file.close()
        return None
    return file


def _kernel_vouches(layout: Layout, descriptor: Descriptor) -> bool:
    expected = descriptor.annotations.get(A_VERITY)
    if expected is None:
        return False
    path = layout.blob_path(descriptor.digest)
    if not layout.has_blob(descriptor.digest) or layout.blob_size(descriptor.digest) != descriptor.size:
        return False  # hashing it tells what is wrong
    from edgeprov.store import verity  # few file systems have it, and a boot pays for what it loads

    return verity.verify_measured(path, parse_digest(expected))


def _model_layer(kit: ModelKit) -> Descriptor:
    layers = [entry.layer for entry in kit.entries if entry.kind == "model"]
    if len(layers) != 1:
        raise FormatError(f"the kit has {len(layers)} model layers, not one")
    return layers[0]


def _drain(read: Callable[[int], bytes]) -> None:
    while read(READ_BYTES):
        pass


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(READ_BYTES):
        yield chunk


def _reader(chunks: Iterator[bytes]) -> Callable[[int], bytes]:
    pending = bytearray()

    def read(count: int) -> bytes:
        while len(pending) < count:
            chunk = next(chunks, b"")
            if not chunk:
                break
            pending.extend(chunk)
        result = bytes(pending[:count])
        del pending[:count]
        return result

    return read
