# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Cases of steps 11 and 12: the record's place in the kit, and the model's publisher in every form of signature."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgeprov._dataclass import replace
from edgeprov.formats.bundle import build_signature_manifest
from edgeprov.formats.descriptor import describe, encode_descriptor
from edgeprov.formats.envelope import pae
from edgeprov.formats.evidence_part import DeviceEvent, SegmentEvidence
from edgeprov.formats.in_toto import encode_model_statement
from edgeprov.formats.manifest import EMPTY_CONFIG, Manifest, build_manifest
from edgeprov.formats.mediatypes import (
    COSIGN_CERTIFICATE,
    COSIGN_CHAIN,
    COSIGN_SIGN_PREDICATE,
    COSIGN_SIGNATURE,
    COSIGN_SIMPLE_SIGNING,
    IN_TOTO_PAYLOAD,
    NOTATION_SIGNATURE,
    OCI_MANIFEST,
    SIGSTORE_BUNDLE,
    SLSA_PROVENANCE,
)
from edgeprov.formats.record import encode_record
from edgeprov.formats.segment import Tensor
from edgeprov.formats.standing import OpenSegment, Standing, Stop
from edgeprov.verify.signature import SignatureArtifact
from tests.support import pki
from tests.support.softtpm import soft_key
from tests.support.world import OUTPUTS, sign_bundle, sign_notation
from tests.vectors.cases_device import Case, Stage, case
from tests.vectors.make import b64, document, edited, flip, plain_evidence

PUBLISHER_KEY = soft_key("publisher key")
P384_KEY = ec.derive_private_key(12345, ec.SECP384R1())
ED25519_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def sign(key, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(SHA384() if key.key_size == 384 else SHA256(), deterministic_signing=True))


def bundle(model: Manifest, material: dict, key, *, statement: bytes | None = None) -> SignatureArtifact:
    """A bundle as other tools write it: with empty members, and with any material."""
    statement = statement or encode_model_statement(model.digest)
    blob = json.dumps(
        {
            "mediaType": SIGSTORE_BUNDLE,
            "verificationMaterial": {"tlogEntries": [], "timestampVerificationData": None} | material,
            "dsseEnvelope": {
                "payload": b64(statement),
                "payloadType": IN_TOTO_PAYLOAD,
                "signatures": [{"sig": b64(sign(key, pae(IN_TOTO_PAYLOAD, statement))), "keyid": ""}],
            },
        }
    ).encode()
    manifest = build_signature_manifest(model.descriptor, blob, COSIGN_SIGN_PREDICATE, None)
    return SignatureArtifact(manifest=manifest, blob=blob)


def simple(
    model: Manifest, key, *, digest: str = "", kind: str = "cosign container image signature", extra: dict | None = None
) -> SignatureArtifact:
    payload = json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": "registry.test/models/wdbc"},
                "image": {"docker-manifest-digest": digest or str(model.digest)},
                "type": kind,
            },
            "optional": None,
        }
    ).encode()
    layer = describe(payload, COSIGN_SIMPLE_SIGNING, {COSIGN_SIGNATURE: b64(sign(key, payload))} | (extra or {}))
    return SignatureArtifact(manifest=build_manifest(config=EMPTY_CONFIG, layers=[layer]), blob=payload)


def model_case(name: str, comment: str, make: Callable[[Stage], list[SignatureArtifact]], **more: object) -> Case:
    s = Stage()
    return case(name, comment, s.doc(model_signatures=make(s)), **more)


def chain_of(*certificates: bytes) -> dict:
    return {"x509CertificateChain": {"certificates": [{"rawBytes": b64(item)} for item in certificates]}}


