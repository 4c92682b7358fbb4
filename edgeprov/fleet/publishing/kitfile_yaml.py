# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Kitfile in YAML, as people write it, to the JSON form that a kit's config holds. The only importer of yaml.

kit reads a Kitfile strictly: an unknown key is an error there, so it is one here, before anything is
packed. Only plain values pass: a date or a tag would read differently in Go and Python.

Spec: KitOps Kitfile 1.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.jsonx import JsonObject, encode_json, parse_json_object
from edgeprov.limits import LIMITS

_ENTRY: Final = frozenset(("name", "path", "description", "license"))
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(("manifestVersion", "package", "model", "datasets", "code", "docs", "prompts")),
    "package": frozenset(("name", "version", "description", "license", "authors")),
    "model": _ENTRY | {"framework", "format", "version", "parts", "parameters"},
    "parts": frozenset(("name", "path", "license", "type")),
    "datasets": _ENTRY | {"parameters", "remotePath", "remoteHash"},
    "code": frozenset(("path", "description", "license")),
    "docs": frozenset(("path", "description")),
    "prompts": frozenset(("name", "path", "description")),
}


class _Loader(yaml.SafeLoader):
    """Safe, and without YAML's guesses: no dates, and no key twice."""


def _no_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise FormatError(f"Kitfile line {key_node.start_mark.line + 1}: a key is not text")
        if key in result:
            raise FormatError(f"Kitfile line {key_node.start_mark.line + 1}: {key[:80]!r} stands there twice")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _plain_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _plain_text)


def parse_kitfile_yaml(raw: bytes) -> JsonObject:
    """Read a Kitfile.

    Raises:
        LimitError: Too long.
        FormatError: Not YAML, unknown keys, aliases, or values that JSON cannot hold.
    """
    if len(raw) > LIMITS.config_bytes:
        raise LimitError(f"Kitfile has {len(raw)} bytes, more than {LIMITS.config_bytes}")
    try:
        text = raw.decode("utf-8")
        _verify_events(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
        if not isinstance(value, dict):
            raise FormatError("Kitfile is not a map")
        _verify_keys(value)
        return parse_json_object(encode_json(value), "Kitfile", max_bytes=LIMITS.config_bytes)
    except (yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"Kitfile is not valid YAML: {_one_line(error)}") from error
    except (ValueError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"Kitfile: {_one_line(error)}") from error


def _verify_events(text: str) -> None:
    # Aliases are YAML's way to make ten lines into gigabytes, depth its way to make them slow.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise FormatError("Kitfile: aliases (*name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > LIMITS.json_depth:
            raise LimitError(f"Kitfile is nested deeper than {LIMITS.json_depth}")


def _verify_keys(kitfile: Mapping[str, Any]) -> None:
    _verify_level(kitfile, "")
    for name in ("package", "model"):
        if isinstance(kitfile.get(name), dict):
            _verify_level(kitfile[name], name)
    model = kitfile.get("model")
    lists = {name: kitfile.get(name) for name in ("datasets", "code", "docs", "prompts")}
    lists["parts"] = model.get("parts") if isinstance(model, dict) else None
    for name, items in lists.items():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                _verify_level(item, name)


def _verify_level(level: Mapping[str, Any], name: str) -> None:
    if unknown := sorted(level.keys() - _KEYS[name]):
        raise FormatError(
            f"Kitfile: unknown key {(name + '.' if name else '') + unknown[0][:80]!r}",
            advice="kit refuses it too; values of your own go under model.parameters.",
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
