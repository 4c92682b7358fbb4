# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The head of the series: what the TPM says, now, about the newest kit of this device.

An auditor who holds all kits up to this one knows that none was withheld at the end.

Spec: FORMAT.md section "Head".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprov import journal
from edgeprov.device.event_log import current_log
from edgeprov.device.identity import verify_own_name
from edgeprov.device.series_state import SEAL_LOCK, load_head
from edgeprov.errors import UsageError
from edgeprov.formats.head import Head, encode_head, head_qualifying

if TYPE_CHECKING:
    from edgeprov.device.context import Context


def attest(context: Context, nonce_hex: str) -> bytes:
    """Answer a challenge.

    Args:
        context: The device.
        nonce_hex: The auditor's nonce, 8 to 64 bytes in hex.

    Returns:
        The JSON document for the auditor.

    Raises:
        UsageError: Not hex.
        FormatError: A nonce that is too short or too long.
        IdentityError: Serial, certificate and TPM do not belong together.
        TpmError: The TPM failed.
    """
    try:
        nonce = bytes.fromhex(nonce_hex)
    except ValueError as error:
        raise UsageError("the nonce is not hexadecimal", advice="Give 8 to 64 bytes as hex digits.") from error
    state = context.state()
    # No kit may be sealed between reading the head and certifying the counter.
    with state.lock(SEAL_LOCK, wait=True), context.tpm() as tpm, tpm.group():
        verify_own_name(context, state, tpm)
        head = load_head(state)
        newest = head.digest if head else None
        qualifying = head_qualifying(nonce, newest)
        answer = Head(
            device=context.urn,
            nonce=nonce,
            newest=newest,
            quote=tpm.quote(qualifying),
            counter=tpm.certify_counter(qualifying),
            log=current_log(context, tpm),
        )
    journal.event("attested", "an auditor's challenge was answered", device=context.urn)
    return encode_head(answer)
