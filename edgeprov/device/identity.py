# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's identity: keys in the TPM, the request for a certificate, and the certificate.

Only public parts lie on the disk. The request carries what an enroller needs to believe that both
keys live in one TPM: AK and SK, and the AK's certifications of the SK and of the kit counter over the
enroller's nonce. It fixes the enrollment id, under which the device records from then on.

Spec: FORMAT.md section "Enrollment".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, IdentityError, NotStored, TpmError
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.devicerecord import (
    encode_attestation,
    encode_factory_key,
    enroll_qualifying,
    enrollment_id,
    parse_attestation,
    parse_bin,
    parse_enrollment,
    vouch_qualifying,
)
from edgeprov.formats.jsonx import encode_json, get_int, get_list, get_str, parse_json_object
from edgeprov.formats.tpmt import COUNTER_INDEX, Attestation, NvCertify, parse_attest, parse_public
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, save_bytes

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm

REQUEST_TYPE: Final = "edgeprov.enrollment-request"
IDENTITY_TYPE: Final = "edgeprov.identity"
CHALLENGE_TYPE: Final = "edgeprov.credential-challenge"
RESPONSE_TYPE: Final = "edgeprov.credential-response"

_KEYS: Final = "device.json"  # identity.json is the TPM module's own
_ENROLLMENT: Final = "enrollment.json"
_CERTIFICATES: Final = "certificates.json"
_NONCE_BYTES: Final = 32
_NONCE_LIMITS: Final = (8, 64)


def create_identity(context: Context) -> dict[str, Any]:
    """Make AK, SK and counter in the TPM, or find them there; the public parts are kept in the state.

    Returns:
        The stored document: ``device``, ``ak``, ``sk`` (base64 TPMT_PUBLIC), ``assurance``.

    Raises:
        IdentityError: The TPM holds other keys than the stored ones.
        TpmError: The TPM failed.
    """
    state = context.state()
    with context.tpm() as tpm:
        identity = tpm.create_identity()
        document = {
            "v": 1,
            "device": context.urn,
            "ak": b64(identity.ak_public),
            "sk": b64(identity.sk_public),
            "assurance": tpm.assurance,
        }
    known = _load(state, _KEYS)
    if known is not None:
        if known["ak"] != document["ak"] or known["sk"] != document["sk"] or known["device"] != document["device"]:
            raise IdentityError(
                "the stored identity has other keys than this TPM, or another serial",
                advice="The TPM was cleared or replaced: move the state folder away and enroll the device anew.",
            )
        return known
    save_bytes(state.identity_dir / _KEYS, encode_json(document), mode=0o644)
    journal.event("identity-created", f"identity of {context.urn} created", device=context.urn)
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """What the device's request states of its enrollment: the id and what it is made of.

    Attributes:
        id: Enrollment id, 32 bytes.
        nonce: The enroller's, or random where none was given.
        counter_base: Certified value of the kit counter.
        certify: TPM2_Certify of SK by AK for this nonce.
        counter: TPM2_NV_Certify of the kit counter by AK for this nonce.
    """

    id: bytes
    nonce: bytes
    counter_base: int
    certify: Attestation = field(repr=False)
    counter: Attestation = field(repr=False)


