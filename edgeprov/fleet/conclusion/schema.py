# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""JSON Schema of the conclusion's values, derived from the types; ``audit.schema.json`` holds its text.

``python -m edgeprov.fleet.conclusion.schema`` writes the file again after a change of the types.
"""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from edgeprov.fleet.conclusion.fleet_report import FleetReport
from edgeprov.fleet.conclusion.question import Question
from edgeprov.fleet.conclusion.trust import TrustRules
from edgeprov.fleet.conclusion.types import Knowledge

PATH: Final = Path(__file__).with_name("audit.schema.json")


def audit_schema() -> dict[str, Any]:
    """The schema: the document is a report; ``$defs`` has every other value."""
    names: dict[str, Any] = {}
    for kind in (FleetReport, Knowledge, TrustRules, Question):
        _schema(kind, names)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://edgeprov.dev/audit.schema.json",
        "title": "edgeprov audit report",
        "$ref": "#/$defs/FleetReport",
        "$defs": dict(sorted(names.items())),
    }


def _schema(kind: Any, names: dict[str, Any]) -> dict[str, Any]:
    origin: Any = get_origin(kind)
    args = get_args(kind)
    if origin is Annotated:
        return {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(arg, names) if arg is not type(None) else {"type": "null"} for arg in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": _schema(args[0], names)}
        items = [_schema(arg, names) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    simple = {bytes: "string", bool: "boolean", int: "integer", str: "string"}.get(kind)
    if simple is not None:
        return {"type": simple, **({"pattern": "^([0-9a-f]{2})*$"} if kind is bytes else {})}
    if kind.__name__ not in names:
        names[kind.__name__] = {}
        hints = get_type_hints(kind, include_extras=True)
        fields = [item.name for item in dataclasses.fields(kind)]
        names[kind.__name__] = {
            "type": "object",
            "properties": {name: _schema(hints[name], names) for name in fields},
            "required": fields,
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{kind.__name__}"}


def schema_text() -> str:
    """The text of ``audit.schema.json``."""
    return json.dumps(audit_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema_text())
