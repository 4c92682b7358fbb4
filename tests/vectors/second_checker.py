# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A second, independent checker of proofs, written from FORMAT.md alone: standard library and ``cryptography`` only.

    python tests/vectors/second_checker.py FILE --trust DIR --at 2026-03-01T00:00:00Z

It imports nothing of edgeprov on purpose, so that a mistake in one of the two shows as a difference. It prints one
JSON object, {"verified": true} or {"verified": false, "step": N, "why": ...}, and exits with 0 or 10. Without zstd in
the standard library it compares the evidence layer by digest, and its content only where the frame is stored.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
NOTARY = "application/vnd.cncf.notary.signature"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
SLSA = "https://slsa.dev/provenance/v1"
HEX64 = re.compile(r"[0-9a-f]{64}")


class Refused(Exception):
    def __init__(self, step: int | None, why: str) -> None:
        super().__init__(why)
        self.step, self.why = step, why


class Bad(Exception):
    """A signature or structure that does not count."""


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def need(condition: object, why: str) -> None:
    if not condition:
        raise Bad(why)


# -- section 2: JSON; canonical base64 --------------------------------------------------------------


def unique(pairs: list) -> dict:
    need(len({key for key, _ in pairs}) == len(pairs), "duplicate key")
    return dict(pairs)


def load_json(raw: bytes) -> dict:
    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=lambda name: need(False, name))
    except (ValueError, RecursionError) as error:
        raise Bad(f"not JSON: {error}") from error
    need(isinstance(value, dict), "not an object")
    return value


def un64(text: object) -> bytes:
    need(isinstance(text, str), "not text")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Bad("not base64") from error
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


def un64url(text: object) -> bytes:
    need(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# -- section 3: canonical msgpack -------------------------------------------------------------------


def unpack(data: bytes) -> object:
    value, end = _unpack(data, 0)
    need(end == len(data), "bytes behind the value")
    need(pack(value) == data, "not canonical")
    return value


def _unpack(d: bytes, i: int) -> tuple[object, int]:
    need(i < len(d), "cut short")
    t = d[i]
    i += 1

    def take(n: int) -> bytes:
        need(i + n <= len(d), "cut short")
        return d[i : i + n]

    if t <= 0x7F:
        return t, i
    if t >= 0xE0:
        return t - 256, i
    if 0x80 <= t <= 0x8F:
        return _map(d, i, t & 15)
    if 0x90 <= t <= 0x9F:
        return _list(d, i, t & 15)
    if 0xA0 <= t <= 0xBF:
        return take(t & 31).decode(), i + (t & 31)
    if t in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[t], i
    if t in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}[t]
        n = int.from_bytes(take(width), "big")
        i += width
        body = take(n)
        return (body if t < 0xD0 else body.decode()), i + n
    if t == 0xCB:
        import struct

        return struct.unpack(">d", take(8))[0], i + 8
    if 0xCC <= t <= 0xCF:
        n = 1 << (t - 0xCC)
        return int.from_bytes(take(n), "big"), i + n
    if 0xD0 <= t <= 0xD3:
        n = 1 << (t - 0xD0)
        return int.from_bytes(take(n), "big", signed=True), i + n
    if t in (0xDC, 0xDD, 0xDE, 0xDF):
        width = 2 if t in (0xDC, 0xDE) else 4
        n = int.from_bytes(take(width), "big")
        return (_list if t < 0xDE else _map)(d, i + width, n)
    raise Bad(f"msgpack type {t:#x}")


def _list(d: bytes, i: int, n: int) -> tuple[list, int]:
    result = []
    for _ in range(n):
        value, i = _unpack(d, i)
        result.append(value)
    return result, i


def _map(d: bytes, i: int, n: int) -> tuple[dict, int]:
    result: dict = {}
    for _ in range(n):
        key, i = _unpack(d, i)
        need(isinstance(key, str) and key not in result, "map key")
        result[key], i = _unpack(d, i)
    return result, i


