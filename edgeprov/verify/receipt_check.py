# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a receipt may make a device free its kits: only an importer of the trust policy may say so.

Spec: FORMAT.md section "Receipt".
"""

from __future__ import annotations

import datetime as dt

from edgeprov.errors import SignerUntrusted
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.envelope import pae
from edgeprov.formats.in_toto import parse_statement
from edgeprov.formats.receipt import Receipt, parse_receipt
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.public_keys import verify_message
from edgeprov.verify.x509path import verify_chain


def verify_receipt(raw: bytes, policy: TrustPolicy, at: dt.datetime) -> Receipt:
    """Judge a receipt.

    Args:
        raw: The bundle.
        policy: Its device anchors and the role importer count.
        at: Time at which the certificate is judged.

    Raises:
        FormatError: Not a receipt.
        SignatureInvalid: The signature does not fit.
        SignerUntrusted: Not signed by an importer whom the policy trusts.
        PolicyDenied: The importer is on the deny list.
    """
    bundle = parse_bundle(raw)
    if bundle.kind == "key":
        raise SignerUntrusted("a receipt without certificate names no signer")
    identity = verify_chain(bundle.certificates[0], bundle.certificates[1:], policy.device_anchors, at, "importer")
    verify_message(identity.spki, bundle.signature, pae(bundle.payload_type, bundle.payload), "the receipt's signature")
    policy.verify_signer("importer", identity)
    return parse_receipt(parse_statement(bundle.payload))
