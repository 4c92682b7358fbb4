# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device accepts a model in every form that signing tools write, and from nobody but its publisher."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgeprov.errors import PolicyDenied, SignatureInvalid, SignerUntrusted, SubjectMismatch, VerificationError
from edgeprov.formats.bundle import build_signature_manifest
from edgeprov.formats.descriptor import describe
from edgeprov.formats.envelope import pae
from edgeprov.formats.in_toto import encode_model_statement
from edgeprov.formats.manifest import EMPTY_CONFIG, build_manifest
from edgeprov.formats.mediatypes import (
    COSIGN_CERTIFICATE,
    COSIGN_CHAIN,
    COSIGN_SIGN_PREDICATE,
    COSIGN_SIGNATURE,
    COSIGN_SIMPLE_SIGNING,
    EMPTY_BLOB,
    IN_TOTO_PAYLOAD,
    NOTATION_SIGNATURE,
    SIGSTORE_BUNDLE,
    SLSA_PROVENANCE,
)
from edgeprov.verify.deny import parse_deny
from edgeprov.verify.policy import TrustPolicy, parse_policy
from edgeprov.verify.signature import SignatureArtifact, verify_model_signature
from tests.support import pki
from tests.support.softtpm import soft_key, spki
from tests.support.world import World, sign_bundle, sign_notation


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bundle(
    world: World, material: dict, signature: bytes, *, statement: bytes | None = None, model=None
) -> SignatureArtifact:
    """A bundle with any material, as other tools may write it."""
    model = model or world.model
    statement = statement or encode_model_statement(model.digest)
    document = {
        "mediaType": SIGSTORE_BUNDLE,
        "verificationMaterial": {"tlogEntries": [], "timestampVerificationData": None} | material,
        "dsseEnvelope": {
            "payload": b64(statement),
            "payloadType": IN_TOTO_PAYLOAD,
            "signatures": [{"sig": b64(signature), "keyid": ""}],
        },
    }
    blob = json.dumps(document).encode()
    manifest = build_signature_manifest(model.descriptor, blob, COSIGN_SIGN_PREDICATE, None)
    return SignatureArtifact(manifest=manifest, blob=blob)


def signed(world: World, key) -> bytes:
    message = pae(IN_TOTO_PAYLOAD, encode_model_statement(world.model.digest))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(SHA384() if key.key_size == 384 else SHA256()))


def pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def simple(
    world: World, key, *, digest: str | None = None, kind: str = "cosign container image signature", extra=None
) -> SignatureArtifact:
    """What cosign v2 puts under the tag sha256-....sig."""
    payload = json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": "registry.test/models/wdbc"},
                "image": {"docker-manifest-digest": digest or str(world.model.digest)},
                "type": kind,
            },
            "optional": None,
        }
    ).encode()
    annotations = {COSIGN_SIGNATURE: b64(key.sign(payload, ec.ECDSA(SHA256())))} | (extra or {})
    layer = describe(payload, COSIGN_SIMPLE_SIGNING, annotations)
    return SignatureArtifact(manifest=build_manifest(config=EMPTY_CONFIG, layers=[layer]), blob=payload)


def judge(world: World, *signatures: SignatureArtifact, policy: TrustPolicy | None = None, at=pki.NOW, model=None):
    return verify_model_signature(model or world.model, signatures, policy or world.policy, at)


def with_files(world: World, **files: bytes) -> TrustPolicy:
    return parse_policy(world.policy_files | {name.replace("_pem", ".pem"): data for name, data in files.items()})


# -- accepted: every form ---------------------------------------------------------------------------


def test_bundle_with_certificate(world: World):
    assert judge(world, world.sign_model()).san == "https://acme.example/models"


@pytest.mark.parametrize("with_root", [False, True])
def test_bundle_with_chain_through_an_intermediate(world: World, with_root: bool):
    middle = world.publisher_root.issue(pki.name("Acme Issuing CA"), ca=True, path_length=0)
    leaf = pki.publisher_certificate(middle)
    ders = leaf.certificate_chain if with_root else leaf.certificate_chain[:2]
    material = {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der)} for der in ders]}}
    assert judge(world, bundle(world, material, signed(world, leaf.key))).subject.startswith("CN=model publisher")


