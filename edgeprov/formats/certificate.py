# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The certificates that a private CA issues for signers, read without a library: what the boot check meets.

A narrow profile on purpose: ECDSA on P-256 or P-384 with SHA-2, plain names, and six extensions in
their plainest forms. A certificate outside of it is not judged here; verify.certificates hands it to
the complete implementation. So nothing is refused because of this module, and what it reads must mean
the same there (tests/unit/trust/test_certificate_profile.py compares them).

Spec: RFC 5280 section 4; RFC 5480; RFC 5758; RFC 4514 for the text of names.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.der import Der
from edgeprov.formats.ecdsa import P256_PREFIX, P384_PREFIX

_SEQUENCE, _SET, _INTEGER, _BOOLEAN, _BITS, _OCTETS, _OID = 0x30, 0x31, 0x02, 0x01, 0x03, 0x04, 0x06
_UTF8, _PRINTABLE, _UTC_TIME, _GENERALIZED_TIME = 0x0C, 0x13, 0x17, 0x18
_VERSION, _EXTENSIONS, _KEY_ID, _EMAIL, _URI = 0xA0, 0xA3, 0x80, 0x81, 0x86

_SIGNATURES: Final = {  # ecdsa-with-SHA2
    bytes.fromhex("300a06082a8648ce3d040302"): "sha256",
    bytes.fromhex("300a06082a8648ce3d040303"): "sha384",
    bytes.fromhex("300a06082a8648ce3d040304"): "sha512",
}
_SHORT_NAMES: Final = {  # RFC 4514 has no short name for SERIALNUMBER
    "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
    "2.5.4.9": "STREET", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}  # fmt: skip
