# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an enroller believes of a request: the keys, the counter, and the assurance that the proofs give.

The level comes from the enroller's own anchors and the TCG attributes of the EK certificate, never from
the request.

Spec: FORMAT.md "Device record"; TPM 2.0 Library Part 1, "Credential Protection".
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass
from typing import Literal

from edgeprov.errors import EnrollmentRefused, PolicyDenied
from edgeprov.fleet.enrollment import credential
from edgeprov.fleet.enrollment.ca import verify_csr
from edgeprov.fleet.enrollment.request import Request
from edgeprov.formats.mediatypes import Assurance
from edgeprov.formats.tpmt import COUNTER_INDEX
from edgeprov.verify.certificates import certificate_spki
from edgeprov.verify.enrollment import (
    verify_counter_base,
    verify_ek_certificate,
    verify_factory_certificate,
    verify_factory_key,
    verify_tpm_keys,
)
from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The level that a device gets, and what shows it.

    Attributes:
        assurance: Level of the record.
        proof: ``activated`` when the TPM has to answer a credential for EK and AK first, ``vouched`` when a factory
            key shows it, ``none`` for ``dev`` without either.
        why: For people: why it is no more.
    """

    assurance: Assurance
    proof: Literal["activated", "vouched", "none"]
    why: str = ""


def decide(request: Request, policy: TrustPolicy, now: dt.datetime, *, nonce: bytes | None = None) -> Decision:
    """Check all that can be checked without a second round, and decide the level.

    Args:
        request: From the device.
        policy: Its ``ek-*.pem`` and ``idevid-*.pem`` anchors, accepted levels and deny list count.
        now: The enroller's clock.
        nonce: The challenge that the vendor gave to `identity csr --nonce`, if any.

    Raises:
        EnrollmentRefused: The request proves nothing, or not what the policy asks for.
        PolicyDenied: A key or the device is on the deny list, or the level is not accepted.
    """
    if nonce is not None and not hmac.compare_digest(nonce, request.nonce):
        raise EnrollmentRefused("the request answers another challenge than this one: it may be an old one")
    verify_tpm_keys(request.ak, request.sk, request.certify, request.nonce)
    verify_csr(request.csr, request.sk.spki, request.device, request.serial)
    if request.counter_index != COUNTER_INDEX:
        raise EnrollmentRefused(f"the kit counter is at 0x{request.counter_index:08x}, not at 0x{COUNTER_INDEX:08x}")
    verify_counter_base(request.ak, request.counter, request.counter_index, request.counter_base, request.nonce)
    for spki in (request.ak.spki, request.sk.spki):
        policy.verify_key_allowed(credential.sha256_hex(spki))
    policy.verify_device_allowed(request.device, request.enrollment)
    decision = _level(request, policy, now)
    try:
        policy.verify_assurance(decision.assurance, request.device)
    except PolicyDenied as error:
        if decision.why:
            raise EnrollmentRefused(f"{error.message}; {decision.why}") from error
        raise
    return decision


def _level(request: Request, policy: TrustPolicy, now: dt.datetime) -> Decision:
    # A factory key of a maker whom nobody trusts vouches for nothing; where one is trusted, a bad one refuses.
    if request.factory is not None and (policy.idevid_hardware_anchors or policy.idevid_firmware_anchors):
        verify_factory_key(request.factory, request.ak, request.nonce)
        level = verify_factory_certificate(request.factory.certificate, policy, now)
        return Decision(assurance=level, proof="vouched")
    if request.ek_certificate is None:
        return Decision(assurance="dev", proof="none", why="its TPM shows no endorsement key certificate")
    try:
        level = verify_ek_certificate(request.ek_certificate, (), policy, now)
    except EnrollmentRefused as error:
        return Decision(assurance="dev", proof="none", why=error.message)
    if request.ek_public is None:
        raise EnrollmentRefused("the request shows an endorsement key certificate without the key")
    if certificate_spki(request.ek_certificate) != credential.parse_ek_public(request.ek_public).spki:
        raise EnrollmentRefused("the endorsement key and its certificate are different keys")
    return Decision(assurance=level, proof="activated")
