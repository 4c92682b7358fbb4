# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Which deny entries of a trust folder match anything that the index knows.

An entry that matches nothing may be a slip of the pen in an incident, when it must work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.bundle import parse_bundle
from edgeprov.formats.devicerecord import parse_device_record
from edgeprov.verify.certificates import load_certificate, spki_of
from edgeprov.verify.deny import DenyEntry
from edgeprov.verify.policy import TrustPolicy


def deny_matches(index: Index | None, policy: TrustPolicy) -> list[tuple[DenyEntry, int]]:
    """Each deny entry with the number of things that it matches.

    Args:
        index: The fleet's index: its models, kits, devices, and the certificates of device records and their
            enrollers count. Without it only the anchors and keys of the trust folder do.
        policy: The trust policy.
    """
    entries = policy.deny.entries
    if not entries:
        return []
    keys: dict[str, set[str]] = {}
    certificates: dict[str, set[str]] = {}
    for der in _known_certificates(index, policy):
        try:
            certificate, digest = load_certificate(der), hashlib.sha256(der).hexdigest()
            keys.setdefault(hashlib.sha256(spki_of(certificate)).hexdigest(), set()).add(digest)
        except EdgeprovError:
            continue  # a malformed certificate counts nowhere
        for name in (digest, f"serial:{certificate.serial_number:x}"):
            certificates.setdefault(name, set()).add(digest)
    for spki in (*policy.publisher_keys, *policy.collector_keys):
        name = hashlib.sha256(spki).hexdigest()
        keys.setdefault(name, set()).add(name)
    return [(entry, _count(index, entry, keys, certificates)) for entry in entries]


def _count(index: Index | None, entry: DenyEntry, keys: dict[str, set[str]], certificates: dict[str, set[str]]) -> int:
    if entry.type == "key":
        return len(keys.get(entry.value, ()))
    if entry.type == "certificate":
        return len(certificates.get(entry.value, ()))
    if index is None:
        return 0
    question, values = {
        "model": ("SELECT count(*) FROM models WHERE digest = ?", (entry.value,)),
        "kit": ("SELECT count(*) FROM artifacts WHERE digest = ?", (entry.value,)),
        "device": ("SELECT count(*) FROM devices WHERE device = ? OR enrollment = ?", (entry.value, entry.value)),
    }[entry.type]
    return int(index.rows(question, values)[0][0])


def _known_certificates(index: Index | None, policy: TrustPolicy) -> Iterator[bytes]:
    for anchors in (
        policy.publisher_anchors, policy.collector_anchors, policy.device_anchors, policy.timestamp_anchors,
        policy.ek_hardware_anchors, policy.ek_firmware_anchors, policy.idevid_hardware_anchors,
        policy.idevid_firmware_anchors,
    ):  # fmt: skip
        yield from anchors
    if index is None:
        return
    for row in index.rows("SELECT layer, signatures FROM devices"):
        try:
            yield from parse_device_record(row["layer"]).certificates
            for _, blob in json_of_text(row["signatures"]):
                yield from parse_bundle(parse_b64(blob, "signature")).certificates
        except EdgeprovError:
            continue  # what cannot be read matches nothing
