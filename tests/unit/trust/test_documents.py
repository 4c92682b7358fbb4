# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every MUST of FORMAT.md has at least two refused cases, and every attack that THREATS.md quotes has its test.

A rule or an attack that is added to a document fails here until it has its cases; a case that is renamed too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import edgeprov.formats

TESTS = Path(__file__).parents[2]
DOCUMENTS = Path(edgeprov.formats.__file__).parent
PACKING, TARBALL, MODELKIT = (f"unit/formats/test_{name}.py::" for name in ("packing", "tarball", "modelkit"))
DATAKIT, COLUMNS = "unit/formats/test_datakit.py::", "unit/formats/test_columns.py::"
LABELS = "unit/formats/test_label.py::"
TOMBSTONE, HEAD, EVIDENCE = (f"unit/formats/test_{name}.py::" for name in ("tombstone", "head", "evidence_part"))
CHAIN, STEPS, CONTENT = (f"unit/trust/test_{name}.py::" for name in ("chain", "evidence_steps", "content"))
REFUSALS = "unit/trust/test_refusals.py::"
ATTACKS, MODEL = "unit/trust/test_attacks.py::", "unit/trust/test_model_signature.py::"
ROSTER = "unit/trust/test_roster.py::"
LEDGER = "fleet/test_ledger_"
ENROLLMENT, FLEET = "unit/trust/test_enrollment.py::", "fleet/test_enroll.py::"

