# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The head of a device's series: its answer to an auditor's nonce, so that withheld newest kits show.

Spec: FORMAT.md "Head".
"""

from __future__ import annotations

import hashlib
from typing import Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_list, get_object, get_str, parse_json_object
from edgeprov.formats.tpmt import Attestation, parse_pcr_values
from edgeprov.limits import LIMITS

NONCE_BYTES: Final = (8, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An answer. ``newest`` is the newest kit or tombstone of the device, None when there is none yet."""

    device: str
    nonce: bytes
    newest: Digest | None
    quote: Attestation
    counter: Attestation
    log: bytes = field(repr=False)


def head_qualifying(nonce: bytes, newest: Digest | None) -> bytes:
    """The qualifyingData (32 bytes) of both attestations of a head.

    Raises:
        FormatError: The nonce is too short to be fresh, or too long.
    """
    if not NONCE_BYTES[0] <= len(nonce) <= NONCE_BYTES[1]:
        raise FormatError(f"a nonce has {NONCE_BYTES[0]} to {NONCE_BYTES[1]} bytes")
    named = bytes(32) if newest is None else newest.raw
    return hashlib.sha256(b"edgeprov.head\0" + len(nonce).to_bytes(1, "big") + nonce + named).digest()


def encode_head(head: Head) -> bytes:
    """The JSON document that the auditor gets."""
    return encode_json(
        {
            "v": 1,
            "device": head.device,
            "nonce": b64(head.nonce),
            "newest": None if head.newest is None else str(head.newest),
            "quote": _encode_attestation(head.quote) | {"pcrs": [[pcr, b64(value)] for pcr, value in head.quote.pcrs]},
            "counter": _encode_attestation(head.counter),
            "log": b64(head.log),
        }
    )


def parse_head(raw: bytes) -> Head:
    """Read the JSON document.

    Raises:
        LimitError: Too long.
        FormatError: A member is missing or malformed.
    """
    what = "head"
    obj = parse_json_object(raw, what, max_bytes=LIMITS.statement_bytes)
    if get_int(obj, "v", what) != 1:
        raise FormatError("head has another version")
    newest = obj.get("newest")
    if newest is not None and not isinstance(newest, str):
        raise FormatError("head: 'newest' is not a digest")
    return Head(
        device=get_str(obj, "device", what),
        nonce=get_b64(obj, "nonce", what),
        newest=None if newest is None else parse_digest(newest),
        quote=_parse_quote(get_object(obj, "quote", what), what),
        counter=_parse_attestation(get_object(obj, "counter", what), what),
        log=get_b64(obj, "log", what),
    )


def _parse_quote(obj: JsonObject, what: str) -> Attestation:
    pairs = []
    for item in get_list(obj, "pcrs", what, maximum=24):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], str):
            raise FormatError(f"{what}: PCR values are not an array of pairs")
        pairs.append([item[0], parse_b64(item[1], f"{what}: PCR value")])
    quote = _parse_attestation(obj, what)
    return Attestation(attest=quote.attest, signature=quote.signature, pcrs=parse_pcr_values(pairs, what))


def _encode_attestation(attestation: Attestation) -> JsonObject:
    return {"attest": b64(attestation.attest), "signature": b64(attestation.signature)}


def _parse_attestation(obj: JsonObject, what: str) -> Attestation:
    return Attestation(attest=get_b64(obj, "attest", what), signature=get_b64(obj, "signature", what))
