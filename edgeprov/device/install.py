# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Model-out, step 1: fetch a model kit by digest, and store it only if everything about it is right.

Order is the point: digest of the manifest, publisher's signature, floor, disk space; only then is a
layer fetched, each digest-checked while it streams to disk. The archive is walked and the model tried
in a child process before anything names it. Until the last step nothing of this is visible, and the
model that runs keeps running.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.device.context import Context, free_bytes
from edgeprov.device.events import note_event
from edgeprov.device.model_store import StoredModel, enable_verity, list_models, load_model, verify_archives
from edgeprov.device.model_trust import verify_floor, verify_publisher
from edgeprov.device.registry_access import open_registry
from edgeprov.device.selftest import verify_model_runs
from edgeprov.device.series_state import remember_model
from edgeprov.device.signature_reading import FoundSignatures, RegistrySource, fetch_named_signatures, fetch_signatures
from edgeprov.device.stored_signatures import load_model_signatures, save_model_signatures
from edgeprov.errors import (
    EdgeprovError,
    LimitError,
    NotStored,
    RegistryError,
    RegistryNotFound,
    RegistryProtocolError,
    StoreFull,
    UsageError,
    VerificationError,
)
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.modelkit import parse_modelkit
from edgeprov.formats.signature_manifest import classic_tag
from edgeprov.limits import LIMITS, MIB
from edgeprov.registry.download import download
from edgeprov.registry.reference import Reference, parse_reference
from edgeprov.registry.retry import Pace

if TYPE_CHECKING:
    from edgeprov.registry.base import Registry
    from edgeprov.store.state import State
    from edgeprov.verify.signer_identity import SignerIdentity

# Left free on the data partition: the spool must be able to grow while a model is being stored.
_SPACE_MARGIN: Final = 4 * MIB

INSTALL_LOCK: Final = "install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What install_model stored. ``trial`` is the answer of the trial run; ``fetched`` counts bytes."""

    model: StoredModel
    signer: str
    trial: dict[str, Any]
    fetched: int


def parse_model_reference(text: str) -> tuple[Reference, Digest]:
    """Read ``REF@sha256:...``.

    Raises:
        UsageError: No digest. A tag can be moved by whoever may write to the registry.
    """
    reference = parse_reference(text)
    if reference.digest is None:
        named = f"the tag {reference.tag!r}" if reference.tag else "no digest"
        raise UsageError(
            f"{text}: {named} does not pin a model",
            advice="Name it by digest, REF@sha256:..., as `edgeprov-fleet publish` printed it.",
        )
    return reference, reference.digest


def install_model(
    context: Context,
    text: str,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    waiting: Callable[[float, RegistryError], None] = lambda _seconds, _error: None,
) -> Installed:
    """Fetch, verify, try and store a model kit; activation is a step of its own (boot.activate).

    Args:
        context: The device.
        text: ``host[:port]/path@sha256:...`` or ``oci:DIR//path@sha256:...``.
        progress: Told after each chunk how many bytes of the layers are here, and how many there are.
        waiting: Told before each wait for a link or a registry.

    Raises:
        UsageError: A tag, or no reference at all.
        VerificationError: Digest, signature, signer, policy or floor.
        FormatError: No model kit, or a malformed or hostile archive or model file.
        StoreFull: Not enough space; nothing was fetched.
        RegistryError: The registry failed.
        ModelRuntimeError: The trial run failed.
    """
    reference, digest = parse_model_reference(text)
    registry = open_registry(reference.registry_name, context.config.registry)
    pace = Pace(bytes_per_s=context.config.upload.bandwidth_bytes_per_s, waiting=waiting)
    manifest = pace.attempt(lambda: registry.fetch_manifest(reference.repo, digest))
    identity, found = _fetch_verified(context, registry, reference, manifest, pace)
    source = RegistrySource(registry, reference.repo)
    config = pace.attempt(lambda: source.load_blob(manifest.config, max_bytes=LIMITS.config_bytes))
    manifest.config.verify(config, "kit config")
    kit = parse_modelkit(manifest, config)
    with context.boot_tpm() as tpm:  # the slot is chosen at activation, which asks its own floor
        verify_floor(kit, min(tpm.floor(slot) for slot in context.config.device.slots))
    state = context.state()
    with state.lock(INSTALL_LOCK):
        fetched = _store(state, registry, reference.repo, manifest, config, found, pace, progress)
        try:
            model = load_model(state.layout, digest, "state")
            verify_publisher(context, manifest, load_model_signatures(state.layout, digest))  # as the next boot will
            verify_archives(model)
            trial = verify_model_runs(model, context.config.runtime)
            trial["verity"] = enable_verity(model) > 0
        except EdgeprovError as error:
            _forget(state, manifest)
            journal.event(
                "model-refused",
                f"model {digest} refused: {error.message}",
                priority=journal.ERROR,
                to_stderr=False,
                model_digest=digest,
            )
            raise
        remember_model(state, manifest)
    note_event(context, "model-installed", None, {"model": str(digest), "signer": str(identity.san)})
    journal.event("model-installed", f"model {digest} installed", model_digest=digest, signer=identity.san)
    return Installed(model=model, signer=identity.san, trial=trial, fetched=fetched)


