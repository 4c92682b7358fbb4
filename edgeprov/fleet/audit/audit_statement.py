# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A signed statement of an audit report, so that a report can be checked later, byte for byte.

Spec: in-toto Statement v1; FLEET.md section "Audit".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from edgeprov.errors import SubjectMismatch
from edgeprov.fleet.trust.signers import sign_statement
from edgeprov.formats.digest import digest_of
from edgeprov.formats.envelope import Signer
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.mediatypes import AUDIT_PREDICATE, STATEMENT_TYPE
from edgeprov.verify.collector import verify_collector
from edgeprov.verify.policy import TrustPolicy

MAX_REPORT_BYTES: Final = 64 * 1024 * 1024


def sign_report(report: Mapping[str, Any], signer: Signer, page: bytes | None = None) -> tuple[bytes, bytes]:
    """The report in its canonical bytes, and the bundle around the statement about them, and about the page if any."""
    raw = encode_json(report)
    files = {"audit.json": raw} | ({} if page is None else {"audit.html": page})
    statement = encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest_of(data).hex}} for name, data in files.items()],
            "predicateType": AUDIT_PREDICATE,
            "predicate": {
                name: report[name] for name in ("from", "to", "verdict", "totals", "policy", "generated_at", "query")
            },
        }
    )
    return raw, sign_statement(signer, statement)


def verify_report(raw: bytes, bundle_raw: bytes, policy: TrustPolicy, at: dt.datetime) -> str:
    """Check a signed report.

    Args:
        raw: The report's JSON, or the page, as it was written.
        bundle_raw: The signed statement.
        policy: The signer has its role collector.
        at: Time at which the certificate is judged.

    Returns:
        The signer's name.

    Raises:
        SubjectMismatch: The statement is about another report, or no audit.
        SignatureInvalid: The signature does not fit.
        SignerUntrusted: Nobody whom the policy knows.
    """
    statement, name = verify_collector(bundle_raw, policy, at, "the report")
    if statement.predicate_type != AUDIT_PREDICATE or digest_of(raw) not in statement.subjects:
        raise SubjectMismatch(
            "the signed statement is not about this report: the report was changed, or belongs to another"
        )
    return name
