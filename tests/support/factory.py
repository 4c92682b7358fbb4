# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A factory key (IAK) in software: what a maker of devices leaves in a TPM, and what it says of an AK."""

from __future__ import annotations

from edgeprov.formats.devicerecord import FactoryKey, vouch_qualifying
from edgeprov.formats.tpmt import parse_public
from tests.support import pki
from tests.support.softtpm import SoftTpm


def maker_root() -> pki.Issued:
    """The CA of a maker of devices."""
    return pki.root("Maker IDevID CA")


def factory_key(
    ak_public: bytes, nonce: bytes, issuer: pki.Issued, *, seed: str = "iak", **options: object
) -> FactoryKey:
    """An IAK with a certificate by ``issuer`` that certified ``ak_public`` under ``nonce``.

    ``attributes`` replace those of the key; ``certified`` names another key in the certificate.
    """
    iak = SoftTpm(seed)
    iak.ak_attributes = options.pop("attributes", iak.ak_attributes)  # type: ignore[assignment]
    certified = options.pop("certified", iak.ak.public_key())
    certify = iak.certify_sk(vouch_qualifying(nonce), public=ak_public)
    leaf = issuer.issue(pki.name("IAK"), public_key=certified, **options)  # type: ignore[arg-type]
    return FactoryKey(public=parse_public(iak.ak_public), certificate=leaf.der, certify=certify)
