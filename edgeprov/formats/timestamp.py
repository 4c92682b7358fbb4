# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""RFC 3161 timestamps: reads the response or token that a timestamp authority gives. Judges nothing.

Only what the verification needs is read, by the small reader of formats.der: no package of ours reads
timestamp tokens.

Spec: RFC 3161 section 2.4.2; RFC 5652 sections 5.1 to 5.3; ITU-T X.690 (DER).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.der import INTEGER, OCTETS, OID, SEQUENCE, SET, Der
from edgeprov.formats.signature_algorithm import HASHES

_TIME = 0x18
_CONTEXT_0, _CONTEXT_1 = 0xA0, 0xA1
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_TST_INFO = bytes.fromhex("2a864886f70d0109100104")
_CONTENT_TYPE = bytes.fromhex("2a864886f70d010903")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_SIGNING_CERTIFICATE_V2 = bytes.fromhex("2a864886f70d010910022f")
_SHA256 = bytes.fromhex("608648016503040201")
_GENERALIZED = re.compile(rb"[0-9]{14}(\.[0-9]{1,9})?Z")
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp:
    """A parsed token.

    Attributes:
        imprint_hash: Name of the hash of the imprint, ``sha256`` and longer.
        imprint: Hash of the stamped bytes.
        time: When the authority saw them, UTC.
        accuracy_s: The authority's own bound on the error of ``time``, in seconds; 0 when it states none.
        certificates: DER, as embedded.
        signer_issuer: DER of the issuer's name in the signer's certificate.
        signer_serial: Its serial number.
        certificate_hash: SHA-256 of the signer's certificate where the token names it, else None.
        digest_hash: Name of the hash over content and attributes.
        content: The TSTInfo, whose digest must be ``message_digest``.
        message_digest: From the signed attributes.
        signed_attributes: DER of the SET that is signed.
        signature: By the signer's key over ``signed_attributes``.
    """

    imprint_hash: str
    imprint: bytes
    time: dt.datetime
    accuracy_s: float
    certificates: tuple[bytes, ...] = field(repr=False)
    signer_issuer: bytes = field(repr=False)
    signer_serial: int
    certificate_hash: bytes | None
    digest_hash: str
    content: bytes = field(repr=False)
    message_digest: bytes
    signed_attributes: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_timestamp(raw: bytes) -> Timestamp:
    """Read a TimeStampResp, or the bare token in it.

    Raises:
        LimitError: Too long.
        FormatError: Not a granted timestamp with exactly one signer.
    """
    if len(raw) > _MAX_BYTES:
        raise LimitError(f"timestamp has {len(raw)} bytes, more than {_MAX_BYTES}")
    outer = Der(raw).enter(SEQUENCE)
    if outer.tag == SEQUENCE:  # a response: status, then the token
        status = outer.enter(SEQUENCE)
        if int.from_bytes(status.take(INTEGER), "big") not in (0, 1):
            raise FormatError("the timestamp authority granted no timestamp")
        outer = outer.enter(SEQUENCE)
    if outer.take(OID) != _SIGNED_DATA:
        raise FormatError("timestamp is not CMS signed data")
    data = outer.enter(_CONTEXT_0).enter(SEQUENCE)
    data.take(INTEGER)
    data.take(SET)
    encapsulated = data.enter(SEQUENCE)
    if encapsulated.take(OID) != _TST_INFO:
        raise FormatError("CMS content is not a timestamp")
    content = encapsulated.enter(_CONTEXT_0).take(OCTETS)
    certificates = _items(data.take(_CONTEXT_0)) if data.tag == _CONTEXT_0 else ()
    if data.tag == _CONTEXT_1:
        data.take(_CONTEXT_1)
    signers = _items(data.take(SET))
    if len(signers) != 1:
        raise FormatError("timestamp does not have exactly one signer")
    return _read_signer(signers[0], content, certificates)


