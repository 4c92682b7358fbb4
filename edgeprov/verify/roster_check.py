# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Judge a roster: who signed it, when it speaks, and that a later version lacks nothing of an earlier one.

Spec: FORMAT.md section "Roster".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from edgeprov._dataclass import dataclass
from edgeprov.errors import RosterInvalid, SubjectMismatch
from edgeprov.formats.digest import Digest
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.mediatypes import ROSTER_PREDICATE
from edgeprov.formats.rfc3339 import parse_rfc3339
from edgeprov.formats.roster import Roster, parse_roster_artifact
from edgeprov.verify.policy import TrustPolicy
from edgeprov.verify.signature import SignatureArtifact, verify_kit_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRoster:
    """A roster that somebody with the role roster signed."""

    roster: Roster
    digest: Digest
    signer: str


def verify_roster(
    manifest: Manifest, raw: bytes, signatures: Sequence[SignatureArtifact], policy: TrustPolicy, at: dt.datetime
) -> VerifiedRoster:
    """Judge one version by itself.

    Args:
        manifest: Of the artifact, read by digest.
        raw: Its layer.
        signatures: Found on it.
        policy: Its role roster counts.
        at: Time at which the signer's certificate is judged, where no timestamp proves a better one.

    Raises:
        SignatureInvalid, SubjectMismatch, SignerUntrusted: Nobody with the role vouches for it.
        PolicyDenied: The signer is on the deny list.
        DigestMismatch: The layer is not the one that the manifest names.
        FormatError: Not a roster.
    """
    signed = verify_kit_signature(
        manifest, signatures, policy, at, predicate_types=(ROSTER_PREDICATE,), purpose="roster"
    )
    roster = parse_roster_artifact(manifest, raw)
    predicate = signed.statement.predicate
    claimed = [predicate.get(key) for key in ("version", "issuedAt", "expiresAt", "previous")]
    previous = None if roster.previous is None else str(roster.previous)
    if claimed != [roster.version, roster.issued_at, roster.expires_at, previous]:
        raise SubjectMismatch("the statement and the roster do not name the same version, times and predecessor")
    return VerifiedRoster(roster=roster, digest=manifest.digest, signer=signed.identity.san)


def verify_current(roster: Roster, at: dt.datetime) -> None:
    """A roster is used from its issue to its expiry.

    Raises:
        RosterInvalid: It expired, or is not issued yet.
    """
    if at > parse_rfc3339(roster.expires_at):
        raise RosterInvalid(
            f"roster version {roster.version} expired at {roster.expires_at}",
            advice="Publish a newer one: edgeprov-fleet roster publish, also from a timer.",
        )
    if at < parse_rfc3339(roster.issued_at):
        raise RosterInvalid(f"roster version {roster.version} says that it was issued later, at {roster.issued_at}")


def verify_successor(earlier: VerifiedRoster, later: VerifiedRoster) -> None:
    """A later version lacks nothing of an earlier one, and takes nothing back.

    Args:
        earlier: Any version.
        later: One with a higher version, or the same document.

    Raises:
        RosterInvalid: It is another document of the same version, does not name its predecessor, lacks an entry, or
            changes what an entry said; both digests are named.
    """
    old, new = earlier.roster, later.roster
    if later.digest == earlier.digest:
        return

    def refuse(why: str) -> RosterInvalid:
        return RosterInvalid(
            f"roster version {new.version} ({later.digest}) {why} version {old.version} ({earlier.digest})"
        )

    if new.version == old.version:
        raise refuse("is another document than")
    if new.version < old.version:
        raise refuse("is older than")
    if new.version == old.version + 1 and new.previous != earlier.digest:
        raise refuse("does not name as its predecessor")
    if new.issued_at < old.issued_at:
        raise refuse("was issued before")
    entries = {entry.enrollment: entry for entry in new.entries}
    for entry in old.entries:
        found = entries.get(entry.enrollment)
        if found is None:
            raise refuse(f"lacks the enrollment {entry.enrollment.hex()} of")
        names = (*found.names, found.device)
        kept = (found.base, found.since) == (entry.base, entry.since) and {entry.device, *entry.names} <= set(names)
        if not kept or (entry.ended is not None and (found.ended, found.until) != (entry.ended, entry.until)):
            raise refuse(f"changes what the entry {entry.enrollment.hex()} said in")
