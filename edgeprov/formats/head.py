# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Head: a device's attested word on how far its series goes, so that withheld newest kits show.

It answers an auditor's nonce, or has none: a device that sealed nothing for a while leaves one in the registry.

Spec: FORMAT.md section "Head".
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.descriptor import describe
from edgeprov.formats.devicerecord import parse_enrollment
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.fields import check_keys, list_member
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_object, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import A_DEVICE, A_ENROLLMENT, ANNOTATION_CREATED, HEAD
from edgeprov.formats.names import SERIAL
from edgeprov.formats.packing import pack
from edgeprov.formats.rfc3339 import check_utc_text
from edgeprov.formats.segment import device_serial, device_urn
from edgeprov.formats.standing import Standing, parse_standing
from edgeprov.formats.tpmt import Attestation, NvCertify, parse_attest, parse_pcr_values
from edgeprov.limits import LIMITS

NONCE_BYTES: Final = (8, 64)

_KEYS: Final = frozenset(("v", "device", "enrollment", "nonce", "newest", "at", "standing", "quote", "counter", "log"))
_ATTESTATION_KEYS: Final = frozenset(("attest", "signature"))
_QUOTE_KEYS: Final = _ATTESTATION_KEYS | {"pcrs"}
_TAG = re.compile(rf"({SERIAL})\.h([0-9]{{10}})\.([0-9a-f]{{16}})")
_COUNTER_MAX: Final = 10**10 - 1  # ten digits in the tag


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadClaims:
    """The facts that both attestations of a head are bound to.

    Attributes:
        device: Device URN.
        enrollment: Enrollment id, 32 bytes.
        nonce: The auditor's, 8 to 64 bytes; None for a head that nobody asked for.
        newest: Manifest digest of the newest kit or tombstone of the enrollment; None when there is none yet.
        at: RFC 3339 time, device clock.
        standing: Canonical bytes of the standing as of this head.
    """

    device: str
    enrollment: bytes
    nonce: bytes | None
    newest: Digest | None
    at: str
    standing: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(HeadClaims):
    """A whole head: the claims, a quote and the counter's certification over them, and the event log of the boot."""

    quote: Attestation
    counter: Attestation
    log: bytes = field(repr=False)

    def parsed_standing(self) -> Standing:
        """The standing, read. Errors as in parse_standing."""
        return parse_standing(self.standing)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTag:
    """The tag of a head: device serial, counter value, first 16 hex of its manifest digest."""

    device: str
    counter: int
    prefix: str


def head_qualifying(claims: HeadClaims) -> bytes:
    """The qualifyingData (32 bytes) of both attestations of a head.

    Raises:
        FormatError: The nonce is too short to be fresh, or too long.
    """
    nonce = claims.nonce
    if nonce is not None and not NONCE_BYTES[0] <= len(nonce) <= NONCE_BYTES[1]:
        raise FormatError(f"a nonce has {NONCE_BYTES[0]} to {NONCE_BYTES[1]} bytes")
    facts = pack(
        {
            "device": claims.device,
            "enrollment": claims.enrollment,
            "nonce": nonce,
            "newest": None if claims.newest is None else claims.newest.raw,
            "at": claims.at,
            "standing": claims.standing,
        }
    )
    return hashlib.sha256(b"edgeprov.head\0" + facts).digest()


def encode_head(head: Head) -> bytes:
    """The JSON document."""
    return encode_json(
        {
            "v": 1,
            "device": head.device,
            "enrollment": head.enrollment.hex(),
            "nonce": None if head.nonce is None else b64(head.nonce),
            "newest": None if head.newest is None else str(head.newest),
            "at": head.at,
            "standing": b64(head.standing),
            "quote": _encode_attestation(head.quote) | {"pcrs": [[pcr, b64(value)] for pcr, value in head.quote.pcrs]},
            "counter": _encode_attestation(head.counter),
            "log": b64(head.log),
        }
    )


