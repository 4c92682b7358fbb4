# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Values of the certificate extensions that the rules of verify read. Strict DER, no judgment.

Spec: RFC 5280 section 4.2.1.
"""

from __future__ import annotations

from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.der import (
    BIT_STRING,
    BOOLEAN,
    INTEGER,
    OCTETS,
    Der,
    oid_text,
    parse_integer,
    parse_oid,
    whole_der,
)
from edgeprov.formats.distinguished_name import Name, parse_name

_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
_OTHER, _EMAIL, _DNS, _DIRECTORY, _URI, _ADDRESS, _REGISTERED = 0xA0, 0x81, 0x82, 0xA4, 0x86, 0x87, 0x88
_TEXTS: Final = {_EMAIL: "email", _DNS: "dns", _URI: "uri"}
_KEY_IDENTIFIER, _ISSUER, _SERIAL = 0x80, 0xA1, 0x82

GeneralName = tuple[str, str | Name]
"""``email``, ``dns`` or ``uri`` with a text, or ``directory`` with a name."""


@dataclass(frozen=True, slots=True)
class BasicConstraints:
    """Value of basicConstraints."""

    ca: bool
    path_length: int | None


def parse_basic_constraints(value: bytes) -> BasicConstraints:
    """Decode basicConstraints.

    Raises:
        FormatError: Malformed, or a path length where there is no CA.
    """
    body = whole_der(value)
    ca = body.tag == BOOLEAN and body.boolean()
    length = body.integer() if body.tag == INTEGER else None
    body.end()
    if length is not None and not (ca and 0 <= length < 1 << 31):
        raise FormatError("certificate has a path length that is not accepted")
    return BasicConstraints(ca, length)


def parse_key_usage(value: bytes) -> frozenset[str]:
    """Decode keyUsage to the names of the bits that are set.

    Raises:
        FormatError: Malformed, or bits that need another one.
    """
    outer = Der(value)
    content = outer.take(BIT_STRING)
    outer.end()
    if not 2 <= len(content) <= 3 or content[0] > 7 or content[-1] & ((1 << content[0]) - 1):
        raise FormatError("certificate has a malformed keyUsage")
    bits = "".join(f"{byte:08b}" for byte in content[1:])
    if "1" in bits[len(_USAGES) :]:
        raise FormatError("certificate has an unknown keyUsage")
    names = frozenset(name for name, bit in zip(_USAGES, bits, strict=False) if bit == "1")
    if names & {"encipher_only", "decipher_only"} and "key_agreement" not in names:
        raise FormatError("certificate has a keyUsage that contradicts itself")
    return names


def parse_extended_key_usage(value: bytes) -> tuple[str, ...]:
    """Decode extKeyUsage to object identifiers in dotted form.

    Raises:
        FormatError: Malformed or empty.
    """
    body, result = whole_der(value), []
    while body.tag is not None:
        result.append(oid_text(body.oid()))
    if not result:
        raise FormatError("certificate has an empty extKeyUsage")
    return tuple(result)


def parse_names(value: bytes) -> tuple[GeneralName, ...]:
    """Decode the GeneralNames of subjectAltName.

    Raises:
        FormatError: Malformed, empty, or with a name of a kind that is not read.
    """
    return _names(whole_der(value))


def verify_subject_key_identifier(value: bytes) -> None:
    """Check the form of subjectKeyIdentifier. Its value is no proof of anything.

    Raises:
        FormatError: Malformed.
    """
    outer = Der(value)
    outer.take(OCTETS)
    outer.end()


def verify_authority_key_identifier(value: bytes) -> None:
    """Check the form of authorityKeyIdentifier.

    Raises:
        FormatError: Malformed, or an issuer without a serial number.
    """
    body = whole_der(value)
    if body.tag == _KEY_IDENTIFIER:
        body.take(_KEY_IDENTIFIER)
    if body.tag == _ISSUER:
        _names(body.enter(_ISSUER))
        parse_integer(body.take(_SERIAL))
    body.end()


def _names(body: Der) -> tuple[GeneralName, ...]:
    result: list[GeneralName] = []
    count = 0
    while (tag := body.tag) is not None:
        count += 1
        content = body.take(tag)
        if tag in _TEXTS:
            try:
                result.append((_TEXTS[tag], content.decode("ascii")))
            except UnicodeDecodeError as error:
                raise FormatError("certificate has an alternative name that is not ASCII") from error
        elif tag == _DIRECTORY:
            result.append(("directory", parse_name(content)))
        elif tag == _REGISTERED:
            parse_oid(content)
        elif tag == _OTHER:
            other = Der(content)
            other.oid()
            explicit = other.enter(0xA0)
            explicit.element()
            explicit.end()
            other.end()
        elif tag != _ADDRESS or len(content) not in (4, 16):
            raise FormatError("certificate has an alternative name of a kind that is not read")
    if not count:
        raise FormatError("certificate has an empty list of names")
    return tuple(result)
