# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every bound on what edgeprov reads or writes, in one place, with unit and source."""

from __future__ import annotations

from typing import Final

from edgeprov.values import dataclass

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes, counts or seconds. Past a bound the input is refused (LimitError)."""

    # -- JSON documents -------------------------------------------------------------------------
    manifest_bytes: int = 4 * MIB  # OCI distribution-spec: the size that registries must accept
    config_bytes: int = 4 * MIB  # a Kitfile of 10,000 dataset entries of about 300 bytes
    json_depth: int = 32
    index_bytes: int = 64 * MIB  # index.json of a layout that holds a whole fleet month
    manifest_layers: int = 10_000
    annotation_bytes: int = 64 * KIB  # all annotations of one manifest together, as read
    kit_annotation_bytes: int = 1 * KIB  # as written by us (design section 3)

    # -- blobs and archives ---------------------------------------------------------------------
    layer_bytes: int = 8 * GIB  # a model layer
    unpacked_bytes: int = 16 * GIB  # all files of one kit
    unpack_ratio: int = 200  # compressed to plain; gzip's own limit is 1,032
    tar_members: int = 100_000
    path_bytes: int = 1_024
    model_bytes: int = 2 * GIB  # a flatbuffer cannot be larger (32-bit offsets)

    # -- data kits ------------------------------------------------------------------------------
    part_bytes: int = 1 * MIB  # default size of a part, compressed (facts: unit of resume)
    part_max_bytes: int = 4 * MIB
    part_plain_bytes: int = 64 * MIB  # a part after decompression
    block_rows: int = 1_024
    record_bytes: int = 16 * MIB  # one record's outputs
    input_bytes: int = 32 * MIB  # one tensor; one captured input tensor
    segment_header_bytes: int = 64 * KIB
    kit_records: int = 100_000_000
    kit_segments: int = 10_000
    tensors: int = 256
    tensor_rank: int = 16
    params_bytes: int = 4 * KIB
    label_bytes: int = 64 * KIB
    slot_bytes: int = 32  # [a-z0-9-]

    # -- signatures and evidence ----------------------------------------------------------------
    signature_blob_bytes: int = 1 * MIB
    signatures_per_artifact: int = 64
    batch_kits: int = 64  # under one statement, as written by us: 80 kB of evidence
    statement_bytes: int = 512 * KIB
    certificate_bytes: int = 16 * KIB
    certificate_chain: int = 5
    attestation_bytes: int = 2 * KIB  # TPM2B_ATTEST; a quote of 24 PCRs has 151
    event_log_bytes: int = 256 * KIB
    event_log_entries: int = 4_096
    device_record_bytes: int = 256 * KIB
    proof_bytes: int = 64 * MIB  # a proof of a kit with thousands of segments

    # -- TPM ------------------------------------------------------------------------------------
    tpm_command_s: float = 30.0  # slowest chips sign in 0.2 s; a loaded host of a simulator is slower
    tpm_keygen_s: float = 120.0  # an RSA primary on an old chip
    tpm_busy_s: float = 20.0  # how long a busy TPM, or the lock around it, is waited for
    tpm_response_bytes: int = 4 * KIB  # TPM_PT_MAX_RESPONSE_SIZE of all known chips
    tpm_floor_steps: int = 1_000  # one NV increment each
    tpm_document_bytes: int = 64 * KIB

    # -- network --------------------------------------------------------------------------------
    error_body_bytes: int = 64 * KIB
    list_pages: int = 10_000
    list_entries: int = 1_000_000
    connect_s: float = 10.0
    read_s: float = 60.0
    redirect_count: int = 5

    # -- configuration --------------------------------------------------------------------------
    config_file_bytes: int = 256 * KIB
    trust_file_bytes: int = 1 * MIB


LIMITS: Final = Limits()