def parse_head(raw: bytes) -> Head:
    """Read the JSON document.

    Raises:
        LimitError: Too long.
        FormatError: A member is unknown, missing or malformed.
    """
    what = "head"
    obj = check_keys(parse_json_object(raw, what, max_bytes=LIMITS.head_bytes), _KEYS, what)
    if get_int(obj, "v", what) != 1:
        raise FormatError("head has another version")
    head = Head(
        device=get_str(obj, "device", what),
        enrollment=parse_enrollment(get_str(obj, "enrollment", what), what),
        nonce=None if obj["nonce"] is None else get_b64(obj, "nonce", what),
        newest=None if obj["newest"] is None else parse_digest(get_str(obj, "newest", what)),
        at=check_utc_text(get_str(obj, "at", what), "head: 'at'"),
        standing=get_b64(obj, "standing", what),
        quote=_parse_quote(get_object(obj, "quote", what), what),
        counter=_parse_attestation(get_object(obj, "counter", what), what),
        log=get_b64(obj, "log", what),
    )
    device_serial(head.device)
    head.parsed_standing()
    return head


def build_head_manifest(head: Head) -> tuple[Manifest, bytes]:
    """The OCI form of a head without a nonce; returns its manifest and its one layer.

    It carries no signature: the attestation key vouches for its contents.
    """
    layer = encode_head(head)
    manifest = build_manifest(
        config=EMPTY_CONFIG,
        layers=[describe(layer, HEAD)],
        artifact_type=HEAD,
        annotations={A_DEVICE: head.device, A_ENROLLMENT: head.enrollment.hex(), ANNOTATION_CREATED: head.at},
    )
    return manifest, layer


def parse_head_artifact(manifest: Manifest, layer_raw: bytes) -> Head:
    """Read the OCI form; its annotations must say what the layer says.

    Raises:
        DigestMismatch: Not the layer that the manifest names.
        FormatError: Not a head, or it contradicts itself.
    """
    if manifest.artifact_type != HEAD or [layer.media_type for layer in manifest.layers] != [HEAD]:
        raise FormatError("the artifact is not a head")
    manifest.layers[0].verify(layer_raw, "head")
    head = parse_head(layer_raw)
    stated = {A_DEVICE: head.device, A_ENROLLMENT: head.enrollment.hex(), ANNOTATION_CREATED: head.at}
    if any(manifest.annotations.get(key) != value for key, value in stated.items()):
        raise FormatError("head: annotations and layer say different things")
    return head


def certified_counter(head: Head) -> int:
    """The value of the kit counter that the TPM certified; nothing is verified here.

    Raises:
        FormatError: The attestation is malformed, or certifies something else.
    """
    info = parse_attest(head.counter.attest).info
    if not isinstance(info, NvCertify):
        raise FormatError("head: the counter's attestation certifies no NV index")
    return int.from_bytes(info.contents, "big")


def head_tag(serial: str, counter: int, digest: Digest) -> str:
    """The tag under which a head is pushed.

    Args:
        serial: Of the device.
        counter: The attested value of the kit counter.
        digest: Of the head's manifest.

    Raises:
        FormatError: Not a serial, or a counter value of more than ten digits.
    """
    device_urn(serial)
    if not 0 <= counter <= _COUNTER_MAX:
        raise FormatError(f"counter value {counter} does not fit ten digits")
    return f"{serial}.h{counter:010d}.{digest.hex[:16]}"


def parse_head_tag(tag: str) -> HeadTag | None:
    """Take a tag apart; None for a tag that is no head's."""
    match = _TAG.fullmatch(tag)
    return HeadTag(device=match[1], counter=int(match[2]), prefix=match[3]) if match else None


def _parse_quote(obj: JsonObject, what: str) -> Attestation:
    pairs = []
    for item in list_member(check_keys(obj, _QUOTE_KEYS, what), "pcrs", what, 24):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], str):
            raise FormatError(f"{what}: PCR values are not an array of pairs")
        pairs.append([item[0], parse_b64(item[1], f"{what}: PCR value")])
    values = parse_pcr_values(pairs, what)
    return Attestation(attest=get_b64(obj, "attest", what), signature=get_b64(obj, "signature", what), pcrs=values)


def _encode_attestation(attestation: Attestation) -> JsonObject:
    return {"attest": b64(attestation.attest), "signature": b64(attestation.signature)}


def _parse_attestation(obj: JsonObject, what: str) -> Attestation:
    check_keys(obj, _ATTESTATION_KEYS, what)
    return Attestation(attest=get_b64(obj, "attest", what), signature=get_b64(obj, "signature", what))
