# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Device records: what the vendor's enroller vouches for, once per device.

The record is the layer of its own small OCI artifact; a bundle signed by the enroller hangs on it.
Reading a record proves nothing: verify.enrollment judges it.

Spec: FORMAT.md "Device record".
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_list, get_object, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import A_DEVICE, ANNOTATION_CREATED, ASSURANCES, DEVICE_RECORD, Assurance
from edgeprov.formats.tpmt import Attestation, PublicArea, parse_public
from edgeprov.limits import LIMITS

PROOFS: Final = ("activated", "vouched", "none")
ENROLLMENT_BYTES: Final = 32

KEY_TAG: Final = re.compile("(?:ak|ek)\\.[0-9a-f]{64}")
"""A tag that finds the newest record of a key; it names no device."""

_ENROLLMENT = re.compile("[0-9a-f]{64}")
_BIN = re.compile("[0-9a-z]{1,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryKey:
    """An initial attestation key (IAK) that the maker of the device left in its TPM, vouching for our AK.

    Attributes:
        public: Its public area: restricted, as an attestation key must be.
        certificate: DER, by the maker of the device.
        certify: TPM2_Certify of AK by IAK.
    """

    public: PublicArea
    certificate: bytes = field(repr=False)
    certify: Attestation = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """One enrolled device.

    Attributes:
        device: URN of the device.
        ak: Attestation key (restricted).
        sk: Signing key of kits (unrestricted).
        certificates: SK chain in DER, leaf first, root last.
        certify: TPM2_Certify of SK by AK.
        counter: TPM2_NV_Certify of the kit counter by AK; it shows ``counter_base``.
        nonce: The enroller's; the extraData of ``certify`` and ``counter`` is derived from it (verify.enrollment).
        ek_certificate: DER, or None where the TPM has none.
        assurance: ``dev`` (software TPM), ``firmware`` or ``hardware``.
        counter_base: Value of the kit counter when the request was made: the first number is the next one.
        counter_index: NV handle of the kit counter.
        enrolled_at: RFC 3339, the enroller's clock.
        proof: ``activated`` when the TPM answered a credential for EK and AK, ``vouched`` when a factory
            key in the same TPM certified AK, else ``none``.
        factory: That key, or None.
        replaces: Enrollment id (32 bytes) that ended on the same TPM, or None.
        bin: Part of a repository name that the enroller chose for this device, or None.
    """

    device: str
    ak: PublicArea
    sk: PublicArea
    certificates: tuple[bytes, ...] = field(repr=False)
    certify: Attestation = field(repr=False)
    counter: Attestation = field(repr=False)
    nonce: bytes
    ek_certificate: bytes | None = field(default=None, repr=False)
    assurance: Assurance
    counter_base: int
    counter_index: int
    enrolled_at: str
    proof: str
    factory: FactoryKey | None = field(default=None, repr=False)
    replaces: bytes | None = None
    bin: str | None = None

    @property
    def enrollment(self) -> bytes:
        """The enrollment id, 32 bytes."""
        return enrollment_id(self.ak.name, self.counter_base, self.nonce)


def enrollment_id(ak_name: bytes, counter_base: int, nonce: bytes) -> bytes:
    """The id of an enrollment: it stays the same when a certificate is renewed, and changes with TPM, base and nonce.

    Args:
        ak_name: TPM Name of the attestation key, 34 bytes.
        counter_base: Certified value of the kit counter, 0 to 2^64-1.
        nonce: The enroller's.

    Returns:
        32 bytes; text form is 64 lower-case hex digits.
    """
    return hashlib.sha256(ak_name + struct.pack(">Q", counter_base) + nonce).digest()


def parse_enrollment(text: str, what: str) -> bytes:
    """Read the text form of an enrollment id.

    Raises:
        FormatError: Not 64 lower-case hex digits.
    """
    if not _ENROLLMENT.fullmatch(text):
        raise FormatError(f"{what}: {text[:80]!r} is no enrollment id (64 lower-case hex digits)")
    return bytes.fromhex(text)


def parse_bin(value: object, what: str) -> str | None:
    """Read a bin: None, or 1 to 16 of ``0-9a-z``.

    Raises:
        FormatError: Something else.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not _BIN.fullmatch(value):
        raise FormatError(f"{what}: 'bin' is not 1 to 16 lower-case letters and digits")
    return value


def enroll_qualifying(nonce: bytes) -> bytes:
    """The qualifyingData (32 bytes) under which AK certifies SK and the kit counter at enrollment.

    The label keeps it apart from quotes.
    """
    return hashlib.sha256(b"edgeprov.enroll\0" + nonce).digest()


def vouch_qualifying(nonce: bytes) -> bytes:
    """The qualifyingData (32 bytes) under which a factory key certifies AK at enrollment."""
    return hashlib.sha256(b"edgeprov.vouch\0" + nonce).digest()


def encode_factory_key(key: FactoryKey) -> JsonObject:
    """As a member ``iak`` of a record or a request."""
    return {
        "public": b64(key.public.raw),
        "certificate": b64(key.certificate),
        "certify": encode_attestation(key.certify),
    }


def encode_attestation(attestation: Attestation) -> JsonObject:
    """As a member of a record or a request: ``{attest, signature}`` in base64."""
    return {"attest": b64(attestation.attest), "signature": b64(attestation.signature)}


def parse_attestation(obj: JsonObject, key: str, what: str) -> Attestation:
    """Read the member ``key``: ``{attest, signature}`` in base64.

    Raises:
        FormatError: It is missing or malformed.
    """
    pair = get_object(obj, key, what)
    return Attestation(attest=get_b64(pair, "attest", what), signature=get_b64(pair, "signature", what))


def parse_factory_key(obj: JsonObject, what: str) -> FactoryKey | None:
    """Read the member ``iak``; None where there is none.

    Raises:
        FormatError: It is malformed.
    """
    if obj.get("iak") is None:
        return None
    iak = get_object(obj, "iak", what)
    return FactoryKey(
        public=parse_public(get_b64(iak, "public", what)),
        certificate=_certificate(iak.get("certificate")),
        certify=parse_attestation(iak, "certify", what),
    )


def encode_device_record(record: DeviceRecord) -> bytes:
    """The JSON layer of the artifact."""
    return encode_json(
        {
            **({} if record.factory is None else {"iak": encode_factory_key(record.factory)}),
            "v": 1,
            "device": record.device,
            "enrollment": record.enrollment.hex(),
            "replaces": None if record.replaces is None else record.replaces.hex(),
            "bin": record.bin,
            "ak": b64(record.ak.raw),
            "sk": b64(record.sk.raw),
            "certificates": [b64(item) for item in record.certificates],
            "certify": encode_attestation(record.certify),
            "counter": encode_attestation(record.counter),
            "nonce": b64(record.nonce),
            "ek": None if record.ek_certificate is None else b64(record.ek_certificate),
            "assurance": record.assurance,
            "counter_base": record.counter_base,
            "counter_index": record.counter_index,
            "enrolled_at": record.enrolled_at,
            "proof": {"credential": record.proof},
        }
    )


def record_tag(serial: str, digest: Digest) -> str:
    """The tag that names one record for ever; the serial alone names the newest."""
    return f"{serial}.{digest.hex[:16]}"


def build_device_record(record: DeviceRecord) -> tuple[Manifest, bytes]:
    """The artifact: its manifest, and the layer blob."""
    blob = encode_device_record(record)
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[describe(blob, DEVICE_RECORD)],
        artifact_type=DEVICE_RECORD,
        annotations={A_DEVICE: record.device, ANNOTATION_CREATED: record.enrolled_at},
    )
    return manifest, blob


def parse_device_record(raw: bytes) -> DeviceRecord:
    """Read the JSON layer.

    Raises:
        LimitError: Too long.
        FormatError: A member is missing or malformed.
    """
    what = "device record"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.device_record_bytes)
    if get_int(obj, "v", what) != 1:
        raise FormatError("device record has another version")
    ek = obj.get("ek")
    if ek is not None and not isinstance(ek, str):
        raise FormatError("device record: 'ek' is not a string")
    proof = get_str(get_object(obj, "proof", what), "credential", what)
    if proof not in PROOFS:
        raise FormatError("device record: unknown proof of enrollment")
    replaces = None if obj.get("replaces") is None else parse_enrollment(get_str(obj, "replaces", what), what)
    record = DeviceRecord(
        device=get_str(obj, "device", what),
        ak=parse_public(get_b64(obj, "ak", what)),
        sk=parse_public(get_b64(obj, "sk", what)),
        certificates=tuple(
            _certificate(item) for item in get_list(obj, "certificates", what, maximum=LIMITS.certificate_chain)
        ),
        certify=parse_attestation(obj, "certify", what),
        counter=parse_attestation(obj, "counter", what),
        nonce=get_b64(obj, "nonce", what),
        ek_certificate=None if ek is None else parse_b64(ek, "device record: 'ek'"),
        assurance=parse_assurance(get_str(obj, "assurance", what), what),
        counter_base=get_int(obj, "counter_base", what),
        counter_index=get_int(obj, "counter_index", what, maximum=2**32 - 1),
        enrolled_at=get_str(obj, "enrolled_at", what),
        proof=proof,
        factory=parse_factory_key(obj, what),
        replaces=replaces,
        bin=parse_bin(obj.get("bin"), what),
    )
    if parse_enrollment(get_str(obj, "enrollment", what), what) != record.enrollment:
        raise FormatError("device record: the enrollment id is not that of its key, counter base and nonce")
    if record.replaces == record.enrollment:
        raise FormatError("device record: it replaces its own enrollment")
    return record


def parse_device_record_artifact(manifest: Manifest, raw: bytes) -> DeviceRecord:
    """Read the layer of a device-record artifact whose manifest digest the caller pinned.

    Raises:
        DigestMismatch: ``raw`` is not the layer of ``manifest``.
        FormatError: Another kind of artifact, or an annotation names another device.
    """
    if manifest.artifact_type != DEVICE_RECORD or len(manifest.layers) != 1:
        raise FormatError("not a device record artifact")
    layer = manifest.layers[0]
    if layer.media_type != DEVICE_RECORD:
        raise FormatError("device record: the layer has another media type")
    layer.verify(raw, "device record")
    record = parse_device_record(raw)
    if manifest.annotations.get(A_DEVICE) != record.device:
        raise FormatError("device record: the annotation names another device")
    return record


def parse_assurance(text: str, what: str) -> Assurance:
    """One of the three levels.

    Raises:
        FormatError: Another word.
    """
    for level in ASSURANCES:
        if text == level:
            return level
    raise FormatError(f"{what}: unknown assurance {text[:40]!r}")


def _certificate(item: Any) -> bytes:
    if not isinstance(item, str):
        raise FormatError("device record: a certificate is not a string")
    der = parse_b64(item, "device record certificate")
    if len(der) > LIMITS.certificate_bytes:
        raise FormatError("device record: a certificate is too long")
    return der