# The id of a rule for readers (R-area-n), or words of its sentence with MUST, and its refused cases: vectors by their id, tests
# by file and name. Rules for writers (W-area-n) name their test in FORMAT.md itself.
RULES: Mapping[str, tuple[str, ...]] = {
    "with their signatures. A device MUST refuse one": (
        "transport/test_stick.py::test_a_receipt_that_nobody_may_give_frees_nothing",
        "transport/test_stick.py::test_a_receipt_for_another_device_frees_nothing",
    ),
    "One encoding per value; a reader MUST refuse every other": (
        PACKING + "test_what_is_not_canonical_is_refused",
        PACKING + "test_rows_must_be_whole_canonical_and_of_one_width",
    ),
    "regular files and directories only. MUST refuse hard and": (
        TARBALL + "test_unsafe_archives_are_refused_as_a_whole",
        TARBALL + "test_gnu_long_names_and_global_headers_are_refused",
        TARBALL + "test_damaged_archives_are_refused",
    ),
    "Every entry MUST have a layer": (
        MODELKIT + "test_a_kit_that_does_not_hold_together_is_refused",
        MODELKIT + "test_modelpack_without_or_with_a_broken_kitfile_is_refused",
    ),
    "R-pcr-1": ("step-06/sha1-bank_fail", "step-06/no-pcr_fail"),
    "R-pcr-2": (
        "step-06/pcr-not-beside_fail",
        "step-06/pcr-beside-not-quoted_fail",
        "step-06/pcr-value-made-up_fail",
    ),
    "R-pcr-3": (
        "step-06/model-pcr-not-quoted_fail",
        "step-06/model-pcr-not-admitted_fail",
        "step-06/log-truncated_fail",
    ),
    "R-pcr-4": (
        "step-06/boot-pcr-missing_fail",
        "step-06/boot-pcr-wrong_fail",
        "step-06/boot-pcrs-of-two-sets_fail",
    ),
    "R-key-1": ("step-01/ak-counts-failures_fail", "step-01/sk-counts-failures_fail", "step-01/ak-without-any-guard_fail"),
    "R-key-2": ("step-01/ak-policy-is-optional_fail", "step-01/sk-policy-of-sha1_fail"),
    "it MUST be its layer's": (
        MODELKIT + "test_a_kit_that_does_not_hold_together_is_refused",
        MODELKIT + "test_a_changed_config_is_refused",
    ),
    "There MUST be a `model`": (
        MODELKIT + "test_a_data_kit_is_no_model_kit",
        MODELKIT + "test_a_kit_that_does_not_hold_together_is_refused",
    ),
    "R-reg-1": (
        "malformed/format-subject-other_fail",
        "malformed/format-subject-signature_fail",
        DATAKIT + "test_a_kit_that_contradicts_itself_is_refused",
        TOMBSTONE + "test_a_tombstone_that_contradicts_itself_is_refused",
    ),
    "MUST NOT have more than 4 MiB": (DATAKIT + "test_a_part_has_a_bound", DATAKIT + "test_what_is_no_part_is_refused"),
    "MUST say the same.": (
        TOMBSTONE + "test_a_tombstone_that_contradicts_itself_is_refused",
        TOMBSTONE + "test_a_layer_of_another_form_is_refused",
    ),
    "R-kit-5": (
        DATAKIT + "test_a_kit_that_contradicts_itself_is_refused",
        DATAKIT + "test_a_kit_that_would_be_refused_is_not_built",
        "step-01/kit-of-another-enrollment_fail",
        "step-01/kit-of-an-ended-enrollment_fail",
    ),
    "R-kit-6": (
        DATAKIT + "test_a_kit_has_one_evidence_part",
        DATAKIT + "test_a_kit_that_would_be_refused_is_not_built",
    ),
    "R-kit-7": (
        DATAKIT + "test_a_kit_that_contradicts_itself_is_refused",
        DATAKIT + "test_a_kit_that_would_be_refused_is_not_built",
    ),
    "R-evi-1": (
        "malformed/evidence-version_fail",
        "malformed/evidence-key_fail",
        EVIDENCE + "test_what_is_no_evidence_is_refused",
    ),
    "R-evi-2": (
        "malformed/ranges-touch_fail",
        "malformed/ranges-fall_fail",
        "malformed/range-backwards_fail",
    ),
    "R-evi-3": (
        "malformed/record-in-two-segments_fail",
        "malformed/record-in-three-ranges_fail",
        "malformed/unused-and-used_fail",
        "malformed/unused-in-a-range_fail",
    ),
    "R-evi-4": ("malformed/pcrs-fall_fail", "malformed/pcr-short_fail"),
    "R-evi-5": (
        "malformed/event-kind_fail",
        "malformed/event-flags_fail",
        "malformed/event-slot_fail",
    ),
    "R-sta-1": ("malformed/open-final_fail", "malformed/open-final-full_fail"),
    "R-sta-2": ("malformed/open-without-newest_fail", "malformed/open-without-newest-full_fail"),
    "R-sta-3": ("malformed/open-fall_fail", "malformed/open-twice_fail"),
    "R-sta-4": (
        "malformed/open-without-leaf_fail",
        "malformed/open-without-times_fail",
        "malformed/open-leaf-of-nothing_fail",
        "malformed/open-doubt-of-nothing_fail",
        "malformed/open-records-fall_fail",
        "malformed/open-flags_fail",
    ),
    "R-sta-5": ("malformed/stop-resumed_fail", "malformed/stop-resumed-before_fail"),
    "R-sta-6": (
        "step-09/open-segment-number-100_fail",
        "step-09/open-segment-number-102_fail",
        "step-09/open-segment-number-103_fail",
        CHAIN + "test_head_that_lists_a_number_outside_of_base_and_counter",
    ),
    "R-sta-7": (
        "step-09/open-segment-of-the-kit_fail",
        "step-09/open-segment-of-the-kit-with-records_fail",
        STEPS + "test_step_9_refuses_an_item_that_lists_a_segment_as_open_which_it_ends",
    ),
    "R-tom-1": (
        STEPS + "test_step_9_refuses_a_tombstone_for_a_number_from_before_the_enrollment",
        TOMBSTONE + "test_what_is_no_tombstone_is_not_built",
    ),
    "R-tom-2": (
        TOMBSTONE + "test_what_is_no_tombstone_is_not_built",
        TOMBSTONE + "test_a_number_stands_once",
    ),
    "R-tom-3": (
        TOMBSTONE + "test_what_is_no_tombstone_is_not_built",
        TOMBSTONE + "test_a_header_belongs_to_a_lost_segment",
    ),
    "R-tom-4": (
        TOMBSTONE + "test_what_is_no_tombstone_is_not_built",
        TOMBSTONE + "test_lost_ranges_fit_their_counts_and_times",
    ),
    "R-seg-1": ("step-07/segment-of-another-device_fail", "step-07/segment-of-another-enrollment_fail"),
    "R-seg-2": (
        "step-07/empty-segment-never-measured_fail",
        "step-07/never-measured_fail",
        "step-07/replaced-before_fail",
        "step-07/refused-in-the-end_fail",
        "step-07/measured-in-another-slot_fail",
    ),
    "R-seg-3": ("step-07/segment-of-another-model_fail", "step-07/records-of-another-slot_fail"),
    "R-seg-4": (
        "step-09/segment-number-99_fail",
        "step-09/segment-number-100_fail",
        "step-09/segment-number-102_fail",
        "step-09/segment-number-103_fail",
    ),
    "R-seg-5": (
        "step-09/segments-swapped_fail",
        "step-09/segment-number-twice_fail",
        "step-09/segment-shares-before-it-is-taken_fail",
    ),
    "R-seg-6": (
        "step-09/segment-twice_fail",
        "step-09/segments-with-one-before-them_fail",
        "step-09/later-segment-without-predecessor_fail",
        "step-09/segment-before-its-predecessor_fail",
    ),
    "R-seg-7": (
        "step-09/records-fewer_fail",
        "step-09/records-more_fail",
        "step-09/records-with-a-hole_fail",
        "step-09/records-shifted_fail",
        "step-09/records-none_fail",
    ),
    "R-cnt-1": (
        CONTENT + "test_segment_without_evidence",
        CONTENT + "test_record_moved_to_the_segment_of_another_model",
        CONTENT + "test_numbers_of_two_segments_may_interleave",
    ),
    "R-ser-1": (
        CHAIN + "test_counter_gap",
        CHAIN + "test_deleted_segment_file_is_a_missing_number",
        CHAIN + "test_open_segment_is_explained_by_the_newest_item_only",
        CHAIN + "test_withheld_tail_shows_by_the_head",
    ),
    "R-ser-2": (
        CHAIN + "test_fork",
        CHAIN + "test_segment_that_two_kits_seal",
        CHAIN + "test_number_that_is_explained_and_that_a_tombstone_names",
        CHAIN + "test_number_that_two_tombstones_name",
        CHAIN + "test_two_segments_that_took_one_number",
    ),
    "R-ser-3": (
        CHAIN + "test_broken_link",
        CHAIN + "test_kit_without_one_before_it_hides_nothing",
        CHAIN + "test_newest_kit_exchanged_shows_by_the_head",
    ),
    "R-ser-4": (
        CHAIN + "test_deleted_file_of_a_shared_number_breaks_the_chain_of_headers",
        CHAIN + "test_newest_header_that_nothing_explains_breaks_the_end",
        CHAIN + "test_older_copy_of_the_disk_shows_in_the_chain_of_headers",
    ),
    "R-ser-5": (
        CHAIN + "test_reset_count_or_clock_that_falls",
        CHAIN + "test_newest_kit_exchanged_shows_by_the_head",
    ),
    "R-ser-6": (
        "fleet/test_audit_opened.py::test_a_number_that_the_device_cannot_explain_is_a_doubt",
        "fleet/test_audit_opened.py::test_two_tombstones_of_unknown_numbers_are_two_doubts",
    ),
    "R-head-1": (CHAIN + "test_old_head_is_refused", CHAIN + "test_head_without_a_nonce"),
    "R-head-2": (
        CHAIN + "test_head_of_another_enrollment_or_from_before_it",
        CHAIN + "test_head_that_hides_the_newest_kit_or_comes_from_another_device",
    ),
    "R-head-3": (HEAD + "test_what_is_no_head_is_refused", REFUSALS + "test_head_document_refuses"),
    "R-head-4": (HEAD + "test_a_head_as_an_artifact", HEAD + "test_what_is_no_head_artifact_is_refused"),
    "R-head-6": (
        "device/test_head_upload.py::test_the_desk_keeps_heads_and_refuses_moved_ones",
        "device/test_head_upload.py::test_a_stick_with_a_moved_head_gives_none",
    ),
    "R-head-5": (
        CHAIN + "test_head_of_a_counter_below_the_base",
        "fleet/test_audit.py::test_a_head_from_before_the_enrollment_is_refused",
    ),
    "R-prf-1": (
        "step-11/record-in-another-segment_fail",
        "step-11/record-of-another-number_fail",
        "step-11/record-at-another-place_fail",
    ),
    "The two blocks MUST give back the canonical bytes": (
        COLUMNS + "test_what_is_no_block_is_refused",
        COLUMNS + "test_nothing_may_follow_a_block_and_keys_are_in_order",
    ),
    "R-kit-1": (DATAKIT + "test_parts_come_in_one_order", DATAKIT + "test_a_part_without_its_other_half_is_refused"),
    "R-kit-2": (
        DATAKIT + "test_a_kit_that_contradicts_itself_is_refused",
        DATAKIT + "test_a_kit_without_labels_has_no_root_of_labels",
    ),
    "R-kit-3": (
        LABELS + "test_halves_that_do_not_belong_together_are_refused",
        "fleet/test_content_apart.py::test_halves_of_labels_that_differ_are_refused",
    ),
    "R-kit-4": (
        CONTENT + "test_changed_label_that_the_device_itself_repacked",
        CONTENT + "test_labels_in_another_order",
    ),
    "R-prt-1": (
        "fleet/test_content_apart.py::test_a_part_of_another_kind_is_refused",
        "fleet/test_content_apart.py::test_collect_leaves_out_a_kit_with_a_part_of_another_kind",
    ),
    "R-row-1": ("step-11/record-flag-unknown_fail", "step-11/record-flag-high_fail"),
    "R-row-2": (
        "step-11/record-shapes-superfluous_fail",
        "step-11/record-shapes-missing_fail",
        "step-11/record-shape-missing_fail",
        "step-11/record-shape-superfluous_fail",
        "step-11/record-shapes-short_fail",
    ),
    "R-row-3": (
        "step-11/record-shape-rank-lower_fail",
        "step-11/record-shape-rank-higher_fail",
        "step-11/record-shape-fixed_fail",
        "step-11/record-shape-negative_fail",
        "step-11/record-shape-beyond_fail",
        COLUMNS + "test_content_whose_shapes_do_not_fit_is_refused",
    ),
    "R-row-4": (
        "step-11/record-output-long_fail",
        "step-11/record-output-short_fail",
        "step-11/record-shape-length_fail",
        COLUMNS + "test_content_whose_shapes_do_not_fit_is_refused",
    ),
    "R-lab-1": (
        LABELS + "test_what_is_no_label_is_refused",
        LABELS + "test_what_is_no_half_of_a_label_is_refused",
    ),
    "R-blk-1": (COLUMNS + "test_what_is_no_block_is_refused", DATAKIT + "test_what_is_no_part_is_refused"),
    "R-blk-2": (
        COLUMNS + "test_content_of_other_records_does_not_belong_to_evidence",
        CONTENT + "test_content_of_one_kind_is_checked_where_the_other_is_lost",
    ),
    "`recnum` MUST count from 0; `pcr` MUST be the policy's": (
        "step-06/log-renumbered_fail",
        "step-06/log-of-another-pcr_fail",
        "step-06/log-truncated_fail",
    ),
    "MUST rebuild the data from `content` and MUST refuse": (
        "step-06/log-digest-changed_fail",
        "step-06/log-of-another-model_fail",
    ),
    "a statement by a device MUST NOT have a model as": (
        "step-12/model-kit-statement_fail",
        "step-12/model-signed-by-device_fail",
    ),
    "of a kit or tombstone MUST have exactly one subject": (
        "step-02/two-kits_fail",
        "step-02/model-as-subject_fail",
    ),
    "`digest.sha256` MUST be the same model": (
        "step-02/model-in-parameters-only_fail",
        "step-02/claims-another-model_fail",
    ),
    "MUST have the judged artifact as `subject` (bundles), or its payload MUST name d": (
        "step-02/referrer-of-another-kit_fail",
        "step-02/statement-of-another-kit_fail",
        "step-12/model-notation-moved_fail",
        "step-12/model-sig-tag-other-digest_fail",
    ),
    "A reader MUST refuse an `iak`": (
        "step-01/factory-key-unrestricted_fail",
        "step-01/factory-key-certificate_fail",
        "step-01/factory-key-forged_fail",
        "step-01/factory-key-of-another-ak_fail",
        "step-01/factory-key-replayed_fail",
    ),
    "R-reg-3": (
        "malformed/format-data-config_fail",
        "malformed/format-data-evidence_fail",
        "malformed/format-data-text_fail",
        "malformed/format-data-number_fail",
        "step-02/bundle-data_fail",
    ),
    "R-reg-2": (
        "step-02/referrer-of-another-kit_fail",
        "fleet/test_signature_tags.py::test_a_stranger_under_a_signature_tag_is_passed_over",
    ),
    "R-enr-1": (
        "step-01/enrollment-of-another_fail",
        "step-01/enrollment-missing_fail",
        "step-01/enrollment-upper-case_fail",
    ),
    "R-enr-2": (
        "step-01/counter-base-claimed_fail",
        "step-01/counter-base-replayed_fail",
        "step-01/counter-base-forged_fail",
        "step-01/counter-base-of-another-index_fail",
        "step-01/counter-base-is-a-certify_fail",
        "step-01/counter-base-missing_fail",
    ),
    "R-enr-3": ("step-01/replaces-itself_fail", "step-01/replaces-no-id_fail"),
    "R-enr-4": ("step-01/bin-with-slash_fail", "step-01/bin-upper-case_fail"),
    "R-pol-1": (
        "step-01/record-signed-by-roster_fail",
        "step-01/record-signed-by-importer_fail",
        "step-02/signed-by-enroller_fail",
        "step-12/model-signed-by-collector_fail",
        "step-12/model-signed-by-roster_fail",
        "unit/trust/test_roles.py::test_no_certificate_serves_another_role",
    ),
    "R-pol-2": (
        "step-01/device-denied-by-name_fail",
        "step-01/device-denied-by-enrollment_fail",
        "step-01/certificate-denied_fail",
        "step-02/kit-denied_fail",
        "step-02/model-denied_fail",
    ),
    "R-pol-3": (
        "step-02/kit-denied-from-a-later-day_fail",
        "unit/trust/test_roles.py::test_only_a_trusted_timestamp_spares_what_is_older",
    ),
    "R-pol-4": (
        "unit/trust/test_policy.py::test_policy_refuses",
        "unit/trust/test_roles.py::test_a_deny_entry_that_can_match_nothing_is_an_error",
    ),
    "R-led-1": (
        LEDGER + "remote.py::test_a_day_that_a_stranger_signed",
        LEDGER + "remote.py::test_a_signature_that_was_changed",
        LEDGER + "remote.py::test_a_day_of_another_chain_or_under_another_name",
    ),
    "R-led-2": (
        LEDGER + "remote.py::test_a_day_that_is_missing_doubled_or_out_of_order",
        LEDGER + "remote.py::test_a_day_that_was_replaced",
        LEDGER + "remote.py::test_a_chain_in_which_time_falls",
    ),
    "R-led-3": (
        LEDGER + "remote.py::test_a_table_that_was_changed_is_noticed",
        LEDGER + "remote.py::test_a_statement_of_another_form_is_refused",
        LEDGER + "foreign.py::test_a_table_of_another_schema",
        LEDGER + "foreign.py::test_a_frame_that_is_no_parquet",
    ),
    "R-led-4": (
        LEDGER + "foreign.py::test_too_many_row_groups",
        LEDGER + "foreign.py::test_a_row_group_that_is_too_large",
        LEDGER + "foreign.py::test_too_many_bytes_for_its_rows",
    ),
    "R-led-5": (
        LEDGER + "foreign.py::test_values_that_the_format_does_not_allow",
        LEDGER + "foreign.py::test_text_that_is_not_utf8",
    ),
    "R-led-6": (
        LEDGER + "foreign.py::test_an_artifact_that_stands_twice",
        LEDGER + "foreign.py::test_an_artifact_that_stands_twice_in_two_days",
    ),
    "R-ros-1": (
        ROSTER + "test_only_the_role_roster_signs_it",
        ROSTER + "test_the_statement_is_about_this_very_roster",
    ),
    "R-ros-2": (
        ROSTER + "test_a_malformed_roster_is_refused",
        ROSTER + "test_a_malformed_entry_is_refused",
        ROSTER + "test_entries_are_ascending_each_once",
    ),
    "R-ros-3": ("fleet/test_roster.py::test_a_roster_expires", ROSTER + "test_a_roster_is_used_from_its_issue_to_its_expiry"),
    "R-ros-4": (
        ROSTER + "test_a_later_version_takes_nothing_back",
        ROSTER + "test_two_documents_of_one_version_are_told",
    ),
    "All steps MUST hold": ("steps",),  # tests/vectors/test_vectors.py: two refused cases for each step
    "MUST be the digest that passed": ("device/test_record_session.py::test_bad_hello", "device/test_record_session.py::test_nothing_is_recorded_without_the_boot_check"),
}  # fmt: skip

