# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Kitfile: what a ModelKit holds and where. The config blob of a native kit is its JSON form.

kit binds entries to layers by order: the model, its parts, code, datasets, docs, prompts. Unknown
keys are ignored here as kit ignores them; what edgeprov adds stands under ``parameters``.

Spec: KitOps Kitfile 1.0.0; FORMAT.md section "Model kit".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.jsonx import JsonObject, get_list, parse_json_object
from edgeprov.formats.names import check_path
from edgeprov.limits import LIMITS

EntryKind = Literal["model", "modelpart", "code", "dataset", "docs", "prompt"]

_LISTS: Final[tuple[tuple[EntryKind, str], ...]] = (
    ("code", "code"),
    ("dataset", "datasets"),
    ("docs", "docs"),
    ("prompt", "prompts"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySpec:
    """One entry that has a layer; ``item`` is its object in the Kitfile.

    ``name`` is empty where the kind has none (code, docs).
    """

    kind: EntryKind
    index: int
    name: str
    path: str
    item: Mapping[str, Any]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The entry's free-form parameters; empty when there are none or they are no map."""
        value = self.item.get("parameters")
        return value if isinstance(value, dict) else {}


def parse_kitfile(raw: bytes) -> JsonObject:
    """Read a Kitfile in JSON; kitfile_entries checks its entries.

    Raises:
        LimitError: Too long.
        FormatError: Not a JSON object.
    """
    return parse_json_object(raw, "Kitfile", max_bytes=LIMITS.config_bytes)


def kitfile_entries(kitfile: Mapping[str, Any]) -> tuple[EntrySpec, ...]:
    """The entries that have a layer, in the order of the layers.

    Raises:
        FormatError: An entry is malformed or has a path that no layer may have; two share a path.
    """
    version = kitfile.get("manifestVersion")
    if not isinstance(version, str) or not version:
        raise FormatError("Kitfile: 'manifestVersion' is missing")
    if not isinstance(kitfile.get("package", {}), dict):
        raise FormatError("Kitfile: 'package' is not an object")
    entries = tuple(_entries(kitfile))
    paths = [entry.path for entry in entries]
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise FormatError(f"Kitfile: two entries have the path {twice[:80]!r}")
    return entries


def get_package(kitfile: Mapping[str, Any], key: str) -> str:
    """A string of the ``package`` section, empty when it is not there."""
    package = kitfile.get("package") or {}
    value = package.get(key, "") if isinstance(package, dict) else ""
    return value if isinstance(value, str) else ""


def _entries(kitfile: Mapping[str, Any]) -> Iterator[EntrySpec]:
    model = kitfile.get("model")
    if model is not None:
        if not isinstance(model, dict):
            raise FormatError("Kitfile: 'model' is not an object")
        if _is_reference(model.get("path")):
            raise FormatError(
                "Kitfile: the model is a reference to another kit",
                advice="Use a kit that holds its own weights; edgeprov names a model by one digest.",
            )
        if model.get("path"):
            yield _entry("model", 0, model)
        for index, part in enumerate(get_list(model, "parts", "Kitfile model", maximum=LIMITS.manifest_layers)):
            yield _entry("modelpart", index, part)
    for kind, key in _LISTS:
        for index, item in enumerate(get_list(kitfile, key, "Kitfile", maximum=LIMITS.manifest_layers)):
            if isinstance(item, dict) and item.get("remotePath"):
                continue  # an S3 object beside the kit: no layer
            yield _entry(kind, index, item)


def _entry(kind: EntryKind, index: int, item: object) -> EntrySpec:
    what = f"Kitfile {kind} {index + 1}"
    if not isinstance(item, dict):
        raise FormatError(f"{what} is not an object")
    for key in ("name", "path", "digest", "diffId"):
        if not isinstance(item.get(key, ""), str):
            raise FormatError(f"{what}: {key!r} is not a string")
    # "./code/" and "code" are one place; "." or nothing is the kit's whole folder.
    path = item.get("path", "").removeprefix("./").rstrip("/") or "."
    if path != ".":
        check_path(path)
    return EntrySpec(kind=kind, index=index, name=item.get("name", ""), path=path, item=item)


def _is_reference(path: object) -> bool:
    # As kit tells them apart: a registry reference has a tag or digest behind its last part.
    if not isinstance(path, str):
        return False
    return "@sha256:" in path or ("/" in path and ":" in path.rpartition("/")[2])
