# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every check that a technician would make, each with its verdict and its fix. Changes nothing.

A check that raises is a finding, never the end of the examination.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

from edgeprov._dataclass import dataclass
from edgeprov.config import load_config
from edgeprov.device.boot import active_models, returned_from, verify_model
from edgeprov.device.boot_stamp import load_stamp
from edgeprov.device.context import Context, free_bytes
from edgeprov.device.counter_state import load_counter_state
from edgeprov.device.event_log import current_log
from edgeprov.device.identity import counter_base, load_certificates, load_keys, verify_own_name
from edgeprov.device.kit_repository import verify_template
from edgeprov.device.series_state import load_head
from edgeprov.device.stored_signatures import load_model_signatures
from edgeprov.errors import EXIT_DONE, EdgeprovError, ModelNotReady, NotStored, TpmError
from edgeprov.formats.b64 import b64

if TYPE_CHECKING:
    from edgeprov.store.state import State

Verdict = Literal["ok", "note", "fail"]
_LOW_COUNTER: Final = 5_000
_OLD_OUTBOX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was found and, unless it is ok, what to do. ``code`` is the exit code of its error."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    code: int = EXIT_DONE


Check = Callable[[Context], Finding]


def examine() -> Iterator[Finding]:
    """Run all checks, in the order in which faults cause each other."""
    try:
        context = Context(load_config())
    except EdgeprovError as error:
        yield _failed("configuration", error)
        return
    silent: TpmError | None = None
    for name, check in _CHECKS.items():
        try:
            yield check(context)
        except TpmError as error:
            if silent is not None and error.message == silent.message:
                found, fix = "not checked: it needs the TPM", "See TPM above."
                yield Finding(check=name, verdict="fail", found=found, fix=fix, code=error.exit_code)
                continue
            silent = silent or error
            yield _failed(name, error)
        except EdgeprovError as error:
            yield _failed(name, error)
        except OSError as error:
            yield Finding(check=name, verdict="fail", found=str(error), fix="Check rights and mounts.", code=34)


def _failed(name: str, error: EdgeprovError) -> Finding:
    return Finding(check=name, verdict="fail", found=error.message, fix=error.advice, code=error.exit_code)


def _configuration(context: Context) -> Finding:
    serial = context.serial
    files = sorted({str(path) for path in context.config.origins.values()})
    return Finding(check="configuration", verdict="ok", found=f"device {serial}, from {', '.join(files) or 'defaults'}")


def _state(context: Context) -> Finding:
    state = context.state(write=False)
    if not os.access(state.root, os.W_OK):
        return Finding(
            check="state folder",
            verdict="fail",
            found=f"{state.root} is not writable",
            fix="Mount the data partition read-write, or run as the edgeprov user.",
            code=34,
        )
    broken = state.quarantined()
    if broken:
        return Finding(
            check="state folder",
            verdict="note",
            found=f"{len(broken)} items in quarantine: {broken[0][1]}",
            fix=f"Keep {state.root / 'quarantine'} for analysis; then remove it.",
        )
    return Finding(check="state folder", verdict="ok", found=str(state.root))


def _space(context: Context) -> Finding:
    from edgeprov.device.status import LOW_SPACE_BYTES

    free = free_bytes(context.state(write=False).root)
    if free < LOW_SPACE_BYTES:
        return Finding(
            check="disk space",
            verdict="fail",
            found=f"{free / 1e6:.1f} MB free",
            fix="Run `edgeprov upload` or `edgeprov export`, or remove old models.",
            code=30,
        )
    return Finding(check="disk space", verdict="ok", found=f"{free / 1e9:.1f} GB free")


def _clock(context: Context) -> Finding:
    doubts = context.clock_doubts()
    if doubts:
        return Finding(
            check="clock",
            verdict="note",
            found=doubts[0],
            fix="Set the clock or start the time service; the order of records does not depend on it.",
        )
    return Finding(check="clock", verdict="ok", found="after the time floor")


