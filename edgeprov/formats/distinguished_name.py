# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names of X.509 certificates: strict DER to attributes, and their text.

Spec: RFC 5280 section 4.1.2.4; RFC 4514 (text).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from edgeprov.errors import FormatError
from edgeprov.formats.der import SEQUENCE, SET, Der, oid_text, whole_der

_SUBJECT: Final = "x509.subject:"

Name = tuple[tuple[tuple[str, str], ...], ...]
"""Relative names in their order, each of attributes: object identifier in dotted form, value."""

COMMON_NAME: Final = "2.5.4.3"
ORGANIZATION: Final = "2.5.4.10"
_TEXT_KEYS: Final = {
    COMMON_NAME: "CN",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    ORGANIZATION: "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
_STRINGS: Final = {  # tag: codec
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "ascii",  # T61String: readers disagree about all that is not ASCII
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_PRINTABLE: Final = 0x13
_PRINTABLES: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
_ESCAPED: Final = str.maketrans({char: "\\" + char for char in '\\"+,;<>'} | {"\0": "\\00"})


def parse_name(der: bytes) -> Name:
    """Decode a Name.

    Raises:
        FormatError: Not DER, an empty or repeated part, or a kind of string that is not read.
    """
    sequence, result = whole_der(der), []
    while sequence.tag is not None:
        part, before, attributes = sequence.enter(SET), b"", []
        while part.tag is not None:
            item = part.element(SEQUENCE)
            if item <= before:
                raise FormatError("a name has a set that is not in the order of DER")
            before = item
            attribute = Der(item).enter(SEQUENCE)
            kind = oid_text(attribute.oid())
            attributes.append((kind, _string(attribute)))
            attribute.end()
        if not attributes or len(set(attributes)) != len(attributes):
            raise FormatError("a name has an empty part, or an attribute twice")
        result.append(tuple(attributes))
    return tuple(result)


def name_text(name: Name) -> str:
    """The text of RFC 4514: the last part first."""
    return ",".join(
        "+".join(f"{_TEXT_KEYS.get(kind, kind)}={_escape(value)}" for kind, value in part) for part in reversed(name)
    )


def name_values(name: Name, kind: str) -> list[str]:
    """All values of an attribute."""
    return [value for part in name for key, value in part if key == kind]


def _string(attribute: Der) -> str:
    tag = attribute.tag
    codec = None if tag is None else _STRINGS.get(tag)
    if tag is None or codec is None:
        raise FormatError("a name has a value of a kind that is not read")
    try:
        value = attribute.take(tag).decode(codec)
    except UnicodeDecodeError as error:
        raise FormatError("a name has a value that is no text") from error
    if tag == _PRINTABLE and not _PRINTABLES.issuperset(value):
        raise FormatError("a name has a PrintableString with other characters")
    return value


def _escape(value: str) -> str:
    if not value:
        return ""
    text = value.translate(_ESCAPED)
    if text[0] == "#" or (text[0] == " " and len(text) > 1):
        text = "\\" + text
    return text[:-1] + "\\ " if text[-1] == " " else text


def matches_identity(pattern: str, name: str, attributes: Collection[tuple[str, str]]) -> bool:
    """Compare a signer with a pattern of a trust policy.

    Args:
        pattern: A name, the start of one before ``*``, or ``x509.subject:`` and attributes such as ``C=DE, O=Maker``.
        name: The signer's.
        attributes: Of the subject of his certificate: short name (ST for S), value.
    """
    if pattern.startswith(_SUBJECT):
        wanted = [part.strip().partition("=") for part in pattern[len(_SUBJECT) :].split(",")]
        return all((("ST" if key == "S" else key), value) in attributes for key, _, value in wanted)
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
