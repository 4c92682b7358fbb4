# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures on OCI artifacts, in the forms that cosign v2, cosign v3 and notation write.

Two questions, two trust roots, and never one answer for the other: did a trusted *publisher* sign
this model, and did an enrolled *device* sign this kit. The subject is always the digest that the
caller computed over the manifest's bytes. Any one good signature is enough; bad ones beside it are
ignored, so that nobody can block an artifact by adding rubbish to it.

Spec: FORMAT.md "Signatures"; tests/interop holds it against the real tools.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import EdgeprovError, FormatError, SignatureInvalid, SignerUntrusted, SubjectMismatch
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.bundle import Bundle, parse_bundle
from edgeprov.formats.digest import digest_of, parse_digest
from edgeprov.formats.envelope import pae
from edgeprov.formats.in_toto import Statement, parse_statement
from edgeprov.formats.jsonx import get_object, get_str, parse_json_object
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import (
    COSIGN_CERTIFICATE,
    COSIGN_CHAIN,
    COSIGN_SIGN_PREDICATE,
    COSIGN_SIGNATURE,
    COSIGN_SIMPLE_SIGNING,
    JOSE,
    NOTATION_SIGNATURE,
    SIGSTORE_BUNDLE,
)
from edgeprov.formats.rfc3339 import parse_rfc3339
from edgeprov.limits import LIMITS
from edgeprov.verify.certificates import parse_pem_certificates
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.public_keys import verify_jws, verify_message
from edgeprov.verify.signer_identity import SignerIdentity
from edgeprov.verify.x509path import verify_chain

if TYPE_CHECKING:
    from edgeprov.formats.jws import Jws

Signing = Literal["device", "enroller", "roster"]
"""Whose bundles lead to the device anchors."""
_R = TypeVar("_R")
_SIMPLE_SIGNING_TYPE = "cosign container image signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureArtifact:
    """A signature as found: its manifest, and the bytes of one layer (a ``.sig`` tag gives one artifact per layer)."""

    manifest: Manifest = field(repr=False)
    blob: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement:
    """A statement whose signature and signer were verified."""

    statement: Statement
    identity: SignerIdentity
    signed_before: dt.datetime | None = None
    """Time proved by a trusted timestamp over the signature, or None."""