def _trust(context: Context) -> Finding:
    files = context.trust_files()
    context.policy()
    if not files:
        return Finding(
            check="trust",
            verdict="fail",
            found=f"{context.config.trust.dir} is empty: everything is refused",
            fix="Install the publisher's and the device CA's anchors and policy.toml there.",
            code=19,
        )
    return Finding(check="trust", verdict="ok", found=f"{len(files)} files in {context.config.trust.dir}")


def _tpm(context: Context) -> Finding:
    with context.tpm() as tpm:
        current_log(context, tpm)
        assurance = tpm.assurance
    if assurance == "dev":
        return Finding(
            check="TPM",
            verdict="note",
            found="software TPM (assurance dev)",
            fix="Good for development; a trust policy that asks for hardware refuses its kits.",
        )
    return Finding(check="TPM", verdict="ok", found=f"answers, assurance {assurance}; the event log replays to its PCR")


def _identity(context: Context) -> Finding:
    state = context.state(write=False)
    keys = load_keys(state)
    with context.tpm() as tpm:
        identity = tpm.identity()  # only looks; create_identity would make keys in a cleared TPM
        notes = tpm.verify_keys()
    if b64(identity.ak_public) != keys["ak"] or b64(identity.sk_public) != keys["sk"]:
        return Finding(
            check="identity",
            verdict="fail",
            found="the TPM's files name other keys than the stored identity",
            fix="The state is put together from two devices: move it away, and enroll this device anew.",
            code=24,
        )
    verify_own_name(context, state)
    load_certificates(state)
    if notes:
        return Finding(
            check="identity",
            verdict="note",
            found="; ".join(notes),
            fix="A cleared TPM gets its keys back by the next `edgeprov seal`. If the TPM or the board was replaced, "
            "move the state folder away and enroll the device anew.",
        )
    return Finding(check="identity", verdict="ok", found=f"{keys['device']}, keys in the TPM, certificate installed")


def _passwords(context: Context) -> Finding:
    with context.tpm() as tpm:
        weak = tpm.weaknesses()
    if weak:
        return Finding(
            check="TPM passwords",
            verdict="note",
            found="; ".join(weak),
            fix="Run `edgeprov identity create --owner-auth FILE --lockout-auth FILE`, or with --forget-auth; see "
            "ENROLLMENT.md.",
        )
    return Finding(check="TPM passwords", verdict="ok", found="owner and lockout are protected")


def _floors(context: Context) -> Finding:
    from edgeprov.tpm.floor import PLACES

    with context.tpm() as tpm:
        loose = tpm.floors_on_disk()
    if loose:
        return Finding(
            check="model floors",
            verdict="note",
            found=f"kept on the disk only, for slots: {', '.join(loose)}",
            fix=f"The TPM holds floors of at most {PLACES} slots, made by `edgeprov identity create`; whoever can "
            "write the state folder can lower the others.",
        )
    return Finding(check="model floors", verdict="ok", found="held in the TPM for each slot")


def _counter(context: Context) -> Finding:
    from edgeprov.device.status import COUNTER_ENDURANCE

    state = context.state(write=False)
    with context.tpm() as tpm:
        counter = tpm.read_counter()
    base = counter_base(state)
    numbers, head = load_counter_state(state), load_head(state)
    known = max(numbers.known, head.seq if head else base)
    if counter != known:
        return Finding(
            check="kit counter",
            verdict="note",
            found=f"the TPM says {counter}, this device has used the numbers up to {known}",
            fix="The next `edgeprov seal` signs a tombstone for the difference.",
        )
    if numbers.owed:
        return Finding(
            check="kit counter",
            verdict="note",
            found=f"{len(numbers.owed)} numbers without a kit or segment, the first is {numbers.owed[0].number}",
            fix="The next `edgeprov seal` signs a tombstone for them.",
        )
    left = COUNTER_ENDURANCE - (counter - base)
    if left < _LOW_COUNTER:
        return Finding(
            check="kit counter",
            verdict="note",
            found=f"{left} writes left of an assumed {COUNTER_ENDURANCE}",
            fix="Raise seal.min_kit_interval_s, and plan the device's replacement.",
        )
    return Finding(check="kit counter", verdict="ok", found=f"at {counter}, {left} writes left")


