# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""In-toto statements: which artifacts a signature is about, and under which predicate.

Unknown members are ignored but stay in the raw bytes. What a kit's predicate holds is formats.statement's.

Spec: in-toto Attestation Framework, Statement v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.digest import Digest
from edgeprov.formats.jsonx import encode_json, get_list, get_str, parse_json_object
from edgeprov.formats.mediatypes import COSIGN_SIGN_PREDICATE, STATEMENT_TYPE
from edgeprov.limits import LIMITS

SUBJECTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A parsed in-toto statement beside its bytes."""

    raw: bytes = field(repr=False)
    subjects: tuple[Digest, ...]
    predicate_type: str
    predicate: Mapping[str, Any] = field(repr=False)


def parse_statement(raw: bytes) -> Statement:
    """Read a statement.

    Raises:
        FormatError: Not an in-toto statement, or a subject without SHA-256 digest.
        LimitError: Too long, or too many subjects.
    """
    obj = parse_json_object(raw, "statement", max_bytes=LIMITS.statement_bytes)
    if get_str(obj, "_type", "statement") != STATEMENT_TYPE:
        raise FormatError("not an in-toto statement v1")
    subjects = get_list(obj, "subject", "statement", maximum=SUBJECTS_MAX)
    if not subjects:
        raise FormatError("statement has no subject")
    predicate = obj.get("predicate")
    if predicate is not None and not isinstance(predicate, dict):
        raise FormatError("statement: 'predicate' is not an object")
    return Statement(
        raw=raw,
        subjects=tuple(sha256_of(item, "statement subject") for item in subjects),
        predicate_type=get_str(obj, "predicateType", "statement"),
        predicate=predicate or {},
    )


def encode_statement(subjects: Sequence[Digest], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """The payload of a statement of any predicate about these artifacts."""
    return encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"digest": {"sha256": subject.hex}} for subject in subjects],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def encode_model_statement(model: Digest) -> bytes:
    """What ``cosign sign`` of v3 states of an artifact: the subject and an empty predicate."""
    return encode_statement([model], COSIGN_SIGN_PREDICATE, {})


def sha256_of(item: object, what: str) -> Digest:
    """The digest of a subject or dependency.

    Raises:
        FormatError: It has none of SHA-256.
    """
    digest = item.get("digest") if isinstance(item, dict) else None
    value = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(value, str):
        raise FormatError(f"{what} has no sha256 digest")
    return Digest(value)
