# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the signature over a kit, a tombstone or a device record says: the predicate of its in-toto statement.

A subject match is an endorsement, so a device names only its own kits as subjects; the model is a
resolved dependency.

Spec: in-toto Attestation Framework, Statement v1; SLSA Provenance v1; FORMAT.md "Statement".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from edgeprov._dataclass import dataclass, field
from edgeprov.errors import FormatError
from edgeprov.formats import packing
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.in_toto import Statement, encode_statement, sha256_of
from edgeprov.formats.jsonx import JsonObject, get_list, get_object, get_str
from edgeprov.formats.mediatypes import (
    BUILD_TYPE,
    DEVICE_PREDICATE,
    EVENT_LOG,
    SLSA_PROVENANCE,
    TOMBSTONE_PREDICATE,
    TPM_COUNTER,
    TPM_QUOTE,
)
from edgeprov.formats.tpmt import Attestation, parse_pcr_values
from edgeprov.limits import LIMITS

_BYPRODUCTS_MAX: Final = 16
_QUOTE_NAME = "tpm-quote"
_COUNTER_NAME = "tpm-counter"
_LOG_NAME = "event-log"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealEvidence:
    """TPM evidence taken at sealing; both attestations carry the kit's manifest digest as extraData.

    Attributes:
        quote: Over the model PCR.
        counter: NV_Certify of the kit counter.
        log: Event log of the boot in which the kit was sealed.
    """

    quote: Attestation
    counter: Attestation
    log: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKit:
    """The subject of a kit's or tombstone's statement: manifest digest, counter value, resetCount and evidence."""

    digest: Digest
    seq: int
    reset_count: int
    evidence: SealEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class KitProvenance:
    """What a kit's or tombstone's statement claims, read from its predicate."""

    model: Digest
    slot: str
    device: str
    assurance: str
    invocation: str
    started_on: str | None
    finished_on: str | None


def encode_kit_statement(
    kit: SealedKit,
    *,
    model: Digest,
    slot: str,
    device: str,
    assurance: str,
    version: str,
    started_on: str,
    finished_on: str,
) -> bytes:
    """The statement over one kit.

    Args:
        kit: Its only subject.
        model: Manifest digest of the source model.
        slot: Slot of the model.
        device: URN of the device.
        assurance: ``dev``, ``firmware`` or ``hardware``.
        version: Of edgeprov.
        started_on: RFC 3339, device clock: first record.
        finished_on: RFC 3339, device clock: sealing.
    """
    return _encode_provenance(kit, SLSA_PROVENANCE, model, slot, device, assurance, version, started_on, finished_on)


def encode_tombstone_statement(
    tombstone: SealedKit,
    *,
    model: Digest,
    slot: str,
    device: str,
    assurance: str,
    version: str,
    created: str,
) -> bytes:
    """The statement over one tombstone: the same predicate under its own type, so that none can pass for a kit's."""
    return _encode_provenance(tombstone, TOMBSTONE_PREDICATE, model, slot, device, assurance, version, created, created)


def encode_device_statement(record: Digest, *, device: str, enroller: str, enrolled_at: str) -> bytes:
    """The enroller's statement over a device record.

    Args:
        record: Manifest digest of the device record.
        device: URN of the device.
        enroller: URN of the enroller.
        enrolled_at: RFC 3339.
    """
    return encode_statement(
        [record], DEVICE_PREDICATE, {"device": device, "enroller": enroller, "enrolledAt": enrolled_at}
    )


def parse_provenance(statement: Statement) -> KitProvenance:
    """Read the predicate of a kit's or tombstone's statement.

    Raises:
        FormatError: Another predicate type or buildType, several subjects, or a member is missing.
    """
    what = "statement"
    if statement.predicate_type not in (SLSA_PROVENANCE, TOMBSTONE_PREDICATE):
        raise FormatError(f"statement has the predicate type {statement.predicate_type[:80]!r}, not a kit's")
    if len(statement.subjects) != 1:
        raise FormatError(f"statement of a kit has {len(statement.subjects)} subjects, not one")
    definition = get_object(statement.predicate, "buildDefinition", what)
    if get_str(definition, "buildType", what) != BUILD_TYPE:
        raise FormatError("statement has a buildType that is not edgeprov's")
    parameters = get_object(definition, "externalParameters", what)
    model = parse_digest(get_str(parameters, "model", what))
    dependencies = get_list(definition, "resolvedDependencies", what, maximum=16)
    models = [item for item in dependencies if isinstance(item, dict) and item.get("name") == "model"]
    if len(models) != 1 or sha256_of(models[0], "statement dependency") != model:
        raise FormatError("statement does not name exactly one model, the same in both places")
    run = get_object(statement.predicate, "runDetails", what)
    metadata = get_object(run, "metadata", what)
    return KitProvenance(
        model=model,
        slot=get_str(parameters, "slot", what),
        device=get_str(get_object(run, "builder", what), "id", what),
        assurance=get_str(get_object(definition, "internalParameters", what), "assurance", what),
        invocation=get_str(metadata, "invocationId", what),
        started_on=metadata.get("startedOn"),
        finished_on=metadata.get("finishedOn"),
    )


