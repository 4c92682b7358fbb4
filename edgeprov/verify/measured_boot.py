# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Step 6: the PCRs of one quote against the event log and the values that the trust policy admits.

A quote may cover more PCRs than the policy asks for: devices of one fleet have different settings, and a policy
changes after kits were made. The values stand beside the quote, so any part of them can be compared.

Spec: FORMAT.md sections 16 and 21, R-pcr; TPM 2.0 Library, Part 3, TPM2_Quote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from edgeprov._dataclass import dataclass
from edgeprov.errors import EdgeprovError, EvidenceInvalid
from edgeprov.formats.eventlog import Event, parse_event_log, replay
from edgeprov.formats.tpmt import ALG_SHA256, Attest, Attestation, Quote
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBoot:
    """What a quote proves of its boot.

    Attributes:
        events: Of the log.
        boot_set: Name of the policy's set that the PCRs match; None where the policy has none.
    """

    events: tuple[Event, ...]
    boot_set: str | None


def verify_pcrs(attestation: Attestation, attest: Attest, log: bytes, policy: TrustPolicy, what: str) -> MeasuredBoot:
    """Require that the log leads to the model PCR's value, and that the boot is one that the policy admits.

    Args:
        attestation: Structure, signature, and the values beside it.
        attest: The structure, parsed.
        log: Event log of that boot as of the quote.
        policy: Its model PCRs and boot sets.
        what: Named in errors.

    Raises:
        EvidenceInvalid: Step 6: another bank or selection, a malformed log, or values that do not fit.
    """
    values = _quoted_values(attestation, attest, what)
    try:
        events, pcr, value = _replay(log, policy.pcrs, tuple(values))
    except EdgeprovError as error:
        raise EvidenceInvalid(f"{what}: {error.message}", step=6) from error
    if pcr not in values:
        raise EvidenceInvalid(f"{what} is over sha256:{_listed(values)}, not over the model PCR {pcr}", step=6)
    if values[pcr] != value:
        raise EvidenceInvalid(f"{what}: PCR {pcr} does not have the value that the event log leads to", step=6)
    return MeasuredBoot(events=events, boot_set=_matching_set(values, policy, what))


def _quoted_values(attestation: Attestation, attest: Attest, what: str) -> dict[int, bytes]:
    quote = attest.info
    if not isinstance(quote, Quote):
        raise EvidenceInvalid(f"{what} is not a quote", step=6)
    if len(quote.selection) != 1 or quote.selection[0][0] != ALG_SHA256:
        raise EvidenceInvalid(f"{what} is over {_selection(quote.selection)}, not over the SHA-256 bank alone", step=6)
    selected = quote.selection[0][1]
    if tuple(pcr for pcr, _ in attestation.pcrs) != selected:
        named = ",".join(str(pcr) for pcr, _ in attestation.pcrs) or "none"
        raise EvidenceInvalid(f"{what} is over sha256:{_listed(selected)}, but has values of PCR {named}", step=6)
    if hashlib.sha256(b"".join(value for _, value in attestation.pcrs)).digest() != quote.pcr_digest:
        raise EvidenceInvalid(f"{what}: the PCR values beside it are not the quoted ones", step=6)
    return dict(attestation.pcrs)


def _matching_set(values: Mapping[int, bytes], policy: TrustPolicy, what: str) -> str | None:
    if not policy.boot_sets:
        return None
    for name, wanted in policy.boot_sets:
        if all(values.get(pcr) == value for pcr, value in wanted):
            return name
    asked = sorted({pcr for _, wanted in policy.boot_sets for pcr, _ in wanted})
    missing = [pcr for pcr in asked if pcr not in values]
    if missing:
        raise EvidenceInvalid(
            f"{what} is over sha256:{_listed(values)}; boot_pcrs of the trust policy asks for PCR {_listed(missing)} "
            "as well: set tpm.quote_pcrs on the device",
            step=6,
        )
    raise EvidenceInvalid(f"{what}: PCR {_listed(asked)} match none of the boot_pcrs of the trust policy", step=6)


@lru_cache(maxsize=1_024)
def _replay(log: bytes, admitted: tuple[int, ...], quoted: tuple[int, ...]) -> tuple[tuple[Event, ...], int, bytes]:
    # All kits of one boot carry the same log: one of the caches of which formats.segment tells the gain.
    events = parse_event_log(log)
    # The log names its PCR; an empty one speaks for the PCR that the quote shares with the policy.
    shared = [pcr for pcr in admitted if pcr in quoted]
    pcr = events[0].pcr if events else (shared or admitted)[0]
    for event in events:
        if event.pcr != pcr or pcr not in admitted:
            raise EvidenceInvalid(
                f"event {event.number} belongs to PCR {event.pcr}, not {' or '.join(map(str, admitted))}", step=6
            )
    return events, pcr, replay(events)


def _listed(pcrs: Sequence[int] | Mapping[int, bytes]) -> str:
    return ",".join(map(str, pcrs)) or "none"


def _selection(selection: Sequence[tuple[int, tuple[int, ...]]]) -> str:
    banks = [f"bank 0x{bank:04x}:{','.join(map(str, pcrs)) or 'none'}" for bank, pcrs in selection]
    return "; ".join(banks) or "nothing"
