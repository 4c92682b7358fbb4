# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Check that a collector of the policy signed a statement of the back end (audit, training set).

Pure: bytes in, a decision out.

Spec: FORMAT.md section "Signatures".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence

from edgeprov.errors import EdgeprovError, SignatureInvalid, SignerUntrusted, SubjectMismatch
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.digest import Digest, digest_of
from edgeprov.formats.envelope import pae
from edgeprov.formats.in_toto import Statement, parse_statement
from edgeprov.formats.mediatypes import COLLECTION_PREDICATE
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.public_keys import verify_message
from edgeprov.verify.x509path import verify_chain


def verify_collector(bundle_raw: bytes, policy: TrustPolicy, at: dt.datetime, what: str) -> tuple[Statement, str]:
    """Judge a signed statement.

    Args:
        bundle_raw: The bundle.
        policy: The signer has the role collector, or is a key of its ``collector*.pem``.
        at: Time at which the certificate is judged where no timestamp proves a better one.
        what: Names the statement in errors, as "the report".

    Returns:
        The statement, and the signer's name.

    Raises:
        FormatError: No bundle, or no statement in it.
        SignatureInvalid: The signature does not fit.
        SignerUntrusted: Nobody whom the policy knows.
        PolicyDenied: The signer is on the deny list.
    """
    bundle = parse_bundle(bundle_raw)
    message = pae(bundle.payload_type, bundle.payload)
    if bundle.kind == "key":
        for spki in policy.collector_keys:
            try:
                verify_message(spki, bundle.signature, message, f"{what}'s signature")
            except SignatureInvalid:
                continue
            name = hashlib.sha256(spki).hexdigest()
            policy.verify_key_allowed(name)
            return parse_statement(bundle.payload), f"key:sha256:{name}"
        raise SignerUntrusted(f"no collector's key of the trust folder made {what}'s signature")
    from edgeprov.verify.timestamp_check import proved_time

    proved = proved_time(bundle.signature, bundle.timestamps, policy) if bundle.timestamps else None
    chain = bundle.certificates
    identity = verify_chain(chain[0], chain[1:], policy.collector_anchors, proved or at, "collector")
    verify_message(identity.spki, bundle.signature, message, f"{what}'s signature")
    policy.verify_signer("collector", identity, proved)
    return parse_statement(bundle.payload), identity.san


def verify_collection(statement: Digest, bundles: Sequence[bytes], policy: TrustPolicy, at: dt.datetime) -> str:
    """A collector signed the statement of this training set; one good signature is enough.

    Args:
        statement: Digest of the in-toto statement, as a model names it.
        bundles: All signatures over it.
        policy: Whom to trust.
        at: Time at which certificates are judged.

    Returns:
        The signer's name.

    Raises:
        SignatureInvalid: No signature.
        SubjectMismatch: Signed, but another statement, or none of a training set.
        VerificationError: As verify_collector.
    """
    refused: EdgeprovError = SignatureInvalid(f"nobody signed the training set {statement}")
    for raw in bundles:
        try:
            parsed, signer = verify_collector(raw, policy, at, "the training set")
            if parsed.predicate_type != COLLECTION_PREDICATE or digest_of(parsed.raw) != statement:
                raise SubjectMismatch(f"the signed statement is not the one of the training set {statement}")
        except EdgeprovError as error:
            refused = error
        else:
            return signer
    raise refused
