# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Models on this device: install by digest, list, show, activate, remove."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgeprov.cli.device.waits import Waits
from edgeprov.cli.output import Output, one_line, short, size
from edgeprov.cli.parsing import subcommands
from edgeprov.device.context import Context, load_context

if TYPE_CHECKING:
    from edgeprov.device.model_store import StoredModel
    from edgeprov.formats.digest import Digest


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = subcommands(
        parser,
        {
            "install": "fetch by digest, verify, try and activate a model",
            "list": "models on this device",
            "show": "what a model takes and gives, and who signed it",
            "activate": "switch a slot to an installed model",
            "remove": "remove an installed model that no slot needs",
        },
    )
    actions["install"].add_argument("reference", metavar="REF@sha256:...", help="registry host/path or oci:DIR//path")
    actions["install"].add_argument("--slot", help="default: the first configured slot")
    actions["install"].add_argument("--no-activate", action="store_true", help="only store it")
    actions["show"].add_argument("model", nargs="?", metavar="DIGEST", help="default: the active model of the slot")
    actions["show"].add_argument("--slot")
    actions["activate"].add_argument("model", metavar="DIGEST")
    actions["activate"].add_argument("--slot")
    actions["remove"].add_argument("model", nargs="?", metavar="DIGEST")
    actions["remove"].add_argument("--unused", action="store_true", help="all that no slot runs or may return to")


def run(args: argparse.Namespace, out: Output) -> None:
    {"install": _install, "list": _list, "show": _show, "activate": _activate, "remove": _remove}[args.action](
        args, out
    )


def _install(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.boot import activate
    from edgeprov.device.install import install_model

    context = load_context()
    slot = args.slot or context.config.device.slots[0]
    with out.progress("fetching", 0) as bar:
        installed = install_model(context, args.reference, progress=bar.update, waiting=Waits(out, bar.clear).told)
    digest, kit = installed.model.manifest.digest, installed.model.kit
    if not args.no_activate:
        activate(context, digest, slot)
    out.item(
        "installed",
        one_line(f"{kit.name} {kit.version} {digest}") + f"\n  signed by {one_line(installed.signer)}, "
        f"{size(installed.fetched)} fetched, trial run with {installed.trial['runtime']} {installed.trial['version']} "
        f"(self-test {installed.trial['selftest']})"
        + ("" if args.no_activate else f"\n  active in slot {slot}, measured into PCR {context.config.tpm.pcr}"),
        model=str(digest),
        name=kit.name,
        version=kit.version,
        signer=installed.signer,
        fetched=installed.fetched,
        trial=installed.trial,
        slot=None if args.no_activate else slot,
    )
    out.next(f"edgeprov model activate {digest}" if args.no_activate else "edgeprov infer --input FILE")


def _list(_args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.boot import active_models
    from edgeprov.device.model_store import list_models

    context = load_context()
    state = context.state(write=False)
    slots: dict[str, list[str]] = {}
    for active in active_models(context, state):
        slots.setdefault(str(active.model), []).append(active.slot)
    rows = []
    for model in list_models(context, state):
        digest = str(model.manifest.digest)
        total = sum(layer.size for layer in model.manifest.layers)
        active_in = slots.get(digest, [])
        out.item(
            "model",
            model=digest,
            name=model.kit.name,
            version=model.kit.version,
            source=model.source,
            security_version=model.kit.security_version,
            bytes=total,
            slots=active_in,
        )
        rows.append(
            (
                short(digest),
                one_line(model.kit.name),
                one_line(model.kit.version),
                model.kit.security_version,
                size(total),
                model.source,
                ", ".join(active_in),
            )
        )
    out.table(("digest", "name", "version", "sec", "size", "from", "active in"), rows)
    if not rows:
        out.text("no model yet")
        out.next("edgeprov model install REF@sha256:...")


def _show(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.model_trust import verify_publisher
    from edgeprov.device.selftest import verify_model_runs
    from edgeprov.device.stored_signatures import load_model_signatures

    context = load_context()
    state = context.state(write=False)
    model = _find(context, args.model, args.slot)
    signer = verify_publisher(context, model.manifest, load_model_signatures(model.layout, model.manifest.digest))
    trial = verify_model_runs(model, context.config.runtime)
    kit = model.kit
    lines = [
        f"model      {one_line(kit.name)} {one_line(kit.version)}",
        f"digest     {model.manifest.digest}",
        f"signed by  {one_line(signer.san)}",
        f"security   version {kit.security_version}",
        f"self-test  {trial['selftest']} ({trial['runtime']} {trial['version']})",
        *(f"input      {one_line(item)}" for item in trial["inputs"]),
        *(f"output     {one_line(item)}" for item in trial["outputs"]),
        *(
            f"layer      {short(layer.digest)} {size(layer.size)} {one_line(layer.media_type)}"
            for layer in model.manifest.layers
        ),
    ]
    out.item(
        "model",
        "\n".join(lines),
        model=str(model.manifest.digest),
        name=kit.name,
        version=kit.version,
        signer=signer.san,
        security_version=kit.security_version,
        source=model.source,
        trial=trial,
    )
    del state


def _activate(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.boot import activate
    from edgeprov.device.selftest import verify_model_runs

    context = load_context()
    slot = args.slot or context.config.device.slots[0]
    model = _find(context, args.model, slot)
    verify_model_runs(model, context.config.runtime)
    verdict = activate(context, model.manifest.digest, slot)
    out.item("activated", f"slot {slot}: {verdict.model} active", slot=slot, model=str(verdict.model))


def _remove(args: argparse.Namespace, out: Output) -> None:
    from edgeprov.device.install import remove_model, unused_models
    from edgeprov.errors import UsageError

    context = load_context()
    if args.unused == (args.model is not None):
        raise UsageError("give either DIGEST or --unused")
    digests = unused_models(context) if args.unused else [_find(context, args.model, None).manifest.digest]
    for digest in digests:
        freed = remove_model(context, digest)
        out.item("removed", f"{digest} removed, {size(freed)} freed", model=str(digest), freed=freed)
    if not digests:
        out.text("every model is in use")


def _find(context: Context, text: str | None, slot: str | None) -> StoredModel:
    from edgeprov.device.boot import active_models
    from edgeprov.device.model_store import find_model, list_models
    from edgeprov.errors import ModelNotReady, NotStored, UsageError

    state = context.state(write=False)
    if text is None:
        slot = slot or context.config.device.slots[0]
        for active in active_models(context, state):
            if active.slot == slot:
                return find_model(context, state, active.model)
        raise ModelNotReady(f"slot {slot}: no model is active")
    prefix = text.removeprefix("sha256:")
    if len(prefix) < 8 or not set(prefix) <= set("0123456789abcdef"):
        raise UsageError(
            f"{text[:80]!r} is not a digest", advice="Give at least 8 hex digits, as `edgeprov model list` shows."
        )
    found: list[Digest] = [
        model.manifest.digest for model in list_models(context, state) if model.manifest.digest.hex.startswith(prefix)
    ]
    if len(found) != 1:
        raise NotStored(f"{len(found)} models on this device have a digest that begins with {prefix}")
    return find_model(context, state, found[0])