QUOTED: Mapping[str, tuple[str, ...]] = {
    "another manifest for a digest": (ATTACKS + "test_registry_that_serves_another_manifest_for_a_digest",),
    "another signed model": (ATTACKS + "test_registry_that_serves_another_signed_model",),
    "confused media types": (ATTACKS + "test_confused_media_types",),
    "duplicate JSON keys": (
        ATTACKS + "test_duplicate_json_keys_in_a_signed_statement",
        ATTACKS + "test_duplicate_json_keys_in_the_envelope",
        "step-02/duplicate-keys_fail",
    ),
    "swapped kits": (ATTACKS + "test_swapped_kits",),
    "signature moved": (MODEL + "test_signature_moved_from_another_artifact", "step-02/statement-of-another-kit_fail"),
    "flood of rubbish signatures": (ATTACKS + "test_flood_of_rubbish_signatures_does_not_block",),
    "deleted spool file": (
        CHAIN + "test_deleted_segment_file_is_a_missing_number",
        CHAIN + "test_deleted_file_of_a_shared_number_breaks_the_chain_of_headers",
    ),
    "older copy of the disk": (
        CHAIN + "test_older_copy_of_the_disk_shows_in_the_chain_of_headers",
        "fleet/test_audit_opened.py::test_a_number_that_the_device_cannot_explain_is_a_doubt",
    ),
    "withheld kit": (ATTACKS + "test_withheld_kit_in_the_middle",),
    "withheld tail": (ATTACKS + "test_withheld_tail",),
    "Signed by another device": ("step-02/signed-by-another-device_fail",),
    "kit of another device": ("step-01/kit-of-another-device_fail",),
    "device CA used for a model": (MODEL + "test_device_ca_used_for_a_model",),
    "kit statement that endorses the model": (ATTACKS + "test_kit_statement_that_endorses_the_model",),
    "Stolen disk in another TPM": (ATTACKS + "test_stolen_disk_in_another_tpm", "step-04/stolen-disk_fail"),
    "Cloned TPM state": (ATTACKS + "test_cloned_tpm_state",),
    "Replay of an old kit under a new number": (ATTACKS + "test_replay_of_an_old_kit_under_a_new_number",),
    "records of an unmeasured model under a measured one": (
        ATTACKS + "test_records_of_an_unmeasured_model_under_a_measured_one",
    ),
    "truncated log": (ATTACKS + "test_truncated_log", "step-06/log-truncated_fail"),
    "made-up entry": (ATTACKS + "test_log_with_a_made_up_last_entry",),
    "reset of PCR 16 or 23": (ATTACKS + "test_reset_of_a_resettable_pcr", "step-06/resettable-pcr_fail"),
    "wrong bank": ("step-06/sha1-bank_fail",),
    "unrestricted key signs a hand-made TPMS_ATTEST": (
        ATTACKS + "test_unrestricted_key_posing_as_ak",
        "step-01/ak-unrestricted_fail",
    ),
    "forged counter index": (ATTACKS + "test_forged_counter_index", "step-08/ordinary-index_fail"),
    "counter deleted and defined anew": (ATTACKS + "test_counter_deleted_and_defined_anew",),
    "fork": (ATTACKS + "test_fork_of_the_series",),
    "Software key certified as SK": ("step-01/sk-software_fail",),
    "AK not restricted": (FLEET + "test_lies_are_refused_and_nothing_is_issued", "step-01/ak-unrestricted_fail"),
    "forged EK chain": (ENROLLMENT + "test_ek_certificate",),
    "replayed credential": (
        FLEET + "test_an_old_request_does_not_answer_a_fresh_nonce",
        FLEET + "test_a_challenge_takes_one_answer",
        FLEET + "test_a_swapped_request_does_not_get_the_answer_of_another",
        FLEET + "test_a_nonce_is_for_one_enrollment",
    ),
    "CSR for another serial": (FLEET + "test_lies_are_refused_and_nothing_is_issued",),
    "device already enrolled": (
        FLEET + "test_one_tpm_is_one_device",
        FLEET + "test_one_endorsement_key_is_one_active_device",
        FLEET + "test_a_serial_that_another_tpm_holds_needs_replace",
    ),
    "a factory key": (FLEET + "test_a_bad_factory_key_is_refused", "step-01/factory-key-unrestricted_fail"),
    "rollback": (ATTACKS + "test_rollback_to_a_signed_but_revoked_model",),
    "mixed-up algorithms": (ATTACKS + "test_mixed_up_algorithms", "step-04/other-algorithm_fail"),
    "another manifest for a tag": ("fleet/test_index.py::test_forged_tags_and_annotations", "device/test_bad_input.py::test_tag_gets_advice"),
}  # fmt: skip


