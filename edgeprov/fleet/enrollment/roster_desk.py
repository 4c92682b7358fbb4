# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Publish the roster: every verified enrollment that the index knows, and what the desk ended.

A version without changes is small work, so that a timer can issue one each day: a roster speaks for the
time up to its issue. Records that the version before has already are not verified again.

Spec: FORMAT.md section "Roster".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeprov.errors import (
    EvidenceInvalid,
    FormatError,
    NotStored,
    RegistryNotFound,
    RosterInvalid,
    StoreError,
    UsageError,
    VerificationError,
)
from edgeprov.fleet.index.database import Index, json_of_text
from edgeprov.fleet.registries.sources import ArtifactReader, Source, open_registry
from edgeprov.fleet.trust.signers import signature_artifact
from edgeprov.formats.b64 import parse_b64
from edgeprov.formats.devicerecord import DeviceRecord, parse_device_record
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.envelope import Signer
from edgeprov.formats.head import parse_head
from edgeprov.formats.jsonx import encode_json, get_int, get_str, parse_json_object
from edgeprov.formats.manifest import EMPTY_CONFIG, parse_manifest
from edgeprov.formats.mediatypes import EMPTY_BLOB, ROSTER_PREDICATE
from edgeprov.formats.rfc3339 import rfc3339
from edgeprov.formats.roster import (
    NEWEST_TAG,
    Roster,
    RosterEntry,
    build_roster,
    encode_roster_statement,
    is_roster_tag,
    roster_tag,
)
from edgeprov.limits import LIMITS
from edgeprov.registry.push_order import push_signed
from edgeprov.store.atomic import load_bytes, make_dirs, save_bytes
from edgeprov.verify.enrollment import VerifiedDevice, verify_device_record
from edgeprov.verify.head_check import verify_head
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.roster_check import VerifiedRoster, verify_roster, verify_successor
from edgeprov.verify.signature import SignatureArtifact

_TRIES: Final = 16  # versions that are looked at until one verifies


