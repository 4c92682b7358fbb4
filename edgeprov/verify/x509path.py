# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Find X.509 paths to the trust anchors of a private CA and judge them: the only path search of edgeprov.

Strict and small: every certificate above the leaf is a CA with keyCertSign and a strong key, every signature
uses SHA-256 or stronger, an unknown critical extension refuses, and so do name constraints, which are not
judged here. ``cryptography.x509.verification`` would not do: it needs version 45, and certificates of TPM
makers and of timestamp authorities break the rules of the web that it asks for. It is the second judge in
tests/unit/trust/test_x509_second_judge.py.

Time is an argument, because a device's clock may be wrong: paths and usage are judged once (and cached),
validity at each given time.

Spec: RFC 5280 section 6.1, without policies; FORMAT.md "Certificates".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from edgeprov.errors import EdgeprovError, FormatError, SignerUntrusted
from edgeprov.formats.certificate import Certificate
from edgeprov.formats.distinguished_name import COMMON_NAME, name_text
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.limits import LIMITS
from edgeprov.verify.certificate_rules import verify_ca, verify_leaf
from edgeprov.verify.certificates import load_certificate, spki_of, subject_of
from edgeprov.verify.public_keys import is_signed_by
from edgeprov.verify.signer_identity import Purpose, SignerIdentity

_SUBJECT_KEYS: Final = {
    "2.5.4.6": "C",
    "2.5.4.8": "ST",
    "2.5.4.7": "L",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.5": "SERIALNUMBER",
    COMMON_NAME: "CN",
}


def verify_chain(
    leaf: bytes, intermediates: Sequence[bytes], anchors: Sequence[bytes], at: dt.datetime, purpose: Purpose
) -> SignerIdentity:
    """Find a path from a leaf to an anchor that serves the purpose and is valid at a time.

    Args:
        leaf: DER of the signer's certificate.
        intermediates: DER, in any order; what is not part of a path has no effect.
        anchors: DER of the trusted CA certificates for this purpose.
        at: The time at which the whole path must be valid (with time zone).
        purpose: Use of the leaf; decides key usage, extended key usage and name.

    Raises:
        FormatError: The leaf, an anchor, or an intermediate that is missed is not a certificate.
        SignerUntrusted: No path to an anchor, or none that serves the purpose and the time.
    """
    found = _judge_paths(leaf, tuple(intermediates), tuple(anchors), purpose)
    for identity in found:
        if identity.not_before <= at <= identity.not_after:
            return identity
    last = max(found, key=lambda item: item.not_after)
    state = "is not valid yet" if at < last.not_before else "has expired"
    raise SignerUntrusted(
        f"certificate of {last.san} {state}: valid {rfc3339(last.not_before)} to {rfc3339(last.not_after)}, "
        f"judged at {rfc3339(at)}",
        advice="Judge it at a proved time (a timestamp), or get the artifact signed again.",
    )


def verify_anchor(der: bytes, what: str) -> None:
    """Check that a trust anchor is a CA.

    Raises:
        FormatError: Not a certificate.
        SignerUntrusted: Not a CA certificate.
    """
    verify_ca(load_certificate(der), 0, what)


