# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Device records: what the vendor's enroller vouches for, once per device.

The record is the layer of its own small OCI artifact; a bundle signed by the enroller hangs on it.
Reading a record proves nothing: verify.enrollment judges it.

Spec: FORMAT.md "Device record".
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.descriptor import describe
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_list, get_object, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import A_DEVICE, ANNOTATION_CREATED, ASSURANCES, DEVICE_RECORD, Assurance
from edgeprov.formats.tpmt import Attestation, PublicArea, parse_public
from edgeprov.limits import LIMITS

PROOFS: Final = ("activated", "vouched", "none")


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
        nonce: Of the certification; its extraData is derived from it (verify.enrollment).
        ek_certificate: DER, or None where the TPM has none.
        assurance: ``dev`` (software TPM), ``firmware`` or ``hardware``.
        counter_base: Value of the kit counter at enrollment: the first kit has the next one.
        counter_index: NV handle of the kit counter.
        enrolled_at: RFC 3339, the enroller's clock.
        proof: ``activated`` when the TPM answered a credential for EK and AK, ``vouched`` when a factory
            key in the same TPM certified AK, else ``none``.
        factory: That key, or None.
    """

    device: str
    ak: PublicArea
    sk: PublicArea
    certificates: tuple[bytes, ...] = field(repr=False)
    certify: Attestation = field(repr=False)
    nonce: bytes
    ek_certificate: bytes | None = field(default=None, repr=False)
    assurance: Assurance
    counter_base: int
    counter_index: int
    enrolled_at: str
    proof: str
    factory: FactoryKey | None = field(default=None, repr=False)


def enroll_qualifying(nonce: bytes) -> bytes:
    """The qualifyingData (32 bytes) under which AK certifies SK at enrollment; the label keeps it apart from quotes."""
    return hashlib.sha256(b"edgeprov.enrol\0" + nonce).digest()


def vouch_qualifying(nonce: bytes) -> bytes:
    """The qualifyingData (32 bytes) under which a factory key certifies AK at enrollment."""
    return hashlib.sha256(b"edgeprov.vouch\0" + nonce).digest()


def encode_factory_key(key: FactoryKey) -> JsonObject:
    """As a member ``iak`` of a record or a request."""
    return {
        "public": b64(key.public.raw),
        "certificate": b64(key.certificate),
        "certify": {"attest": b64(key.certify.attest), "signature": b64(key.certify.signature)},
    }


def parse_factory_key(obj: JsonObject, what: str) -> FactoryKey | None:
    """Read the member ``iak``; None where there is none.

    Raises:
        FormatError: It is malformed.
    """
    if obj.get("iak") is None:
        return None
    iak = get_object(obj, "iak", what)
    certify = get_object(iak, "certify", what)
    return FactoryKey(
        public=parse_public(get_b64(iak, "public", what)),
        certificate=_certificate(iak.get("certificate")),
        certify=Attestation(attest=get_b64(certify, "attest", what), signature=get_b64(certify, "signature", what)),
    )


def encode_device_record(record: DeviceRecord) -> bytes:
    """The JSON layer of the artifact."""
    return encode_json(
        {
            **({} if record.factory is None else {"iak": encode_factory_key(record.factory)}),
            "v": 1,
            "device": record.device,
            "ak": b64(record.ak.raw),
            "sk": b64(record.sk.raw),
            "certificates": [b64(item) for item in record.certificates],
            "certify": {"attest": b64(record.certify.attest), "signature": b64(record.certify.signature)},
            "nonce": b64(record.nonce),
            "ek": None if record.ek_certificate is None else b64(record.ek_certificate),
            "assurance": record.assurance,
            "counter_base": record.counter_base,
            "counter_index": record.counter_index,
            "enrolled_at": record.enrolled_at,
            "proof": {"credential": record.proof},
        }
    )


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
    certify = get_object(obj, "certify", what)
    ek = obj.get("ek")
    if ek is not None and not isinstance(ek, str):
        raise FormatError("device record: 'ek' is not a string")
    proof = get_str(get_object(obj, "proof", what), "credential", what)
    if proof not in PROOFS:
        raise FormatError("device record: unknown proof of enrollment")
    return DeviceRecord(
        device=get_str(obj, "device", what),
        ak=parse_public(get_b64(obj, "ak", what)),
        sk=parse_public(get_b64(obj, "sk", what)),
        certificates=tuple(
            _certificate(item) for item in get_list(obj, "certificates", what, maximum=LIMITS.certificate_chain)
        ),
        certify=Attestation(attest=get_b64(certify, "attest", what), signature=get_b64(certify, "signature", what)),
        nonce=get_b64(obj, "nonce", what),
        ek_certificate=None if ek is None else parse_b64(ek, "device record: 'ek'"),
        assurance=parse_assurance(get_str(obj, "assurance", what), what),
        counter_base=get_int(obj, "counter_base", what, maximum=2**64 - 1),
        counter_index=get_int(obj, "counter_index", what, maximum=2**32 - 1),
        enrolled_at=get_str(obj, "enrolled_at", what),
        proof=proof,
        factory=parse_factory_key(obj, what),
    )


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
