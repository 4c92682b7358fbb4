# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Step 1 for a fleet: the device records of the index, judged under a trust folder."""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import lru_cache

from edgeprov.errors import EdgeprovError
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.trust.folder import Trust
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.manifest import parse_manifest
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.signature import SignatureArtifact


def verified_devices(index: Index, trust: Trust, at: dt.datetime) -> dict[str, VerifiedDevice | EdgeprovError]:
    """The newest record of each device, after step 1, or why it is refused."""
    result: dict[str, VerifiedDevice | EdgeprovError] = {}
    for row in index.rows("SELECT device, manifest, layer, signatures FROM devices ORDER BY enrolled_at, digest"):
        result[row["device"]] = _device(row["manifest"], row["layer"], row["signatures"], trust.files, at)
    return result


def judge_records(
    records: tuple[tuple[bytes, bytes, bytes], ...], files: tuple[tuple[str, bytes], ...], at: dt.datetime
) -> list[tuple[str, VerifiedDevice | EdgeprovError]]:
    """Judge the records of one device: the digest of each, with the verified device or why it is refused."""
    return [
        (f"sha256:{hashlib.sha256(manifest).hexdigest()}", _device(manifest, layer, signatures, files, at))
        for manifest, layer, signatures in records
    ]


@lru_cache(maxsize=4_096)
def _device(
    manifest_raw: bytes, layer: bytes, signatures: bytes, files: tuple[tuple[str, bytes], ...], at: dt.datetime
) -> VerifiedDevice | EdgeprovError:
    artifacts = [
        SignatureArtifact(manifest=parse_manifest(parse_b64(raw, "signature")), blob=parse_b64(blob, "signature"))
        for raw, blob in json_of_text(signatures)
    ]
    try:
        return verify_device_record(parse_manifest(manifest_raw), layer, artifacts, Trust(files=files).policy, at)
    except EdgeprovError as error:
        return error