@pytest.mark.parametrize(
    "key",
    [
        soft_key("publisher key"),
        ec.derive_private_key(12345, ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    ],
    ids=["p256", "p384", "ed25519"],
)
def test_bundle_with_key_hint(world: World, key):
    policy = with_files(world, publisher_key_pem=pem(key))
    hint = b64(hashlib.sha256(b"anything: the hint is not trusted").digest())
    identity = judge(world, bundle(world, {"publicKey": {"hint": hint}}, signed(world, key)), policy=policy)
    assert identity.san.startswith("key:sha256:")


def test_cosign_v2_tag_with_key(world: World):
    key = soft_key("publisher key")
    assert judge(world, simple(world, key), policy=with_files(world, publisher_key_pem=pem(key))).san.startswith("key:")


def test_cosign_v2_tag_with_certificate_and_chain(world: World):
    extra = {COSIGN_CERTIFICATE: world.publisher.pem.decode(), COSIGN_CHAIN: world.publisher_root.pem.decode()}
    assert judge(world, simple(world, world.publisher.key, extra=extra)).san == "https://acme.example/models"


def test_notation_in_both_manifest_styles(world: World):
    legacy = sign_notation(world.model.descriptor, world.publisher)
    assert legacy.manifest.config.media_type == NOTATION_SIGNATURE
    new = SignatureArtifact(
        manifest=build_manifest(
            config=describe(EMPTY_BLOB, "application/vnd.oci.empty.v1+json"),
            layers=legacy.manifest.layers,
            artifact_type=NOTATION_SIGNATURE,
            subject=world.model.descriptor,
        ),
        blob=legacy.blob,
    )
    for artifact in (legacy, new):
        assert judge(world, artifact).san == "https://acme.example/models"


def test_publisher_without_name_is_found_by_subject(world: World):
    leaf = world.publisher_root.issue(pki.name("notation signer"), eku=[ExtendedKeyUsageOID.CODE_SIGNING])
    toml = b'[roles]\npublisher = ["x509.subject: C=DE, ST=BY, O=Acme Medical"]\n'
    policy = parse_policy(world.policy_files | {"policy.toml": toml})
    assert judge(world, sign_notation(world.model.descriptor, leaf), policy=policy).san.startswith("x509.subject:")
    other = parse_policy(world.policy_files | {"policy.toml": toml.replace(b"Acme Medical", b"Acme")})
    with pytest.raises(SignerUntrusted, match="the role 'publisher'"):
        judge(world, sign_notation(world.model.descriptor, leaf), policy=other)


def test_one_good_signature_among_bad_ones_suffices(world: World):
    foreign = pki.publisher_certificate(pki.root("Foreign Root"))
    assert judge(world, world.sign_model(signer=foreign), world.sign_model()).san == "https://acme.example/models"


# -- refused ----------------------------------------------------------------------------------------


def refused(error, match, world, *signatures, **options):
    with pytest.raises(VerificationError, match=match) as caught:
        judge(world, *signatures, **options)
    assert type(caught.value) is error


def test_unsigned(world: World):
    refused(SignatureInvalid, "has no signature", world)


@pytest.mark.parametrize("files", [{}, {"policy.toml": b""}, {"policy.toml": b"[roles]\npublisher = []\n"}])
def test_empty_policy_denies(world: World, files):
    refused(
        SignerUntrusted, "leads to no publisher trust anchor", world, world.sign_model(), policy=parse_policy(files)
    )
    refused(SignerUntrusted, "fits no publisher key", world, simple(world, soft_key("k")), policy=parse_policy(files))


def test_anchor_without_identities_denies(world: World):
    policy = parse_policy({"publisher.pem": world.publisher_root.pem})
    refused(SignerUntrusted, "the role 'publisher'", world, world.sign_model(), policy=policy)


def test_other_ca(world: World):
    foreign = pki.publisher_certificate(pki.root("Foreign Root"))
    refused(SignerUntrusted, "no publisher trust anchor", world, world.sign_model(signer=foreign))
    refused(SignerUntrusted, "no publisher trust anchor", world, sign_notation(world.model.descriptor, foreign))


def test_ca_of_the_same_name_with_another_key(world: World):
    twin = pki.publisher_certificate(pki.root("Acme Publisher Root", seed="another key"))
    refused(SignerUntrusted, "no publisher trust anchor", world, world.sign_model(signer=twin))


def test_device_ca_used_for_a_model(world: World, unit):
    statement = encode_model_statement(world.model.digest)
    artifact = sign_bundle(world.model.descriptor, statement, unit.tpm, COSIGN_SIGN_PREDICATE)
    refused(SignerUntrusted, "no publisher trust anchor", world, artifact)


def test_device_certificate_even_under_the_publisher_anchor(world: World, unit):
    """A vendor who runs one CA for both by mistake: a device still is no publisher."""
    policy = with_files(world, publisher_2_pem=world.device_root.pem)
    policy = replace(policy, roles=(("publisher", ("*",)),))
    artifact = world.sign_model(signer=unit.tpm)
    refused(SignerUntrusted, "is a device, not a publisher", world, artifact, policy=policy)


def test_device_statement_on_a_model(world: World, unit):
    """A kit's statement re-labelled with the model as subject, signed by the publisher's own key: still no model signature."""
    sealed = unit.seal()
    text = sealed.statement.replace(sealed.digest.hex.encode(), world.model.digest.hex.encode())
    artifact = sign_bundle(world.model.descriptor, text, world.publisher, SLSA_PROVENANCE)
    refused(SubjectMismatch, "does not vouch", world, artifact)


def test_wrong_identity(world: World):
    other = pki.publisher_certificate(world.publisher_root, "https://acme.example/other")
    refused(SignerUntrusted, "acme.example/other is not among", world, world.sign_model(signer=other))
    longer = pki.publisher_certificate(world.publisher_root, "https://acme.example/models/evil")
    refused(SignerUntrusted, "not among", world, world.sign_model(signer=longer))


def test_two_names_in_one_certificate(world: World):
    names = [x509.UniformResourceIdentifier("https://acme.example/models"), x509.RFC822Name("eve@example.com")]
    two = pki.publisher_certificate(world.publisher_root, san=names)
    refused(SignerUntrusted, "more than one name", world, world.sign_model(signer=two))


def test_expired_at_the_judged_time(world: World):
    end = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    short = pki.publisher_certificate(world.publisher_root, end=end)
    artifact = world.sign_model(signer=short)
    assert judge(world, artifact, at=dt.datetime(2026, 1, 31, tzinfo=dt.UTC)).san
    refused(SignerUntrusted, "has expired", world, artifact)


def test_not_valid_yet_or_ca_expired(world: World):
    refused(SignerUntrusted, "is not valid yet", world, world.sign_model(), at=dt.datetime(2023, 12, 31, tzinfo=dt.UTC))
    root = pki.root("Old Root", end=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
    policy = with_files(world, publisher_pem=root.pem)
    artifact = world.sign_model(signer=pki.publisher_certificate(root))
    refused(SignerUntrusted, "has expired", world, artifact, policy=policy)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eku": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "other uses"),
        ({"eku": [ExtendedKeyUsageOID.TIME_STAMPING]}, "other uses"),
        ({"usage": pki.key_usage(key_agreement=True)}, "digitalSignature"),
        ({"usage_critical": False}, "digitalSignature"),
        ({"ca": True}, "is a CA"),
        ({"usage": pki.key_usage(digital_signature=True, key_cert_sign=True)}, "may sign certificates"),
        (
            {"extra": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
            "unknown critical",
        ),
    ],
)
def test_wrong_certificate_shape(world: World, options, match):
    wrong = pki.publisher_certificate(world.publisher_root, **options)
    refused(SignerUntrusted, match, world, world.sign_model(signer=wrong))


def test_intermediate_that_is_no_ca(world: World):
    """A publisher's own leaf used to issue another publisher."""
    false = pki.publisher_certificate(world.publisher)
    material = {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der)} for der in false.certificate_chain]}}
    refused(SignerUntrusted, "is not a CA", world, bundle(world, material, signed(world, false.key)))