def exists(case: str) -> bool:
    if case == "steps":
        return "at_least_two_refused_cases" in (TESTS / "vectors" / "test_vectors.py").read_text()
    path, _, name = case.partition("::")
    if name:
        return f"def {name}(" in (TESTS / path).read_text()
    return case.endswith("_fail") and (TESTS / "vectors" / "cases" / f"{case}.proof.json").exists()


def sentences() -> list[str]:
    """Lines with a MUST or an id of a rule for readers; heads of tables and rules for writers are no rules for readers."""
    lines = (DOCUMENTS / "FORMAT.md").read_text().splitlines()
    found = [line for line in lines if re.search(r"\bMUST\b|\bR-[a-z]+-\d+\b", line)]
    return [line for line in found if not line.startswith(("| rule |", "| W-"))]


def test_every_must_is_in_the_table() -> None:
    unknown = [
        line
        for line in sentences()
        if not any(rule in line for rule in RULES)
        and "RFC 2119" not in line  # the sentence that says what MUST means
        and not line.startswith("| step | name |")  # the head of the table of steps
    ]
    assert not unknown
    assert [
        rule for rule in RULES if not any(re.search(rf"{re.escape(rule)}(?!\d)", line) for line in sentences())
    ] == []
    named = set(re.findall(r"\bR-[a-z]+-\d+\b", "\n".join(sentences())))
    assert named - set(RULES) == set()