class RosterDesk:
    """One registry's roster."""

    def __init__(self, source: Source, policy: TrustPolicy, now: dt.datetime, *, state: Path | None = None) -> None:
        """Nothing is asked yet.

        Args:
            source: Registry, with the rosters under ``rosters``.
            policy: Its role roster, and for records its role enroller, count.
            now: This desk's clock.
            state: Folder that remembers the last version which this desk published, so that a registry which shows
                an older one is noticed; None to remember nothing.
        """
        self.repo = f"{source.prefix}rosters"
        self._source, self._now, self._state = source, now, state
        self.policy = self._policy = policy

    def newest(self) -> VerifiedRoster | None:
        """The newest version that verifies; None where there is none yet.

        Raises:
            RosterInvalid: The registry does not show the version that this desk published last.
            RegistryError: The registry does not answer.
        """
        found = self._newest()
        last = self._last()
        if last is not None and (found is None or found.roster.version < last[0]):
            shown = "none" if found is None else f"version {found.roster.version} ({found.digest})"
            raise RosterInvalid(f"this desk published roster version {last[0]} ({last[1]}), the registry shows {shown}")
        if last is not None and found is not None and found.roster.version == last[0] and found.digest != last[1]:
            raise RosterInvalid(
                f"the registry shows another document of roster version {last[0]}: {found.digest}, not {last[1]}"
            )
        return found

    def publish(
        self, index: Index, signer: Signer, lifetime: dt.timedelta,
        change: Callable[[dict[bytes, RosterEntry]], None] = lambda _entries: None,
    ) -> VerifiedRoster:  # fmt: skip
        """Issue the next version.

        Args:
            index: Its device records count as far as they verify.
            signer: Key whose certificate has the role roster.
            lifetime: Until it expires.
            change: Ends entries.

        Raises:
            RosterInvalid: The registry does not show this desk's last version, or the change takes something back.
            SignerUntrusted, PolicyDenied: The signer has not the role.
            RegistryError: The push failed; a repeat issues the same number again.
        """
        before = self.newest()
        entries = {} if before is None else {entry.enrollment: entry for entry in before.roster.entries}
        merge_records(entries, self.new_records(index, entries))
        change(entries)
        roster = Roster(
            version=1 if before is None else before.roster.version + 1,
            issued_at=rfc3339(self._now),
            expires_at=rfc3339(self._now + lifetime),
            previous=None if before is None else before.digest,
            entries=tuple(entries[key] for key in sorted(entries)),
        )
        manifest, blob = build_roster(roster)
        statement = encode_roster_statement(manifest.digest, roster)
        signature, bundle = signature_artifact(
            signer, manifest.descriptor, statement, ROSTER_PREDICATE, roster.issued_at
        )
        artifact = SignatureArtifact(manifest=signature, blob=bundle)
        verified = verify_roster(manifest, blob, [artifact], self._policy, self._now)
        if before is not None:
            verify_successor(before, verified)
        registry = open_registry(self._source, create=True)
        registry.push_blob(self.repo, EMPTY_CONFIG, EMPTY_BLOB)
        registry.push_blob(self.repo, manifest.layers[0], blob)
        signatures = [(signature, {signature.layers[0].digest: bundle})]
        push_signed(registry, self.repo, manifest, signatures, (roster_tag(roster.version), NEWEST_TAG))
        self._remember(verified)
        return verified

    def new_records(self, index: Index, entries: dict[bytes, RosterEntry]) -> list[DeviceRecord]:
        """Verified records of the index that say more than the entries, oldest first."""
        found = []
        for row in index.rows("SELECT manifest, layer, signatures FROM devices ORDER BY enrolled_at, digest"):
            try:
                record = parse_device_record(row["layer"])
            except FormatError:
                continue
            entry = entries.get(record.enrollment)
            if entry is not None and (entry.device, entry.bin) == (record.device, record.bin):
                continue
            if entry is not None and record.device in entry.names:
                continue
            device = self._verified(row["manifest"], row["layer"], row["signatures"])
            if device is not None:
                found.append(device.record)
        return found

    def device(self, index: Index, enrollment: bytes) -> VerifiedDevice | None:
        """The newest verified record of an enrollment in the index; None without one."""
        question = (
            "SELECT manifest, layer, signatures FROM devices WHERE enrollment = ? ORDER BY enrolled_at DESC, digest"
        )
        rows = index.rows(question, (enrollment.hex(),))
        found = (self._verified(row["manifest"], row["layer"], row["signatures"]) for row in rows)
        return next((device for device in found if device is not None), None)

    def _verified(self, manifest: bytes, layer: bytes, signatures: str) -> VerifiedDevice | None:
        try:
            artifacts = [
                SignatureArtifact(
                    manifest=parse_manifest(parse_b64(raw, "signature")), blob=parse_b64(blob, "signature")
                )
                for raw, blob in json_of_text(signatures)
            ]
            return verify_device_record(parse_manifest(manifest), layer, artifacts, self._policy, self._now)
        except (FormatError, VerificationError):
            return None  # of no enroller of this policy, or denied

    def _newest(self) -> VerifiedRoster | None:
        reader = ArtifactReader(self._source) if self._exists() else None
        if reader is None:
            return None
        tags = sorted((tag for tag in reader.registry.list_tags(self.repo) if is_roster_tag(tag)), reverse=True)
        for tag in tags[:_TRIES]:
            found = reader.registry.head_manifest(self.repo, tag)
            try:
                if found is None:
                    continue
                manifest = reader.manifest(self.repo, found.digest)
                raw = reader.blob(self.repo, manifest.layers[0], max_bytes=LIMITS.roster_bytes)
                signatures = reader.signatures(self.repo, found.digest)
                verified = verify_roster(manifest, raw, signatures, self._policy, self._now)
            except (FormatError, VerificationError, RegistryNotFound, IndexError):
                continue  # a stranger's, or damaged
            if roster_tag(verified.roster.version) == tag:
                return verified
        return None

    def _exists(self) -> bool:
        return not self._source.is_layout or Path(self._source.name.removeprefix("oci:"), "index.json").exists()

    def _last(self) -> tuple[int, Digest] | None:
        if self._state is None:
            return None
        path = self._state / "roster.json"
        try:
            kept = parse_json_object(
                load_bytes(path, max_bytes=LIMITS.config_file_bytes, what=str(path)), "roster state"
            )
            return get_int(kept, "version", "roster state"), parse_digest(get_str(kept, "digest", "roster state"))
        except NotStored:
            return None
        except FormatError as error:
            raise StoreError(f"{path} is damaged: {error.message}") from error

    def _remember(self, verified: VerifiedRoster) -> None:
        if self._state is not None:
            make_dirs(self._state, 0o700)
            kept = {"v": 1, "version": verified.roster.version, "digest": str(verified.digest)}
            save_bytes(self._state / "roster.json", encode_json(kept))


