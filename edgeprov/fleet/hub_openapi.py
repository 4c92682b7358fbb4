# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The service's own description.

Spec: OpenAPI 3.1.0.
"""

from __future__ import annotations

from typing import Any

from edgeprov import __version__
from edgeprov.fleet.hub import PAGE, PAGE_MAX
from edgeprov.fleet.index import VERDICTS

_TEXT = {"type": "string"}
_NULL_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_NULL_COUNT = {"type": ["integer", "null"]}
_DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}


def openapi() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeprov fleet",
            "version": __version__,
            "description": (
                "Which model version produced which data: kits, models, devices, lineage and proofs. Read-only."
            ),
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Kit": _kit(), "Error": _object(error=_TEXT, message=_TEXT, advice=_TEXT)},
        },
        "security": [{"token": []}],
        "paths": {
            "/healthz": {"get": _get("Whether the service runs", _object(ok={"type": "boolean"})) | {"security": []}},
            "/api/v1/status": {"get": _get("How much the index holds", {"type": "object"})},
            "/api/v1/kits": {
                "get": _get("Kits by model, device, slot, time, labels or verdict; page by page", _page(), _filters())
            },
            "/api/v1/kits/{digest}": {
                "get": _get(
                    "One kit, its verdict and its chain", {"$ref": "#/components/schemas/Kit"}, [_path("digest", _TEXT)]
                )
            },
            "/api/v1/models": {"get": _get("Models and what they produced", _list({"type": "object"}))},
            "/api/v1/devices": {"get": _get("Devices and their newest kit", _list({"type": "object"}))},
            "/api/v1/lineage/{model}": {
                "get": _get(
                    "Where a model comes from and what became of its data",
                    _list({"type": "object"}),
                    [_path("model", _TEXT)],
                )
            },
            "/api/v1/proofs/{device}/{slot}/{number}": {
                "get": _get(
                    "The proof of one result: check it with `edgeprov-fleet check-proof`",
                    {"type": "object"},
                    [_path("device", _TEXT), _path("slot", _TEXT), _path("number", _COUNT)],
                )
            },
        },
    }


def _kit() -> dict[str, Any]:
    return _object(
        digest=_DIGEST,
        kind={"enum": ["kit", "tombstone"]},
        verdict={"enum": list(VERDICTS)},
        model=_DIGEST,
        model_name=_NULL_TEXT,
        device=_TEXT,
        slot=_TEXT,
        seq=_COUNT,
        prev=_NULL_TEXT,
        records=_COUNT,
        labels=_COUNT,
        first=_NULL_COUNT,
        last=_NULL_COUNT,
        recorded_first=_NULL_TEXT,
        recorded_last=_NULL_TEXT,
        created=_TEXT,
        found_at=_TEXT,
        assurance=_NULL_TEXT,
        step=_NULL_COUNT,
        error=_NULL_TEXT,
        detail=_NULL_TEXT,
        signed_before=_NULL_TEXT,
    )


def _filters() -> list[dict[str, Any]]:
    texts = {
        "model": "digest, start of one, name, name:tag or name:version",
        "device": "serial or URN",
        "slot": "",
        "from": "RFC 3339, a day or a month",
        "to": "a day or month is included whole",
        "cursor": "`next` of the page before",
    }
    result = [{"name": name, "in": "query", "description": text, "schema": _TEXT} for name, text in texts.items()]
    for name, values in {"verdict": VERDICTS, "labels": ("true", "false"), "kind": ("kit", "tombstone")}.items():
        result.append({"name": name, "in": "query", "schema": {"enum": list(values)}})
    limit = {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE}
    return [*result, {"name": "limit", "in": "query", "schema": limit}]


def _page() -> dict[str, Any]:
    return _object(
        items={"type": "array", "items": {"$ref": "#/components/schemas/Kit"}},
        total={"type": "object"},
        next=_NULL_TEXT,
    )


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return _object(items={"type": "array", "items": item})


def _object(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _get(summary: str, schema: dict[str, Any], parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    codes = {"400": "malformed question", "401": "no token", "404": "not there", "429": "too many requests"}
    return {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {
            "200": {"description": "the answer", "content": {"application/json": {"schema": schema}}},
            "304": {"description": "not changed since If-None-Match"},
            **{code: {"description": text, **error} for code, text in codes.items()},
        },
    }