_PRINTABLE_TEXT: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
_ESCAPED: Final = frozenset('\\"+,;<>#\0')
_BASIC, _KEY_USAGE, _SAN, _EKU, _SKI, _AKI = (
    "2.5.29.19", "2.5.29.15", "2.5.29.17", "2.5.29.37", "2.5.29.14", "2.5.29.35",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of the profile.

    Attributes:
        signed: DER of the part that is signed.
        signature: Ecdsa-Sig-Value.
        hash_name: ``sha256``, ``sha384`` or ``sha512``.
        serial: Serial number, positive.
        issuer: Attributes (OID and text) in their order.
        subject: Likewise.
        not_before: Start of validity, UTC.
        not_after: Its end.
        spki: SubjectPublicKeyInfo (DER).
        ca: Basic constraints say that it is a CA.
        path_length: How many CA certificates may stand below, None when not bounded.
        usage: Bits of the key usage, the first (digitalSignature) the lowest; None without the extension.
        usage_critical: The key usage is critical.
        extended: OIDs of the extended key usage, None without the extension.
        names: URIs, then e-mail addresses, of the subject alternative name.
    """

    signed: bytes
    signature: bytes
    hash_name: str
    serial: int
    issuer: tuple[tuple[str, str], ...]
    subject: tuple[tuple[str, str], ...]
    not_before: dt.datetime
    not_after: dt.datetime
    spki: bytes
    ca: bool
    path_length: int | None
    usage: int | None
    usage_critical: bool
    extended: tuple[str, ...] | None
    names: tuple[str, ...]

    @property
    def subject_text(self) -> str:
        """The subject as RFC 4514 writes it: last attribute first."""
        return ",".join(f"{_SHORT_NAMES.get(oid, oid)}={value}" for oid, value in reversed(self.subject))


def parse_certificate(der: bytes) -> Certificate:
    """Read a certificate of the profile.

    Raises:
        FormatError: Anything else; it may still be a good certificate of another kind.
    """
    outer = Der(der, strict=True)
    whole = outer.enter(_SEQUENCE)
    outer.end()
    signed = whole.element(_SEQUENCE)
    algorithm = whole.element(_SEQUENCE)
    signature = whole.take(_BITS)
    whole.end()
    if algorithm not in _SIGNATURES or signature[:1] != b"\0":
        raise FormatError("certificate is not signed with ECDSA and SHA-2")
    body = Der(signed, strict=True).enter(_SEQUENCE)
    if body.take(_VERSION) != b"\x02\x01\x02":
        raise FormatError("certificate is not of version 3")
    serial = _uint(body.take(_INTEGER))
    if not 0 < serial < 1 << 159 or body.element(_SEQUENCE) != algorithm:
        raise FormatError("certificate has an odd serial number, or two signature algorithms")
    issuer = _name(body.enter(_SEQUENCE))
    validity = body.enter(_SEQUENCE)
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    subject = _name(body.enter(_SEQUENCE))
    spki = body.element(_SEQUENCE)
    if not spki.startswith((P256_PREFIX, P384_PREFIX)):  # their length field fixes the size
        raise FormatError("certificate key is not an uncompressed point of P-256 or P-384")
    extensions = _extensions(body)
    body.end()
    ca, path_length = _basic(extensions.get(_BASIC))
    usage_critical, usage = extensions.get(_KEY_USAGE, (False, None))
    for name in (_SKI, _AKI):
        if name in extensions:
            _key_id(name, extensions[name][1])
    return Certificate(
        signed=signed,
        signature=signature[1:],
        hash_name=_SIGNATURES[algorithm],
        serial=serial,
        issuer=issuer,
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        ca=ca,
        path_length=path_length,
        usage=None if usage is None else _usage(usage),
        usage_critical=usage_critical,
        extended=_extended(extensions[_EKU][1]) if _EKU in extensions else None,
        names=_alternative(extensions[_SAN][1]) if _SAN in extensions else (),
    )


def _uint(content: bytes) -> int:
    if not content or content[0] & 0x80 or (content[0] == 0 and len(content) > 1 and not content[1] & 0x80):
        raise FormatError("DER: not a positive integer in its one form")
    return int.from_bytes(content, "big")


def _name(reader: Der) -> tuple[tuple[str, str], ...]:
    found = []
    while reader.more():
        relative = reader.enter(_SET)
        attribute = relative.enter(_SEQUENCE)
        relative.end()
        oid, tag = _oid(attribute.take(_OID)), attribute.tag
        raw = attribute.take(_PRINTABLE if tag == _PRINTABLE else _UTF8)
        attribute.end()
        try:
            text = raw.decode("ascii" if tag == _PRINTABLE else "utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("certificate name is not text") from error
        odd = not 1 <= len(text) <= 64 or text != text.strip() or _ESCAPED & set(text) or not text.isprintable()
        if odd or (tag == _PRINTABLE and not set(text) <= _PRINTABLE_TEXT):
            raise FormatError("certificate name is not plain")
        if oid == "2.5.4.6" and len(text) != 2:
            raise FormatError("certificate name has a country of other than two letters")
        found.append((oid, text))
    if not found:
        raise FormatError("certificate name is empty")
    return tuple(found)


def _oid(content: bytes) -> str:
    numbers, value, begun = [], 0, False
    for byte in content:
        if not begun and byte == 0x80:
            raise FormatError("DER: an object identifier is not in its shortest form")
        value, begun = value << 7 | byte & 0x7F, bool(byte & 0x80)
        if not begun:
            numbers.append(value)
            value = 0
    if begun or not numbers or len(content) > 32 or max(numbers) >= 1 << 28:
        raise FormatError("DER: not a plain object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _time(reader: Der) -> dt.datetime:
    tag = reader.tag
    text = reader.take(_UTC_TIME if tag == _UTC_TIME else _GENERALIZED_TIME)
    digits = text[:-1]
    if text[-1:] != b"Z" or not digits.isdigit() or len(digits) != (12 if tag == _UTC_TIME else 14):
        raise FormatError("certificate time is not one")
    if tag == _UTC_TIME:
        digits = (b"20" if digits < b"50" else b"19") + digits
    elif digits < b"2050":
        raise FormatError("certificate time before 2050 is not a UTCTime")
    numbers = [int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))]
    try:
        return dt.datetime(*numbers, tzinfo=dt.UTC)  # type: ignore[arg-type, misc]
    except ValueError as error:
        raise FormatError("certificate time is no time") from error


def _extensions(body: Der) -> dict[str, tuple[bool, bytes]]:
    """Criticality and content of each extension; of the six known ones only."""
    found: dict[str, tuple[bool, bytes]] = {}
    outer = body.enter(_EXTENSIONS)
    reader = outer.enter(_SEQUENCE)
    outer.end()
    while reader.more():
        extension = reader.enter(_SEQUENCE)
        oid = _oid(extension.take(_OID))
        critical = extension.tag == _BOOLEAN
        if critical and extension.take(_BOOLEAN) != b"\xff":
            raise FormatError("certificate extension has an odd criticality")
        content = extension.take(_OCTETS)
        extension.end()
        if oid in found or oid not in (_BASIC, _KEY_USAGE, _SAN, _EKU, _SKI, _AKI):
            raise FormatError(f"certificate has the extension {oid} twice, or it is not one of the profile")
        found[oid] = critical, content
    if not found:
        raise FormatError("certificate has an empty list of extensions")
    return found


def _basic(extension: tuple[bool, bytes] | None) -> tuple[bool, int | None]:
    if extension is None:
        return False, None
    reader = _only(extension[1])
    if not reader.more():
        return False, None
    if reader.take(_BOOLEAN) != b"\xff":
        raise FormatError("basic constraints are not plain")
    length = _uint(reader.take(_INTEGER)) if reader.more() else None
    reader.end()
    if length is not None and length > 100:
        raise FormatError("basic constraints have an odd path length")
    return True, length


def _usage(content: bytes) -> int:
    reader = Der(content, strict=True)
    bits = reader.take(_BITS)
    reader.end()
    # Bit 7 and the ninth, encipherOnly and decipherOnly, belong to key agreement: no signer has them.
    if len(bits) != 2 or not bits[1] or bits[1] & 1 or (bits[1] & -bits[1]).bit_length() - 1 != bits[0]:
        raise FormatError("key usage is not a list of named bits")
    return sum(1 << at for at in range(8) if bits[1] >> 7 - at & 1)


def _extended(content: bytes) -> tuple[str, ...]:
    reader, found = _only(content), []
    while reader.more():
        found.append(_oid(reader.take(_OID)))
    if not found:
        raise FormatError("extended key usage is empty")
    return tuple(found)


def _alternative(content: bytes) -> tuple[str, ...]:
    reader = _only(content)
    found: dict[int, list[str]] = {_URI: [], _EMAIL: []}
    while reader.more():
        tag = reader.tag
        raw = reader.take(_EMAIL if tag == _EMAIL else _URI)
        if not raw or not all(0x20 < byte < 0x7F for byte in raw):
            raise FormatError("subject alternative name is not plain")
        found[_EMAIL if tag == _EMAIL else _URI].append(raw.decode("ascii"))
    if not found[_URI] and not found[_EMAIL]:
        raise FormatError("subject alternative name is empty")
    return (*found[_URI], *found[_EMAIL])


def _key_id(name: str, content: bytes) -> None:
    reader = Der(content, strict=True) if name == _SKI else _only(content)
    identifier = reader.take(_OCTETS if name == _SKI else _KEY_ID)
    reader.end()
    if not identifier:
        raise FormatError("certificate has an empty key identifier")


def _only(content: bytes) -> Der:
    reader = Der(content, strict=True)
    inner = reader.enter(_SEQUENCE)
    reader.end()
    return inner
