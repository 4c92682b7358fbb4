# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Lineage: model, its kits, the training sets made of them, the next model, and so on, in both directions.

An edge from a training set to a model is what the model's signed manifest names; an edge from kits to a
training set is what its statement names. Both are only as good as their signatures: a model's by its
publisher, a statement's by a collector; ``verify`` judges them, and what it did not verify is unverified.
"""

from __future__ import annotations

from sqlite3 import Row
from typing import Any, Final

from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.index.query import Query

DEPTH: Final = 20
"""Generations that are followed; a longer chain is cut, and says so."""


def lineage(index: Index, model: str, policy: str = "") -> dict[str, Any]:
    """What a model was trained on, and what became of its data.

    Args:
        index: The index.
        model: Manifest digest.
        policy: Digest of the trust folder under which verdicts are read; nothing is verified under none.
    """
    return {
        "model": _node(index, model, policy),
        "before": _before(index, model, policy, {model}),
        "after": _after(index, model, policy, {model}),
    }


def _node(index: Index, model: str, policy: str) -> dict[str, Any]:
    known = index.rows("SELECT name, version, repo, trained_on, created FROM models WHERE digest = ?", (model,))
    kits, records, labels = index.count(Query(model=(model,), policy=policy))
    verified = index.count(Query(model=(model,), policy=policy, verdict="ok"))[0]
    devices = index.rows("SELECT count(DISTINCT device) FROM artifacts WHERE model = ?", (model,))[0][0]
    names = (
        dict(known[0]) if known else {"name": None, "version": None, "repo": None, "trained_on": None, "created": None}
    )
    return {
        "digest": model,
        **names,
        "signed": None if (judged := _judged(index, model, policy)) is None else bool(judged["verified"]),
        "kits": kits,
        "verified_kits": verified,
        "records": records,
        "labels": labels,
        "devices": devices,
    }


def _before(index: Index, model: str, policy: str, seen: set[str]) -> list[dict[str, Any]]:
    """Training sets and models that led here, nearest first."""
    result: list[dict[str, Any]] = []
    waiting = [model]
    while waiting and len(result) < DEPTH:
        rows = index.rows(
            "SELECT trained_on FROM models WHERE digest = ? AND trained_on IS NOT NULL", (waiting.pop(0),)
        )
        for row in rows:
            collection = _collection(index, row["trained_on"], policy)
            result.append(collection)
            fresh = [name for name in collection["models"] if name not in seen]
            seen.update(fresh)
            waiting += fresh
    return result


def _after(index: Index, model: str, policy: str, seen: set[str]) -> list[dict[str, Any]]:
    """Training sets made of this model's data, and the models trained on them."""
    result: list[dict[str, Any]] = []
    waiting = [model]
    while waiting and len(result) < DEPTH:
        own = waiting.pop(0)
        for row in index.rows("SELECT statement, models FROM collections ORDER BY created, statement"):
            if own not in json_of_text(row["models"]):
                continue
            collection = _collection(index, row["statement"], policy)
            children = [
                child["digest"]
                for child in index.rows(
                    "SELECT digest FROM models WHERE trained_on = ? ORDER BY created, digest", (row["statement"],)
                )
            ]
            collection["next_models"] = [_node(index, child, policy) for child in children]
            if all(item["statement"] != collection["statement"] for item in result):
                result.append(collection)
            fresh = [child for child in children if child not in seen]
            seen.update(fresh)
            waiting += fresh
    return result


def _collection(index: Index, statement: str, policy: str) -> dict[str, Any]:
    rows = index.rows("SELECT * FROM collections WHERE statement = ?", (statement,))
    vouched = collection_verdict(index, statement, policy)
    if not rows:
        unknown = {"known": False, "models": [], "kits": None, "rows": None, "labelled": None}
        return {"statement": statement, **unknown, **vouched}
    row = rows[0]
    return {
        "statement": statement,
        "known": True,
        "models": json_of_text(row["models"]),
        "kits": row["kits"],
        "rows": row["rows"],
        "labelled": row["labelled"],
        "created": row["created"],
        **vouched,
    }


def collection_verdict(index: Index, statement: str, policy: str) -> dict[str, Any]:
    """Whether a collector whom the trust folder knows signed a training set: ``verified``, ``signer``, ``why`` not."""
    judged = _judged(index, statement, policy)
    if judged is not None and judged["verified"]:
        return {"verified": True, "signer": judged["detail"], "why": None}
    known = index.rows("SELECT bundles FROM collection_signatures WHERE statement = ?", (statement,))
    if judged is not None:
        why = judged["detail"]
    elif not known:
        why = "no registry that was read holds its statement"
    elif known[0]["bundles"] == "[]":
        why = "nobody signed it"
    else:
        why = "not judged yet: edgeprov-fleet verify"
    return {"verified": False, "signer": None, "why": why}


def _judged(index: Index, digest: str, policy: str) -> Row | None:
    rows = index.rows("SELECT verified, detail FROM verdicts WHERE digest = ? AND policy = ?", (digest, policy))
    return rows[0] if rows else None