def accepted() -> Iterator[Case]:
    def middle(s: Stage):
        return s.world.publisher_root.issue(pki.name("Acme Issuing CA"), ca=True, path_length=0)

    def chain(s: Stage) -> list[SignatureArtifact]:
        leaf = pki.publisher_certificate(middle(s))
        return [bundle(s.world.model, chain_of(*leaf.certificate_chain[:2]), leaf.key)]

    def renewed(s: Stage) -> list[SignatureArtifact]:
        new = middle(s)
        end = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
        old = s.world.publisher_root.issue(new.certificate.subject, new.key, ca=True, path_length=0, end=end)
        leaf = pki.publisher_certificate(new)
        return [bundle(s.world.model, chain_of(leaf.der, old.der, new.der), leaf.key)]

    def new_style(s: Stage) -> list[SignatureArtifact]:
        legacy = sign_notation(s.world.model.descriptor, s.world.publisher)
        manifest = build_manifest(
            config=EMPTY_CONFIG,
            layers=legacy.manifest.layers,
            artifact_type=NOTATION_SIGNATURE,
            subject=s.world.model.descriptor,
        )
        return [SignatureArtifact(manifest=manifest, blob=legacy.blob)]

    def certificate_tag(s: Stage) -> list[SignatureArtifact]:
        extra = {COSIGN_CERTIFICATE: s.world.publisher.pem.decode(), COSIGN_CHAIN: s.world.publisher_root.pem.decode()}
        return [simple(s.world.model, s.world.publisher.key, extra=extra)]

    yield model_case("model-bundle-chain", "cosign v3: leaf and intermediate in the bundle", chain)
    yield model_case(
        "model-bundle-renewed-ca", "the intermediate was renewed, and its expired certificate stands first", renewed
    )
    for name, key in (("p256", PUBLISHER_KEY), ("p384", P384_KEY), ("ed25519", ED25519_KEY)):
        yield model_case(
            f"model-bundle-key-{name}",
            "cosign v3 in key mode",
            lambda s, key=key: [bundle(s.world.model, {"publicKey": {"hint": "YQ=="}}, key)],
            trust="keys",
        )
    yield model_case(
        "model-sig-tag-key", "cosign v2 in key mode", lambda s: [simple(s.world.model, PUBLISHER_KEY)], trust="keys"
    )
    yield model_case("model-sig-tag-certificate", "cosign v2 with certificate and chain", certificate_tag)
    yield model_case(
        "model-notation-legacy",
        "notation 1.3: media type in config",
        lambda s: [sign_notation(s.world.model.descriptor, s.world.publisher)],
    )
    yield model_case("model-notation-new", "notation 2: artifactType", new_style)
    yield model_case(
        "model-one-good-among-bad",
        "a foreign signature beside the publisher's",
        lambda s: [s.world.sign_model(signer=pki.publisher_certificate(pki.root("Foreign"))), s.world.sign_model()],
    )


def step_11() -> Iterator[Case]:
    def changed(name: str, comment: str, edit: Callable[[dict], object]) -> Case:
        s = Stage()
        return case(name, comment, edited(document(s.unit, s.seal(records=13), 7), edit))

    s = Stage()
    other = document(s.unit, s.seal(records=13), 3)
    yield changed("record-changed", "one bit of an output", lambda d: d.update(record=flip(d["record"])))
    forged = encode_record(7, 1_770_087_607_000_000_000, 8_000_000_000, 150_007, [b"\x00\x00"])
    yield changed("record-made-up", "a well-formed record with other outputs", lambda d: d.update(record=b64(forged)))
    yield changed("another-place", "right record, another index", lambda d: d.update(index=8))
    yield changed("place-outside", "index beyond the number of records", lambda d: d.update(index=13))
    yield changed("path-changed", "one bit of the path", lambda d: d["path"].__setitem__(1, flip(d["path"][1])))
    yield changed("path-short", "an item too few", lambda d: d["path"].pop())
    yield changed("path-long", "an item too many", lambda d: d["path"].append(d["path"][0]))
    yield changed(
        "path-of-another-record", "path and record do not belong together", lambda d: d.update(path=other["path"])
    )
    yield changed(
        "node-as-record",
        "an inner node passed off as a record",
        lambda d: d.update(record=b64(b"\x01" + bytes(64)), path=d["path"][1:]),
    )
    yield changed(
        "evidence-layer-changed",
        "the layer is not the one that the manifest names",
        lambda d: d.update(evidenceLayer=flip(d["evidenceLayer"], 600)),
    )
    s = Stage()
    sealed = s.seal(records=[3, 2], segments=[s.unit.open_segment(), s.unit.open_segment()])
    moved = [replace(part, ranges=ranges) for part, ranges in zip(sealed.segments, [((0, 1),), ((2, 4),)], strict=True)]
    yield case(
        "record-in-another-segment",
        "the evidence moves the record to another segment",
        edited(document(s.unit, sealed, 2), lambda d: d.update(evidence=b64(plain_evidence(sealed, segments=moved)))),
    )
    s = Stage()
    sealed = s.seal(records=3)
    lied = document(s.unit, sealed, 1)
    lied["index"] = 2
    yield case("record-at-another-place", "a record at the place of the next one", lied)
    s = Stage()
    renumbered = s.seal(records=3, segments=[replace(s.unit.open_segment(), ranges=((5, 7),))], ends=(5, 7))
    yield case(
        "record-of-another-number",
        "the device names other numbers for its records than they have",
        document(s.unit, renumbered, 1),
    )


