# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device's enrollment request, as read from its file. What it says of itself decides nothing.

Spec: FORMAT.md "Device record".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.devicerecord import (
    FactoryKey,
    encode_attestation,
    enrollment_id,
    parse_attestation,
    parse_factory_key,
)
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_str, parse_json_object
from edgeprov.formats.segment import device_serial
from edgeprov.formats.tpmt import Attestation, PublicArea, parse_public
from edgeprov.limits import LIMITS

REQUEST_TYPE: Final = "edgeprov.enrollment-request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `edgeprov identity csr` wrote."""

    device: str
    csr: bytes = field(repr=False)
    ak: PublicArea
    sk: PublicArea
    nonce: bytes
    certify: Attestation = field(repr=False)
    counter: Attestation = field(repr=False)
    ek_certificate: bytes | None = field(repr=False)
    ek_public: bytes | None = field(repr=False)
    factory: FactoryKey | None = field(default=None, repr=False)
    counter_base: int
    counter_index: int

    @property
    def serial(self) -> str:
        """Serial number of the device."""
        return device_serial(self.device)

    @property
    def enrollment(self) -> bytes:
        """The enrollment id that this request asks for, 32 bytes."""
        return enrollment_id(self.ak.name, self.counter_base, self.nonce)

    @property
    def binding(self) -> str:
        """SHA-256 (hex) of what a challenge is bound to: serial, AK Name, SK, EK, nonce and counter certificate."""
        bound = {
            "device": self.device,
            "ak": self.ak.name.hex(),
            "sk": b64(self.sk.raw),
            "ek": None if self.ek_certificate is None else b64(self.ek_certificate),
            "ek_public": None if self.ek_public is None else b64(self.ek_public),
            "nonce": self.nonce.hex(),
            "counter": encode_attestation(self.counter),
            "counter_base": self.counter_base,
        }
        return hashlib.sha256(encode_json(bound)).hexdigest()


def parse_request(raw: bytes) -> Request:
    """Read a request file.

    Raises:
        FormatError: Not one.
    """
    what = "enrollment request"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.device_record_bytes)
    if obj.get("type") != REQUEST_TYPE or get_int(obj, "v", what) != 1:
        raise FormatError("not an enrollment request", advice="Make one on the device: edgeprov identity csr -o FILE.")
    device = get_str(obj, "device", what)
    device_serial(device)
    try:
        nonce = bytes.fromhex(get_str(obj, "nonce", what))
    except ValueError as error:
        raise FormatError("enrollment request: 'nonce' is not hex") from error
    ek, ek_public = (_optional(obj, key, what) for key in ("ek", "ek_public"))
    return Request(
        device=device,
        csr=get_b64(obj, "csr", what),
        ak=parse_public(get_b64(obj, "ak", what)),
        sk=parse_public(get_b64(obj, "sk", what)),
        nonce=nonce,
        certify=parse_attestation(obj, "certify", what),
        counter=parse_attestation(obj, "counter", what),
        ek_certificate=ek,
        ek_public=ek_public,
        factory=parse_factory_key(obj, what),
        counter_base=get_int(obj, "counter_base", what),
        counter_index=get_int(obj, "counter_index", what, maximum=2**32 - 1),
    )


def _optional(obj: JsonObject, key: str, what: str) -> bytes | None:
    value = obj.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FormatError(f"{what}: {key!r} is not text")
    return parse_b64(value, f"{what}: {key!r}")
