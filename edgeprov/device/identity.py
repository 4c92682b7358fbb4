# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's identity: keys in the TPM, the enrollment that it records under, and its certificate.

Only public parts lie on the disk. device.enrollment_request makes the request for a certificate.

Spec: FORMAT.md section "Device record".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from edgeprov import journal
from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError, IdentityError, NotStored, UsageError
from edgeprov.formats.b64 import b64, parse_b64
from edgeprov.formats.devicerecord import (
    encode_attestation,
    parse_assurance,
    parse_attestation,
    parse_bin,
    parse_enrollment,
)
from edgeprov.formats.jsonx import encode_json, get_int, get_list, get_str, parse_json_object
from edgeprov.formats.tpmt import Attestation, parse_public
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, save_bytes

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm
    from edgeprov.tpm.protection import Protection

IDENTITY_TYPE: Final = "edgeprov.identity"
EndName: TypeAlias = "Callable[[Context, State, str], None]"

_KEYS: Final = "device.json"  # identity.json is the TPM module's own
_ENROLLMENT: Final = "enrollment.json"
_ENDED: Final = "ended.json"
_CERTIFICATES: Final = "certificates.json"
_OTHER_TPM: Final = (
    "The TPM was cleared or replaced, or this state folder is a copy (a golden image): move the state folder away, "
    "run `edgeprov identity create`, and enroll the device anew. Records and kits of the old state stay in the folder."
)


def create_identity(context: Context, protection: Protection | None = None) -> dict[str, Any]:
    """Make AK, SK and counter in the TPM, or find them there; the public parts are kept in the state.

    Args:
        context: The device.
        protection: Passwords of the TPM's owner and lockout to set, or to use.

    Returns:
        The stored document: ``device``, ``ak``, ``sk`` (base64 TPMT_PUBLIC), ``assurance``.

    Raises:
        IdentityError: The TPM holds other keys than the stored ones.
        TpmError: The TPM failed.
    """
    state = context.state()
    with context.tpm() as tpm:
        identity = tpm.create_identity(protection)
        document = {
            "v": 1,
            "device": context.urn,
            "ak": b64(identity.ak_public),
            "sk": b64(identity.sk_public),
            "assurance": tpm.assurance,
        }
    known = _load(state, _KEYS)
    if known is not None:
        if known["ak"] != document["ak"] or known["sk"] != document["sk"]:
            raise IdentityError("the stored identity has other keys than this TPM", advice=_OTHER_TPM)
        verify_own_name(context, state)
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


def install_certificates(context: Context, raw: bytes, *, end_old_name: EndName | None = None) -> str:
    """Install the SK certificate with its chain, after checking that it is for this very key.

    Args:
        context: The device.
        raw: PEM certificates, leaf first, or the enroller's identity document.
        end_old_name: Seals what was recorded, where the document names another serial number; None refuses it.

    Returns:
        The device URN that the leaf names; where it is a new one, ``device.serial`` has to be set to it.

    Raises:
        IdentityError: Another key, device or enrollment, or no request was made.
        UsageError: A new name, and a segment is open under the old one.
        FormatError: No certificates.
    """
    from edgeprov.device.proved_time import ns_of, raise_floor
    from edgeprov.verify.certificates import parse_pem_certificates
    from edgeprov.verify.x509path import verify_chain

    pem = raw.lstrip().startswith(b"-----BEGIN")
    answer: dict[str, Any] = {} if pem else parse_typed(raw, IDENTITY_TYPE, "identity")
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
    renamed = leaf.san != keys["device"] and not pem
    if renamed:
        _leave_old_name(context, state, keys, str(leaf.san), end_old_name)
    elif leaf.san != context.urn:
        raise IdentityError(f"the certificate names {leaf.san}, not {context.urn}", advice="Check device.serial.")
    before = load_bytes(state.identity_dir / _CERTIFICATES, max_bytes=LIMITS.config_bytes, what="") if renamed else b""
    save_bytes(
        state.identity_dir / _CERTIFICATES,
        encode_json(
            {
                "v": 1,
                "device": leaf.san,
                "certificates": [b64(item) for item in chain],
                "bin": parse_bin(answer.get("bin"), "identity"),
                # The enroller decides; his record says the same, and each statement must (FORMAT.md, step 2).
                "assurance": keys["assurance"]
                if pem
                else parse_assurance(get_str(answer, "assurance", "identity"), "identity"),
            }
        ),
        mode=0o644,
    )
    if renamed:
        _take_new_name(state, keys, str(leaf.san), before)
    raise_floor(state, ns_of(leaf.not_before))  # it was issued in the past
    journal.event("identity-installed", f"certificate of {leaf.san} installed", device=str(leaf.san))
    return str(leaf.san)


def _leave_old_name(
    context: Context, state: State, keys: Mapping[str, Any], new: str, end_old_name: EndName | None
) -> None:
    certificates = _load(state, _CERTIFICATES)
    if certificates is not None and certificates.get("device") == new:
        return  # a power cut ended the rename half way
    if certificates is None or keys["device"] != context.urn or end_old_name is None:
        raise IdentityError(
            f"the certificate names {new}, this device is {keys['device']}",
            advice="To rename it, install this while device.serial is still the old one; then set the new one.",
        )
    end_old_name(context, state, new)


