# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Certificates, bundles, JWS and cosign v2 signatures (FORMAT.md sections 17 and 18)."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.vectors.second.base import HEX64, Bad, Policy, load_json, need, un64, un64url

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
NOTARY = "application/vnd.cncf.notary.signature"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"


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


def load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        need(0 < certificate.serial_number < 1 << 160, "serial number")
        list(certificate.extensions)
    except (ValueError, TypeError, KeyError, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise Bad("not a certificate") from error
    return certificate


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.signature_hash_algorithm is None or certificate.signature_hash_algorithm.digest_size < 32:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def paths_to(certificate: x509.Certificate, others: list, anchors: list) -> Iterator[list]:
    for issuer in (*anchors, *others):
        if not issued(certificate, issuer):
            continue
        if issuer in anchors:
            yield [certificate, issuer]
        else:
            for rest in paths_to(issuer, [item for item in others if item is not issuer], anchors):
                yield [certificate, *rest]


def judge_path(path: list, at: dt.datetime) -> None:
    for below, ca in enumerate(path[1:]):
        constraints, usage, key = extension(ca, x509.BasicConstraints), extension(ca, x509.KeyUsage), ca.public_key()
        need(constraints and constraints.value.ca and usage and usage.value.key_cert_sign, "not a CA")
        need(constraints.value.path_length is None or below <= constraints.value.path_length, "path length")
        strong = isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048
        need(strong or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= 256), "weak key")
    for item in path:
        need(all(not ext.critical or ext.oid.dotted_string in KNOWN for ext in item.extensions), "critical extension")
        need(extension(item, x509.NameConstraints) is None, "name constraints")
        need(item.not_valid_before_utc <= at <= item.not_valid_after_utc, "not valid at that time")


def find_path(certificate: x509.Certificate, others: list, anchors: list, at: dt.datetime) -> list:
    reason = Bad("no path to an anchor")
    for path in paths_to(certificate, others, anchors):
        try:
            judge_path(path, at)
        except Bad as error:
            reason = error
            continue
        return path
    raise reason


def judge_certificate(
    policy: Policy, leaf: bytes, above: list[bytes], purpose: str, at: dt.datetime
) -> tuple[str, object]:
    """Returns the name and the key of a certificate that serves the purpose at the time."""
    certificate, others = load(leaf), []
    for der in above:
        with contextlib.suppress(Bad):  # what is no part of the path has no effect
            others.append(load(der))
    anchors = policy.anchors["publisher" if purpose == "publisher" else "device"]
    need(certificate not in anchors, "leaf is an anchor")
    path = find_path(certificate, [item for item in others if item not in anchors], anchors, at)
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
        others = ("device", "enroller", "roster", "collector", "importer")
        need(not name.startswith(tuple(f"urn:edgeprov:{other}:" for other in others)), "not a publisher's name")
    else:
        need(name.startswith(f"urn:edgeprov:{purpose}:"), "name")
        need(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", "device key")
    for item in path:
        policy.not_denied("certificate", f"serial:{item.serial_number:x}")
        policy.not_denied("certificate", hashlib.sha256(item.public_bytes(Encoding.DER)).hexdigest())
        policy.not_denied("key", hashlib.sha256(spki(item.public_key())).hexdigest())
    if purpose != "device":
        need(any(listed(pattern, name) for pattern in policy.roles.get(purpose, [])), f"{purpose} not listed")
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


def load_manifest(raw: bytes) -> dict:
    """Section 26: what stands in a descriptor is the blob."""
    manifest = load_json(raw)
    for item in (manifest["config"], *manifest["layers"]):
        if "data" in item and item["size"] <= 16384:
            data = un64(item["data"])
            fits = len(data) == item["size"] and item["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
            need(fits, "data is not the blob")
    return manifest


class Artifact:
    def __init__(self, value: dict) -> None:
        need(isinstance(value, dict), "artifact")
        self.raw = un64(value.get("manifest"))
        self.signatures = [(un64(item["manifest"]), un64(item["blob"])) for item in value["signatures"]]
        self.layer = un64(value["layer"]) if value.get("layer") is not None else None
        self.digest = hashlib.sha256(self.raw).hexdigest()

    @property
    def manifest(self) -> dict:
        return load_manifest(self.raw)


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
            manifest = load_manifest(raw)
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
            manifest = load_manifest(raw)
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
        policy.not_denied("key", hashlib.sha256(spki(key)).hexdigest())
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