def pack(v: object) -> bytes:
    if v is None or isinstance(v, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[v]
    if isinstance(v, int):
        if 0 <= v < 128 or -32 <= v < 0:
            return bytes((v & 255,))
        for n, code in (
            ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)) if v >= 0 else ((1, 0xD0), (2, 0xD1), (4, 0xD2), (8, 0xD3))
        ):
            try:
                return bytes((code,)) + v.to_bytes(n, "big", signed=v < 0)
            except OverflowError:
                continue
        raise Bad("integer")
    if isinstance(v, float):
        import struct

        return b"\xcb" + struct.pack(">d", v)
    if isinstance(v, bytes):
        n = len(v)
        return (
            b"\xc4" + n.to_bytes(1, "big")
            if n < 256
            else b"\xc5" + n.to_bytes(2, "big")
            if n < 65536
            else b"\xc6" + n.to_bytes(4, "big")
        ) + v
    if isinstance(v, str):
        raw = v.encode()
        n = len(raw)
        head = (
            bytes((0xA0 | n,))
            if n < 32
            else b"\xd9" + n.to_bytes(1, "big")
            if n < 256
            else b"\xda" + n.to_bytes(2, "big")
        )
        return head + raw
    if isinstance(v, list):
        n = len(v)
        return (
            bytes((0x90 | n,))
            if n < 16
            else b"\xdc" + n.to_bytes(2, "big")
            if n < 65536
            else b"\xdd" + n.to_bytes(4, "big")
        ) + b"".join(map(pack, v))
    need(isinstance(v, dict), "type")
    n = len(v)
    keys = sorted(v, key=str.encode)
    return (bytes((0x80 | n,)) if n < 16 else b"\xde" + n.to_bytes(2, "big")) + b"".join(
        pack(k) + pack(v[k]) for k in keys
    )


# -- section 21: trust policy -----------------------------------------------------------------------


