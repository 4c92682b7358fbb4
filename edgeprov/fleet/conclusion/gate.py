# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Trust applied to facts: which signatures count for a role, at which proved time, and what is denied.

Spec: FORMAT.md part "Conclusion", R-con-1 and R-con-4 to R-con-7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from edgeprov.fleet.conclusion.trust import DenyType, TrustRole, TrustRules
from edgeprov.fleet.conclusion.types import ItemFacts, SignatureFacts, StampFacts
from edgeprov.formats.distinguished_name import matches_identity

_NO_ROLE: Final[tuple[tuple[str, ...], frozenset[bytes]]] = ((), frozenset())

Sight = tuple[int, tuple[StampFacts, ...]]
"""First sighting of an artifact, and the stamps over the tables that hold it."""


class Gate:
    """One trust policy at one time."""

    def __init__(self, trust: TrustRules, at: int) -> None:
        """No sighting is known yet: ``sights`` is set once the collectors are judged."""
        self.trust = trust
        self.at = at
        self.sights: Mapping[bytes, Sight] = {}
        self._roles = {role.name: (role.identities, frozenset(role.anchors)) for role in trust.roles}
        self._stampers = self._roles.get("timestamp", _NO_ROLE)[1]
        self._deny: dict[DenyType, dict[str, list[int | None]]] = {}
        for entry in trust.deny:
            self._deny.setdefault(entry.type, {}).setdefault(entry.value, []).append(entry.since)
        self._listed: dict[tuple[TrustRole, bytes, str, tuple[tuple[str, str], ...]], bool] = {}

    def proved(self, signature: SignatureFacts) -> int | None:
        """R-con-5: the time at which trusted stamps prove that a signature existed; None without one."""
        sight = self.sights.get(signature.digest)
        stamps = signature.stamps + sight[1] if sight else signature.stamps
        if not stamps:
            return None
        return min((stamp.at for stamp in stamps if stamp.anchor in self._stampers), default=None)

    def refusal(self, signature: SignatureFacts, role: TrustRole) -> str:
        """R-con-4: why a signature does not count for a role; empty where it does."""
        if not self._is_listed(signature, role):
            return f"the signer has not the role {role}"
        proved = self.proved(signature)
        if self._deny and self._signer_denied(signature, proved):
            return "the signer is denied"
        if not self._in_time(signature, proved):
            return "the certificate had ended"
        return ""

    def accepts(self, signatures: Iterable[SignatureFacts], role: TrustRole) -> bool:
        """One of the signatures counts for a role."""
        return any(not self.refusal(signature, role) for signature in signatures)

    def certificate_refusal(self, signature: SignatureFacts, proved: int | None) -> str:
        """Why a device certificate does not count at any time: its anchor, or a denial."""
        if not self._is_listed(signature, "device"):
            return "its certificate leads to no anchor of devices"
        if self._deny and self._signer_denied(signature, proved):
            return "its certificate is denied"
        return ""

    def denied(self, kind: DenyType, value: str, proved: int | None) -> bool:
        """R-con-6: an entry names this value, and no trusted stamp proves an earlier time."""
        times = self._deny.get(kind, {}).get(value, ())
        return any(since is None or proved is None or proved >= since for since in times)

    def oldest(self, signatures: Iterable[SignatureFacts]) -> int | None:
        """The earliest proved time of several signatures."""
        return min((time for time in map(self.proved, signatures) if time is not None), default=None)

    def boot_sets(self, item: ItemFacts) -> tuple[str, ...] | None:
        """R-con-7: the names of the boot sets that the quotes of an item match; None where one matches none."""
        if item.model_pcr not in self.trust.model_pcrs:
            return None
        names = set()
        if self.trust.boot_sets:
            for quote in item.pcrs or ((),):
                values = dict(quote)
                found = [
                    named.name
                    for named in self.trust.boot_sets
                    if all(values.get(pcr) == value for pcr, value in named.pcrs)
                ]
                if not found:
                    return None
                names.update(found)
        return tuple(sorted(names))

    def _is_listed(self, signature: SignatureFacts, role: TrustRole) -> bool:
        key = (role, signature.anchor, signature.identity, signature.subject)
        listed = self._listed.get(key)
        if listed is None:
            patterns, anchors = self._roles.get(role, _NO_ROLE)
            listed = self._listed[key] = signature.anchor in anchors and (
                role == "device"
                or any(matches_identity(pattern, signature.identity, signature.subject) for pattern in patterns)
            )
        return listed

    def _signer_denied(self, signature: SignatureFacts, proved: int | None) -> bool:
        keys = [signature.key.hex(), *(issuer.key.hex() for issuer in signature.issuers)]
        names = [issuer.certificate.hex() for issuer in signature.issuers]
        names += [issuer.serial for issuer in signature.issuers]
        if signature.certificate is not None:
            names += [signature.certificate.hex(), signature.serial]
        return any(self.denied("key", key, proved) for key in keys) or any(
            self.denied("certificate", name, proved) for name in names
        )

    def _in_time(self, signature: SignatureFacts, proved: int | None) -> bool:
        """Valid now, or when a stamp or a trusted collector's first sighting shows that the signature was there."""
        start, end = signature.not_before, signature.not_after
        if start is None or end is None or start <= self.at <= end:
            return True
        sight = self.sights.get(signature.digest)
        times = [time for time in (proved, sight[0] if sight else None) if time is not None]
        return bool(times) and start <= min(times) <= end