def verify_model_signature(
    manifest: Manifest, signatures: Sequence[SignatureArtifact], policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    """A trusted publisher signed this model kit.

    Args:
        manifest: The model kit's manifest; its digest was computed over the bytes at hand.
        signatures: All that was found for it: bundles, ``.sig`` layers, JWS envelopes.
        policy: Whom to trust.
        at: Time at which certificates are judged: the build time of the image, not a device clock.

    Returns:
        The publisher.

    Raises:
        SignatureInvalid: None, or none that fits.
        SubjectMismatch: A signature of another artifact.
        SignerUntrusted: Signed, but by nobody whom the policy trusts.
        PolicyDenied: The model or its publisher is on the deny list.
    """

    def one(artifact: SignatureArtifact) -> SignerIdentity:
        return _verify_model_artifact(manifest, artifact, policy, at)

    policy.verify_model_allowed(manifest.digest)
    return _any(signatures, one, f"model kit {manifest.digest}")


def verify_kit_signature(
    manifest: Manifest,
    signatures: Sequence[SignatureArtifact],
    policy: TrustPolicy,
    at: dt.datetime,
    *,
    intermediates: Sequence[bytes] = (),
    predicate_types: Sequence[str],
    purpose: Signing = "device",
) -> SignedStatement:
    """A certificate of the device CA signed a statement with this artifact as subject.

    Args:
        manifest: The kit, tombstone or device record.
        signatures: All that was found for it; only bundles count.
        policy: Whom to trust.
        at: Time at which certificates are judged.
        intermediates: DER of CA certificates between leaf and anchor, from the device record.
        predicate_types: What the statement may be.
        purpose: ``device``, ``enroller`` or ``roster``.

    Raises:
        SignatureInvalid: None, or none that fits.
        SubjectMismatch: A statement about another artifact.
        SignerUntrusted: Signed, but by nobody whom the policy trusts.
        PolicyDenied: The signer is on the deny list.
    """

    def one(artifact: SignatureArtifact) -> SignedStatement:
        return _verify_device_bundle(
            manifest, artifact, policy, at, tuple(intermediates), frozenset(predicate_types), purpose
        )

    bundles = [item for item in signatures if signature_kind(item.manifest) == "bundle"]
    # A stamped copy of a bundle stands beside the original and proves more: it goes first.
    bundles.sort(key=lambda item: b'"rfc3161Timestamps"' not in item.blob)
    return _any(bundles, one, f"{purpose} artifact {manifest.digest}")


def signature_kind(manifest: Manifest) -> str | None:
    """``bundle``, ``notation``, ``simple`` (cosign v2), or None for a referrer that is no signature."""
    if manifest.artifact_type == SIGSTORE_BUNDLE:
        return "bundle"
    if NOTATION_SIGNATURE in (manifest.artifact_type, manifest.config.media_type):
        return "notation"
    if any(layer.media_type == COSIGN_SIMPLE_SIGNING for layer in manifest.layers):
        return "simple"
    return None


def _any(artifacts: Sequence[SignatureArtifact], one: Callable[[SignatureArtifact], _R], what: str) -> _R:
    if len(artifacts) > LIMITS.signatures_per_artifact:
        artifacts = artifacts[: LIMITS.signatures_per_artifact]
    worst: EdgeprovError | None = None
    for artifact in artifacts:
        try:
            return one(artifact)
        except EdgeprovError as error:
            worst = error if worst is None else _more_useful(worst, error)
    if worst is None:
        raise SignatureInvalid(f"{what} has no signature")
    if isinstance(worst, FormatError):
        raise SignatureInvalid(f"{what} has no usable signature: {worst.message}") from worst
    raise worst


def _more_useful(first: EdgeprovError, second: EdgeprovError) -> EdgeprovError:
    """The error to tell: an untrusted signer over another subject over damaged bytes; of equals the first."""
    return second if second.exit_code > first.exit_code else first


def _verify_model_artifact(
    manifest: Manifest, artifact: SignatureArtifact, policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    kind = signature_kind(artifact.manifest)
    if kind == "notation":
        return _verify_notation(manifest, artifact, policy, at)
    if kind == "simple":
        return _verify_simple(manifest, artifact, policy, at)
    if kind != "bundle":
        raise SignatureInvalid("not a signature in a form that edgeprov reads")
    bundle = _bundle_of(manifest, artifact)
    message = pae(bundle.payload_type, bundle.payload)
    identity = _publisher_of(bundle, message, policy, at)
    _verify_statement(manifest, bundle, frozenset((COSIGN_SIGN_PREDICATE,)))
    return identity


def _publisher_of(bundle: Bundle, message: bytes, policy: TrustPolicy, at: dt.datetime) -> SignerIdentity:
    if bundle.kind == "key":
        return _verify_with_keys(policy, bundle.signature, message)
    proved = _proved_time(bundle.signature, bundle.timestamps, policy)
    anchors = policy.publisher_anchors
    identity = verify_chain(bundle.certificates[0], bundle.certificates[1:], anchors, proved or at, "publisher")
    verify_message(identity.spki, bundle.signature, message, "bundle signature")
    policy.verify_signer("publisher", identity, proved)
    return identity


def _proved_time(signature: bytes, stamps: Sequence[bytes], policy: TrustPolicy) -> dt.datetime | None:
    if not stamps:
        return None
    from edgeprov.verify.timestamp_check import proved_time

    return proved_time(signature, stamps, policy)


def _verify_device_bundle(
    manifest: Manifest,
    artifact: SignatureArtifact,
    policy: TrustPolicy,
    at: dt.datetime,
    intermediates: tuple[bytes, ...],
    predicate_types: frozenset[str],
    purpose: Signing,
) -> SignedStatement:
    bundle = _bundle_of(manifest, artifact)
    if bundle.kind == "key":
        raise SignerUntrusted("a device signature without certificate names no signer")
    chain = (*bundle.certificates[1:], *intermediates)
    from edgeprov.verify.timestamp_check import required_time

    signed_before = required_time(bundle.signature, bundle.timestamps, policy)
    identity = verify_chain(bundle.certificates[0], chain, policy.device_anchors, signed_before or at, purpose)
    verify_message(identity.spki, bundle.signature, pae(bundle.payload_type, bundle.payload), "bundle signature")
    if purpose == "device":
        policy.verify_not_denied(identity, signed_before)
    else:
        policy.verify_signer(purpose, identity, signed_before)
    statement = _verify_statement(manifest, bundle, predicate_types)
    return SignedStatement(statement=statement, identity=identity, signed_before=signed_before)


def _bundle_of(manifest: Manifest, artifact: SignatureArtifact) -> Bundle:
    _layers_of(artifact, SIGSTORE_BUNDLE)
    if artifact.manifest.subject is None or artifact.manifest.subject.digest != manifest.digest:
        raise SubjectMismatch(f"the signature hangs on another artifact, not on {manifest.digest}")
    return parse_bundle(artifact.blob)


def _verify_statement(manifest: Manifest, bundle: Bundle, predicate_types: frozenset[str]) -> Statement:
    statement = parse_statement(bundle.payload)
    if manifest.digest not in statement.subjects:
        raise SubjectMismatch(f"the signed statement is about {statement.subjects[0]}, not about {manifest.digest}")
    if statement.predicate_type not in predicate_types:
        raise SubjectMismatch(f"a statement of type {statement.predicate_type[:100]!r} does not vouch for this")
    return statement


def _verify_notation(
    manifest: Manifest, artifact: SignatureArtifact, policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    from edgeprov.formats.jws import parse_jws

    _layers_of(artifact, JOSE)
    jws = parse_jws(artifact.blob)
    proved = _proved_time(jws.signature, () if jws.timestamp is None else (jws.timestamp,), policy)
    anchors = policy.publisher_anchors
    identity = verify_chain(jws.certificates[0], jws.certificates[1:], anchors, proved or at, "publisher")
    verify_jws(identity.spki, jws.algorithm, jws.signature, jws.signing_input)
    _verify_target(manifest, jws)
    if jws.expiry is not None and at > parse_rfc3339(jws.expiry):
        raise SignerUntrusted(f"the notation signature expired on {jws.expiry}")
    policy.verify_signer("publisher", identity, proved)
    return identity


def _verify_target(manifest: Manifest, jws: Jws) -> None:
    expected = manifest.descriptor
    if (jws.target.digest, jws.target.size) != (expected.digest, expected.size):
        raise SubjectMismatch(f"the notation signature is about {jws.target.digest}, not about {manifest.digest}")
    if jws.target.media_type != expected.media_type:
        raise SubjectMismatch("the notation signature is about another media type")


def _verify_simple(
    manifest: Manifest, artifact: SignatureArtifact, policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    # Two signers of one manifest sign the same payload: two layers with one digest, told apart by annotations only.
    worst: EdgeprovError | None = None
    for notes in _layers_of(artifact, COSIGN_SIMPLE_SIGNING):
        try:
            return _verify_simple_layer(manifest, artifact.blob, notes, policy, at)
        except EdgeprovError as error:
            worst = error if worst is None else _more_useful(worst, error)
    assert worst is not None  # noqa: S101 - there is a layer
    raise worst


def _verify_simple_layer(
    manifest: Manifest, blob: bytes, notes: Mapping[str, str], policy: TrustPolicy, at: dt.datetime
) -> SignerIdentity:
    signature = parse_b64(notes.get(COSIGN_SIGNATURE, ""), "cosign signature")
    leaf = notes.get(COSIGN_CERTIFICATE)
    if leaf:
        certificates = parse_pem_certificates(leaf.encode(), "cosign certificate")
        chain = notes.get(COSIGN_CHAIN)
        above = parse_pem_certificates(chain.encode(), "cosign chain") if chain else ()
        identity = verify_chain(certificates[0], (*certificates[1:], *above), policy.publisher_anchors, at, "publisher")
        verify_message(identity.spki, signature, blob, "cosign signature")
        policy.verify_signer("publisher", identity)
    else:
        identity = _verify_with_keys(policy, signature, blob)
    payload = parse_json_object(blob, "cosign payload", max_bytes=LIMITS.signature_blob_bytes)
    critical = get_object(payload, "critical", "cosign payload")
    if get_str(critical, "type", "cosign payload") != _SIMPLE_SIGNING_TYPE:
        raise SubjectMismatch("the signed payload is not a cosign container image signature")
    named = get_str(get_object(critical, "image", "cosign payload"), "docker-manifest-digest", "cosign payload")
    if parse_digest(named) != manifest.digest:
        raise SubjectMismatch(f"the cosign signature is about {named}, not about {manifest.digest}")
    return identity


def _verify_with_keys(policy: TrustPolicy, signature: bytes, message: bytes) -> SignerIdentity:
    for spki in policy.publisher_keys:
        try:
            verify_message(spki, signature, message)
        except SignatureInvalid:
            continue
        name = hashlib.sha256(spki).hexdigest()
        policy.verify_key_allowed(name)
        return SignerIdentity(
            san=f"key:sha256:{name}",
            subject="",
            serial="",
            spki=spki,
            not_before=dt.datetime.min.replace(tzinfo=dt.UTC),
            not_after=dt.datetime.max.replace(tzinfo=dt.UTC),
        )
    raise SignerUntrusted("a key signature that fits no publisher key of the trust policy")


def _layers_of(artifact: SignatureArtifact, media_type: str) -> list[Mapping[str, str]]:
    """Annotations of each layer of this type that the bytes are; at least one."""
    digest = digest_of(artifact.blob)
    found = [
        layer.annotations
        for layer in artifact.manifest.layers
        if (layer.media_type, layer.size, layer.digest) == (media_type, len(artifact.blob), digest)
    ]
    if not found:
        raise SignatureInvalid("the signature's bytes are not a layer of its manifest")
    return found[: LIMITS.signatures_per_artifact]