class Policy:
    def __init__(self, folder: Path) -> None:
        toml = tomllib.loads((folder / "policy.toml").read_text()) if (folder / "policy.toml").exists() else {}
        device = toml.get("device", {})
        self.identities = toml.get("publisher", {}).get("identities", [])
        self.assurance = device.get("assurance", [])
        self.enrollers = device.get("enrollers", [])
        self.firmware = device.get("firmware", [])
        self.pcr = device.get("pcr", 14)
        self.boot = {int(key): bytes.fromhex(value) for key, value in device.get("boot_pcrs", {}).items()}
        self.deny = {self._name(item) for item in toml.get("deny", [])}
        self.anchors: dict[str, list[x509.Certificate]] = {"publisher": [], "device": []}
        self.keys: list = []
        for path in sorted(folder.glob("*.pem")):
            for role, found in self.anchors.items():
                if path.name.startswith(role):
                    for kind, body in self._blocks(path.read_text()):
                        if kind == "CERTIFICATE":
                            found.append(x509.load_pem_x509_certificate(body.encode()))
                        elif role == "publisher":
                            self.keys.append(load_pem_public_key(body.encode()))

    @staticmethod
    def _blocks(text: str) -> list[tuple[str, str]]:
        return [(m[1], m[0]) for m in re.finditer(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", text, re.DOTALL)]

    @staticmethod
    def _name(text: str) -> str:
        text = text.lower().removeprefix("sha256:").replace(":", "")
        return text if len(text) == 64 else text.lstrip("0")


# -- section 18: certificates -----------------------------------------------------------------------


def spki(key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def extension(certificate: x509.Certificate, kind: type):
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


KNOWN = {"2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17", "2.5.29.14", "2.5.29.35"}
CODE_SIGNING = "1.3.6.1.5.5.7.3.3"


def path_to(certificate: x509.Certificate, others: list, anchors: list) -> list | None:
    def issued(issuer: x509.Certificate) -> bool:
        if certificate.signature_hash_algorithm is None or certificate.signature_hash_algorithm.digest_size < 32:
            return False
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    for anchor in anchors:
        if issued(anchor):
            return [certificate, anchor]
    for other in others:
        if issued(other):
            rest = path_to(other, [item for item in others if item is not other], anchors)
            if rest:
                return [certificate, *rest]
    return None


def judge_certificate(
    policy: Policy, leaf: bytes, above: list[bytes], purpose: str, at: dt.datetime
) -> tuple[str, object]:
    """Returns the name and the key of a certificate that serves the purpose at the time."""
    try:
        certificate, others = (
            x509.load_der_x509_certificate(leaf),
            [x509.load_der_x509_certificate(item) for item in above],
        )
    except ValueError as error:
        raise Bad("not a certificate") from error
    anchors = policy.anchors["publisher" if purpose == "publisher" else "device"]
    need(certificate not in anchors, "leaf is an anchor")
    path = path_to(certificate, others, anchors)
    need(path, "no path to an anchor")
    for below, ca in enumerate(path[1:]):
        constraints, usage = extension(ca, x509.BasicConstraints), extension(ca, x509.KeyUsage)
        need(constraints and constraints.value.ca and usage and usage.value.key_cert_sign, "not a CA")
        need(constraints.value.path_length is None or below <= constraints.value.path_length, "path length")
    for item in path:
        need(all(not ext.critical or ext.oid.dotted_string in KNOWN for ext in item.extensions), "critical extension")
        need(item.not_valid_before_utc <= at <= item.not_valid_after_utc, "not valid at that time")
    constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    need(not (constraints and constraints.value.ca), "leaf is a CA")
    need(usage and usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign, "key usage")
    extended = extension(certificate, x509.ExtendedKeyUsage)
    need(extended is None or CODE_SIGNING in [oid.dotted_string for oid in extended.value], "extended key usage")
    alternative = extension(certificate, x509.SubjectAlternativeName)
    names = (
        []
        if alternative is None
        else alternative.value.get_values_for_type(x509.UniformResourceIdentifier)
        + alternative.value.get_values_for_type(x509.RFC822Name)
    )
    need(len(names) <= 1, "more than one name")
    name = names[0] if names else ""
    key = certificate.public_key()
    if purpose == "publisher":
        need(not name.startswith(("urn:edgeprov:device:", "urn:edgeprov:enroller:")), "a device is no publisher")
    else:
        need(name.startswith(f"urn:edgeprov:{purpose}:"), "name")
        need(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", "device key")
    for item in path:
        need(f"{item.serial_number:x}" not in policy.deny, "denied")
        need(hashlib.sha256(spki(item.public_key())).hexdigest() not in policy.deny, "denied")
    if purpose == "publisher":
        need(any(listed(pattern, name) for pattern in policy.identities), "publisher not listed")
    if purpose == "enroller":
        need(any(listed(pattern, name) for pattern in policy.enrollers), "enroller not listed")
    return name, key


def listed(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def check_signature(key, signature: bytes, message: bytes) -> None:
    """The encoding of cosign: DER for ECDSA."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            return key.verify(signature, message)
        need(isinstance(key, ec.EllipticCurvePublicKey), "kind of key")
        if key.curve.name == "secp256r1":
            return key.verify(signature, message, ec.ECDSA(SHA256()))
        need(key.curve.name == "secp384r1", "curve")
        try:
            return key.verify(signature, message, ec.ECDSA(SHA384()))
        except InvalidSignature:
            return key.verify(signature, message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise Bad("signature does not fit") from error


# -- sections 17 and 18: signatures -----------------------------------------------------------------


class Artifact:
    def __init__(self, value: dict) -> None:
        need(isinstance(value, dict), "artifact")
        self.raw = un64(value.get("manifest"))
        self.signatures = [(un64(item["manifest"]), un64(item["blob"])) for item in value["signatures"]]
        self.layer = un64(value["layer"]) if value.get("layer") is not None else None
        self.digest = hashlib.sha256(self.raw).hexdigest()

    @property
    def manifest(self) -> dict:
        return load_json(self.raw)


def layer_of(manifest: dict, blob: bytes, kind: str) -> dict:
    for layer in manifest["layers"]:
        if (
            layer["mediaType"] == kind
            and layer["digest"] == "sha256:" + hashlib.sha256(blob).hexdigest()
            and layer["size"] == len(blob)
        ):
            return layer
    raise Bad("blob is not a layer of its manifest")


def read_bundle(artifact: Artifact, manifest: dict, blob: bytes) -> tuple[str, list[bytes], bytes, bytes]:
    layer_of(manifest, blob, BUNDLE)
    need((manifest.get("subject") or {}).get("digest") == "sha256:" + artifact.digest, "hangs on another artifact")
    value = load_json(blob)
    need(value.get("mediaType") == BUNDLE, "bundle version")
    material = value["verificationMaterial"]
    kinds = [kind for kind in ("certificate", "x509CertificateChain", "publicKey") if material.get(kind) is not None]
    need(len(kinds) == 1, "verification material")
    chain: list[bytes] = []
    if kinds[0] == "certificate":
        chain = [un64(material["certificate"]["rawBytes"])]
    elif kinds[0] == "x509CertificateChain":
        chain = [un64(item["rawBytes"]) for item in material["x509CertificateChain"]["certificates"]]
        need(chain, "empty chain")
    envelope = value["dsseEnvelope"]
    need(envelope["payloadType"] == IN_TOTO and len(envelope["signatures"]) == 1, "envelope")
    return kinds[0], chain, un64(envelope["payload"]), un64(envelope["signatures"][0]["sig"])


def pae(payload: bytes) -> bytes:
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


def statement_of(artifact: Artifact, payload: bytes, kinds: tuple[str, ...]) -> dict:
    value = load_json(payload)
    need(value.get("_type") == "https://in-toto.io/Statement/v1", "statement")
    subjects = [item["digest"]["sha256"] for item in value["subject"]]
    need(all(HEX64.fullmatch(item) for item in subjects) and artifact.digest in subjects, "subject")
    need(value["predicateType"] in kinds, "predicate type")
    return value


def device_statement(policy: Policy, artifact: Artifact, purpose: str, above: list[bytes], kind: str, at: dt.datetime):
    """The first good bundle by a device or enroller: statement, name, key."""
    why = "no bundle"
    for raw, blob in artifact.signatures:
        try:
            manifest = load_json(raw)
            if manifest.get("artifactType") != BUNDLE:
                continue
            material, chain, payload, signature = read_bundle(artifact, manifest, blob)
            need(material != "publicKey", "no certificate")
            name, key = judge_certificate(policy, chain[0], chain[1:] + above, purpose, at)
            check_signature(key, signature, pae(payload))
            return statement_of(artifact, payload, (kind,)), name, key
        except (Bad, KeyError, TypeError) as error:
            why = str(error)
    raise Bad(why)


def model_signed(policy: Policy, artifact: Artifact, at: dt.datetime) -> None:
    why = "no signature"
    for raw, blob in artifact.signatures:
        try:
            manifest = load_json(raw)
            if manifest.get("artifactType") == BUNDLE:
                material, chain, payload, signature = read_bundle(artifact, manifest, blob)
                by_keys(policy, signature, pae(payload)) if material == "publicKey" else check_signature(
                    judge_certificate(policy, chain[0], chain[1:], "publisher", at)[1], signature, pae(payload)
                )
                statement_of(artifact, payload, ("https://sigstore.dev/cosign/sign/v1",))
            elif NOTARY in (manifest.get("artifactType"), manifest["config"]["mediaType"]):
                check_jws(policy, artifact, manifest, blob, at)
            else:
                check_simple(policy, artifact, manifest, blob, at)
            return
        except (Bad, KeyError, TypeError) as error:
            why = str(error)
    raise Bad(why)


def by_keys(policy: Policy, signature: bytes, message: bytes) -> None:
    for key in policy.keys:
        try:
            check_signature(key, signature, message)
        except Bad:
            continue
        need(hashlib.sha256(spki(key)).hexdigest() not in policy.deny, "denied")
        return
    raise Bad("no listed key")


def check_jws(policy: Policy, artifact: Artifact, manifest: dict, blob: bytes, at: dt.datetime) -> None:
    layer_of(manifest, blob, "application/jose+json")
    value = load_json(blob)
    need(set(value) <= {"payload", "protected", "header", "signature"}, "members")
    protected = load_json(un64url(value["protected"]))
    need(protected["alg"] in ("ES256", "ES384"), "algorithm")
    need(protected["cty"] == "application/vnd.cncf.notary.payload.v1+json", "content type")
    scheme = "io.cncf.notary.signingScheme"
    need(scheme in protected["crit"] and set(protected["crit"]) <= {scheme, "io.cncf.notary.expiry"}, "crit")
    need(protected[scheme] == "notary.x509", "scheme")
    chain = [un64(item) for item in value["header"]["x5c"]]
    _, key = judge_certificate(policy, chain[0], chain[1:], "publisher", at)
    size, algorithm, curve = (32, SHA256(), "secp256r1") if protected["alg"] == "ES256" else (48, SHA384(), "secp384r1")
    need(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve, "algorithm and key")
    signature = un64url(value["signature"])
    need(len(signature) == 2 * size, "signature length")
    der = der_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
    try:
        key.verify(der, f"{value['protected']}.{value['payload']}".encode(), ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise Bad("signature does not fit") from error
    target = load_json(un64url(value["payload"]))["targetArtifact"]
    need(target["digest"] == "sha256:" + artifact.digest and target["size"] == len(artifact.raw), "target")
    need(target["mediaType"] == "application/vnd.oci.image.manifest.v1+json", "target type")


def check_simple(policy: Policy, artifact: Artifact, manifest: dict, blob: bytes, at: dt.datetime) -> None:
    annotations = layer_of(manifest, blob, SIMPLE).get("annotations", {})
    signature = un64(annotations["dev.cosignproject.cosign/signature"])
    if annotations.get("dev.sigstore.cosign/certificate"):
        pems = annotations["dev.sigstore.cosign/certificate"] + annotations.get("dev.sigstore.cosign/chain", "")
        ders = [item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(pems.encode())]
        check_signature(judge_certificate(policy, ders[0], ders[1:], "publisher", at)[1], signature, blob)
    else:
        by_keys(policy, signature, blob)
    critical = load_json(blob)["critical"]
    need(critical["type"] == "cosign container image signature", "type")
    need(critical["image"]["docker-manifest-digest"] == "sha256:" + artifact.digest, "digest")


def der_signature(r: int, s: int) -> bytes:
    def integer(value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
        return bytes((2, len(raw))) + raw

    body = integer(r) + integer(s)
    return b"\x30" + (bytes((len(body),)) if len(body) < 128 else bytes((0x81, len(body)))) + body


# -- section 19: TPM structures ---------------------------------------------------------------------


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        need(self.at + n <= len(self.data), "cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def u(self, n: int) -> int:
        return int.from_bytes(self.take(n), "big")

    def sized(self) -> bytes:
        return self.take(self.u(2))

    def end(self) -> None:
        need(self.at == len(self.data), "bytes behind the structure")


class Public:
    def __init__(self, raw: bytes) -> None:
        c = Cursor(raw)
        need((c.u(2), c.u(2)) == (0x23, 0x0B), "not an ECC key")
        self.attributes = c.u(4)
        c.sized()
        need([c.u(2) for _ in range(5)] == [0x10, 0x18, 0x0B, 0x03, 0x10], "scheme or curve")
        x, y = c.sized(), c.sized()
        c.end()
        self.name = b"\x00\x0b" + sha(raw)
        self.qualified = b"\x00\x0b" + sha(b"\x40\x00\x00\x0b" + self.name)
        try:
            self.key = ec.EllipticCurvePublicNumbers(
                int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
            ).public_key()
        except ValueError as error:
            raise Bad("point not on the curve") from error


class Attest:
    """TPMS_ATTEST of type quote (0x8018), certify (0x8017) or NV certify (0x8014)."""

    def __init__(self, raw: bytes) -> None:
        c = Cursor(raw)
        need(c.take(4) == b"\xffTCG", "magic")
        self.kind = c.u(2)
        self.signer, self.extra = c.sized(), c.sized()
        self.clock, self.resets, self.restarts = c.u(8), c.u(4), c.u(4)
        need(c.u(1) <= 1, "safe")
        self.firmware = c.u(8)
        if self.kind == 0x8018:
            self.selection = [(c.u(2), int.from_bytes(c.take(c.u(1)), "little")) for _ in range(c.u(4))]
            self.pcr_digest = c.sized()
        elif self.kind == 0x8017:
            self.name, _ = c.sized(), c.sized()
        elif self.kind == 0x8014:
            self.index, self.offset, self.contents = c.sized(), c.u(2), c.sized()
        else:
            raise Bad("type")
        c.end()


def attested(ak: Public, raw: bytes, signature: bytes, attest: Attest, kind: int) -> None:
    need(attest.kind == kind, "type")
    need(attest.signer == ak.qualified, "qualified signer")
    c = Cursor(signature)
    need((c.u(2), c.u(2)) == (0x18, 0x0B), "signature algorithm")
    r, s = c.sized(), c.sized()
    c.end()
    try:
        ak.key.verify(der_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), raw, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise Bad("attestation signature") from error


MADE_IN_TPM = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 18


def tpm_keys(ak: Public, sk: Public) -> None:
    need(
        ak.attributes & (MADE_IN_TPM | 1 << 16) == MADE_IN_TPM | 1 << 16 and not ak.attributes & 1 << 17,
        "AK attributes",
    )
    need(sk.attributes & MADE_IN_TPM == MADE_IN_TPM and not sk.attributes & (1 << 16 | 1 << 17), "SK attributes")


# -- section 16: event log --------------------------------------------------------------------------


def replay(log: bytes, pcr: int) -> tuple[list[tuple[str, str, str]], bytes]:
    value, events = bytes(32), []
    if not log:
        return events, value
    need(log[:1] == b"\x1e" and log[-1:] == b"\n", "framing")
    for number, record in enumerate(log[1:].split(b"\x1e")):
        need(record.endswith(b"\n"), "framing")
        entry = load_json(record)
        need(entry["recnum"] == number and entry["pcr"] == pcr and entry["content_type"] == "edgeprov", "entry")
        kind, slot, model = (entry["content"][key] for key in ("type", "slot", "model"))
        need(kind in ("activate", "refused") and model.startswith("sha256:") and HEX64.fullmatch(model[7:]), "content")
        digest = sha(b"edgeprov." + kind.encode() + b"\0" + slot.encode() + b"\0" + bytes.fromhex(model[7:]))
        stated = [item["digest"] for item in entry["digests"] if item["hashAlg"] == "sha256"]
        need(stated == [digest.hex()], "digest of an entry")
        value = sha(value + digest)
        events.append((kind, slot, model))
    return events, value


# -- sections 21 and 23: the steps ------------------------------------------------------------------


class Checker:
    def __init__(self, proof: dict, policy: Policy, at: dt.datetime) -> None:
        need(proof.get("v") == 1 and proof.get("mediaType") == "application/vnd.edgeprov.proof.v1+json", "not a proof")
        self.policy, self.at = policy, at
        self.record, self.index = un64(proof["record"]), proof["index"]
        self.path = [un64(item) for item in proof["path"]]
        need(all(len(item) == 32 for item in self.path), "path")
        self.kit, self.device, self.model = (Artifact(proof[name]) for name in ("kit", "device", "model"))
        self.evidence, self.layer = un64(proof["evidence"]), un64(proof["evidenceLayer"])
        self.manifest = self.kit.manifest
        need(self.manifest.get("artifactType") == "application/vnd.kitops.modelkit.manifest.v1+json", "not a data kit")
        notes = self.manifest.get("annotations", {})
        self.note = lambda name: notes["dev.edgeprov." + name]
        need(self.note("model") == self.manifest["subject"]["digest"], "subject")
        evidence = unpack(self.evidence)
        need(isinstance(evidence, dict) and set(evidence) == {"v", "segments"} and evidence["v"] == 1, "evidence")
        self.segments = evidence["segments"]

    def step_1(self) -> None:
        need(self.device.layer is not None, "no record")
        statement, _, _ = device_statement(
            self.policy, self.device, "enroller", [], "https://edgeprov.dev/device/v1", self.at
        )
        kind = "application/vnd.edgeprov.device.v1+json"
        manifest = self.device.manifest
        need(manifest.get("artifactType") == kind and len(manifest["layers"]) == 1, "record manifest")
        layer_of(manifest, self.device.layer, kind)
        record = load_json(self.device.layer)
        need(record["v"] == 1 and manifest["annotations"]["dev.edgeprov.device"] == record["device"], "record")
        need(statement["predicate"]["device"] == record["device"], "statement of another device")
        self.ak, self.sk = Public(un64(record["ak"])), Public(un64(record["sk"]))
        tpm_keys(self.ak, self.sk)
        raw = un64(record["certify"]["attest"])
        certify = Attest(raw)
        attested(self.ak, raw, un64(record["certify"]["signature"]), certify, 0x8017)
        need(certify.extra == sha(b"edgeprov.enrol\0" + un64(record["nonce"])), "nonce")
        need(certify.name == self.sk.name, "certified name")
        chain = [un64(item) for item in record["certificates"]]
        need(chain, "no certificate")
        enrolled = dt.datetime.strptime(record["enrolled_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
        name, key = judge_certificate(self.policy, chain[0], chain[1:], "device", enrolled)
        need(spki(key) == spki(self.sk.key) and name == record["device"], "certificate")
        need(record["assurance"] in self.policy.assurance, "assurance")
        need(
            record["assurance"] == "dev" or (record["ek"] and record["proof"]["credential"] == "activated"),
            "assurance without proof",
        )
        need(record["device"] == self.note("device"), "kit of another device")
        self.device_record, self.above = record, chain[1:]

    def step_2(self) -> None:
        statement, name, key = device_statement(self.policy, self.kit, "device", self.above, SLSA, self.at)
        need(name == self.device_record["device"] and spki(key) == spki(self.sk.key), "another signer")
        build, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
        need(build["buildType"] == "https://edgeprov.dev/inference/v1", "build type")
        models = [item["digest"]["sha256"] for item in build["resolvedDependencies"] if item.get("name") == "model"]
        model, slot = build["externalParameters"]["model"], build["externalParameters"]["slot"]
        need(models == [model[7:]], "model twice")
        need(
            (model, slot, run["builder"]["id"]) == (self.note("model"), self.note("slot"), self.note("device")),
            "claims",
        )
        need(build["internalParameters"]["assurance"] == self.device_record["assurance"], "assurance")
        self.statement, self.invocation = statement, run["metadata"]["invocationId"]
        batch = len(statement["subject"]) > 1

        def product(wanted: str, kind: str, *, shared: bool = False) -> bytes:
            found = []
            for item in run["byproducts"]:
                owner = item.get("annotations", {}).get("dev.edgeprov.kit")
                if item["name"] == wanted and (
                    owner == "sha256:" + self.kit.digest or (owner is None and (shared or not batch))
                ):
                    found.append(item)
            need(len(found) == 1 and found[0]["mediaType"] == kind, f"byproduct {wanted}")
            return un64(found[0]["content"])

        self.quote_raw = unpack(product("tpm-quote", "application/vnd.edgeprov.tpm.quote.v1"))
        self.counter_raw = unpack(product("tpm-counter", "application/vnd.edgeprov.tpm.counter.v1"))
        for item in (self.quote_raw, self.counter_raw):
            need(
                isinstance(item, list) and len(item) == 2 and all(isinstance(part, bytes) for part in item),
                "attestation",
            )
        self.log = product("event-log", "application/vnd.edgeprov.event-log.v1+json-seq", shared=True)

    def step_3(self) -> None:
        d = bytes.fromhex(self.kit.digest)
        self.quote, self.counter = Attest(self.quote_raw[0]), Attest(self.counter_raw[0])
        need(self.quote.extra == d and self.counter.extra == d, "made for another kit")
        self.opened: list[tuple[dict, Attest, dict]] = []
        for segment in self.segments:
            need(segment["quote"] is not None, "segment without quote")
            quote = Attest(segment["quote"]["attest"])
            need(quote.extra == sha(segment["header"]), "segment quote made for another header")
            self.opened.append((unpack(segment["header"]), quote, segment))

    def step_4(self) -> None:
        attested(self.ak, *self.quote_raw, self.quote, 0x8018)
        attested(self.ak, *self.counter_raw, self.counter, 0x8014)
        for _, quote, segment in self.opened:
            attested(self.ak, segment["quote"]["attest"], segment["quote"]["signature"], quote, 0x8018)

    def step_5(self) -> None:
        boot = (self.quote.resets, self.quote.restarts)
        need(boot == (self.counter.resets, self.counter.restarts), "two boots")
        need(len(self.statement["subject"]) > 1 or self.invocation == f"{boot[0]}.{self.note('seq')}", "invocation")
        for header, quote, _ in self.opened:
            need(
                (header["reset_count"], header["restart_count"]) == (quote.resets, quote.restarts),
                "header of another boot",
            )
            need((quote.resets, quote.restarts) <= boot, "segment of a later boot")
            need(quote.resets != boot[0] or quote.clock <= self.quote.clock, "segment after the sealing")

    def step_6(self) -> None:
        self.active: list[dict[str, str | None]] = []
        for quote, log in [(self.quote, self.log), *((quote, segment["log"]) for _, quote, segment in self.opened)]:
            values = dict(self.policy.boot)
            events, values[self.policy.pcr] = replay(log, self.policy.pcr)
            need(quote.selection == [(0x0B, sum(1 << pcr for pcr in values))], "selection")
            need(quote.pcr_digest == sha(b"".join(values[pcr] for pcr in sorted(values))), "PCR value")
            last = {slot: model if kind == "activate" else None for kind, slot, model in events}
            self.active.append(last)

    def step_7(self) -> None:
        need(self.opened or self.note("records") == "0", "no segment")
        for (header, _, _), active in zip(self.opened, self.active[1:], strict=True):
            named = (header["model"], header["slot"], header["device"])
            need(named == (self.note("model"), self.note("slot"), self.note("device")), "segment of something else")
            need(active.get(header["slot"]) == header["model"], "model not measured")

    def step_8(self) -> None:
        index = self.device_record["counter_index"].to_bytes(4, "big")
        name = b"\x00\x0b" + sha(index + b"\x00\x0b" + b"\x22\x06\x00\x14" + b"\x00\x00" + b"\x00\x08")
        need(self.counter.index == name and self.counter.offset == 0 and len(self.counter.contents) == 8, "counter")
        need(int.from_bytes(self.counter.contents, "big") == int(self.note("seq")), "counter value")

    def step_9(self) -> None:
        seq, base = int(self.note("seq")), self.device_record["counter_base"]
        need(seq > base and (self.note("prev") == "none") == (seq == base + 1), "place")
        headers = [header for header, _, _ in self.opened]
        for number in range(1, len(headers)):
            need(headers[number]["prev"] == sha(self.segments[number - 1]["header"]), "segments not chained")
            need(headers[number]["first"] >= headers[number - 1]["first"], "segments fall")
        if headers and self.note("records") != "0":
            need(
                headers[0]["first"] <= int(self.note("first")) and headers[-1]["first"] <= int(self.note("last")),
                "numbers",
            )

    def step_10(self) -> None:
        need(not self.policy.firmware or self.quote.firmware in self.policy.firmware, "firmware")

    def step_11(self) -> None:
        path = "evidence/evidence.msgpack.zst"
        layers = [
            item
            for item in self.manifest["layers"]
            if item.get("annotations", {}).get("org.cncf.model.filepath") == path
        ]
        need(layers and layers[0]["digest"] == "sha256:" + hashlib.sha256(self.layer).hexdigest(), "evidence layer")
        plain = stored_evidence(self.layer)
        need(plain is None or plain == self.evidence, "evidence is not what the layer holds")
        self.inclusion(int(self.note("records")), bytes.fromhex(self.note("merkle").removeprefix("sha256:")))
        record = unpack(self.record)
        need(isinstance(record, list) and len(record) == 7 and isinstance(record[4], list), "record")
        n = record[0]
        need(int(self.note("first")) <= n <= int(self.note("last")), "record number")
        need(any(header["first"] <= n for header, _, _ in self.opened), "segment of the record")

    def inclusion(self, size: int, root: bytes) -> None:
        """RFC 9162, 2.1.3.2."""
        need(isinstance(self.index, int) and 0 <= self.index < size, "index")
        fn, sn, value = self.index, size - 1, sha(b"\x00" + self.record)
        for item in self.path:
            need(sn != 0, "path too long")
            if fn & 1 or fn == sn:
                value = sha(b"\x01" + item + value)
                while not fn & 1 and fn:
                    fn, sn = fn >> 1, sn >> 1
            else:
                value = sha(b"\x01" + value + item)
            fn, sn = fn >> 1, sn >> 1
        need(sn == 0 and value == root, "Merkle path")

    def step_12(self) -> None:
        need("sha256:" + self.model.digest == self.note("model"), "another model")
        model_signed(self.policy, self.model, self.at)

    def run(self) -> None:
        for number in range(1, 13):
            try:
                getattr(self, f"step_{number}")()
            except (Bad, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise Refused(number, f"{type(error).__name__}: {error}") from error


def stored_evidence(layer: bytes) -> bytes | None:
    """The file of a layer whose zstd frame holds one stored block; None for a compressed one."""
    at, body = 0, None
    while at + 512 <= len(layer) and layer[at : at + 512].strip(b"\0"):
        size = int(layer[at + 124 : at + 135].rstrip(b"\0 ") or b"0", 8)
        if layer[at + 156 : at + 157] in (b"0", b"\0"):
            body = layer[at + 512 : at + 512 + size]
        at += 512 + (size + 511) // 512 * 512
    if body is None or body[:5] != b"\x28\xb5\x2f\xfd\xa0":
        return None
    block = int.from_bytes(body[9:12], "little")
    return body[12:] if block & 7 == 1 and block >> 3 == len(body) - 12 else None


def check(raw: bytes, policy: Policy, at: dt.datetime) -> dict:
    try:
        Checker(load_json(raw), policy, at).run()
    except Refused as refused:
        return {"verified": False, "step": refused.step, "why": refused.why}
    except (Bad, KeyError, TypeError, ValueError) as error:
        return {"verified": False, "why": f"not a proof: {error}"}
    return {"verified": True}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--at", required=True)
    args = parser.parse_args(argv)
    at = dt.datetime.strptime(args.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    verdict = check(args.file.read_bytes(), Policy(args.trust), at)
    print(json.dumps(verdict))
    return 0 if verdict["verified"] else 10


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