def parse_seal_evidence(statement: Statement) -> SealEvidence:
    """The evidence in a kit's or tombstone's statement.

    Raises:
        FormatError: A byproduct is missing, double, or of another media type.
    """
    run = get_object(statement.predicate, "runDetails", "statement")
    byproducts = get_list(run, "byproducts", "statement", maximum=_BYPRODUCTS_MAX)
    return SealEvidence(
        quote=_quote(_find(byproducts, _QUOTE_NAME, TPM_QUOTE)),
        counter=_attestation(_find(byproducts, _COUNTER_NAME, TPM_COUNTER), _COUNTER_NAME),
        log=_find(byproducts, _LOG_NAME, EVENT_LOG),
    )


def invocation_id(reset_count: int, seq: int) -> str:
    """The invocation that a statement names: boot counter and kit counter."""
    return f"{reset_count}.{seq}"


def _encode_provenance(
    kit: SealedKit,
    predicate_type: str,
    model: Digest,
    slot: str,
    device: str,
    assurance: str,
    version: str,
    started_on: str,
    finished_on: str,
) -> bytes:
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"model": str(model), "slot": slot},
            "internalParameters": {"edgeprov": version, "assurance": assurance},
            "resolvedDependencies": [{"name": "model", "digest": {"sha256": model.hex}}],
        },
        "runDetails": {
            "builder": {"id": device},
            "metadata": {
                "invocationId": invocation_id(kit.reset_count, kit.seq),
                "startedOn": started_on,
                "finishedOn": finished_on,
            },
            "byproducts": _byproducts(kit.evidence),
        },
    }
    return encode_statement([kit.digest], predicate_type, predicate)


def _byproducts(evidence: SealEvidence) -> list[JsonObject]:
    quote = packing.pack(
        [evidence.quote.attest, evidence.quote.signature, [list(pair) for pair in evidence.quote.pcrs]]
    )
    counter = packing.pack([evidence.counter.attest, evidence.counter.signature])
    return [
        {"name": name, "mediaType": media_type, "content": b64(content)}
        for name, media_type, content in (
            (_QUOTE_NAME, TPM_QUOTE, quote),
            (_COUNTER_NAME, TPM_COUNTER, counter),
            (_LOG_NAME, EVENT_LOG, evidence.log),
        )
    ]


def _find(byproducts: Sequence[Any], name: str, media_type: str) -> bytes:
    found = [item for item in byproducts if isinstance(item, dict) and item.get("name") == name]
    if len(found) != 1:
        raise FormatError(f"statement has {len(found)} byproducts {name!r}, not one")
    if found[0].get("mediaType") != media_type:
        raise FormatError(f"statement: byproduct {name!r} has another media type")
    return get_b64(found[0], "content", f"byproduct {name}")


def _attestation(packed: bytes, name: str) -> Attestation:
    pair = packing.unpack_pair(packed)  # as every TPM of today gives it
    if pair is not None:
        return Attestation(attest=pair[0], signature=pair[1])
    value = packing.unpack(packed, max_bytes=LIMITS.attestation_bytes, what=f"byproduct {name}")
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(item, bytes) for item in value)):
        raise FormatError(f"byproduct {name} is not an attestation and its signature")
    return Attestation(attest=value[0], signature=value[1])


def _quote(packed: bytes) -> Attestation:
    value = packing.unpack(packed, max_bytes=LIMITS.attestation_bytes, what=f"byproduct {_QUOTE_NAME}")
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(item, bytes) for item in value[:2]):
        raise FormatError(f"byproduct {_QUOTE_NAME} is not an attestation, its signature and PCR values")
    pcrs = parse_pcr_values(value[2], f"byproduct {_QUOTE_NAME}")
    return Attestation(attest=value[0], signature=value[1], pcrs=pcrs)
