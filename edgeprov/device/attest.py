# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The head of the series: what the TPM says, now, about the newest kit of this device and its open segments.

An auditor who holds all kits up to this one, and later those that hold the open segments, knows that none was
withheld at the end. It answers a nonce; an upload leaves one without a nonce when nothing was sealed for a while.

Spec: FORMAT.md section "Head".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.device.counter_state import COUNTER_LOCK, reconcile
from edgeprov.device.event_log import quote_with_log
from edgeprov.device.identity import end_enrollment, has_ended, verify_own_name
from edgeprov.device.seal import seal
from edgeprov.device.seal_recovery import finish_committed
from edgeprov.device.sequencer import Sequencer
from edgeprov.device.series_state import SEAL_LOCK, first_active, load_head
from edgeprov.device.standing_maker import StandingMaker
from edgeprov.errors import IdentityError, UsageError
from edgeprov.formats.head import Head, HeadClaims, encode_head, head_qualifying
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.formats.standing import encode_standing

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.store.state import State
    from edgeprov.tpm.device import Tpm


def attest(context: Context, nonce_hex: str, *, final: bool = False) -> bytes:
    """Answer a challenge.

    Args:
        context: The device.
        nonce_hex: The auditor's nonce, 8 to 64 bytes in hex.
        final: End the enrollment: nothing is recorded or sealed under it afterwards.

    Returns:
        The JSON document for the auditor.

    Raises:
        UsageError: Not hex; or final, and a segment is open.
        FormatError: A nonce that is too short or too long.
        IdentityError: No enrollment, or serial, certificate and TPM do not belong together.
        TpmError: The TPM failed.
    """
    try:
        nonce = bytes.fromhex(nonce_hex)
    except ValueError as error:
        raise UsageError("the nonce is not hexadecimal", advice="Give 8 to 64 bytes as hex digits.") from error
    if final and not has_ended(context.state()):
        seal(context, rest=True)
    answer = encode_head(make_head(context, nonce, final=final))
    journal.event("attested", "an auditor's challenge was answered", device=context.urn)
    return answer


def make_head(context: Context, nonce: bytes | None, *, final: bool = False) -> Head:
    """A head of this moment, after every number of the counter is accounted for.

    Args:
        context: The device.
        nonce: The auditor's; None for a head that nobody asked for.
        final: Nothing follows under this enrollment; noted on the disk before the TPM says so.

    Raises:
        UsageError: Final, and a segment is open.
        FormatError: A nonce that is too short or too long.
        IdentityError: No enrollment.
        TpmError: The TPM failed.
        StoreError: The state cannot be changed.
    """
    state = context.state()
    # No kit may be sealed between reading the head of the series and certifying the counter.
    with state.lock(SEAL_LOCK, wait=True), context.tpm() as tpm:
        verify_own_name(context, state, tpm)
        _account(context, state, tpm)
        standings = StandingMaker(context, state)
        moment = standings.begin()
        with state.lock(COUNTER_LOCK, wait=True), tpm.group():
            finish_committed(state)
            found = reconcile(state, tpm)
            standing, _ = standings.make(moment, found.state.newest, final=final)
            if final:
                if not standing.final:
                    raise UsageError(
                        f"{len(standing.open)} segments are open, so nothing can be final yet",
                        advice="Stop the applications that record and ask again; a segment without a record ends with "
                        "its boot, so reboot where that is not enough.",
                    )
                end_enrollment(state)
            head = load_head(state)
            claims = HeadClaims(
                device=context.urn,
                enrollment=context.enrollment,
                nonce=nonce,
                newest=head.digest if head else None,
                at=rfc3339_of_ns(moment.at_ns),
                standing=encode_standing(standing),
            )
            qualifying = head_qualifying(claims)
            quote, log = quote_with_log(context, tpm, qualifying)
            return Head(
                device=claims.device,
                enrollment=claims.enrollment,
                nonce=claims.nonce,
                newest=claims.newest,
                at=claims.at,
                standing=claims.standing,
                quote=quote,
                counter=tpm.certify_counter(qualifying),
                log=log,
            )


def _account(context: Context, state: State, tpm: Tpm) -> None:
    """Sign for the numbers that nothing stands under; a device without a certificate cannot, and has sealed nothing."""
    try:
        sequencer = Sequencer(context, state, tpm, lambda _: None)
    except IdentityError:
        return
    sequencer.recover()
    active = first_active(state)
    if active is not None and sequencer.has_half_taken_number():
        sequencer.add_tombstone(active.slot, active.model)