def test_every_rule_for_writers_names_its_test() -> None:
    rows = re.findall(
        r"^\| (W-[a-z]+-\d+) \|.*\| `tests/(\S+)` \|$", (DOCUMENTS / "FORMAT.md").read_text(), re.MULTILINE
    )
    named = set(re.findall(r"\bW-[a-z]+-\d+\b", (DOCUMENTS / "FORMAT.md").read_text()))
    assert rows
    assert named - {rule for rule, _ in rows} == set()
    assert [rule for rule, case in rows if "::" not in case or not exists(case)] == []


@pytest.mark.parametrize("rule", RULES)
def test_a_must_has_at_least_two_refused_cases(rule: str) -> None:
    cases = RULES[rule]
    assert len(set(cases)) >= 2 or cases == ("steps",)
    assert [case for case in cases if not exists(case)] == []


def test_every_quoted_attack_is_in_the_table() -> None:
    text = " ".join((DOCUMENTS / "THREATS.md").read_text().split())
    quoted = set(re.findall(r'"([A-Za-z][^"]*)"', text))
    assert quoted - set(QUOTED) == set()
    assert set(QUOTED) - quoted == set()


@pytest.mark.parametrize("attack", QUOTED)
def test_an_attack_has_its_test(attack: str) -> None:
    assert [case for case in QUOTED[attack] if not exists(case)] == []