def create_request(context: Context, nonce: bytes | None) -> bytes:
    """The enrollment request. The first one begins the enrollment; later ones repeat it, so a renewal keeps the id.

    Args:
        context: The device.
        nonce: 8 to 64 bytes from the enroller. None repeats the nonce of the device's enrollment; where it has
            none yet, a random one is taken, which proves no freshness.

    Raises:
        IdentityError: No identity was created, or the device has numbers of an enrollment with another nonce.
        FormatError: A nonce of another length.
        TpmError: The TPM failed.
    """
    from edgeprov.tpm.csr import create_csr

    if nonce is not None and not _NONCE_LIMITS[0] <= len(nonce) <= _NONCE_LIMITS[1]:
        raise FormatError(f"a nonce has {_NONCE_LIMITS[0]} to {_NONCE_LIMITS[1]} bytes, not {len(nonce)}")
    state = context.state()
    keys = load_keys(state)
    with context.tpm() as tpm, tpm.group():
        enrollment = _enrollment(state, tpm, keys, nonce)
        certificate, factory = tpm.ek_certificate(), tpm.factory_key(vouch_qualifying(enrollment.nonce))
        document = {
            "type": REQUEST_TYPE,
            "v": 1,
            "device": context.urn,
            "csr": b64(create_csr(tpm, common_name=context.serial, uri=context.urn)),
            "ak": keys["ak"],
            "sk": keys["sk"],
            "nonce": enrollment.nonce.hex(),
            "certify": encode_attestation(enrollment.certify),
            "counter": encode_attestation(enrollment.counter),
            "iak": None if factory is None else encode_factory_key(factory),
            "ek": None if certificate is None else b64(certificate),
            "ek_public": b64(tpm.ek_public()),
            "assurance": tpm.assurance,
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
    if known is not None and (tpm.read_counter() != known.counter_base or _load(state, _CERTIFICATES) is not None):
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
    document = {
        "v": 1,
        "enrollment": new.id.hex(),
        "nonce": nonce.hex(),
        "counter_base": base,
        "certify": encode_attestation(certify),
        "counter": encode_attestation(counter),
    }
    save_bytes(state.identity_dir / _ENROLLMENT, encode_json(document), mode=0o644)
    return new


def activate_credential(context: Context, raw: bytes) -> bytes:
    """Answer the enroller's credential challenge, which only the TPM with both EK and AK can.

    Raises:
        FormatError: Not a challenge.
        TpmError: The challenge is not for this TPM.
    """
    document = _typed(raw, CHALLENGE_TYPE, "challenge")
    with context.tpm() as tpm:
        credential = tpm.activate_credential(
            get_b64(document, "blob", "challenge"), get_b64(document, "secret", "challenge")
        )
    return encode_json({"type": RESPONSE_TYPE, "v": 1, "credential": b64(credential)})


def install_certificates(context: Context, raw: bytes) -> str:
    """Install the SK certificate with its chain, after checking that it is for this very key.

    Args:
        context: The device.
        raw: PEM certificates, leaf first, or the enroller's identity document.

    Returns:
        The device URN that the leaf names.

    Raises:
        IdentityError: Another key, device or enrollment, or no request was made.
        FormatError: No certificates.
    """
    from edgeprov.verify.certificates import parse_pem_certificates
    from edgeprov.verify.x509path import verify_chain

    pem = raw.lstrip().startswith(b"-----BEGIN")
    answer: dict[str, Any] = {} if pem else _typed(raw, IDENTITY_TYPE, "identity")
    chain = parse_pem_certificates(raw, "identity") if pem else _certificates(answer)
    state = context.state()
    keys, enrollment = load_keys(state), load_enrollment(state)
    if not pem and parse_enrollment(get_str(answer, "enrollment", "identity"), "identity") != enrollment.id:
        raise IdentityError(
            f"this identity document belongs to another enrollment than {enrollment.id.hex()}, the device's own",
            advice="Install the answer to this device's newest request.",
        )
    # The chain's own root is the anchor here: whom to trust is the verifier's business, whether
    # this chain fits this device is ours.
    leaf = verify_chain(chain[0], chain[1:], chain[-1:], context.now(), "device")
    if leaf.spki != parse_public(parse_b64(keys["sk"], "SK")).spki:
        raise IdentityError(
            "the certificate is for another key than this device's signing key",
            advice="Install the certificate that was issued for this device's own request.",
        )
    if leaf.san != context.urn:
        raise IdentityError(f"the certificate names {leaf.san}, not {context.urn}", advice="Check device.serial.")
    save_bytes(
        state.identity_dir / _CERTIFICATES,
        encode_json(
            {"v": 1, "certificates": [b64(item) for item in chain], "bin": parse_bin(answer.get("bin"), "identity")}
        ),
        mode=0o644,
    )
    journal.event("identity-installed", f"certificate of {context.urn} installed", device=context.urn)
    return context.urn


def load_keys(state: State) -> dict[str, Any]:
    """The stored public parts.

    Raises:
        IdentityError: None were created.
    """
    document = _load(state, _KEYS)
    if document is None:
        raise IdentityError("this device has no identity yet")
    return document


def load_certificates(state: State) -> tuple[bytes, ...]:
    """The installed chain in DER, leaf first.

    Raises:
        IdentityError: None is installed.
    """
    load_keys(state)
    document = _load(state, _CERTIFICATES)
    if document is None:
        raise IdentityError(
            "this device has no certificate yet; records stay in the spool until it has one",
            advice="Run `edgeprov identity csr`, then `edgeprov-fleet enroll`, then `edgeprov identity install`.",
        )
    return _certificates(document)


def find_enrollment(state: State) -> Enrollment | None:
    """The enrollment that this device's request began; None before the first request.

    Raises:
        IdentityError: The document is damaged.
    """
    document = _load(state, _ENROLLMENT)
    if document is None:
        return None
    what = "enrollment"
    try:
        return Enrollment(
            id=parse_enrollment(get_str(document, "enrollment", what), what),
            nonce=bytes.fromhex(get_str(document, "nonce", what)),
            counter_base=get_int(document, "counter_base", what),
            certify=parse_attestation(document, "certify", what),
            counter=parse_attestation(document, "counter", what),
        )
    except (FormatError, ValueError) as error:
        raise IdentityError(
            f"{state.identity_dir / _ENROLLMENT} is damaged: {error}", advice="Restore it from a copy of the state."
        ) from error


def load_enrollment(state: State) -> Enrollment:
    """The enrollment that this device records under.

    Raises:
        IdentityError: No request was made yet.
    """
    enrollment = find_enrollment(state)
    if enrollment is None:
        load_keys(state)
        raise IdentityError(
            "this device has made no enrollment request yet, so its records would belong to no enrollment",
            advice="Run `edgeprov identity csr`, then `edgeprov-fleet enroll`, then `edgeprov identity install`.",
        )
    return enrollment


def counter_base(state: State) -> int:
    """The kit counter's certified value at enrollment: the first number is the next one.

    Raises:
        IdentityError: No request was made yet.
    """
    return load_enrollment(state).counter_base


def load_bin(state: State) -> str | None:
    """The bin that the enroller chose for this device; None without one."""
    document = _load(state, _CERTIFICATES)
    return None if document is None else parse_bin(document.get("bin"), "identity")


def _load(state: State, name: str) -> dict[str, Any] | None:
    path = state.identity_dir / name
    try:
        return parse_json_object(load_bytes(path, max_bytes=LIMITS.config_bytes, what=name), name)
    except NotStored:
        return None
    except FormatError as error:
        raise IdentityError(f"{path} is damaged: {error.message}", advice="Create or install it again.") from error


def _typed(raw: bytes, kind: str, what: str) -> dict[str, Any]:
    document = parse_json_object(raw, what, max_bytes=LIMITS.config_bytes)
    if document.get("type") != kind or document.get("v") != 1:
        raise FormatError(f"{what}: not a document of type {kind}, version 1")
    return document


def _certificates(document: Mapping[str, Any]) -> tuple[bytes, ...]:
    items = get_list(document, "certificates", "identity", maximum=LIMITS.certificate_chain)
    if not items:
        raise FormatError("identity: no certificates inside")
    return tuple(parse_b64(str(item), "certificate") for item in items)
