# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's identity: keys in the TPM, the request for a certificate, and the certificate.

Only public parts lie on the disk. The request carries what an enroller needs to believe that both
keys live in one TPM: AK and SK, and the AK's certification of the SK over the enroller's nonce.

Spec: FORMAT.md section "Enrollment".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov.errors import FormatError, IdentityError, NotStored
from edgeprov.formats.b64 import b64, get_b64, parse_b64
from edgeprov.formats.devicerecord import encode_factory_key, enroll_qualifying, vouch_qualifying
from edgeprov.formats.jsonx import encode_json, get_list, parse_json_object
from edgeprov.formats.tpmt import COUNTER_INDEX, parse_public
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, save_bytes

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State

REQUEST_TYPE: Final = "edgeprov.enrollment-request"
IDENTITY_TYPE: Final = "edgeprov.identity"
CHALLENGE_TYPE: Final = "edgeprov.credential-challenge"
RESPONSE_TYPE: Final = "edgeprov.credential-response"

_KEYS: Final = "device.json"  # identity.json is the TPM module's own
_CERTIFICATES: Final = "certificates.json"
_NONCE_BYTES: Final = 32
_NONCE_LIMITS: Final = (8, 64)


def create_identity(context: Context) -> dict[str, Any]:
    """Make AK, SK and counter in the TPM, or find them there; the public parts are kept in the state.

    Returns:
        The stored document: ``device``, ``ak``, ``sk`` (base64 TPMT_PUBLIC), ``counter_base``,
        ``assurance``.

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
            "counter_base": identity.counter_value,
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


def create_request(context: Context, nonce: bytes | None) -> bytes:
    """The enrollment request.

    Args:
        context: The device.
        nonce: 8 to 64 bytes from the enroller; None takes random ones, which proves no freshness.

    Raises:
        IdentityError: No identity was created.
        FormatError: A nonce of another length.
        TpmError: The TPM failed.
    """
    from edgeprov.tpm.csr import create_csr

    nonce = os.urandom(_NONCE_BYTES) if nonce is None else nonce
    if not _NONCE_LIMITS[0] <= len(nonce) <= _NONCE_LIMITS[1]:
        raise FormatError(f"a nonce has {_NONCE_LIMITS[0]} to {_NONCE_LIMITS[1]} bytes, not {len(nonce)}")
    keys = load_keys(context.state())
    with context.tpm() as tpm, tpm.group():
        certify = tpm.certify_sk(enroll_qualifying(nonce))
        certificate, factory = tpm.ek_certificate(), tpm.factory_key(vouch_qualifying(nonce))
        document = {
            "type": REQUEST_TYPE,
            "v": 1,
            "device": context.urn,
            "csr": b64(create_csr(tpm, common_name=context.serial, uri=context.urn)),
            "ak": keys["ak"],
            "sk": keys["sk"],
            "nonce": nonce.hex(),
            "certify": {"attest": b64(certify.attest), "signature": b64(certify.signature)},
            "iak": None if factory is None else encode_factory_key(factory),
            "ek": None if certificate is None else b64(certificate),
            "ek_public": b64(tpm.ek_public()),
            "assurance": tpm.assurance,
            "counter_base": keys["counter_base"],
            "counter_index": COUNTER_INDEX,
        }
    return encode_json(document)


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
        IdentityError: Another key or device, or no identity was created.
        FormatError: No certificates.
    """
    from edgeprov.verify.certificates import parse_pem_certificates
    from edgeprov.verify.x509path import verify_chain

    pem = raw.lstrip().startswith(b"-----BEGIN")
    chain = parse_pem_certificates(raw, "identity") if pem else _certificates(_typed(raw, IDENTITY_TYPE, "identity"))
    state = context.state()
    keys = load_keys(state)
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
        encode_json({"v": 1, "certificates": [b64(item) for item in chain]}),
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


def counter_base(state: State) -> int:
    """The kit counter's value when the identity was created.

    Raises:
        IdentityError: No identity was created.
    """
    return int(load_keys(state)["counter_base"])


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
