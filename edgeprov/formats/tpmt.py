# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TPM structures that a verifier reads: TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC, NV Names.

Only what edgeprov writes is accepted: ECC NIST P-256, ECDSA with SHA-256, name algorithm SHA-256.
One algorithm each, so that none can be mixed up. Nothing may follow a structure.

Spec: TPM 2.0 Library, Part 2 "Structures", 10.12 (attestation), 11.3 (signatures), 12.2 (public areas).
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.ecdsa import encode_p256_spki
from edgeprov.limits import LIMITS

MAGIC: Final = 0xFF544347
ST_ATTEST_NV: Final = 0x8014
ST_ATTEST_CERTIFY: Final = 0x8017
ST_ATTEST_QUOTE: Final = 0x8018
ALG_SHA256: Final = 0x000B
ALG_NULL: Final = 0x0010
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023
ECC_NIST_P256: Final = 0x0003

# TPMA_OBJECT bits (Part 2, 8.3)
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
USER_WITH_AUTH: Final = 1 << 6
NO_DA: Final = 1 << 10
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18
AK_ATTRIBUTES: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN
SK_ATTRIBUTES: Final = AK_ATTRIBUTES & ~RESTRICTED

# The kit counter: NV index, and its attributes once written (TPM 2.0 Library Part 2, 13.4: AUTHREAD, AUTHWRITE,
# OWNERREAD, NO_DA, WRITTEN, type COUNTER).
COUNTER_INDEX: Final = 0x01800100
COUNTER_ATTRIBUTES: Final = 0x22060014
COUNTER_BYTES: Final = 8

_ATTEST_HEAD = struct.Struct(">IH")
_CLOCK = struct.Struct(">QIIBQ")
_SIGNATURE_HEAD = struct.pack(">HHH", ALG_ECDSA, ALG_SHA256, 32)
_SIGNATURE_BYTES = len(_SIGNATURE_HEAD) + 32 + 2 + 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A quote or a certification as the TPM returns it: TPMS_ATTEST and TPMT_SIGNATURE, as bytes.

    ``pcrs`` are the numbers and values (32 bytes each) of the PCRs that a quote selects, ascending; empty for
    a certification.
    """

    attest: bytes
    signature: bytes
    pcrs: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """TPMS_QUOTE_INFO: selected PCRs by bank (algorithm id), and the digest over their values."""

    selection: tuple[tuple[int, tuple[int, ...]], ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certify:
    """TPMS_CERTIFY_INFO: the Name of the certified object."""

    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NvCertify:
    """TPMS_NV_CERTIFY_INFO: the Name of the index, and the bytes read from it."""

    index_name: bytes
    offset: int
    contents: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """TPMS_ATTEST. ``clock_ms`` is the TPM's clock in milliseconds; ``safe`` says that it cannot have been repeated."""

    raw: bytes = field(repr=False)
    type: int
    qualified_signer: bytes
    extra_data: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    info: Quote | Certify | NvCertify


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicArea:
    """TPMT_PUBLIC of an ECC P-256 signing key. ``x`` and ``y`` have 32 bytes each."""

    raw: bytes = field(repr=False)
    name: bytes
    attributes: int
    x: bytes
    y: bytes
    auth_policy: bytes = b""

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return encode_p256_spki(self.x, self.y)


