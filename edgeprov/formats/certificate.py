# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates of version 3: strict DER to the parts that the rules of verify read. Judges nothing.

``cryptography.x509`` would be most of a boot check's cost: its import takes more than twice that of the primitives
with which signatures are verified (`./tests/run bench boot`). This reader accepts less than the library, never more:
tests/unit/trust/test_certificate_reader.py holds it against the library with whole and with changed certificates.
The values of extensions that no rule reads are not looked into; critical ones are refused by the rules.

Spec: RFC 5280 section 4.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.certificate_extensions import (
    BasicConstraints,
    GeneralName,
    parse_basic_constraints,
    parse_extended_key_usage,
    parse_key_usage,
    parse_names,
    verify_authority_key_identifier,
    verify_subject_key_identifier,
)
from edgeprov.formats.der import OCTETS, SEQUENCE, Der, oid_text, whole_der
from edgeprov.formats.distinguished_name import Name, parse_name
from edgeprov.formats.signature_algorithm import SignatureAlgorithm, parse_signature_algorithm
from edgeprov.formats.subject_key import SubjectKey, parse_subject_key

BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
SUBJECT_KEY_IDENTIFIER: Final = "2.5.29.14"
AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
NAME_CONSTRAINTS: Final = "2.5.29.30"
_READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    BASIC_CONSTRAINTS: parse_basic_constraints,
    KEY_USAGE: parse_key_usage,
    EXTENDED_KEY_USAGE: parse_extended_key_usage,
    SUBJECT_ALTERNATIVE_NAME: parse_names,
    SUBJECT_KEY_IDENTIFIER: verify_subject_key_identifier,
    AUTHORITY_KEY_IDENTIFIER: verify_authority_key_identifier,
}
HANDLED_EXTENSIONS: Final = frozenset(_READERS)
"""Extensions that are read, so that they may be critical."""

_VERSION_3: Final = b"\x02\x01\x02"
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_CENTURY: Final = 50  # UTCTime: below 20xx, else 19xx


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A decoded certificate.

    Attributes:
        der: All bytes.
        tbs: The signed part.
        serial_number: As an integer; may be negative here.
        algorithm: How it is signed; None for a way that is not read, by which nothing can be verified.
        signature: By its issuer over ``tbs``.
        issuer_der: The issuer's name, by which it is compared.
        issuer: The same, decoded.
        not_before: UTC.
        not_after: UTC.
        subject_der: The subject's name.
        subject: The same, decoded.
        spki: SubjectPublicKeyInfo in DER.
        key: The same, decoded; a point may lie off its curve.
        extensions: Critical or not, by object identifier in dotted form.
        values: Decoded values of those that are read.
    """

    der: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    serial_number: int
    algorithm: SignatureAlgorithm | None
    signature: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    issuer: Name
    not_before: dt.datetime
    not_after: dt.datetime
    subject_der: bytes = field(repr=False)
    subject: Name
    spki: bytes = field(repr=False)
    key: SubjectKey
    extensions: dict[str, bool] = field(repr=False)
    values: dict[str, Any] = field(repr=False)

    @property
    def basic_constraints(self) -> BasicConstraints | None:
        """None where it has none."""
        value: BasicConstraints | None = self.values.get(BASIC_CONSTRAINTS)
        return value

    @property
    def key_usage(self) -> frozenset[str] | None:
        """Names of the set bits; None where it has no such extension."""
        value: frozenset[str] | None = self.values.get(KEY_USAGE)
        return value

    @property
    def extended_key_usage(self) -> tuple[str, ...] | None:
        """Object identifiers in dotted form; None where it has no such extension."""
        value: tuple[str, ...] | None = self.values.get(EXTENDED_KEY_USAGE)
        return value

    @property
    def alternative_names(self) -> tuple[GeneralName, ...]:
        """Names of subjectAltName that are read; empty where it has none."""
        value: tuple[GeneralName, ...] = self.values.get(SUBJECT_ALTERNATIVE_NAME, ())
        return value


def parse_certificate(der: bytes) -> Certificate:
    """Decode a certificate.

    Raises:
        FormatError: Not a certificate of version 3 in DER, or malformed in a part that is read.
    """
    whole = whole_der(der)
    tbs = whole.element(SEQUENCE)
    algorithm, signature = whole.element(SEQUENCE), whole.bits()
    whole.end()
    body = Der(tbs).enter(SEQUENCE)
    if body.take(_VERSION) != _VERSION_3:
        raise FormatError("certificate is not of version 3")
    serial = body.integer()
    if body.element(SEQUENCE) != algorithm:
        raise FormatError("certificate names two signature algorithms")
    issuer = body.element(SEQUENCE)
    validity = body.enter(SEQUENCE)
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    subject, spki = body.element(SEQUENCE), body.element(SEQUENCE)
    extensions: dict[str, bool] = {}
    values: dict[str, Any] = {}
    if body.tag == _EXTENSIONS:
        _read_extensions(body.explicit(_EXTENSIONS, SEQUENCE), extensions, values)
    body.end()
    return Certificate(
        der=der,
        tbs=tbs,
        serial_number=serial,
        algorithm=parse_signature_algorithm(algorithm),
        signature=signature,
        issuer_der=issuer,
        issuer=parse_name(issuer),
        not_before=not_before,
        not_after=not_after,
        subject_der=subject,
        subject=parse_name(subject),
        spki=spki,
        key=parse_subject_key(spki),
        extensions=extensions,
        values=values,
    )


def _read_extensions(items: Der, extensions: dict[str, bool], values: dict[str, Any]) -> None:
    while items.tag is not None:
        item = items.enter(SEQUENCE)
        name = oid_text(item.oid())
        critical = item.boolean() if item.tag != OCTETS else False
        value = item.take(OCTETS)
        item.end()
        if name in extensions:
            raise FormatError("certificate has an extension twice")
        extensions[name] = critical
        if name in _READERS:
            values[name] = _READERS[name](value)
    if not extensions:
        raise FormatError("certificate has an empty list of extensions")


def _time(validity: Der) -> dt.datetime:
    short = validity.tag == _UTC_TIME
    text = validity.take(_UTC_TIME if short else _GENERALIZED_TIME)
    digits = text[:-1]
    if len(digits) != (12 if short else 14) or text[-1:] != b"Z" or not digits.isdigit():
        raise FormatError("certificate has a time in another form than that of RFC 5280")
    if short:
        digits = (b"20" if int(digits[:2]) < _CENTURY else b"19") + digits
    year, month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(2, 14, 2))
    try:
        return dt.datetime(100 * int(digits[:2]) + year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError as error:
        raise FormatError("certificate has a time that does not exist") from error
