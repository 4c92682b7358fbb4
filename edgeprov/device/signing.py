# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The device's signature on what it sends: counter, quote, statement, bundle and notation envelope.

One group of TPM commands per artifact, never on the inference path: NV_Increment before the manifest
is built (it holds the number), then NV_Certify and Quote over the manifest's digest, then the
signatures. What is returned is not stored yet.

Spec: FORMAT.md sections "Statement" and "Signatures".
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from edgeprov import __version__
from edgeprov._dataclass import dataclass
from edgeprov.device.event_log import quote_with_log
from edgeprov.device.identity import load_assurance, load_certificates, verify_own_name
from edgeprov.formats.bundle import build_bundle, build_signature_manifest
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import Digest
from edgeprov.formats.envelope import pae_digest
from edgeprov.formats.jws import (
    build_notation_manifest,
    encode_jws,
    encode_notation_payload,
    encode_notation_protected,
    signing_input,
)
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import (
    EMPTY_BLOB,
    IN_TOTO_PAYLOAD,
    JOSE,
    SIGSTORE_BUNDLE,
    SLSA_PROVENANCE,
    TOMBSTONE_PREDICATE,
)
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.formats.statement import SealedKit, SealEvidence, encode_kit_statement, encode_tombstone_statement
from edgeprov.formats.tpmt import parse_attest

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.layout import Layout
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature artifact: its manifest and all its blobs, with their media types."""

    manifest: Manifest
    blobs: tuple[tuple[bytes, str], ...]


class DeviceSigner:
    """Signs artifacts of this device. Fails at once where there is no certificate to sign under."""

    def __init__(self, context: Context, state: State, tpm: Tpm) -> None:
        """Load the certificate chain.

        Raises:
            IdentityError: The device has no certificate yet, or name and identity do not belong together.
        """
        self._context = context
        self._tpm = tpm
        self._chain = load_certificates(state)
        self._assurance = load_assurance(state)
        verify_own_name(context, state, tpm)

    def sign_kit(
        self, manifest: Manifest, *, model: Digest, slot: str, seq: int, started_ns: int | None
    ) -> tuple[list[Signature], int]:
        """All signatures of a data kit, and the TPM's clock (milliseconds) as of its quote.

        Args:
            manifest: The kit's manifest.
            model: Its source model.
            slot: Its slot.
            seq: The counter's value, which is also in the manifest.
            started_ns: Wall clock of the first record; None in a kit of labels only.
        """
        now_ns = time.time_ns()
        item, clock_ms = self._attest(manifest.digest, seq)
        statement = encode_kit_statement(
            item,
            model=model,
            slot=slot,
            device=self._context.urn,
            assurance=self._assurance,
            version=__version__,
            started_on=rfc3339_of_ns(now_ns if started_ns is None else started_ns),
            finished_on=rfc3339_of_ns(now_ns),
        )
        return self._signatures(manifest, statement, SLSA_PROVENANCE, now_ns), clock_ms

    def sign_tombstone(self, manifest: Manifest, *, model: Digest, slot: str, seq: int) -> tuple[list[Signature], int]:
        """All signatures of a tombstone, and the TPM's clock as of its quote."""
        now_ns = time.time_ns()
        item, clock_ms = self._attest(manifest.digest, seq)
        statement = encode_tombstone_statement(
            item,
            model=model,
            slot=slot,
            device=self._context.urn,
            assurance=self._assurance,
            version=__version__,
            created=rfc3339_of_ns(now_ns),
        )
        return self._signatures(manifest, statement, TOMBSTONE_PREDICATE, now_ns), clock_ms

    def _attest(self, digest: Digest, seq: int) -> tuple[SealedKit, int]:
        """NV_Certify and Quote over a manifest's digest, before the counter moves again."""
        counter = self._tpm.certify_counter(digest.raw)
        quote, log = quote_with_log(self._context, self._tpm, digest.raw)
        shown = parse_attest(quote.attest)
        evidence = SealEvidence(quote=quote, counter=counter, log=log)
        return SealedKit(digest=digest, seq=seq, reset_count=shown.reset_count, evidence=evidence), shown.clock_ms

    def _signatures(self, manifest: Manifest, statement: bytes, predicate_type: str, now_ns: int) -> list[Signature]:
        created = rfc3339_of_ns(now_ns)
        # The bundle is always made: it carries the TPM's evidence. notation is a second view.
        bundle = build_bundle(
            statement=statement,
            signature_der=self._tpm.sign_digest(pae_digest(IN_TOTO_PAYLOAD, statement)),
            certificate=self._chain[0],
        )
        referrer = build_signature_manifest(manifest.descriptor, bundle, predicate_type, created)
        result = [
            Signature(manifest=referrer, blobs=((bundle, SIGSTORE_BUNDLE), (EMPTY_BLOB, referrer.config.media_type)))
        ]
        if "notation" in self._context.config.seal.signatures:
            result.append(self._notation(manifest, created))
        return result

    def _notation(self, manifest: Manifest, created: str) -> Signature:
        payload = encode_notation_payload(manifest.descriptor)
        protected = encode_notation_protected(created)
        digest = hashlib.sha256(signing_input(protected, payload)).digest()
        jws = encode_jws(
            payload=payload,
            protected=protected,
            signature_der=self._tpm.sign_digest(digest),
            certificates=self._chain,
            agent=f"edgeprov/{__version__}",
        )
        referrer = build_notation_manifest(manifest.descriptor, describe(jws, JOSE), self._chain, created)
        return Signature(manifest=referrer, blobs=((jws, JOSE), (EMPTY_BLOB, referrer.config.media_type)))


def save_signatures(layout: Layout, signatures: list[Signature]) -> None:
    """Store signature artifacts; call within the batch that stores what they sign.

    Raises:
        StoreError: The layout cannot be written.
    """
    for signature in signatures:
        for data, media_type in signature.blobs:
            layout.save_blob(data, media_type)
        layout.save_manifest(signature.manifest)