def merge_records(entries: dict[bytes, RosterEntry], records: Iterable[DeviceRecord]) -> None:
    """Add verified records, oldest first: new enrollments, renames, and the end of what they replace.

    Args:
        entries: Changed in place; never shortened.
        records: Verified.
    """
    for record in records:
        entry = entries.get(record.enrollment)
        if entry is None:
            entry = RosterEntry(
                enrollment=record.enrollment, device=record.device, base=record.counter_base, since=record.enrolled_at
            )
        elif entry.device != record.device:
            names = tuple(name for name in (*entry.names, entry.device) if name != record.device)
            entry = replace(entry, device=record.device, names=names)
        entries[record.enrollment] = replace(entry, bin=record.bin)
        old = None if record.replaces is None else entries.get(record.replaces)
        if old is not None and old.ended is None:
            # The same TPM went on under a new id: its certified base is the last number of the old one.
            entries[old.enrollment] = replace(
                old, ended="retired", until=max(record.enrolled_at, old.since), end=max(record.counter_base, old.base)
            )


def final_number(device: VerifiedDevice | None, raw: bytes, policy: TrustPolicy) -> int:
    """The last number of an enrollment, from its final attested head.

    Args:
        device: The verified record of the enrollment; None where the index has none.
        raw: The head, as `edgeprov attest --final` wrote it.
        policy: The trust policy.

    Raises:
        FormatError: Not a head.
        EvidenceInvalid: Not a final head of this enrollment.
    """
    if device is None:
        raise EvidenceInvalid("the index holds no verified record of this enrollment", step=1)
    head = parse_head(raw)
    verified = verify_head(head, head.nonce, device, policy)
    if not verified.standing.final:
        raise EvidenceInvalid("the head is not final: the device may go on under this enrollment", step=9)
    return verified.seq


def find_entry(entries: dict[bytes, RosterEntry], text: str) -> RosterEntry:
    """The entry that an enrollment id, or the beginning of one, names.

    Raises:
        UsageError: None, or several.
    """
    found = [entry for entry in entries.values() if entry.enrollment.hex().startswith(text.lower())]
    if len(text) < 8 or len(found) != 1:
        raise UsageError(
            f"{text[:80]!r} names {len(found)} enrollments of the roster",
            advice="Give the enrollment id, or at least its first 8 digits; edgeprov-fleet roster show lists them.",
        )
    return found[0]


def end_entry(
    entries: dict[bytes, RosterEntry], entry: RosterEntry, now: dt.datetime, *, lost: bool, end: int | None
) -> None:
    """End one entry.

    Args:
        entries: Changed in place.
        entry: Active so far.
        now: Time of the end.
        lost: Nobody can know its last number.
        end: Its last number, where it is proved.

    Raises:
        UsageError: It ended already.
    """
    if entry.ended is not None:
        raise UsageError(f"enrollment {entry.enrollment.hex()} ended already: {entry.ended} at {entry.until}")
    until = max(rfc3339(now), entry.since)
    entries[entry.enrollment] = replace(entry, ended="lost" if lost else "retired", until=until, end=end)
