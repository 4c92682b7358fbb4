# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Receipts: the back end says which exported kits of a device arrived, so that the device may free them.

A receipt is a sigstore bundle around an in-toto statement; its subjects are the manifest digests. A
forged one would make a device delete what nobody has, so it counts only with an enroller's signature
(verify.receipt).

Spec: FORMAT.md section "Receipt".
"""

from __future__ import annotations

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError
from edgeprov.formats.digest import Digest
from edgeprov.formats.in_toto import Statement
from edgeprov.formats.jsonx import encode_json, get_str
from edgeprov.formats.mediatypes import RECEIPT_PREDICATE, STATEMENT_TYPE
from edgeprov.formats.segment import device_serial

MAX_KITS = 1_000
"""Subjects of one statement; more kits make more receipts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What arrived. ``at`` is RFC 3339, the back end's clock."""

    device: str
    registry: str
    at: str
    digests: tuple[Digest, ...]


def encode_receipt(receipt: Receipt) -> bytes:
    """The statement to sign.

    Raises:
        FormatError: No kit, or more than a statement may have.
    """
    if not 0 < len(receipt.digests) <= MAX_KITS:
        raise FormatError(f"a receipt names 1 to {MAX_KITS} kits")
    return encode_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"digest": {"sha256": digest.hex}} for digest in receipt.digests],
            "predicateType": RECEIPT_PREDICATE,
            "predicate": {"device": receipt.device, "registry": receipt.registry, "at": receipt.at},
        }
    )


def parse_receipt(statement: Statement) -> Receipt:
    """Read the statement of a receipt.

    Raises:
        FormatError: Another statement, or a member is missing.
    """
    if statement.predicate_type != RECEIPT_PREDICATE:
        raise FormatError(f"a statement of type {statement.predicate_type[:80]!r} is no receipt")
    device = get_str(statement.predicate, "device", "receipt")
    device_serial(device)
    return Receipt(
        device=device,
        registry=get_str(statement.predicate, "registry", "receipt"),
        at=get_str(statement.predicate, "at", "receipt"),
        digests=statement.subjects,
    )
