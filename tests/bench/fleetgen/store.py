# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A fleet's OCI layout as the store of a docker-registry, written file by file: pushing it would take minutes.

The program that serves it is the real one. Blobs are hard links, so the layout must not change afterwards.

Spec: distribution 2.8, registry/storage/paths.go (the store's folders); OCI distribution-spec 1.1,
"Referrers Tag Schema" (docker-registry has no referrers API).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.manifest import encode_index, parse_manifest
from edgeprov.formats.mediatypes import ANNOTATION_REF_NAME, EMPTY_BLOB
from edgeprov.registry.base import fallback_tag

_ROOT = Path("docker", "registry", "v2")


class RegistryStore:
    """The store in ``folder``, which docker-registry's ``rootdirectory`` names."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / _ROOT

    def fill(self, layout: Path) -> int:
        """Take all that a layout names; returns the number of manifests.

        What no registry would take (a manifest that is not the named one) is left out.
        """
        blobs = layout / "blobs" / "sha256"
        referrers: dict[tuple[str, Digest], list[Any]] = defaultdict(list)
        count = 0
        for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
            raw = (blobs / entry["digest"].removeprefix("sha256:")).read_bytes()
            manifest = parse_manifest(raw)
            name = entry["annotations"][ANNOTATION_REF_NAME]
            repo, _, tag = name.partition("@")[0].partition(":")
            for blob in (manifest.descriptor, *manifest.blobs):
                self._link_blob(blobs / blob.digest.hex, blob.digest)
            for blob in manifest.blobs:
                self._link(repo, f"_layers/sha256/{blob.digest.hex}/link", blob.digest)
            self._manifest(repo, manifest.digest, tag)
            if manifest.subject is not None:
                descriptor = manifest.descriptor.with_annotations(manifest.annotations)
                referrers[repo, manifest.subject.digest].append(descriptor)
            count += 1
        for (repo, subject), entries in referrers.items():
            raw = encode_index(entries)
            digest = digest_of(raw)
            path = self._blob(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            self._manifest(repo, digest, fallback_tag(subject))
        return count

    def _manifest(self, repo: str, digest: Digest, tag: str) -> None:
        self._link(repo, f"_manifests/revisions/sha256/{digest.hex}/link", digest)
        if tag:
            self._link(repo, f"_manifests/tags/{tag}/current/link", digest)
            self._link(repo, f"_manifests/tags/{tag}/index/sha256/{digest.hex}/link", digest)

    def _link(self, repo: str, place: str, digest: Digest) -> None:
        path = self._root / "repositories" / repo / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(digest))

    def _link_blob(self, source: Path, digest: Digest) -> None:
        path = self._blob(digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if digest == digest_of(EMPTY_BLOB):  # a layout may leave it out
            path.write_bytes(EMPTY_BLOB)
        else:
            os.link(source, path)

    def _blob(self, digest: Digest) -> Path:
        return self._root / "blobs" / "sha256" / digest.hex[:2] / digest.hex / "data"