def _take_new_name(state: State, keys: Mapping[str, Any], new: str, before: bytes) -> None:
    """From now on nothing opens under the old name; what was opened a moment ago takes the rename back."""
    from edgeprov.device.open_segments import verify_nothing_open

    try:
        verify_nothing_open(state)
    except UsageError:
        save_bytes(state.identity_dir / _CERTIFICATES, before, mode=0o644)
        raise
    save_bytes(state.identity_dir / _KEYS, encode_json({**keys, "device": new}), mode=0o644)
    journal.event("identity-renamed", f"{keys['device']} is {new} from now on", device=new)


def verify_own_name(context: Context, state: State, tpm: Tpm | None = None) -> None:
    """The configured serial, the certificate and the identity are those of one device, and the identity is this TPM's.

    Asked before a record is taken, a kit sealed, a challenge answered, or anything sent. What is stored stays.

    Args:
        context: The device.
        state: Its state folder.
        tpm: Compared too where it is at hand; its stored public parts are read, no command is sent.

    Raises:
        IdentityError: They differ. Nothing is said of what is not there yet.
    """
    keys, certificates = _load(state, _KEYS), _load(state, _CERTIFICATES)
    if keys is None:
        return
    for what, found in (("identity", keys["device"]), ("certificate", (certificates or keys).get("device"))):
        if found != context.urn:
            origin = context.config.origins.get("device.serial", "the configuration")
            raise IdentityError(
                f"this device's {what} is that of {found}, but {origin} says device.serial = {context.serial!r}; "
                "nothing is recorded, sealed or sent, and what is stored stays",
                advice=f"Correct device.serial there. Where this is another board with a copied {state.root}: give it "
                "a state folder of its own and enroll it.",
            )
    if tpm is not None and b64(tpm.identity().ak_public) != keys["ak"]:
        raise IdentityError(
            f"{state.identity_dir / _KEYS} and {context.tpm_dir} belong to different identities",
            advice=_OTHER_TPM,
        )


def end_enrollment(state: State) -> None:
    """Nothing is recorded or sealed under the device's enrollment any more; durable on return.

    Raises:
        IdentityError: There is none.
        StoreError: The folder cannot be written.
    """
    document = {"v": 1, "enrollment": load_enrollment(state).id.hex()}
    save_bytes(state.identity_dir / _ENDED, encode_json(document), mode=0o644)


def has_ended(state: State) -> bool:
    """Whether a final head was made, or begun, of the device's enrollment."""
    ended, enrollment = _load(state, _ENDED), find_enrollment(state)
    return ended is not None and enrollment is not None and ended.get("enrollment") == enrollment.id.hex()


def verify_not_ended(state: State) -> None:
    """The enrollment goes on: no final head was made of it.

    Raises:
        IdentityError: One was made.
    """
    if has_ended(state):
        raise IdentityError(
            f"the enrollment {load_enrollment(state).id.hex()} ended with a final head: nothing may follow under it",
            advice="Send what waits (edgeprov upload), then move the state folder away and enroll the device anew.",
        )


def load_keys(state: State) -> dict[str, Any]:
    """The stored public parts.

    Raises:
        IdentityError: None were created.
    """
    document = _load(state, _KEYS)
    if document is None:
        raise IdentityError("this device has no identity yet")
    return document


def has_certificate(state: State) -> bool:
    """Whether a certificate was installed."""
    return _load(state, _CERTIFICATES) is not None


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


def save_enrollment(state: State, enrollment: Enrollment) -> None:
    """Write down what the device records under from now on.

    Raises:
        StoreError: The folder cannot be written.
    """
    document = {
        "v": 1,
        "enrollment": enrollment.id.hex(),
        "nonce": enrollment.nonce.hex(),
        "counter_base": enrollment.counter_base,
        "certify": encode_attestation(enrollment.certify),
        "counter": encode_attestation(enrollment.counter),
    }
    save_bytes(state.identity_dir / _ENROLLMENT, encode_json(document), mode=0o644)


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


def load_assurance(state: State) -> str:
    """The level that the enroller gave, or with another CA's chain the device's own; errors as in load_certificates."""
    load_certificates(state)
    return str((_load(state, _CERTIFICATES) or {}).get("assurance"))


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


def parse_typed(raw: bytes, kind: str, what: str) -> dict[str, Any]:
    """Read a file that names its type.

    Raises:
        FormatError: Another type or version.
    """
    document = parse_json_object(raw, what, max_bytes=LIMITS.config_bytes)
    if document.get("type") != kind or document.get("v") != 1:
        raise FormatError(f"{what}: not a document of type {kind}, version 1")
    return document


def _certificates(document: Mapping[str, Any]) -> tuple[bytes, ...]:
    items = get_list(document, "certificates", "identity", maximum=LIMITS.certificate_chain)
    if not items:
        raise FormatError("identity: no certificates inside")
    return tuple(parse_b64(str(item), "certificate") for item in items)