def anchor_chain(der: bytes, anchors: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return an anchor and the anchors above it, up to the topmost that is at hand."""
    chain = [der]
    while (
        above := next(
            (item for item in anchors if item not in chain and _is_issued_by(chain[-1], item)),
            None,
        )
    ) is not None:
        chain.append(above)
    return tuple(chain)


@lru_cache(maxsize=8_192)
def _judge_paths(
    leaf: bytes, intermediates: tuple[bytes, ...], anchors: tuple[bytes, ...], purpose: Purpose
) -> tuple[SignerIdentity, ...]:
    """Judge everything but the time. At least one result; a further path only if it is valid at other times."""
    if len(intermediates) > LIMITS.certificate_chain:
        raise SignerUntrusted(f"certificate chain has more than {LIMITS.certificate_chain} certificates")
    certificate = load_certificate(leaf)
    if leaf in anchors:
        raise SignerUntrusted("the signer's certificate is itself a trust anchor")
    search = _PathSearch(intermediates, anchors)
    paths = list(search.find(certificate, search.candidates))
    if not paths:
        raise search.refusal or SignerUntrusted(
            f"certificate {subject_of(certificate)!r}, issued by {name_text(certificate.issuer)[:120]!r}, "
            f"leads to no {purpose} trust anchor"
        )
    san = verify_leaf(certificate, purpose)
    found: list[SignerIdentity] = []
    for path in paths:
        not_before = max(item.not_before for item in (certificate, *path))
        not_after = min(item.not_after for item in (certificate, *path))
        if any(item.not_before <= not_before and not_after <= item.not_after for item in found):
            continue
        found.append(
            SignerIdentity(
                san=san,
                subject=name_text(certificate.subject),
                serial=f"{certificate.serial_number:x}",
                spki=spki_of(certificate),
                not_before=not_before,
                not_after=not_after,
                rdns=tuple(
                    (_SUBJECT_KEYS.get(kind, kind), value) for part in certificate.subject for kind, value in part
                ),
                certificate_sha256=hashlib.sha256(leaf).hexdigest(),
                issuers=tuple(_issuer_names(item) for item in path),
            )
        )
    return tuple(found)


def _issuer_names(certificate: Certificate) -> tuple[str, str, str]:
    serial, spki = f"{certificate.serial_number:x}", hashlib.sha256(spki_of(certificate)).hexdigest()
    return serial, spki, hashlib.sha256(certificate.der).hexdigest()


class _PathSearch:
    """Search all paths, depth first, so that a bad or expired CA certificate does not hide a good one beside it.

    CAs that issued each other (a hostile bundle) make many paths. Their number is bounded by
    LIMITS.certificate_chain (5 candidates: 326 paths to one anchor), and each signature is verified once.

    Attributes:
        candidates: Intermediates that are neither anchors nor unreadable.
        refusal: The first reason why a certificate could not stand above another.
    """

    def __init__(self, intermediates: Sequence[bytes], anchors: Sequence[bytes]) -> None:
        self.refusal: EdgeprovError | None = None
        self.candidates: list[Certificate] = []
        self._anchors = [load_certificate(der) for der in anchors]
        for der in dict.fromkeys(intermediates):
            try:
                if der not in anchors:
                    self.candidates.append(load_certificate(der))
            except FormatError as error:
                self.refusal = self.refusal or error

    def find(
        self, certificate: Certificate, candidates: Sequence[Certificate], below: int = 0
    ) -> Iterator[tuple[Certificate, ...]]:
        """Yield the CA certificates of each path, from the issuer to the anchor.

        Args:
            certificate: What is to be issued by the first of them.
            candidates: Intermediates that the path does not hold yet.
            below: Number of CA certificates that the path holds already.
        """
        for anchor in self._anchors:
            if self._may_issue(anchor, certificate, below):
                yield (anchor,)
        for candidate in candidates:
            if self._may_issue(candidate, certificate, below):
                others = [item for item in candidates if item is not candidate]
                for rest in self.find(candidate, others, below + 1):
                    yield (candidate, *rest)

    def _may_issue(self, issuer: Certificate, certificate: Certificate, below: int) -> bool:
        if not _is_issued_by(certificate.der, issuer.der):
            return False
        try:
            verify_ca(issuer, below, f"CA certificate {subject_of(issuer)!r}")
        except EdgeprovError as error:
            self.refusal = self.refusal or error
            return False
        return True


@lru_cache(maxsize=1_024)  # a search asks again for each path; all devices of a fleet share the CAs above them
def _is_issued_by(der: bytes, issuer_der: bytes) -> bool:
    """Compare the issuer's name and verify the signature."""
    certificate, issuer = load_certificate(der), load_certificate(issuer_der)
    if certificate.issuer_der != issuer.subject_der or certificate.algorithm is None:
        return False
    try:
        return is_signed_by(issuer.key, certificate.algorithm, certificate.signature, certificate.tbs)
    except FormatError:
        return False