DETECTOR = (
    Tensor(name="boxes", shape=(-1, 4), dtype="float32"),
    Tensor(name="grid", shape=(1, -1, -1), dtype="uint8"),
    Tensor(name="count", shape=(), dtype="int32"),
)
FOUND = [bytes(range(32)), b"abcdef", b"\2\0\0\0"]
SHAPES: list[Any] = [[2, 4], [1, 2, 3], None]


def record_case(
    name: str, comment: str, outputs: list[bytes], *, tensors: tuple[Tensor, ...] = DETECTOR, **more: Any
) -> Case:
    """A kit that its device signed, with one record of its own making."""
    s = Stage()
    segment = s.unit.open_segment(outputs=tensors)
    row = encode_record(s.unit.next_n, 1_770_087_601_000_000_000, 2_000_000_000, 150_001, outputs, **more)
    s.unit.next_n += 1
    return case(name, comment, document(s.unit, s.seal(segments=[segment], rows=[row], hidden=True)))


def records() -> Iterator[Case]:
    """Records of every form that their segment allows."""
    yield record_case("detector", "two outputs that vary and one of rank 0", FOUND, shapes=SHAPES)
    nothing = [b"", b"", bytes(4)]
    yield record_case(
        "nothing-found", "outputs that vary, without an element", nothing, shapes=[[0, 4], [1, 2, 0], None]
    )
    yield record_case(
        "doubtful-clock", "the record says that its clock was doubtful", [b"ab"], tensors=OUTPUTS, flags=1
    )


def step_11_records() -> Iterator[Case]:
    """Signed by the device, and still no record of its segment."""

    def fixed(name: str, comment: str, outputs: list[bytes], **more: Any) -> Case:
        return record_case(name, comment, outputs, tensors=OUTPUTS, **more)

    def wrong(name: str, comment: str, shapes: list[Any] | None, outputs: list[bytes] = FOUND) -> Case:
        return record_case(name, comment, outputs, shapes=shapes)

    yield fixed("record-flag-unknown", "bit 1 of the flags", [b"ab"], flags=2)
    yield fixed("record-flag-high", "bit 8 of the flags", [b"ab"], flags=257)
    yield fixed("record-shapes-superfluous", "shapes where the header fixes all", [b"ab"], shapes=[[1, 2]])
    yield fixed("record-output-long", "an output longer than its shape", [b"abc"])
    yield fixed("record-output-short", "an output shorter than its shape", [b"a"])
    yield fixed("record-output-missing", "no output", [])
    yield wrong("record-shapes-missing", "nil where outputs vary", None)
    yield wrong("record-shape-missing", "nil for an output that varies", [None, *SHAPES[1:]])
    yield wrong("record-shape-superfluous", "a shape for an output that is fixed", [*SHAPES[:2], []])
    yield wrong("record-shapes-short", "a shape too few", SHAPES[:2])
    yield wrong("record-shape-rank-lower", "one dimension less than the header", [[8], *SHAPES[1:]])
    yield wrong("record-shape-rank-higher", "one dimension more", [[2, 4, 1], *SHAPES[1:]])
    yield wrong("record-shape-fixed", "another size where the header fixes it", [[1, 8], *SHAPES[1:]])
    yield wrong("record-shape-negative", "two sizes below 0", [SHAPES[0], [1, -2, -3], None])
    yield wrong("record-shape-length", "the shape of another length", [[3, 4], *SHAPES[1:]])
    beyond = [SHAPES[0], [1, 2**31, 0], None]
    yield wrong("record-shape-beyond", "a size of 2^31", beyond, [FOUND[0], b"", FOUND[2]])