def test_path_length_of_the_ca_is_kept(world: World):
    first = world.publisher_root.issue(pki.name("CA 1"), ca=True, path_length=0)
    second = first.issue(pki.name("CA 2"), ca=True)
    leaf = pki.publisher_certificate(second)
    material = {"x509CertificateChain": {"certificates": [{"rawBytes": b64(der)} for der in leaf.certificate_chain]}}
    refused(SignerUntrusted, "allows no 1 CA certificates", world, bundle(world, material, signed(world, leaf.key)))


def test_signature_moved_from_another_artifact(world: World):
    other = world.make_model("other", b"other weights")
    theirs = world.sign_model(other)
    refused(SubjectMismatch, "hangs on another artifact", world, theirs)
    moved = SignatureArtifact(
        manifest=build_signature_manifest(world.model.descriptor, theirs.blob, COSIGN_SIGN_PREDICATE, None),
        blob=theirs.blob,
    )
    refused(SubjectMismatch, "is about", world, moved)
    refused(SubjectMismatch, "is about", world, sign_notation(other.descriptor, world.publisher))


def test_cosign_v2_payload_of_another_artifact_or_kind(world: World):
    key = soft_key("publisher key")
    policy = with_files(world, publisher_key_pem=pem(key))
    other = simple(world, key, digest="sha256:" + "0" * 64)
    refused(SubjectMismatch, "is about sha256:0000", world, other, policy=policy)
    refused(SubjectMismatch, "not a cosign container", world, simple(world, key, kind="atomic"), policy=policy)


