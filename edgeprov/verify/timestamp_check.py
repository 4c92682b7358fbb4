# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Prove by RFC 3161 timestamps that a signature existed at a time, although no device clock is trusted.

The timestamp is over the signature's bytes and is added by whoever has a network: the uploader, a
gateway, the ingestion. It gives an upper bound: signed before.

Spec: RFC 3161 section 2.3; FORMAT.md "Timestamps".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence

from edgeprov.errors import EdgeprovError, SignatureInvalid, SignerUntrusted
from edgeprov.formats.timestamp import Timestamp, parse_timestamp
from edgeprov.verify.certificates import issuer_and_serial
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.public_keys import verify_cms
from edgeprov.verify.x509path import verify_chain


def verify_timestamp(raw: bytes, stamped: bytes, anchors: Sequence[bytes]) -> dt.datetime:
    """A trusted authority saw these bytes.

    Args:
        raw: TimeStampResp or token, DER.
        stamped: What was stamped: the signature's bytes.
        anchors: DER of the trusted CA certificates of timestamp authorities.

    Returns:
        The latest time (UTC) at which the bytes can have come into being.

    Raises:
        FormatError: Not a timestamp.
        SignatureInvalid: Of other bytes, or its signature does not fit.
        SignerUntrusted: By an authority that is not trusted, or whose certificate had expired.
    """
    stamp = parse_timestamp(raw)
    if stamp.imprint != hashlib.new(stamp.imprint_hash, stamped).digest():
        raise SignatureInvalid("the timestamp is of another signature")
    if stamp.message_digest != hashlib.new(stamp.digest_hash, stamp.content).digest():
        raise SignatureInvalid("the timestamp's content is not what its authority signed")
    certificate = _signer_of(stamp)
    identity = verify_chain(certificate, stamp.certificates, anchors, stamp.time, "timestamp")
    verify_cms(identity.spki, stamp.signature, stamp.signed_attributes, stamp.digest_hash, "timestamp")
    return stamp.time + dt.timedelta(seconds=stamp.accuracy_s)


def proved_time(signature: bytes, timestamps: Sequence[bytes], policy: TrustPolicy) -> dt.datetime | None:
    """The earliest time before which a signature was made, or None when no trusted timestamp shows one.

    A bad timestamp beside a good one must not block, so bad ones count as none.
    """
    times = []
    for raw in timestamps if policy.timestamp_anchors else ():
        try:
            times.append(verify_timestamp(raw, signature, policy.timestamp_anchors))
        except EdgeprovError:
            continue
    return min(times, default=None)


def required_time(signature: bytes, timestamps: Sequence[bytes], policy: TrustPolicy) -> dt.datetime | None:
    """As proved_time, for what a policy may require to be stamped.

    Raises:
        SignerUntrusted: The policy requires a timestamp, and no trusted one is there.
    """
    moment = proved_time(signature, timestamps, policy)
    if moment is None and policy.timestamp_required:
        raise SignerUntrusted("the trust policy requires a timestamp, and the signature carries no trusted one")
    return moment


def _signer_of(stamp: Timestamp) -> bytes:
    wanted = (stamp.signer_issuer, stamp.signer_serial)
    for certificate in stamp.certificates:
        if issuer_and_serial(certificate) == wanted:
            if stamp.certificate_hash not in (None, hashlib.sha256(certificate).digest()):
                raise SignatureInvalid("the timestamp names another certificate than its signer's")
            return certificate
    raise SignerUntrusted("the timestamp does not carry its authority's certificate")
