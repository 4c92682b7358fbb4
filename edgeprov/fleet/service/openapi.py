# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The service's own description: every address, parameter, answer and error.

Spec: OpenAPI 3.1.0. The tests validate the document, and each answer against it.
"""

from __future__ import annotations

from typing import Any, Final

from edgeprov import __version__
from edgeprov.fleet.index.query import VERDICTS
from edgeprov.fleet.service.answers import PAGE, PAGE_MAX, PARAMETERS

_TEXT: Final = {"type": "string"}
_NULL_TEXT: Final = {"type": ["string", "null"]}
_TIME: Final = {"type": "string", "format": "date-time"}
_NULL_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NULL_COUNT: Final = {"type": ["integer", "null"], "minimum": 0}
_DIGEST: Final = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_NULL_DIGEST: Final = {"type": ["string", "null"], "pattern": "^sha256:[0-9a-f]{64}$"}
_VERDICT: Final = {"enum": list(VERDICTS)}
_ERRORS: Final = {
    "400": "the question is malformed",
    "401": "a bearer token is needed, or this one is not accepted",
    "404": "not there",
    "414": "the address is too long",
    "421": "a service without tokens was asked under another name than this machine's",
    "429": "too many requests: wait as long as Retry-After says",
    "500": "a bug",
    "503": "the index is missing, locked or damaged: try again later",
}


def openapi() -> dict[str, Any]:
    """The document."""
    schemas = {
        "Kit": _object(**_kit()), "KitDetail": _object(**_kit(), **_detail()), "Page": _page(), "Status": _status(),
        "Models": _list(_object(**_model(), security_version=_COUNT, signed={"type": ["boolean", "null"]})),
        "Devices": _list(_device()), "Lineage": _list(_lineage()),
        "Error": _object(optional=("advice",), error=_TEXT, message=_TEXT, advice=_TEXT),
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeprov fleet",
            "version": __version__,
            "description": (
                "Which model version produced which data: kits, models, devices, lineage and proofs. Read-only. "
                "Every answer has an ETag; fields are only ever added."
            ),
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only where the service was started with --token-file.",
                }
            },
            "schemas": schemas,
        },
        "security": [{"token": []}],
        "paths": {
            "/healthz": {
                "get": _get("health", "Whether the service runs", _object(ok={"type": "boolean"})) | {"security": []}
            },
            "/openapi.json": {"get": _get("description", "This document", {"type": "object"})},
            "/api/v1/status": {"get": _get("status", "How much the index holds", _ref("Status"))},
            "/api/v1/kits": {
                "get": _get(
                    "kits",
                    "Kits by digest, model, device, slot, time, labels or verdict; page by page (`next`, and Link)",
                    _ref("Page"),
                    _filters(),
                )
            },
            "/api/v1/kits/{digest}": {
                "get": _get(
                    "kit", "One kit, its verdict and its chain", _ref("KitDetail"), [_path("digest", _TEXT)]
                )
            },
            "/api/v1/models": {"get": _get("models", "Models and what they produced", _ref("Models"))},
            "/api/v1/devices": {"get": _get("devices", "Devices and their newest kit", _ref("Devices"))},
            "/api/v1/lineage/{model}": {
                "get": _get(
                    "lineage",
                    "Where a model comes from and what became of its data",
                    _ref("Lineage"),
                    [_path("model", _TEXT)],
                )
            },
            "/api/v1/proofs/{device}/{slot}/{number}": {
                "get": _get(
                    "proof",
                    "The proof of one result, to be checked with `edgeprov-fleet check-proof`; it costs 20 requests",
                    {"type": "object"},
                    [_path("device", _TEXT), _path("slot", _TEXT), _path("number", _COUNT)],
                    {"409": "the result is there, but its proof does not verify"},
                )
            },
        },
    }  # fmt: skip


def _kit() -> dict[str, Any]:
    return {
        "digest": _DIGEST, "kind": {"enum": ["kit", "tombstone"]}, "verdict": _VERDICT, "model": _DIGEST,
        "model_name": _NULL_TEXT, "device": _TEXT, "slot": _TEXT, "seq": _COUNT, "prev": _NULL_DIGEST,
        "records": _COUNT, "labels": _COUNT, "first": _NULL_COUNT, "last": _NULL_COUNT,
        "recorded_first": _NULL_TIME, "recorded_last": _NULL_TIME, "created": _TIME, "found_at": _TIME,
        "assurance": _NULL_TEXT, "step": _NULL_COUNT, "error": _NULL_TEXT, "detail": _NULL_TEXT,
        "signed_before": _NULL_TIME,
    }  # fmt: skip


def _detail() -> dict[str, Any]:
    digests = {"type": "array", "items": _DIGEST}
    link = _object(
        optional=("digest", "name", "step", "detail", "assurance"),
        link={"enum": ["kit", "device", "model"]},
        verdict=_VERDICT,
        digest=_NULL_DIGEST,
        name=_NULL_TEXT,
        step=_NULL_COUNT,
        detail=_NULL_TEXT,
        assurance=_NULL_TEXT,
    )
    return {
        "repo": _TEXT, "tag": _NULL_TEXT, "source": _TEXT, "after": digests, "forks": digests,
        "record": _NULL_DIGEST, "chain": {"type": "array", "items": link},
    }  # fmt: skip


def _status() -> dict[str, Any]:
    source = _object(name=_TEXT, synced_at=_NULL_TIME)
    return _object(
        edgeprov=_TEXT,
        kits=_COUNT,
        records=_COUNT,
        labels=_COUNT,
        verdicts=_object(ok=_COUNT, refused=_COUNT, unchecked=_COUNT),
        devices=_COUNT,
        models=_COUNT,
        policy=_DIGEST,
        sources={"type": "array", "items": source},
    )


def _model() -> dict[str, Any]:
    return {
        "digest": _DIGEST, "name": _NULL_TEXT, "version": _NULL_TEXT, "trained_on": _NULL_DIGEST,
        "created": _NULL_TEXT, "kits": _COUNT, "records": _COUNT, "devices": _COUNT,
    }  # fmt: skip


def _device() -> dict[str, Any]:
    return _object(
        device=_TEXT,
        enrolled_at=_NULL_TIME,
        assurance=_NULL_TEXT,
        kits=_COUNT,
        last_seq=_NULL_COUNT,
        last_result=_NULL_TIME,
    )


def _lineage() -> dict[str, Any]:
    signed = {"type": ["boolean", "null"]}
    node = _object(**_model(), repo=_NULL_TEXT, verified_kits=_COUNT, labels=_COUNT, signed=signed)
    collection = _object(
        optional=("created", "next_models"),
        statement=_DIGEST,
        known={"type": "boolean"},
        verified={"type": "boolean"},
        signer=_NULL_TEXT,
        why=_NULL_TEXT,
        models={"type": "array", "items": _DIGEST},
        kits=_NULL_COUNT,
        rows=_NULL_COUNT,
        labelled=_NULL_COUNT,
        created=_TEXT,
        next_models={"type": "array", "items": node},
    )
    collections = {"type": "array", "items": collection}
    return _object(model=node, before=collections, after=collections)


def _filters() -> list[dict[str, Any]]:
    schemas: dict[str, dict[str, Any]] = {
        "verdict": _VERDICT,
        "labels": {"enum": ["true", "false"]},
        "kind": {"enum": ["kit", "tombstone"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE},
    }
    return [
        {"name": name, "in": "query", "description": text, "schema": schemas.get(name, _TEXT)}
        for name, text in PARAMETERS.items()
    ]


def _page() -> dict[str, Any]:
    total = _object(kits=_COUNT, records=_COUNT, labels=_COUNT)
    return _object(items={"type": "array", "items": _ref("Kit")}, total=total, next=_NULL_TEXT)


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return _object(items={"type": "array", "items": item})


def _object(*, optional: tuple[str, ...] = (), **members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [name for name in members if name not in optional]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _get(
    operation: str,
    summary: str,
    schema: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    errors: dict[str, str] | None = None,
) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": _ref("Error")}}}
    tag = {"ETag": {"description": "give it back in If-None-Match", "schema": _TEXT}}
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {
            "200": {"description": "the answer", "headers": tag, "content": {"application/json": {"schema": schema}}},
            "304": {"description": "not changed since If-None-Match", "headers": tag},
            **{code: {"description": text, **error} for code, text in sorted((_ERRORS | (errors or {})).items())},
        },
    }