class TpmReader:
    """A cursor over big-endian TPM structures; every read is bounded."""

    __slots__ = ("_data", "_pos", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        """Start at the first byte of ``data``."""
        self._data = data
        self._pos = 0
        self._what = what

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self._pos + size
        if end > len(self._data):
            raise FormatError(f"{self._what} is cut short")
        part = self._data[self._pos : end]
        self._pos = end
        return part

    def uint(self, size: int) -> int:
        """The next unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """A TPM2B: 16-bit length, then the bytes."""
        data, start = self._data, self._pos + 2
        if start <= len(data):
            self._pos = start + (data[start - 2] << 8 | data[start - 1])
            if self._pos <= len(data):
                return data[start : self._pos]
        raise FormatError(f"{self._what} is cut short")

    def end(self) -> None:
        """Nothing may follow."""
        if self._pos != len(self._data):
            raise FormatError(f"{self._what} has {len(self._data) - self._pos} bytes too many")


def parse_attest(raw: bytes) -> Attest:
    """Read a TPMS_ATTEST of type quote, certify or NV certify.

    The magic proves nothing by itself: an unrestricted key signs any bytes. The caller checks that
    the signing key is restricted.

    Raises:
        LimitError: Too long.
        FormatError: Wrong magic, another type, cut short, or bytes that follow.
    """
    if len(raw) > LIMITS.attestation_bytes:
        raise LimitError(f"attestation has {len(raw)} bytes, more than {LIMITS.attestation_bytes}")
    reader = TpmReader(raw, "attestation")
    magic, kind = _ATTEST_HEAD.unpack(reader.take(_ATTEST_HEAD.size))
    if magic != MAGIC:
        raise FormatError("attestation does not start with TPM_GENERATED_VALUE")
    qualified_signer = reader.sized()
    extra_data = reader.sized()
    clock, resets, restarts, safe, firmware = _CLOCK.unpack(reader.take(_CLOCK.size))
    if safe > 1:
        raise FormatError("attestation: 'safe' is neither yes nor no")
    info: Quote | Certify | NvCertify
    if kind == ST_ATTEST_QUOTE:
        info = _read_quote(reader)
    elif kind == ST_ATTEST_CERTIFY:
        info = Certify(name=reader.sized(), qualified_name=reader.sized())
    elif kind == ST_ATTEST_NV:
        info = NvCertify(index_name=reader.sized(), offset=reader.uint(2), contents=reader.sized())
    else:
        raise FormatError(f"attestation has the type 0x{kind:04x}, which edgeprov does not use")
    reader.end()
    return Attest(
        raw=raw,
        type=kind,
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        clock_ms=clock,
        reset_count=resets,
        restart_count=restarts,
        safe=bool(safe),
        firmware_version=firmware,
        info=info,
    )


def parse_pcr_values(value: object, what: str) -> tuple[tuple[int, bytes], ...]:
    """Read the values beside a quote: an array of ``[pcr, value]``, ascending, each value of 32 bytes.

    Raises:
        FormatError: Another form, an unknown PCR, or one twice.
    """
    found: list[tuple[int, bytes]] = []
    for item in value if isinstance(value, list) else [None]:
        if not isinstance(item, list) or len(item) != 2:
            raise FormatError(f"{what}: PCR values are not an array of pairs")
        pcr, digest = item
        if type(pcr) is not int or not (found[-1][0] if found else -1) < pcr <= 23:
            raise FormatError(f"{what}: PCR numbers are not ascending from 0 to 23")
        if not isinstance(digest, bytes) or len(digest) != 32:
            raise FormatError(f"{what}: the value of PCR {pcr} has not 32 bytes")
        found.append((pcr, digest))
    return tuple(found)


def parse_signature(raw: bytes) -> tuple[int, int]:
    """Read a TPMT_SIGNATURE and return ECDSA r and s.

    Raises:
        FormatError: Not ECDSA with SHA-256, cut short, or bytes that follow.
    """
    if len(raw) == _SIGNATURE_BYTES and raw.startswith(_SIGNATURE_HEAD) and raw[38:40] == b"\0\x20":
        return int.from_bytes(raw[6:38], "big"), int.from_bytes(raw[40:], "big")  # nearly all: both of full length
    reader = TpmReader(raw, "TPM signature")
    algorithm, hash_algorithm = reader.uint(2), reader.uint(2)
    if (algorithm, hash_algorithm) != (ALG_ECDSA, ALG_SHA256):
        raise FormatError(f"TPM signature is 0x{algorithm:04x}/0x{hash_algorithm:04x}, not ECDSA with SHA-256")
    r, s = reader.sized(), reader.sized()
    reader.end()
    if not 0 < len(r) <= 32 or not 0 < len(s) <= 32:
        raise FormatError("TPM signature: r or s has no P-256 length")
    return int.from_bytes(r, "big"), int.from_bytes(s, "big")


def parse_public(raw: bytes) -> PublicArea:
    """Read the TPMT_PUBLIC of an ECC P-256 signing key (without the TPM2B length in front).

    Raises:
        FormatError: Another algorithm, curve or scheme, cut short, or bytes that follow.
    """
    if len(raw) > LIMITS.attestation_bytes:
        raise LimitError(f"public area has {len(raw)} bytes, more than {LIMITS.attestation_bytes}")
    reader = TpmReader(raw, "public area")
    if reader.uint(2) != ALG_ECC or reader.uint(2) != ALG_SHA256:
        raise FormatError("public area is not an ECC key with SHA-256 Name")
    attributes = reader.uint(4)
    auth_policy = reader.sized()
    if reader.uint(2) != ALG_NULL:
        raise FormatError("public area has a symmetric algorithm: not a signing key")
    if (reader.uint(2), reader.uint(2)) != (ALG_ECDSA, ALG_SHA256):
        raise FormatError("public area: scheme is not ECDSA with SHA-256")
    if (reader.uint(2), reader.uint(2)) != (ECC_NIST_P256, ALG_NULL):
        raise FormatError("public area: curve is not NIST P-256, or a KDF is set")
    x, y = reader.sized(), reader.sized()
    reader.end()
    if not 0 < len(x) <= 32 or not 0 < len(y) <= 32:
        raise FormatError("public area: coordinates have no P-256 length")
    return PublicArea(
        raw=raw,
        name=name_of(raw),
        attributes=attributes,
        x=x.rjust(32, b"\0"),
        y=y.rjust(32, b"\0"),
        auth_policy=auth_policy,
    )


def name_of(public: bytes) -> bytes:
    """The TPM Name (34 bytes) of a public area or NV public area with nameAlg SHA-256."""
    return ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(public).digest()


def nv_name(index: int = COUNTER_INDEX, attributes: int = COUNTER_ATTRIBUTES) -> bytes:
    """The Name (34 bytes) of an NV index without policy, rebuilt from its 14-byte TPMS_NV_PUBLIC.

    An ordinary index defined at the counter's handle has other attributes, hence another Name.
    """
    return name_of(struct.pack(">IHIHH", index, ALG_SHA256, attributes, 0, COUNTER_BYTES))


def _read_quote(reader: TpmReader) -> Quote:
    count = reader.uint(4)
    if count > 16:
        raise FormatError("quote selects more banks than a TPM has")
    return Quote(selection=tuple([_read_selection(reader) for _ in range(count)]), pcr_digest=reader.sized())


def _read_selection(reader: TpmReader) -> tuple[int, tuple[int, ...]]:
    bank = reader.uint(2)
    return bank, _selected(reader.take(reader.uint(1)))


def _selected(bitmap: bytes) -> tuple[int, ...]:
    bits = int.from_bytes(bitmap, "little")
    return tuple(pcr for pcr in range(bits.bit_length()) if bits >> pcr & 1)