def _fetch_verified(
    context: Context, registry: Registry, reference: Reference, manifest: Manifest, pace: Pace
) -> tuple[SignerIdentity, FoundSignatures]:
    """A good publisher's signature: by its tag where the reference has one, else among the model's referrers."""
    if tag := reference.tag:
        with suppress(VerificationError, RegistryNotFound, RegistryProtocolError):
            named = pace.attempt(lambda: fetch_named_signatures(registry, reference.repo, tag))
            return verify_publisher(context, manifest, named), named
    found = pace.attempt(lambda: fetch_signatures(registry, reference.repo, manifest.digest))
    return verify_publisher(context, manifest, found), found


def remove_model(context: Context, digest: Digest) -> int:
    """Remove an installed model with its signatures.

    Returns:
        Bytes freed.

    Raises:
        UsageError: A slot runs it, or may have to return to it.
        NotStored: It is not in the state (models in the image cannot be removed).
    """
    state = context.state()
    with state.lock(INSTALL_LOCK):
        if not state.layout.has_manifest(digest):
            raise NotStored(f"model {digest} is not in the state folder")
        if digest in state.pinned():
            raise UsageError(
                f"model {digest} is active or the one to return to", advice="Activate another model first."
            )
        remember_model(state, state.layout.load_manifest(digest))
        _remove(state, digest)
        freed = state.layout.collect_garbage(state.pinned())
    journal.event("model-removed", f"model {digest} removed", model_digest=digest)
    return freed


def unused_models(context: Context) -> list[Digest]:
    """Models in the state folder that no slot runs and none may have to return to.

    Raises:
        StoreError: The state cannot be read.
    """
    state = context.state(write=False)
    needed = state.pinned()
    return [
        model.manifest.digest
        for model in list_models(context, state)
        if model.source == "state" and model.manifest.digest not in needed
    ]


def _store(
    state: State,
    registry: Registry,
    repo: str,
    manifest: Manifest,
    config: bytes,
    found: FoundSignatures,
    pace: Pace,
    progress: Callable[[int, int], None],
) -> int:
    layout = state.layout
    for layer in manifest.layers:
        if layer.size > LIMITS.layer_bytes:
            raise LimitError(f"layer {layer.digest} has {layer.size} bytes, more than {LIMITS.layer_bytes}")
    missing = [layer for layer in manifest.layers if layout.blob_size(layer.digest) != layer.size]
    layout.drop_partials(layer.digest for layer in missing)
    _verify_space(state, manifest.layers, missing)
    total = sum(layer.size for layer in manifest.layers)
    here = total - sum(layer.size - layout.partial_size(layer.digest) for layer in missing)
    fetched = 0

    def arrived(size: int) -> None:
        nonlocal here
        here += size
        progress(min(here, total), total)  # more when a damaged part is fetched again

    with layout.batch():
        for layer in manifest.layers:
            if not layout.is_intact(layer):
                with layout.resume_blob(layer) as partial:
                    fetched += download(registry, repo, layer, partial, pace, progress=arrived)
        layout.save_blob(config, manifest.config.media_type)
        layout.save_manifest(manifest)
        save_model_signatures(layout, manifest.digest, found, RegistrySource(registry, repo))
    return fetched


def _verify_space(state: State, layers: tuple[Descriptor, ...], missing: list[Descriptor]) -> None:
    needed = sum(layer.size - state.layout.partial_size(layer.digest) for layer in missing) + _SPACE_MARGIN
    free = free_bytes(state.root)
    if missing and needed > free:
        total = sum(layer.size for layer in layers)
        raise StoreFull(
            f"the model needs {needed} bytes ({total} in layers), {free} are free; nothing was fetched",
            advice="Free space with `edgeprov upload` or `edgeprov model remove`.",
        )


def _forget(state: State, manifest: Manifest) -> None:
    # A model that was stored before (a repeated install) may be active: then it stays.
    if manifest.digest in state.pinned():
        return
    _remove(state, manifest.digest)
    state.layout.collect_garbage(state.pinned())


def _remove(state: State, model: Digest) -> None:
    with state.layout.batch():
        state.layout.remove_manifest(model, with_signatures=True)
        if classic_tag(model) in state.layout.refs():
            state.layout.remove_ref(classic_tag(model))
