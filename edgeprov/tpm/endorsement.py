# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM maker's endorsement key: its certificate, and the answer to a vendor's credential.

Templates are carried here, because those of tpm2-pytss differ between versions.

Spec: TCG EK Credential Profile 2.5, 2.2.1 (NV indices), B.3 and B.4 (templates), B.6 (policies);
TPM 2.0 Library, Part 3, TPM2_ActivateCredential.
"""

from __future__ import annotations

from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import EnrollmentRefused, FormatError, TpmError
from edgeprov.formats.tpmt import RESTRICTED, parse_public
from edgeprov.limits import LIMITS
from edgeprov.tpm.device_keys import create_primary
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.response_codes import RC_AUTH_FAIL, RC_HANDLE, RC_INTEGRITY, RC_VALUE
from edgeprov.verify.certificates import certificate_spki

_NV_CHUNK: Final = 512  # every TPM returns this much at once (TPM_PT_NV_BUFFER_MAX is 768 or more)
_RC_SIZE: Final = 0x095
# TCG Registry of Reserved TPM 2.0 Handles: device identity keys, and the NV indices of their certificates.
_FACTORY_KEYS: Final = (0x81020000, 0x81030000)
_FACTORY_NV: Final = (0x01C90000, 0x01CA0000)
_POLICY_A: Final = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
_POLICY_A384: Final = "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"
_POLICY_C: Final = "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"
_POLICY_C384: Final = "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"


@dataclass(frozen=True, slots=True)
class EkTemplate:
    """One standard EK: NV index of its certificate, TPMT_PUBLIC, and how its policy is met."""

    name: str
    certificate_index: int
    public: bytes
    hash_algorithm: int  # name algorithm, also of the policy session
    branches: tuple[bytes, ...]  # of PolicyOR after PolicySecret; empty for the low range


def _hex(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


_LOW: Final = "000300b20020" + _POLICY_A + "000600800043"
TEMPLATES: Final = (
    EkTemplate(
        "H-2",
        0x01C00014,
        _hex(
            "0023000b000300f20020ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0",
            "00060080004300100003001000000000",
        ),
        0x000B,
        (_hex(_POLICY_A), _hex(_POLICY_C)),
    ),
    EkTemplate(
        "H-3",
        0x01C00016,
        _hex(
            "0023000c000300f20030b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419",
            "cacb47ba09699646150f9fc000f3f80e1200060100004300100004001000000000",
        ),
        0x000C,
        (_hex(_POLICY_A384), _hex(_POLICY_C384)),
    ),
    EkTemplate("L-2", 0x01C0000A, _hex("0023000b", _LOW, "0010000300100020", "00" * 32, "0020", "00" * 32), 0x000B, ()),
    EkTemplate("L-1", 0x01C00002, _hex("0001000b", _LOW, "0010080000000000", "0100", "00" * 256), 0x000B, ()),
)
_DEFAULT: Final = TEMPLATES[2]  # L-2: small, and known to every TPM with P-256


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """The EK in use. ``certificate`` (DER) is None where the maker put none in the TPM."""

    template: EkTemplate
    public: bytes
    certificate: bytes | None


def find_endorsement_key(connection: Connection) -> EndorsementKey:
    """The first EK, in the order H-2, H-3, L-2, L-1, that has a certificate; else L-2 without one.

    A certificate counts only when the TPM really makes the key in it.

    Raises:
        TpmError: The TPM refused.
    """
    for template in TEMPLATES:
        certificate = read_certificate(connection, template.certificate_index)
        if certificate is None:
            continue
        public = _public(connection, template)
        if _same_key(certificate, public):
            return EndorsementKey(template, public, certificate)
    return EndorsementKey(_DEFAULT, _public(connection, _DEFAULT), None)


def find_factory_key(connection: Connection) -> tuple[Any, bytes, bytes] | None:
    """An initial attestation key that the device's maker left: handle, TPMT_PUBLIC and certificate (DER).

    Makers use different handles and NV indices, so the ranges are searched; a key counts with a certificate of
    its own, and only a restricted one (IAK) may vouch. An IDevID is not restricted: it would sign a forged
    attestation as gladly, so it is passed over.

    Raises:
        TpmError: The TPM refused.
    """
    indices = [index for index in connection.handles(_FACTORY_NV[0]) if index < _FACTORY_NV[1]]
    certificates = [found for index in indices if (found := read_certificate(connection, index)) is not None]
    for number in connection.handles(_FACTORY_KEYS[0]) if certificates else ():
        if number >= _FACTORY_KEYS[1]:
            continue
        handle, raw = _read_public(connection, number)
        try:
            if parse_public(raw).attributes & RESTRICTED == 0:
                continue
        except FormatError:
            continue  # RSA, P-384: not known to our verifiers
        for certificate in certificates:
            if _same_key(certificate, raw):
                return handle, raw, certificate
    return None


def _read_public(connection: Connection, number: int) -> tuple[Any, bytes]:
    esys = connection.esys

    def command() -> tuple[Any, bytes]:
        handle = esys.tr_from_tpmpublic(number)
        answer = esys.read_public(handle)
        return handle, bytes(answer[0].marshal())[2:]

    return connection.run(f"read key {number:#010x}", command)


def read_certificate(connection: Connection, index: int) -> bytes | None:
    """The X.509 certificate (DER) in an NV index; None when there is none.

    Raises:
        TpmError: The TPM refused.
    """
    esys = connection.esys

    def look_up() -> tuple[Any, int]:
        handle = esys.tr_from_tpmpublic(index)
        answer = esys.nv_read_public(handle)
        return handle, int.from_bytes(bytes(answer[0].marshal())[-2:], "big")

    there, found = connection.attempt(f"look up NV index {index:#010x}", look_up, (RC_HANDLE,))
    if not there or found is None:
        return None
    handle, size = found
    data = b""
    while len(data) < min(size, LIMITS.certificate_bytes):
        step = min(_NV_CHUNK, size - len(data))
        offset = len(data)

        def read(step: int = step, offset: int = offset) -> bytes:
            answer = esys.nv_read(handle, step, offset)
            return bytes(answer.marshal())[2:]

        data += connection.run(f"read NV index {index:#010x}", read)
    return _der(data)


def activate_credential(
    connection: Connection, ek: EndorsementKey, ak: Any, blob: bytes, secret: bytes, *, protect: bool = False
) -> bytes:
    """Decrypt the credential that a vendor made for this EK and this AK's Name.

    Args:
        connection: The TPM.
        ek: From `find_endorsement_key`.
        ak: Handle of the AK.
        blob: TPM2B_ID_OBJECT without its length.
        secret: TPM2B_ENCRYPTED_SECRET without its length.
        protect: Encrypt the answer on the bus between the TPM and the processor.

    Returns:
        The credential, at most 32 bytes.

    Raises:
        EnrollmentRefused: It was made for another TPM or another AK.
        TpmError: The TPM refused.
    """
    esys = connection.esys
    ek_handle, _ = create_primary(connection, ek.template.public, "make its EK")
    with connection.loaded(ek_handle):
        policy = _start_session(connection, tss.TPM2_SE.POLICY, ek.template.hash_algorithm, tss.ESYS_TR.NONE)
        with connection.loaded(policy):
            _satisfy(connection, policy, ek.template)
            third = tss.ESYS_TR.NONE
            if protect:
                third = _start_session(connection, tss.TPM2_SE.HMAC, 0x000B, ek_handle)
                esys.trsess_set_attributes(third, tss.TPMA_SESSION.ENCRYPT | tss.TPMA_SESSION.CONTINUESESSION)

            def command() -> bytes:
                answer = esys.activate_credential(
                    ak,
                    ek_handle,
                    tss.TPM2B_ID_OBJECT(blob),
                    tss.TPM2B_ENCRYPTED_SECRET(secret),
                    session1=tss.ESYS_TR.PASSWORD,
                    session2=policy,
                    session3=third,
                )
                return bytes(answer.marshal())[2:]

            try:
                wrong = (RC_INTEGRITY, RC_VALUE, _RC_SIZE, RC_AUTH_FAIL)
                fits, credential = connection.attempt("open the credential", command, wrong)
            finally:
                if protect:
                    connection.flush(third)
    if not fits or credential is None:
        raise EnrollmentRefused("the credential was made for another TPM or another AK")
    return credential


def _satisfy(connection: Connection, session: Any, template: EkTemplate) -> None:
    esys = connection.esys

    def secret() -> None:
        esys.policy_secret(tss.ESYS_TR.ENDORSEMENT, session, nonce_tpm=b"", cp_hash_a=b"", policy_ref=b"", expiration=0)

    connection.run("meet the EK's policy", secret)
    if template.branches:
        branches = tss.TPML_DIGEST([tss.TPM2B_DIGEST(branch) for branch in template.branches])
        connection.run("meet the EK's policy", lambda: esys.policy_or(session, branches))


def _start_session(connection: Connection, kind: Any, algorithm: int, salt_key: Any) -> Any:
    symmetric = tss.TPMT_SYM_DEF(
        algorithm=tss.TPM2_ALG.AES,
        keyBits=tss.TPMU_SYM_KEY_BITS(aes=128),
        mode=tss.TPMU_SYM_MODE(aes=tss.TPM2_ALG.CFB),
    )

    def command() -> Any:
        return connection.esys.start_auth_session(salt_key, tss.ESYS_TR.NONE, kind, symmetric, tss.TPM2_ALG(algorithm))

    return connection.run("start a session", command)


def _public(connection: Connection, template: EkTemplate) -> bytes:
    handle, public = create_primary(connection, template.public, "make its EK")
    connection.flush(handle)
    return public


def _same_key(certificate: bytes, public: bytes) -> bool:
    # The point or the modulus stands at the end of both; comparing bytes spares a parser for RSA and P-384.
    try:
        spki = certificate_spki(certificate)
    except FormatError:
        return False
    if int.from_bytes(public[:2], "big") == 0x0001:
        return public[-256:] in spki
    size = 48 if int.from_bytes(public[2:4], "big") == 0x000C else 32
    x_start = len(public) - 2 * size - 2
    return spki.endswith(public[x_start : x_start + size] + public[-size:])


def _der(data: bytes) -> bytes | None:
    """The certificate without what pads it to the size of the index."""
    if len(data) < 4 or data[:2] != b"\x30\x82":
        return None
    size = 4 + int.from_bytes(data[2:4], "big")
    if size > len(data):
        raise TpmError("the EK certificate in the TPM is cut short")
    return data[:size]
