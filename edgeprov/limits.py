# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every bound on what edgeprov reads or writes, in one place, with unit and source."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Limits:
    """Bounds in bytes, counts or seconds. Past a bound the input is refused (LimitError)."""

    __slots__ = ()

    # -- JSON documents -------------------------------------------------------------------------
    manifest_bytes: Final = 4 * MIB  # OCI distribution-spec: the size that registries must accept
    config_bytes: Final = 4 * MIB  # a Kitfile of 10,000 dataset entries of about 300 bytes
    json_depth: Final = 32
    index_bytes: Final = 64 * MIB  # index.json of a layout that holds a whole fleet month
    manifest_layers: Final = 10_000
    annotation_bytes: Final = 64 * KIB  # all annotations of one manifest together, as read
    kit_annotation_bytes: Final = 1 * KIB  # as written by us: a registry shows them in each list

    # -- blobs and archives ---------------------------------------------------------------------
    inline_bytes: Final = 16 * KIB  # a blob that also stands in its descriptor
    layer_bytes: Final = 8 * GIB  # a model layer
    unpacked_bytes: Final = 16 * GIB  # all files of one kit
    unpack_ratio: Final = 200  # compressed to plain; gzip's own limit is 1,032
    tar_members: Final = 100_000
    path_bytes: Final = 1_024
    model_bytes: Final = 2 * GIB  # a flatbuffer cannot be larger (32-bit offsets)

    # -- data kits ------------------------------------------------------------------------------
    part_bytes: Final = 1 * MIB  # default size of a part, compressed: what a cut link sends again at most
    part_max_bytes: Final = 4 * MIB
    part_plain_bytes: Final = 64 * MIB  # a part after decompression
    block_rows: Final = 1_024
    record_bytes: Final = 16 * MIB  # one record's outputs
    input_bytes: Final = 32 * MIB  # one tensor; one captured input tensor
    segment_header_bytes: Final = 64 * KIB
    kit_records: Final = 100_000_000
    kit_segments: Final = 10_000
    tensors: Final = 256
    tensor_rank: Final = 16
    params_bytes: Final = 4 * KIB
    label_bytes: Final = 64 * KIB
    segment_ranges: Final = 65_536  # ranges of record numbers of one segment: a range a block of a worker
    kit_events: Final = 1_000
    kit_events_bytes: Final = 64 * KIB  # all events of one kit
    standing_bytes: Final = 256 * KIB
    standing_open: Final = 1_000  # of some 220 bytes; a kit empties the list
    standing_stops: Final = 1_000
    tombstone_bytes: Final = 1 * MIB
    tombstone_entries: Final = 10_000  # numbers that it names, and ranges of lost records
    slot_bytes: Final = 32  # [a-z0-9-]

    # -- signatures and evidence ----------------------------------------------------------------
    signature_blob_bytes: Final = 1 * MIB
    signatures_per_artifact: Final = 64
    statement_bytes: Final = 512 * KIB
    certificate_bytes: Final = 16 * KIB
    certificate_chain: Final = 5
    attestation_bytes: Final = 2 * KIB  # TPM2B_ATTEST; a quote of 24 PCRs has 151
    event_log_bytes: Final = 256 * KIB
    event_log_entries: Final = 4_096
    device_record_bytes: Final = 256 * KIB
    roster_bytes: Final = 64 * MIB  # some 200,000 enrollments
    roster_entries: Final = 1_000_000
    head_bytes: Final = 1 * MIB  # standing and event log in base64
    proof_bytes: Final = 64 * MIB  # a proof of a kit with thousands of segments

    # -- data sets ------------------------------------------------------------------------------
    collection_inputs_bytes: Final = 256 * MIB  # list of the kits of a training set, a line each

    # -- ledger ---------------------------------------------------------------------------------
    ledger_day_bytes: Final = 1 * GIB  # 3 million kits
    ledger_day_rows: Final = 5_000_000
    ledger_footer_bytes: Final = 8 * MIB  # some 20 kB a row group
    ledger_group_rows: Final = 122_880  # DuckDB's own size of a row group
    ledger_row_bytes: Final = 4 * KIB  # of columns before compression, on average
    ledger_list: Final = 100_000  # elements of a list of one row
    ledger_text_bytes: Final = 4 * KIB
    ledger_days: Final = 10_000  # 27 years
    ledger_bundles_bytes: Final = 64 * MIB  # signatures of all days, some 3 kB each
    ledger_clock_days: Final = 31  # a longer jump of the desk's clock has to be confirmed
    ledger_check_s: Final = 120  # CPU of the process that reads a foreign table
    ledger_check_bytes: Final = 3 * GIB  # its address space

    # -- TPM ------------------------------------------------------------------------------------
    tpm_command_s: Final = 30.0  # slowest chips sign in 0.2 s; a loaded host of a simulator is slower
    tpm_keygen_s: Final = 120.0  # an RSA primary on an old chip
    tpm_busy_s: Final = 20.0  # how long a busy TPM, or the lock around it, is waited for
    tpm_response_bytes: Final = 4 * KIB  # TPM_PT_MAX_RESPONSE_SIZE of all known chips
    tpm_floor_steps: Final = 1_000  # one NV increment each
    tpm_document_bytes: Final = 64 * KIB

    # -- network --------------------------------------------------------------------------------
    error_body_bytes: Final = 64 * KIB
    list_pages: Final = 10_000
    list_entries: Final = 1_000_000
    connect_s: Final = 10.0
    read_s: Final = 60.0
    min_bytes_per_s: Final = 50.0  # of an answer: below the slowest modem, above a server that only drips
    redirect_count: Final = 5
    registry_connections: Final = 8  # kept open to one registry
    token_bytes: Final = 256 * KIB  # answer of a token server: 25 kB where 200 scopes were asked for
    challenge_bytes: Final = 64 * KIB  # body of a 401 or redirect, read so that its connection serves again
    list_bytes: Final = 256 * MIB  # of all pages together: 1,000,000 names of 255 bytes
    list_s: Final = 600.0  # a list over several pages, in all

    # -- configuration --------------------------------------------------------------------------
    config_file_bytes: Final = 256 * KIB
    trust_file_bytes: Final = 1 * MIB


LIMITS: Final = Limits()
