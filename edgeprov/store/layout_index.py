# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The entries of a layout's index.json in memory: by reference, by digest, by subject.

Members that we do not know are kept, since other tools write into the same folder.
Spec: OCI image-spec 1.1, image-layout.md and image-index.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeprov.errors import FormatError
from edgeprov.formats.descriptor import Descriptor, encode_descriptor, parse_descriptor
from edgeprov.formats.digest import Digest
from edgeprov.formats.jsonx import JsonObject, encode_json, get_list, parse_json_object
from edgeprov.formats.mediatypes import A_SUBJECT, ANNOTATION_REF_NAME, NO_SUBJECT, OCI_INDEX
from edgeprov.limits import LIMITS


class LayoutIndex:
    """Parsed index.json. ``entries`` are in file order; one manifest may have several, one per reference."""

    def __init__(self, raw: bytes | None = None) -> None:
        """Read index.json, or start an empty one.

        Raises:
            FormatError: Not an image index.
            LimitError: Too many entries or too many bytes.
        """
        self._obj: JsonObject = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        if raw is not None:
            self._obj = parse_json_object(raw, "index.json", max_bytes=LIMITS.index_bytes)
            if self._obj.get("schemaVersion") != 2:
                raise FormatError("index.json: schemaVersion is not 2")
        items = get_list(self._obj, "manifests", "index.json", maximum=LIMITS.list_entries)
        self._items: list[Any] = items
        self.entries = [parse_descriptor(item, f"index entry {number}") for number, item in enumerate(items, 1)]
        self._by_digest: dict[Digest, list[Descriptor]] | None = None
        self._by_ref: dict[str, Descriptor] | None = None
        self._by_subject: dict[str, list[Descriptor]] | None = None
        self._indexes: list[Descriptor] | None = None

    def copy(self) -> LayoutIndex:
        """An independent copy."""
        twin = LayoutIndex()
        twin._obj = dict(self._obj)
        twin._items = list(self._items)
        twin.entries = list(self.entries)
        return twin

    def encode(self) -> bytes:
        """The bytes of index.json."""
        return encode_json({**self._obj, "manifests": self._items})

    def by_ref(self) -> dict[str, Descriptor]:
        """Entries that have a reference name, by it; the last one wins, as in other readers."""
        if self._by_ref is None:
            self._by_ref = {
                name: entry for entry in self.entries if (name := entry.annotations.get(ANNOTATION_REF_NAME))
            }
        return self._by_ref

    def by_digest(self, digest: Digest) -> tuple[Descriptor, ...]:
        """All entries of one manifest."""
        if self._by_digest is None:
            self._by_digest = {}
            for entry in self.entries:
                self._by_digest.setdefault(entry.digest, []).append(entry)
        return tuple(self._by_digest.get(digest, ()))

    def by_subject(self, subject: Digest | None) -> tuple[Descriptor, ...]:
        """Entries that name this subject, in file order; with None, those of other tools, which do not tell it."""
        if self._by_subject is None:
            self._by_subject = {}
            for entry in self.entries:
                self._by_subject.setdefault(entry.annotations.get(A_SUBJECT, ""), []).append(entry)
        return tuple(self._by_subject.get(str(subject) if subject else "", ()))

    def indexes(self) -> list[Descriptor]:
        """Entries that are indexes themselves."""
        if self._indexes is None:
            self._indexes = [entry for entry in self.entries if entry.media_type == OCI_INDEX]
        return self._indexes

    def add(self, entry: Descriptor) -> bool:
        """Add an entry, or replace the one of the same reference.

        An entry without reference gives way to any other of the same digest.

        Returns:
            False when the very same entry was there already.
        """
        ref = entry.annotations.get(ANNOTATION_REF_NAME)
        same = self.by_digest(entry.digest)
        if entry in same or (ref is None and same):
            return False
        bare = [old for old in same if ANNOTATION_REF_NAME not in old.annotations]
        named = self.by_ref().get(ref) if ref else None
        if named or bare:
            gone = [*bare, *([named] if named else [])]
            self._keep(old not in gone for old in self.entries)
        self._items.append(encode_descriptor(entry))
        self.entries.append(entry)
        if named or bare:
            self._by_digest = self._by_ref = self._by_subject = self._indexes = None
        else:  # the common case on a long list of kits
            if self._by_digest is not None:
                self._by_digest.setdefault(entry.digest, []).append(entry)
            if ref and self._by_ref is not None:
                self._by_ref[ref] = entry
            if self._by_subject is not None:
                self._by_subject.setdefault(entry.annotations.get(A_SUBJECT, ""), []).append(entry)
        self._indexes = None
        return True

    def drop(self, *, digests: Iterable[Digest] = (), ref: str | None = None) -> bool:
        """Remove entries by digest or by reference; True when there were any."""
        wanted = frozenset(digests)
        before = len(self.entries)
        self._keep(
            entry.digest not in wanted and (ref is None or entry.annotations.get(ANNOTATION_REF_NAME) != ref)
            for entry in self.entries
        )
        return len(self.entries) != before

    def _keep(self, chosen: Iterable[bool]) -> None:
        pairs = [(item, entry) for item, entry, kept in zip(self._items, self.entries, chosen, strict=True) if kept]
        self._items = [item for item, _ in pairs]
        self.entries = [entry for _, entry in pairs]
        self._by_digest = self._by_ref = self._by_subject = self._indexes = None


def index_entry(
    descriptor: Descriptor, *, ref: str | None, subject: Digest | None, annotations: dict[str, str]
) -> Descriptor:
    """The entry by which index.json names a manifest: its annotations, plus reference and subject."""
    merged = dict(annotations)
    merged.pop(ANNOTATION_REF_NAME, None)
    merged.pop(A_SUBJECT, None)
    if ref:
        merged[ANNOTATION_REF_NAME] = ref
    merged[A_SUBJECT] = str(subject) if subject else NO_SUBJECT  # told: then nobody has to read the manifest for it
    return descriptor.with_annotations(merged)


def entry_subject(entry: Descriptor) -> str | None:
    """The subject that an entry of index.json tells; None when it has none, or does not tell."""
    named = entry.annotations.get(A_SUBJECT)
    return None if named == NO_SUBJECT else named


def plain(entry: Descriptor) -> Descriptor:
    """The entry without what only the layout adds, as a registry's referrers list would show it."""
    kept = {k: v for k, v in entry.annotations.items() if k not in (ANNOTATION_REF_NAME, A_SUBJECT)}
    return entry.with_annotations(kept)
