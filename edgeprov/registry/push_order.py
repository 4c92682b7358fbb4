# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The order in which a signed artifact reaches a registry, so that its tag promises all the rest.

Blobs; the manifest by digest; the signature manifests, each under a tag of its own; the fallback index where the
registry has no referrers API; last the tag. A cut after any request leaves no tag without its signatures.

Spec: FORMAT.md section "Registry layout"; OCI distribution-spec 1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from io import BytesIO

from edgeprov.errors import FormatError, RegistryConflict, RegistryNotFound
from edgeprov.formats.descriptor import Descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, encode_index
from edgeprov.formats.mediatypes import EMPTY_BLOB
from edgeprov.formats.signature_manifest import MAX_SIGNATURE_TAGS, signature_tag
from edgeprov.registry.base import Registry, fallback_tag


def push_signed(
    registry: Registry,
    repo: str,
    manifest: Manifest,
    signatures: Sequence[tuple[Manifest, Mapping[Digest, bytes]]],
    tags: Sequence[str],
) -> None:
    """Push what comes after the blobs of an artifact; repeating it changes nothing.

    Args:
        registry: Where to.
        repo: Repository.
        manifest: The artifact; its blobs are there.
        signatures: Manifests that have it as their subject, each with its blobs by digest (the empty config may be
            left out).
        tags: Names of the artifact, in the order of writing. The signatures' tags begin with the first one.

    Raises:
        FormatError: A signature has another subject.
        RegistryConflict: No tag is left for a signature.
        RegistryError: The registry failed; a repeat goes on from there.
    """
    if any(signed.subject is None or signed.subject.digest != manifest.digest for signed, _ in signatures):
        raise FormatError("a signature is not about the artifact that it is pushed with")
    registry.push_manifest(repo, manifest)
    first = 1
    indexed = True
    for signed, blobs in signatures:
        number = free_signature_number(registry, repo, tags[0], signed.digest, first)
        indexed &= push_attached(registry, repo, signed, blobs, tag=signature_tag(tags[0], number))
        first = number + 1
    if not indexed:
        list_as_referrers(registry, repo, manifest.digest, [signed for signed, _ in signatures])
    for tag in tags:
        registry.push_manifest(repo, manifest, tag=tag)


def attach(
    registry: Registry, repo: str, manifest: Manifest, blobs: Mapping[Digest, bytes], *, tag: str | None = None
) -> None:
    """Push one manifest that has a subject, with its blobs, and see to it that it is found from its subject.

    Raises:
        FormatError: The manifest has no subject.
    """
    if manifest.subject is None:
        raise FormatError("a referrer without a subject")
    if not push_attached(registry, repo, manifest, blobs, tag=tag):
        list_as_referrers(registry, repo, manifest.subject.digest, [manifest])


def push_attached(
    registry: Registry, repo: str, manifest: Manifest, blobs: Mapping[Digest, bytes], *, tag: str | None
) -> bool:
    """Push a manifest with its blobs; True when the registry says that it listed it with its subject.

    Args:
        registry: Where to.
        repo: Repository of the subject.
        manifest: The referrer.
        blobs: The bytes of each of its blobs by digest; the empty config may be left out.
        tag: Its own tag.
    """
    for blob in manifest.blobs:
        data = EMPTY_BLOB if blob.digest == EMPTY_CONFIG.digest else blobs[blob.digest]
        registry.push_blob(repo, blob, BytesIO(data))
    return registry.push_manifest(repo, manifest, tag=tag)


def list_as_referrers(registry: Registry, repo: str, subject: Digest, manifests: Sequence[Manifest]) -> None:
    """Add manifests to the fallback index of their subject, in one write.

    That is a read-modify-write without a lock: only the one writer of a subject may do it, and for the signatures of
    its own kit a device is that. An index that cannot be read is replaced.
    """
    tag = fallback_tag(subject)
    entries: list[Descriptor] = []
    with contextlib.suppress(RegistryNotFound, FormatError):
        entries = list(registry.fetch_index(repo, tag).manifests)
    listed = {entry.digest for entry in entries}
    added = [item for item in manifests if item.digest not in listed]
    if added:
        entries += [item.descriptor.with_annotations(item.annotations) for item in added]
        registry.push_index(repo, encode_index(entries), tag=tag)


def free_signature_number(registry: Registry, repo: str, tag: str, signature: Digest, first: int = 1) -> int:
    """The first number from ``first`` on whose signature tag is free, or is this signature's already.

    Raises:
        RegistryConflict: None is left.
    """
    for number in range(first, MAX_SIGNATURE_TAGS + 1):
        found = registry.head_manifest(repo, signature_tag(tag, number))
        if found is None or found.digest == signature:
            return number
    raise RegistryConflict(f"{repo}:{tag} has {MAX_SIGNATURE_TAGS} signatures already")
