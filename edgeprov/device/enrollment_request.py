# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The request for a certificate, and the answer to the enroller's challenge.

The request carries what an enroller needs to believe that both keys live in one TPM: AK and SK, and the
AK's certifications of the SK and of the kit counter over the enroller's nonce. It fixes the enrollment
id, under which the device records from then on.

Spec: FORMAT.md section "Device record".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov.device.identity import (
    Enrollment,
    find_enrollment,
    has_certificate,
    load_keys,
    parse_typed,
    save_enrollment,
    verify_own_name,
)
from edgeprov.errors import FormatError, IdentityError, TpmError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.devicerecord import (
    encode_attestation,
    encode_factory_key,
    enroll_qualifying,
    enrollment_id,
    vouch_qualifying,
)
from edgeprov.formats.jsonx import encode_json
from edgeprov.formats.segment import device_urn
from edgeprov.formats.tpmt import COUNTER_INDEX, NvCertify, parse_attest, parse_public

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm

REQUEST_TYPE: Final = "edgeprov.enrollment-request"
CHALLENGE_TYPE: Final = "edgeprov.credential-challenge"
RESPONSE_TYPE: Final = "edgeprov.credential-response"

_NONCE_BYTES: Final = 32
_NONCE_LIMITS: Final = (8, 64)


def create_request(context: Context, nonce: bytes | None, *, rename: str | None = None) -> bytes:
    """The enrollment request. The first one begins the enrollment; later ones repeat it, so a renewal keeps the id.

    Args:
        context: The device.
        nonce: 8 to 64 bytes from the enroller. None repeats the nonce of the device's enrollment; where it has
            none yet, a random one is taken, which proves no freshness.
        rename: New serial number for the same enrollment.

    Raises:
        IdentityError: No identity was created, or the device has numbers of an enrollment with another nonce.
        FormatError: A nonce of another length.
        TpmError: The TPM failed.
    """
    from edgeprov.tpm.csr import create_csr

    if nonce is not None and not _NONCE_LIMITS[0] <= len(nonce) <= _NONCE_LIMITS[1]:
        raise FormatError(f"a nonce has {_NONCE_LIMITS[0]} to {_NONCE_LIMITS[1]} bytes, not {len(nonce)}")
    serial = context.serial if rename is None else rename
    urn = device_urn(serial)
    state = context.state()
    keys = load_keys(state)
    with context.tpm() as tpm, tpm.group():
        verify_own_name(context, state, tpm)
        enrollment = _enrollment(state, tpm, keys, nonce)
        certificate, factory = tpm.ek_certificate(), tpm.factory_key(vouch_qualifying(enrollment.nonce))
        document = {
            "type": REQUEST_TYPE,
            "v": 1,
            "device": urn,
            "csr": b64(create_csr(tpm, common_name=serial, uri=urn)),
            "ak": keys["ak"],
            "sk": keys["sk"],
            "nonce": enrollment.nonce.hex(),
            "certify": encode_attestation(enrollment.certify),
            "counter": encode_attestation(enrollment.counter),
            "iak": None if factory is None else encode_factory_key(factory),
            "ek": None if certificate is None else b64(certificate),
            "ek_public": b64(tpm.ek_public()),
            "counter_base": enrollment.counter_base,
            "counter_index": COUNTER_INDEX,
        }
    return encode_json(document)


def _enrollment(state: State, tpm: Tpm, keys: Mapping[str, Any], nonce: bytes | None) -> Enrollment:
    """The stored enrollment, or a new one for this nonce, certified by the TPM and stored.

    Raises:
        IdentityError: Numbers were taken, or a certificate is installed, under another nonce.
    """
    known = find_enrollment(state)
    if known is not None and nonce in (None, known.nonce):
        return known
    if known is not None and (tpm.read_counter() != known.counter_base or has_certificate(state)):
        raise IdentityError(
            f"this device records under the enrollment {known.id.hex()}, which was made with another nonce",
            advice="Leave --nonce away to renew the certificate of this enrollment; for a new enrollment send what is "
            "there (edgeprov seal, edgeprov upload), then move the state folder away and begin at identity create.",
        )
    nonce = os.urandom(_NONCE_BYTES) if nonce is None else nonce
    certify, counter = tpm.certify_sk(enroll_qualifying(nonce)), tpm.certify_counter(enroll_qualifying(nonce))
    shown = parse_attest(counter.attest).info
    if not isinstance(shown, NvCertify):
        raise TpmError("the TPM certified something else than the kit counter")
    base = int.from_bytes(shown.contents, "big")
    ak = parse_public(parse_b64(keys["ak"], "AK"))
    new = Enrollment(
        id=enrollment_id(ak.name, base, nonce), nonce=nonce, counter_base=base, certify=certify, counter=counter
    )
    save_enrollment(state, new)
    return new


def activate_credential(context: Context, raw: bytes) -> bytes:
    """Answer the enroller's credential challenge, which only the TPM with both EK and AK can.

    Raises:
        FormatError: Not a challenge.
        TpmError: The challenge is not for this TPM.
    """
    document = parse_typed(raw, CHALLENGE_TYPE, "challenge")
    with context.tpm() as tpm:
        credential = tpm.activate_credential(
            get_b64(document, "blob", "challenge"), get_b64(document, "secret", "challenge")
        )
    return encode_json({"type": RESPONSE_TYPE, "v": 1, "credential": b64(credential)})