def _models(context: Context) -> Finding:
    state = _optional_state(context)
    active = active_models(context, state)
    if not active:
        raise ModelNotReady("no slot has a model")
    with context.boot_tpm() as tpm:
        floors = {item.slot: tpm.floor(item.slot) for item in active}
    damaged = 0
    for item in active:
        model = verify_model(context, state, item.model, floors[item.slot])
        damaged += len(load_model_signatures(model.layout, item.model).damaged)
    for item in active:
        if refused := returned_from(item):
            return Finding(
                check="models",
                verdict="fail",
                found=f"slot {item.slot} runs an older model: {refused} was refused at a boot check",
                fix=f"Install the newer model again, or accept the older one: `edgeprov model activate {item.model} "
                f"--slot {item.slot}`.",
                code=55,
            )
    if damaged:
        return Finding(
            check="models",
            verdict="note",
            found=f"{damaged} signatures of active models cannot be read; others are good",
            fix="Install the model again to get them back, and check the disk.",
        )
    return Finding(check="models", verdict="ok", found=f"{len(active)} active, digests and signatures right")


def _boot(context: Context) -> Finding:
    stamp = load_stamp(context)
    for item in active_models(context, _optional_state(context)):
        verdict = stamp.get(item.slot) or {}
        if verdict.get("model") != str(item.model):
            return Finding(
                check="boot check",
                verdict="fail",
                found=f"slot {item.slot}: not checked in this boot",
                fix="Run `edgeprov boot-check`, and enable edgeprov-boot-check.service.",
                code=55,
            )
        if verdict.get("verdict") != "verified":
            return Finding(
                check="boot check",
                verdict="fail",
                found=f"slot {item.slot}: {verdict.get('error')}",
                fix="Install a good model, or `edgeprov model activate` an older one.",
                code=55,
            )
    return Finding(check="boot check", verdict="ok", found="passed in this boot")


def _runtime(context: Context) -> Finding:
    from edgeprov.device.runtime import probe

    return Finding(check="interpreter", verdict="ok", found=probe(context.config.runtime.name))


def _outbox(context: Context) -> Finding:
    waiting = [entry for entry in context.state(write=False).outbox() if entry.state != "confirmed"]
    if not context.config.registry.name:
        return Finding(
            check="upload",
            verdict="note",
            found=f"no registry is configured, {len(waiting)} artifacts wait",
            fix="Set registry.name, or carry kits away with `edgeprov export`.",
        )
    repository = verify_template(context)
    if len(waiting) > _OLD_OUTBOX:
        return Finding(
            check="upload",
            verdict="note",
            found=f"{len(waiting)} artifacts wait",
            fix="Check the link with `edgeprov upload`, or use `edgeprov export`.",
        )
    return Finding(
        check="upload",
        verdict="ok",
        found=f"{len(waiting)} artifacts wait for {context.config.registry.name}; kits go to {repository}",
    )


def _optional_state(context: Context) -> State | None:
    try:
        return context.state(write=False)
    except NotStored:
        return None


_CHECKS: Final[dict[str, Check]] = {
    "configuration": _configuration,
    "state folder": _state,
    "disk space": _space,
    "clock": _clock,
    "trust": _trust,
    "TPM": _tpm,
    "identity": _identity,
    "kit counter": _counter,
    "model floors": _floors,
    "TPM passwords": _passwords,
    "interpreter": _runtime,
    "models": _models,
    "boot check": _boot,
    "upload": _outbox,
}