def encode_timestamp_request(stamped: bytes, nonce: int) -> bytes:
    """A TimeStampReq (DER) over some bytes, asking for the authority's certificate.

    Args:
        stamped: The bytes to stamp; only their SHA-256 leaves.
        nonce: Random, positive, below 2**63.
    """
    digest = hashlib.sha256(stamped).digest()
    imprint = _wrap(SEQUENCE, _wrap(SEQUENCE, _wrap(OID, _SHA256) + b"\x05\x00") + _wrap(OCTETS, digest))
    number = _wrap(INTEGER, nonce.to_bytes(nonce.bit_length() // 8 + 1, "big"))
    return _wrap(SEQUENCE, b"\x02\x01\x01" + imprint + number + b"\x01\x01\xff")


def timestamp_token(raw: bytes) -> bytes:
    """The token inside a TimeStampResp: notation embeds the token, cosign the response.

    Raises:
        FormatError: Not a granted response.
    """
    parse_timestamp(raw)
    outer = Der(raw).enter(SEQUENCE)
    if outer.tag != SEQUENCE:
        return raw
    outer.take(SEQUENCE)
    return outer.element()


def _read_signer(raw: bytes, content: bytes, certificates: tuple[bytes, ...]) -> Timestamp:
    signer = Der(raw).enter(SEQUENCE)
    signer.take(INTEGER)
    identifier = signer.enter(SEQUENCE)  # issuerAndSerialNumber; key identifiers are not used by RFC 3161
    issuer, serial = identifier.element(), int.from_bytes(identifier.take(INTEGER), "big", signed=True)
    digest_hash = _hash(signer.enter(SEQUENCE))
    attributes = signer.element(_CONTEXT_0)
    signer.take(SEQUENCE)
    signature = signer.take(OCTETS)
    values = _attributes(attributes)
    if values.get(_CONTENT_TYPE) != _TST_INFO or _MESSAGE_DIGEST not in values:
        raise FormatError("timestamp: signed attributes are not those of a timestamp")
    info = Der(content).enter(SEQUENCE)
    if int.from_bytes(info.take(INTEGER), "big") != 1:
        raise FormatError("timestamp has another version")
    info.take(OID)
    imprint = info.enter(SEQUENCE)
    imprint_hash = _hash(imprint.enter(SEQUENCE))
    hashed = imprint.take(OCTETS)
    info.take(INTEGER)
    moment = _moment(info.take(_TIME))
    return Timestamp(
        imprint_hash=imprint_hash,
        imprint=hashed,
        time=moment,
        accuracy_s=_accuracy(info.enter(SEQUENCE)) if info.tag == SEQUENCE else 0.0,
        certificates=certificates,
        signer_issuer=issuer,
        signer_serial=serial,
        certificate_hash=values.get(_SIGNING_CERTIFICATE_V2),
        digest_hash=digest_hash,
        content=content,
        message_digest=values[_MESSAGE_DIGEST],
        signed_attributes=bytes((SET,)) + attributes[1:],  # signed as a SET, sent under a context tag
        signature=signature,
    )


def _attributes(element: bytes) -> dict[bytes, bytes]:
    result: dict[bytes, bytes] = {}
    for item in _items(Der(element).take(_CONTEXT_0)):
        attribute = Der(item).enter(SEQUENCE)
        name, values = attribute.take(OID), Der(attribute.take(SET))
        if name in result:
            raise FormatError("timestamp has a signed attribute twice")
        if name in (_CONTENT_TYPE, _MESSAGE_DIGEST):
            result[name] = values.take(OID if name == _CONTENT_TYPE else OCTETS)
        elif name == _SIGNING_CERTIFICATE_V2:
            entry = values.enter(SEQUENCE).enter(SEQUENCE).enter(SEQUENCE)
            if entry.tag == OCTETS:  # the default hash, SHA-256; others are left to the certificate path
                result[name] = entry.take(OCTETS)
    return result


def _accuracy(reader: Der) -> float:
    seconds = float(int.from_bytes(reader.take(INTEGER), "big")) if reader.tag == INTEGER else 0.0
    for tag, unit in ((0x80, 1e-3), (0x81, 1e-6)):
        if reader.tag == tag:
            seconds += int.from_bytes(reader.take(tag), "big") * unit
    return seconds


def _hash(algorithm: Der) -> str:
    name = HASHES.get(algorithm.take(OID))
    if name is None:
        raise FormatError("timestamp uses a hash other than SHA-256, SHA-384 and SHA-512")
    return name


def _moment(text: bytes) -> dt.datetime:
    if not _GENERALIZED.fullmatch(text):
        raise FormatError("timestamp: not a GeneralizedTime")
    try:
        return dt.datetime.strptime(text[:14].decode(), "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise FormatError("timestamp: no such time") from error


def _wrap(tag: int, body: bytes) -> bytes:
    return bytes((tag, len(body))) + body  # only what is shorter than 128 bytes


def _items(body: bytes) -> tuple[bytes, ...]:
    reader, result = Der(body), []
    while reader.tag is not None:
        result.append(reader.element())
        if len(result) > 64:
            raise LimitError("timestamp has more elements than any authority writes")
    return tuple(result)
