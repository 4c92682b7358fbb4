# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where the fleet goes: OCI layout folders written fast and not durably, or a registry through its Protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeprov.formats.descriptor import Descriptor, encode_descriptor
from edgeprov.formats.devicerecord import record_tag
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import A_SUBJECT, ANNOTATION_REF_NAME, DEVICE_RECORD, EMPTY_BLOB, NO_SUBJECT, OCI_INDEX
from edgeprov.formats.signature_manifest import signature_tag
from edgeprov.registry.base import Registry
from edgeprov.registry.push_order import attach, push_signed
from tests.bench.fleetgen.device import Artifact

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class LayoutSink:
    """One folder. Several processes may write blobs; ``entries`` of all are joined by write_index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.entries: list[dict[str, Any]] = []

    def put(self, artifact: Artifact) -> None:
        for digest, data in artifact.blobs.items():
            if digest == artifact.rot:
                data = data[:-1100] + bytes((data[-1100] ^ 1,)) + data[-1099:]
            self._blob(digest, data)
        ref = f"{artifact.repo}:{artifact.tag}" if artifact.tag else f"{artifact.repo}@{artifact.manifest.digest}"
        if (own := _own_tag(artifact)) != artifact.tag:
            self._manifest(artifact.manifest, f"{artifact.repo}:{own}", artifact.list_changes)
        self._manifest(artifact.manifest, ref, artifact.list_changes)
        for number, signature in enumerate(artifact.signatures, 1):
            self._blob(signature.manifest.layers[0].digest, signature.blob)
            self._blob(signature.manifest.config.digest, EMPTY_BLOB)
            tag = _own_tag(artifact)
            name = f":{signature_tag(tag, number)}" if tag else f"@{signature.manifest.digest}"
            self._manifest(signature.manifest, artifact.repo + name, {})

    def _blob(self, digest: Digest, data: bytes) -> None:
        (self.blobs / digest.hex).write_bytes(data)

    def _manifest(self, manifest: Manifest, ref: str, changes: dict[str, str]) -> None:
        self._blob(manifest.digest, manifest.raw)
        marks = {**manifest.annotations, **changes, ANNOTATION_REF_NAME: ref}
        marks[A_SUBJECT] = str(manifest.subject.digest) if manifest.subject else NO_SUBJECT
        entry: Descriptor = manifest.descriptor.with_annotations(marks)
        self.entries.append(encode_descriptor(entry))


def write_index(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    (folder / "oci-layout").write_bytes(LAYOUT)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    (folder / "index.json").write_text(json.dumps(index, sort_keys=True, separators=(",", ":")))


class RegistrySink:
    """Any registry that has the Protocol, as a device writes to it: signatures are found without a referrers API too."""

    def __init__(self, registry: Registry, prefix: str = "") -> None:
        self._registry = registry
        self._prefix = prefix

    def put(self, artifact: Artifact) -> None:
        repo = self._prefix + artifact.repo
        for descriptor in artifact.manifest.blobs:
            self._registry.push_blob(repo, descriptor, artifact.blobs[descriptor.digest])
        signatures = [
            (item.manifest, {item.manifest.layers[0].digest: item.blob, item.manifest.config.digest: EMPTY_BLOB})
            for item in artifact.signatures
        ]
        tags = [tag for tag in dict.fromkeys((_own_tag(artifact), artifact.tag)) if tag]
        if tags:
            push_signed(self._registry, repo, artifact.manifest, signatures, tags)
            return
        self._registry.push_manifest(repo, artifact.manifest)
        for manifest, blobs in signatures:
            attach(self._registry, repo, manifest, blobs)


def _own_tag(artifact: Artifact) -> str | None:
    """The tag that names this artifact for ever: of a device record with its digest."""
    if artifact.tag is None or artifact.manifest.artifact_type != DEVICE_RECORD:
        return artifact.tag
    return record_tag(artifact.tag, artifact.manifest.digest)