def test_key_that_is_not_in_the_policy_or_denied(world: World):
    key = soft_key("publisher key")
    artifact = bundle(world, {"publicKey": {"hint": ""}}, signed(world, key))
    refused(SignerUntrusted, "fits no publisher key", world, artifact)
    policy = replace(
        with_files(world, publisher_key_pem=pem(key)),
        deny=parse_deny([{"type": "key", "value": hashlib.sha256(spki(key)).hexdigest()}]),
    )
    refused(PolicyDenied, "deny list", world, artifact, policy=policy)


def test_publisher_or_its_ca_on_the_deny_list(world: World):
    for certificate in (world.publisher.certificate, world.publisher_root.certificate):
        denied = replace(
            world.policy, deny=parse_deny([{"type": "certificate", "value": f"serial:{certificate.serial_number:x}"}])
        )
        refused(PolicyDenied, "deny list", world, world.sign_model(), policy=denied)


def test_changed_signature_statement_and_payload_type(world: World):
    good = world.sign_model()
    document = json.loads(good.blob)
    for path, value, match in (
        (("signatures", 0, "sig"), b64(bytes(70)), "does not fit"),
        (("payload",), b64(encode_model_statement(world.model.digest) + b" "), "does not fit"),
        (("payloadType",), "application/json", "payload type"),
    ):
        changed = json.loads(json.dumps(document))
        target = changed["dsseEnvelope"]
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        blob = json.dumps(changed).encode()
        manifest = build_signature_manifest(world.model.descriptor, blob, "x", None)
        refused(SignatureInvalid, match, world, SignatureArtifact(manifest=manifest, blob=blob))


def test_blob_that_its_manifest_does_not_name(world: World):
    good = world.sign_model()
    refused(SignatureInvalid, "not a layer of its manifest", world, replace(good, blob=good.blob + b"\n"))


def test_notation_algorithm_that_is_not_the_keys(world: World):
    good = sign_notation(world.model.descriptor, world.publisher)
    document = json.loads(good.blob)
    header = json.loads(base64.urlsafe_b64decode(document["protected"] + "=="))
    for algorithm in ("ES384", "HS256", "none"):
        document["protected"] = (
            base64.urlsafe_b64encode(json.dumps(header | {"alg": algorithm}).encode()).rstrip(b"=").decode()
        )
        blob = json.dumps(document).encode()
        manifest = build_manifest(
            config=good.manifest.config,
            layers=[describe(blob, "application/jose+json")],
            subject=world.model.descriptor,
        )
        refused(SignatureInvalid, algorithm, world, SignatureArtifact(manifest=manifest, blob=blob))