def step_12() -> Iterator[Case]:
    def shaped(name: str, comment: str, **options: object) -> Case:
        return model_case(
            name,
            comment,
            lambda s: [s.world.sign_model(signer=pki.publisher_certificate(s.world.publisher_root, **options))],
        )

    yield model_case("model-unsigned", "nobody signed the model", lambda s: [])
    s = Stage()
    yield case(
        "model-of-another-digest",
        "the proof shows another model than the kit names",
        s.doc(model=s.world.make_model("other", b"other")),
    )
    yield model_case(
        "model-other-ca",
        "publisher of another CA",
        lambda s: [s.world.sign_model(signer=pki.publisher_certificate(pki.root("Foreign")))],
    )
    yield model_case(
        "model-ca-of-the-same-name",
        "another CA under the same name",
        lambda s: [s.world.sign_model(signer=pki.publisher_certificate(pki.root("Acme Publisher Root", seed="twin")))],
    )
    yield model_case(
        "model-signed-by-device", "the device CA used for a model", lambda s: [s.world.sign_model(signer=s.unit.tpm)]
    )
    yield model_case(
        "model-signed-by-collector",
        "a collector of the publishers' CA, where every name may publish",
        lambda s: [s.world.sign_model(signer=s.world.collector)],
        trust="one-ca",
    )
    yield model_case(
        "model-signed-by-roster",
        "one CA for both by mistake: a roster signer is no publisher",
        lambda s: [s.world.sign_model(signer=s.world.roster)],
        trust="one-ca",
    )
    yield model_case(
        "model-device-under-publisher-anchor",
        "one CA for both by mistake: a device is no publisher",
        lambda s: [s.world.sign_model(signer=s.unit.tpm)],
        trust="one-ca",
    )
    yield model_case(
        "model-kit-statement",
        "a device's kind of statement on a model, signed by the publisher",
        lambda s: [
            sign_bundle(
                s.world.model.descriptor,
                s.seal().statement.replace(s.unit.sealed[-1].digest.hex.encode(), s.world.model.digest.hex.encode()),
                s.world.publisher,
                SLSA_PROVENANCE,
            )
        ],
    )
    yield model_case(
        "model-wrong-identity",
        "a publisher whom the policy does not list",
        lambda s: [
            s.world.sign_model(
                signer=pki.publisher_certificate(s.world.publisher_root, "https://acme.example/models/evil")
            )
        ],
    )
    yield model_case(
        "model-no-identities", "the policy lists no publisher", lambda s: [s.world.sign_model()], trust="no-identities"
    )
    yield model_case(
        "model-no-anchor", "no publisher anchor in the policy", lambda s: [s.world.sign_model()], trust="no-publisher"
    )
    limit = x509.NameConstraints([x509.UniformResourceIdentifier("acme.example")], None)

    def limited(s: Stage) -> list[SignatureArtifact]:
        above = s.world.publisher_root.issue(pki.name("Limited"), ca=True, extra=[(limit, False)])
        leaf = pki.publisher_certificate(above)
        return [bundle(s.world.model, chain_of(*leaf.certificate_chain[:2]), leaf.key)]

    yield model_case(
        "model-ca-name-constraints", "an intermediate with name constraints that are not critical", limited
    )
    yield shaped("model-certificate-expired", "expired at the judged time", end=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    yield shaped("model-certificate-not-yet", "not valid yet", start=dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    yield shaped(
        "model-certificate-client-auth", "extended key usage for TLS clients", eku=[ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    yield shaped(
        "model-certificate-no-signature", "key usage without digitalSignature", usage=pki.key_usage(key_agreement=True)
    )
    yield shaped("model-certificate-usage-not-critical", "key usage not critical", usage_critical=False)
    yield shaped(
        "model-certificate-critical-unknown",
        "unknown critical extension",
        extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)],
    )
    yield shaped(
        "model-certificate-two-names",
        "two names in one certificate",
        san=[x509.UniformResourceIdentifier("https://acme.example/models"), x509.RFC822Name("eve@example.com")],
    )

    def false_ca(s: Stage) -> list[SignatureArtifact]:
        leaf = pki.publisher_certificate(s.world.publisher, "https://acme.example/models")
        return [bundle(s.world.model, chain_of(*leaf.certificate_chain), leaf.key)]

    yield model_case("model-leaf-as-ca", "a publisher's certificate issues another", false_ca)

    def too_deep(s: Stage) -> list[SignatureArtifact]:
        first = s.world.publisher_root.issue(pki.name("CA 1"), ca=True, path_length=0)
        leaf = pki.publisher_certificate(first.issue(pki.name("CA 2"), ca=True))
        return [bundle(s.world.model, chain_of(*leaf.certificate_chain), leaf.key)]

    yield model_case("model-path-length", "more CAs than the path length allows", too_deep)
    yield model_case(
        "model-key-not-listed",
        "a key that the policy does not hold",
        lambda s: [bundle(s.world.model, {"publicKey": {"hint": ""}}, PUBLISHER_KEY)],
    )
    yield model_case(
        "model-sig-tag-other-digest",
        "cosign v2 payload of another artifact",
        lambda s: [simple(s.world.model, PUBLISHER_KEY, digest="sha256:" + "0" * 64)],
        trust="keys",
    )
    yield model_case(
        "model-sig-tag-other-kind",
        "cosign v2 payload of another kind",
        lambda s: [simple(s.world.model, PUBLISHER_KEY, kind="atomic container signature")],
        trust="keys",
    )
    yield model_case(
        "model-bundle-moved",
        "the bundle of another model",
        lambda s: [s.world.sign_model(s.world.make_model("other", b"other"))],
    )
    yield model_case(
        "model-notation-moved",
        "the JWS of another model",
        lambda s: [sign_notation(s.world.make_model("other", b"other").descriptor, s.world.publisher)],
    )
    yield model_case("model-notation-none", "a JWS with algorithm none", lambda s: [_other_algorithm(s, "none")])
    yield model_case(
        "model-notation-es384", "a JWS whose algorithm is not the key's", lambda s: [_other_algorithm(s, "ES384")]
    )
    yield model_case(
        "model-two-materials",
        "certificate and key in one bundle",
        lambda s: [
            bundle(
                s.world.model,
                {"publicKey": {"hint": ""}, "certificate": {"rawBytes": b64(s.world.publisher.der)}},
                s.world.publisher.key,
            )
        ],
    )
    yield model_case(
        "model-publisher-denied",
        "the publisher's CA is on the deny list",
        lambda s: [s.world.sign_model()],
        trust="publisher-denied",
    )
    yield model_case(
        "model-statement-of-two-minds",
        "duplicate key in the signed statement",
        lambda s: [
            bundle(
                s.world.model,
                {"certificate": {"rawBytes": b64(s.world.publisher.der)}},
                s.world.publisher.key,
                statement=encode_model_statement(s.world.model.digest).replace(
                    b'{"_type"', b'{"predicateType":"x","_type"', 1
                ),
            )
        ],
    )


def _other_algorithm(s: Stage, algorithm: str) -> SignatureArtifact:
    import base64

    good = sign_notation(s.world.model.descriptor, s.world.publisher)
    document_ = json.loads(good.blob)
    header = json.loads(base64.urlsafe_b64decode(document_["protected"] + "=="))
    document_["protected"] = (
        base64.urlsafe_b64encode(json.dumps(header | {"alg": algorithm}).encode()).rstrip(b"=").decode()
    )
    blob = json.dumps(document_).encode()
    manifest = build_manifest(
        config=good.manifest.config, layers=[describe(blob, "application/jose+json")], subject=s.world.model.descriptor
    )
    return SignatureArtifact(manifest=manifest, blob=blob)


def _config_data() -> str:
    return json.loads(Stage().seal().manifest.raw)["config"]["data"]


def malformed() -> Iterator[Case]:
    """Not a proof at all: no step is reached."""
    doc = Stage().doc()
    yield case("format-version", "another version", edited(doc, lambda d: d.update(v=2)))
    yield case("format-media-type", "another media type", edited(doc, lambda d: d.update(mediaType="application/json")))
    yield case("format-no-kit", "no kit", edited(doc, lambda d: d.pop("kit")))
    yield case(
        "format-base64", "base64 without padding", edited(doc, lambda d: d.update(record=d["record"].rstrip("=") + "A"))
    )
    yield case(
        "format-path-item", "an item of the path with 31 bytes", edited(doc, lambda d: d.update(path=[b64(bytes(31))]))
    )
    yield case(
        "format-kit-is-a-model",
        "the model's manifest in the place of the kit's",
        edited(doc, lambda d: d["kit"].update(manifest=d["model"]["manifest"])),
    )
    for name, comment, subject in (
        ("other", "the kit's subject is another model than its annotation names", describe(b"x", OCI_MANIFEST)),
        ("signature", "the kit's subject is a signature of its model", Stage().world.sign_model().manifest.descriptor),
    ):
        s = Stage()
        described = encode_descriptor(subject)
        sealed = s.seal(edit=lambda manifest, described=described: manifest.update(subject=described))
        yield case(f"format-subject-{name}", comment, s.doc(sealed))

    def lie(data: str, layer: int | None = None) -> Callable[[dict], object]:
        def edit(manifest: dict) -> None:
            (manifest["config"] if layer is None else manifest["layers"][layer])["data"] = data

        return edit

    for name, comment, edit in (
        ("config", "the kit's config stands in its descriptor with one byte changed", lie(flip(_config_data()))),
        ("evidence", "other bytes than the evidence stand in its descriptor", lie("e30=", -1)),
        ("text", "what stands in the descriptor of the config is no base64", lie("{}")),
        (
            "number",
            "a number stands in the descriptor of the config",
            lambda manifest: manifest["config"].update(data=1),
        ),
    ):
        s = Stage()
        yield case(f"format-data-{name}", comment, s.doc(s.seal(edit=edit)))
    yield case(
        "format-evidence",
        "evidence with a byte behind it",
        edited(doc, lambda d: d.update(evidence=b64(__import__("base64").b64decode(d["evidence"]) + b"\x00"))),
    )
    yield from malformed_evidence()


def malformed_evidence() -> Iterator[Case]:
    """An evidence part that contradicts itself; its layer and signature are not looked at before."""
    s = Stage()
    sealed = s.seal(records=[3, 2], segments=[s.unit.open_segment(), s.unit.open_segment()])
    one, two = sealed.segments
    full = OpenSegment(
        number=7, header=b"b" * 32, slot="left", first=1, last=2, leaf=bytes(32), least_ns=1, greatest_ns=2
    )
    empty = OpenSegment(number=7, header=b"a" * 32, slot="left")
    stop = Stop(slot="left", header=bytes(32), after=4, resumed=9, bound_ms=1000, at_ns=1)
    event = DeviceEvent(kind="activate", at_ns=1, mono_ns=1)

    def segments(name: str, comment: str, *parts: SegmentEvidence) -> tuple[str, str, bytes]:
        return name, comment, plain_evidence(sealed, segments=parts)

    def standing(name: str, comment: str, *listed: OpenSegment, **more: object) -> tuple[str, str, bytes]:
        values = {"at_ns": 1, "newest": bytes(32), "open": listed} | more
        return name, comment, plain_evidence(sealed, standing=Standing(**values))  # type: ignore[arg-type]

    def events(name: str, comment: str, *rows: DeviceEvent) -> tuple[str, str, bytes]:
        return name, comment, plain_evidence(sealed, events=rows)

    plain = plain_evidence(sealed)
    for name, comment, evidence in (
        segments("ranges-touch", "two ranges that are one", replace(one, ranges=((0, 1), (2, 2))), two),
        segments("ranges-fall", "ranges out of order", replace(one, ranges=((2, 2), (0, 0))), two),
        segments("range-backwards", "a range that ends before it starts", replace(one, ranges=((2, 0),)), two),
        segments("record-in-two-segments", "a record number in two segments", replace(one, ranges=((0, 3),)), two),
        segments(
            "record-in-three-ranges", "the same segment's numbers again", one, replace(two, ranges=((0, 0), (3, 4)))
        ),
        segments(
            "unused-and-used",
            "a number that was never given, and yet has a record",
            replace(one, unused=((2, 2),)),
            two,
        ),
        segments("unused-in-a-range", "unused numbers within a range", replace(one, unused=((1, 5),)), two),
        segments("pcrs-fall", "PCR values out of order", with_pcrs(one, (14, bytes(32)), (4, bytes(32))), two),
        segments("pcr-short", "a PCR value of 20 bytes", with_pcrs(one, (14, bytes(20))), two),
        standing("open-final", "final, and yet a segment is open", empty, final=True),
        standing("open-final-full", "final, and yet records are in no kit", full, final=True),
        standing("open-without-newest", "open segments, and no newest header", empty, newest=None),
        standing("open-without-newest-full", "open records, and no newest header", full, newest=None),
        standing("open-fall", "open segments out of order", full, empty),
        standing("open-twice", "an open segment twice", full, full),
        standing("open-without-leaf", "records without the leaf of the last one", replace(full, leaf=None)),
        standing("open-without-times", "records without their times", replace(full, least_ns=None, greatest_ns=None)),
        standing("open-leaf-of-nothing", "no record, and yet a leaf", replace(empty, leaf=bytes(32))),
        standing("open-doubt-of-nothing", "no record, and yet a doubt of its time", replace(empty, flags=1)),
        standing("open-records-fall", "the first record behind the last", replace(full, first=3)),
        standing("open-flags", "unknown flags of an open segment", replace(full, flags=2)),
        standing("stop-resumed", "a stop after which a number is given again", stops=(replace(stop, resumed=4),)),
        standing(
            "stop-resumed-before", "a stop after which an earlier number is given", stops=(replace(stop, resumed=0),)
        ),
        standing("stop-slot", "a stop of no slot", stops=(replace(stop, slot="Left"),)),
        events("event-kind", "the kind of an event in capitals", replace(event, kind="Activate")),
        events("event-flags", "unknown flags of an event", replace(event, flags=2)),
        events("event-slot", "an event of no slot", replace(event, slot="")),
        ("evidence-version", "another version of the evidence", plain.replace(b"\xa1v\x01", b"\xa1v\x02")),
        ("evidence-key", "an unknown key in the evidence", plain.replace(b"\xa6events", b"\xa6eventz")),
    ):
        assert evidence != plain, name
        yield case(name, comment, edited(s.doc(sealed), lambda d, evidence=evidence: d.update(evidence=b64(evidence))))


def with_pcrs(segment: SegmentEvidence, *pcrs: tuple[int, bytes]) -> SegmentEvidence:
    assert segment.quote is not None
    return replace(segment, quote=replace(segment.quote, pcrs=pcrs))


def all_proof() -> Iterator[tuple[int, Case]]:
    yield from ((0, item) for item in (*accepted(), *records()))
    yield from ((11, item) for item in (*step_11(), *step_11_records()))
    yield from ((12, item) for item in step_12())
    yield from ((-1, item) for item in malformed())
