# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One screen: identity, models, records that wait, uploads, TPM counter, disk, clock."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from edgeprov.cli.output import Output, one_line, short, size
from edgeprov.device.context import load_context


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", action="store_true", help="each setting with the file that it comes from")


def run(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.status import read_status

    context = load_context()
    if args.config:
        _show_config(context.config, out)
        return
    status = read_status(context)
    certificate = "certificate installed" if status.certificate else "no certificate yet"
    lines = [
        f"device     {status.device}",
        f"identity   {certificate}, assurance {status.assurance or 'unknown'}",
    ]
    if status.identity_fault:
        lines.append(f"           REFUSED: {one_line(status.identity_fault)}")
    if status.tpm_error:
        lines.append(f"TPM        {one_line(status.tpm_error)}")
    else:
        lines.append(f"TPM        counter {status.counter}, {status.counter_left} writes left")
    for slot in status.slots:
        model = f"{one_line(slot.name)} {one_line(slot.version)} {short(slot.model)}" if slot.model else "no model"
        lines.append(f"slot       {slot.slot}: {model}  {slot.verdict if slot.model else ''}".rstrip())
        if slot.floor:
            lines.append(f"           model floor {slot.floor}")
        if slot.returned_from:
            lines.append(f"           runs an older model: {short(slot.returned_from)} was refused")
        if slot.error:
            lines.append(f"           {one_line(slot.error)}")
        lines.append(
            f"           {slot.records} records wait to be sealed ({size(slot.spool_bytes)} of {size(status.quota)})"
        )
    waiting = f", oldest of {status.oldest_unsent}" if status.oldest_unsent else ""
    lines += [
        f"outbox     {status.outbox} artifacts ({size(status.outbox_bytes)}){waiting}",
        f"upload     last success {status.last_upload or 'never'}",
        f"disk       {'unknown' if status.free is None else size(status.free) + ' free'}"
        + (f", {status.quarantined} items in quarantine" if status.quarantined else ""),
        f"clock      {'; '.join(status.doubts) or 'no doubt'}",
    ]
    values = asdict(status)
    values.pop("advice")
    out.item("status", "\n".join(lines), **values, next=status.advice)
    out.next(status.advice)


def _show_config(config: object, out: Output) -> None:
    from edgeprov.config import Config

    assert isinstance(config, Config)  # noqa: S101 - narrows the type
    rows = []
    for section, table in asdict(config).items():
        if section == "origins":
            continue
        for key, value in table.items():
            origin = config.origins.get(f"{section}.{key}")
            out.item("setting", key=f"{section}.{key}", value=value, origin=str(origin) if origin else None)
            rows.append((f"{section}.{key}", value, origin or "default"))
    out.table(("setting", "value", "from"), rows)
