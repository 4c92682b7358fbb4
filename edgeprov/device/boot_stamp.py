# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The stamp of the boot check: the verdict on each slot's model in this boot.

It is kept in the run folder, which ends with the boot. A stamp of another boot, or a damaged one, says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeprov.errors import FormatError, ModelNotReady, NotStored
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.jsonx import encode_json, parse_json_object
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, save_bytes

if TYPE_CHECKING:
    from edgeprov.device.context import Context


_STAMP: Final = "boot.json"
_STAMP_VERSION: Final = 1


def load_stamp(context: Context) -> dict[str, Any]:
    """Verdicts of this boot by slot; empty when there was no boot check since the boot.

    Raises:
        StoreError: The stamp cannot be read.
    """
    try:
        raw = load_bytes(context.run_dir / _STAMP, max_bytes=LIMITS.config_bytes, what="boot stamp")
        stamp = parse_json_object(raw, "boot stamp")
    except (NotStored, FormatError):
        return {}  # a damaged stamp is worth as much as none: the check runs again
    slots = stamp.get("slots")
    if stamp.get("v") != _STAMP_VERSION or stamp.get("boot_id") != context.boot_id() or not isinstance(slots, dict):
        return {}
    return slots


def save_verdict(context: Context, slot: str, verdict: Mapping[str, Any]) -> None:
    """Replace one slot's verdict in the stamp of this boot.

    Raises:
        StoreError: The stamp cannot be written.
    """
    slots = {**load_stamp(context), slot: dict(verdict)}
    stamp = {"v": _STAMP_VERSION, "boot_id": context.boot_id(), "slots": slots}
    save_bytes(context.make_run_dir() / _STAMP, encode_json(stamp), mode=0o640)


def verified_model(context: Context, slot: str) -> Digest:
    """The model that passed this boot's check in ``slot``.

    Raises:
        ModelNotReady: None did; the message tells why.
    """
    verdict = load_stamp(context).get(slot)
    if not isinstance(verdict, dict):
        raise ModelNotReady(f"slot {slot}: no model has passed the boot check since this boot")
    if verdict.get("verdict") != "verified":
        raise ModelNotReady(f"slot {slot}: the boot check refused the model: {verdict.get('error', 'unknown reason')}")
    return parse_digest(str(verdict.get("model")))
