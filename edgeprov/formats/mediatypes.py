# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Names that are compared byte for byte: media types, artifact types, annotation keys, type URIs, levels."""

from __future__ import annotations

from typing import Final, Literal

# -- OCI image-spec 1.1 ---------------------------------------------------------------------------
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
EMPTY_BLOB: Final = b"{}"

ANNOTATION_CREATED: Final = "org.opencontainers.image.created"
ANNOTATION_REF_NAME: Final = "org.opencontainers.image.ref.name"

# -- KitOps ModelKit ------------------------------------------------------------------------------
KIT_ARTIFACT: Final = "application/vnd.kitops.modelkit.manifest.v1+json"
KIT_CONFIG: Final = "application/vnd.kitops.modelkit.config.v1+json"
KIT_LAYER_PREFIX: Final = "application/vnd.kitops.modelkit."
KIT_CODE_SUBTYPE: Final = "ml.kitops.modelkit.layer-subtype"
KIT_KITFILE_ANNOTATION: Final = "ml.kitops.modelkit.kitfile"

# -- CNCF ModelPack -------------------------------------------------------------------------------
MODELPACK_CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
MODELPACK_LAYER_PREFIX: Final = "application/vnd.cncf.model."
FILEPATH: Final = "org.cncf.model.filepath"

# -- signatures -----------------------------------------------------------------------------------
SIGSTORE_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_CONTENT: Final = "dev.sigstore.bundle.content"
BUNDLE_PREDICATE_TYPE: Final = "dev.sigstore.bundle.predicateType"
NOTATION_SIGNATURE: Final = "application/vnd.cncf.notary.signature"
NOTATION_PAYLOAD: Final = "application/vnd.cncf.notary.payload.v1+json"
NOTATION_THUMBPRINT: Final = "io.cncf.notary.x509chain.thumbprint#S256"
JOSE: Final = "application/jose+json"
COSIGN_SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
COSIGN_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
COSIGN_CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
COSIGN_CHAIN: Final = "dev.sigstore.cosign/chain"
IN_TOTO_PAYLOAD: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
SLSA_PROVENANCE: Final = "https://slsa.dev/provenance/v1"
COSIGN_SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"

# -- edgeprov -------------------------------------------------------------------------------------
BUILD_TYPE: Final = "https://edgeprov.dev/inference/v1"
TOMBSTONE_PREDICATE: Final = "https://edgeprov.dev/tombstone/v1"
DEVICE_PREDICATE: Final = "https://edgeprov.dev/device/v1"
COLLECTION_PREDICATE: Final = "https://edgeprov.dev/collection/v1"
RECEIPT_PREDICATE: Final = "https://edgeprov.dev/receipt/v1"
ROSTER_PREDICATE: Final = "https://edgeprov.dev/roster/v1"
AUDIT_PREDICATE: Final = "https://edgeprov.dev/audit/v1"
LEDGER_PREDICATE: Final = "https://edgeprov.dev/ledger/v1"
DEVICE_RECORD: Final = "application/vnd.edgeprov.device.v1+json"
ROSTER: Final = "application/vnd.edgeprov.roster.v1+json"
LEDGER: Final = "application/vnd.edgeprov.ledger.v1"
LEDGER_BUNDLES: Final = "application/vnd.edgeprov.ledger.bundles.v1+jsonl"
PARQUET: Final = "application/vnd.apache.parquet"
TOMBSTONE: Final = "application/vnd.edgeprov.tombstone.v1+json"
HEAD: Final = "application/vnd.edgeprov.head.v1+json"
COLLECTION: Final = "application/vnd.edgeprov.collection.v1+json"
COLLECTION_INPUTS: Final = "application/vnd.edgeprov.collection.inputs.v1+jsonl"
TPM_QUOTE: Final = "application/vnd.edgeprov.tpm.quote.v1"
TPM_COUNTER: Final = "application/vnd.edgeprov.tpm.counter.v1"
EVENT_LOG: Final = "application/vnd.edgeprov.event-log.v1+json-seq"

PREFIX: Final = "dev.edgeprov."
A_MODEL: Final = PREFIX + "model"
A_DEVICE: Final = PREFIX + "device"
A_SLOT: Final = PREFIX + "slot"
A_SEQ: Final = PREFIX + "seq"
A_PREV: Final = PREFIX + "prev"
A_RECORDS: Final = PREFIX + "records"
A_LABELS: Final = PREFIX + "labels"
A_FIRST: Final = PREFIX + "first"
A_LAST: Final = PREFIX + "last"
A_RECORDED_FIRST: Final = PREFIX + "recorded.first"
A_RECORDED_LAST: Final = PREFIX + "recorded.last"
A_MERKLE: Final = PREFIX + "merkle"
A_LABELS_MERKLE: Final = PREFIX + "labels.merkle"
A_ENROLLMENT: Final = PREFIX + "enrollment"
A_VERITY: Final = PREFIX + "verity"
A_COLLECTION: Final = PREFIX + "collection"  # on a model: SHA-256 of the statement about what it was trained on
A_SUBJECT: Final = PREFIX + "subject"  # in index.json of a layout: the subject of the entry's manifest, or NO_SUBJECT
NO_SUBJECT: Final = "none"

DEVICE_URN_PREFIX: Final = "urn:edgeprov:device:"
ENROLLER_URN_PREFIX: Final = "urn:edgeprov:enroller:"
ROLE_URN_PREFIXES: Final = {
    "device": DEVICE_URN_PREFIX,
    "enroller": ENROLLER_URN_PREFIX,
    "roster": "urn:edgeprov:roster:",
    "collector": "urn:edgeprov:collector:",
    "importer": "urn:edgeprov:importer:",
}
"""Names in certificates of these purposes begin so; a publisher's name begins with none of them."""

Assurance = Literal["dev", "firmware", "hardware"]
ASSURANCES: Final[tuple[Assurance, ...]] = ("dev", "firmware", "hardware")
