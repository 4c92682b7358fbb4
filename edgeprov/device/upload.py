# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data-in, step 3: from the outbox to a registry, and free what the registry confirmed.

Opportunistic: a run ends when the outbox is empty, the link stays away, or its budget is used up, and
the next run goes on from there. An artifact leaves the device only after the registry named its
manifest and all its signatures by digest; the receipt of that is durable before anything is freed.
An artifact that cannot be sent is parked for this run and does not hold up the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass, field, replace
from edgeprov.device.context import UPLOAD_LOCK, Context
from edgeprov.device.identity import verify_own_name
from edgeprov.device.kit_repository import repository_of
from edgeprov.device.registry_access import open_registry, split_name
from edgeprov.device.series_state import SEAL_LOCK
from edgeprov.device.transfer import Tally, Transfer, artifact_bytes, signature_digests
from edgeprov.device.upload_conditions import why_not_now
from edgeprov.errors import EdgeprovError, LoginRefused, RegistryDenied, RegistryError, RegistryProtocolError, StoreBusy
from edgeprov.formats.rfc3339 import rfc3339_of_ns
from edgeprov.registry.base import Registry
from edgeprov.registry.retry import OutOfTime, Pace, WaitClock
from edgeprov.store.state import OutboxEntry, State

LAST_UPLOAD: Final = "upload"
CONFIRMED: Final = "confirmed"
_RECEIPTS: Final = 64
_SAME_REFUSALS: Final = 3


@dataclass(slots=True, kw_only=True)
class Options:
    """How this run differs from the configuration; None: as configured.

    Attributes:
        budget_s: Seconds for the whole run; 0 for until done.
        bytes_per_s: Bandwidth limit; 0 for none.
        order: ``oldest`` or ``smallest``.
        regardless: Upload although the link is metered or the battery low.
    """

    budget_s: float | None = None
    bytes_per_s: int | None = None
    order: str | None = None
    regardless: bool = False


@dataclass(slots=True, kw_only=True)
class Uploaded:
    """What one run did.

    Attributes:
        parked: What waiting cannot cure, with the reason.
        queued: Artifacts that are still to be sent, parked ones included.
        error: Why the run ended early, None when it did not.
        reason: The same for an end that is no error: budget, policy, interrupted.
    """

    sent: list[OutboxEntry] = field(default_factory=list)
    parked: list[tuple[OutboxEntry, EdgeprovError]] = field(default_factory=list)
    bytes_sent: int = 0
    queued: int = 0
    error: EdgeprovError | None = None
    reason: str = ""


class Observer:
    """Told what happens while it happens; does nothing itself."""

    def changed(self, tally: Tally) -> None:
        """A blob or an artifact arrived."""

    def waiting(self, seconds: float, error: RegistryError) -> None:
        """The link or the registry failed; the next try comes in so many seconds."""

    def sent(self, entry: OutboxEntry) -> None:
        """The registry confirmed this artifact."""

    def parked(self, entry: OutboxEntry, error: EdgeprovError) -> None:
        """This artifact cannot be sent by waiting."""


def upload(
    context: Context,
    options: Options | None = None,
    *,
    observer: Observer | None = None,
    clock: WaitClock | None = None,
) -> Uploaded:
    """Send what waits in the outbox.

    Args:
        context: The device.
        options: For this run.
        observer: Told what happens while it happens.
        clock: Replaced in tests.

    Raises:
        ConfigError: No registry is configured, a file that it names is wrong, or the template gives no repository.
        IdentityError: The configured serial is not that of the identity; nothing is sent.
        StoreBusy: Another process uploads.
        StoreError: The state cannot be read.
    """
    options, observer = options or Options(), observer or Observer()
    settings = context.config.upload
    host, prefix = split_name(context.config.registry.name)
    state = context.state()
    verify_own_name(context, state)
    with state.lock(UPLOAD_LOCK):
        result = Uploaded()
        if not options.regardless:
            result.reason = why_not_now(context) or ""
        if not result.reason:
            from edgeprov.device.head_upload import leave_head_when_due  # brings all that seals

            leave_head_when_due(context, state)
        entries = _ordered(state, options.order or settings.order)
        if not entries:
            result.reason = ""
        if entries and not result.reason:
            pace = Pace(
                budget_s=settings.budget_s if options.budget_s is None else options.budget_s,
                bytes_per_s=settings.bandwidth_bytes_per_s if options.bytes_per_s is None else options.bytes_per_s,
                clock=clock,
                waiting=observer.waiting,
            )
            targets = [(repository_of(context, entry), entry) for entry, _ in entries]
            total = sum(size for _, size in entries)
            tally = Tally(artifacts=len(entries), total_bytes=total, changed=observer.changed)
            registry = open_registry(host, context.config.registry, create=True)
            run = _UploadRun(
                context, state, registry, Transfer(state.layout, registry, pace, tally), tally, observer, result
            )
            try:
                run.send([(prefix + repo, replace(entry, repo=repo)) for repo, entry in targets])
            except OutOfTime:
                result.reason = "the time for this run is over"
            except KeyboardInterrupt:
                result.reason = "interrupted"
            result.bytes_sent = tally.sent_bytes
        result.queued = len(unsent(state))
        if result.sent and settings.retention == CONFIRMED:
            collect_garbage(state)
    return result


def unsent(state: State) -> list[OutboxEntry]:
    """What no registry has confirmed yet, oldest first.

    Raises:
        StoreError: The state cannot be read.
    """
    return [entry for entry in state.outbox() if entry.state != CONFIRMED]


def free_artifact(context: Context, state: State, entry: OutboxEntry) -> None:
    """Take an artifact that arrived out of outbox and layout; blobs go at the next garbage collection.

    Raises:
        StoreError: The state cannot be changed.
    """
    if context.config.upload.retention != CONFIRMED:
        state.save_outbox(replace(entry, state=CONFIRMED))
        return
    state.remove_outbox(entry.digest)
    with state.layout.batch():
        for digest in (*signature_digests(entry), entry.digest):
            state.layout.remove_manifest(digest)
    journal.event("kit-freed", f"{entry.kind} {entry.seq} freed", kit_digest=entry.digest)


def collect_garbage(state: State) -> int:
    """Remove blobs that nothing names; skipped while a seal or an install is writing some.

    Returns:
        Bytes freed.

    Raises:
        StoreError: The layout cannot be changed.
    """
    try:
        with state.lock(SEAL_LOCK):
            return state.layout.collect_garbage(state.pinned())
    except StoreBusy:
        return 0


def _ordered(state: State, order: str) -> list[tuple[OutboxEntry, int]]:
    """Entries with their sizes. What cannot be read any more goes last: its turn tells why."""
    result = []
    for entry in unsent(state):
        try:
            result.append((entry, artifact_bytes(state.layout, entry)))
        except EdgeprovError:
            result.append((entry, 0))
    if order == "smallest":
        result.sort(key=lambda item: item[1] or 2**63)
    return result


@dataclass(frozen=True, slots=True)
class _UploadRun:
    context: Context
    state: State
    registry: Registry
    transfer: Transfer
    tally: Tally
    observer: Observer
    result: Uploaded

    def send(self, entries: Sequence[tuple[str, OutboxEntry]]) -> None:
        refusals = 0
        for repo, entry in entries:
            try:
                self.transfer.push(repo, entry)
            except EdgeprovError as error:
                if isinstance(error, LoginRefused) or (isinstance(error, RegistryError) and error.retryable):
                    self.result.error = error
                    return
                self._park(entry, error)
                # Wrong credentials or a captive portal refuse everything alike: no need to ask for each kit.
                refusals = refusals + 1 if isinstance(error, RegistryDenied | RegistryProtocolError) else 0
                if refusals == _SAME_REFUSALS:
                    self.result.error = error
                    return
                continue
            refusals = 0
            _save_receipt(self.state, self.registry, repo, entry)
            self.result.sent.append(entry)
            self.tally.done_artifacts += 1
            self.observer.changed(self.tally)
            self.observer.sent(entry)
            journal.event("kit-uploaded", f"{entry.kind} {entry.seq} is in the registry", kit_digest=entry.digest)
            free_artifact(self.context, self.state, entry)

    def _park(self, entry: OutboxEntry, error: EdgeprovError) -> None:
        self.result.parked.append((entry, error))
        self.observer.parked(entry, error)
        journal.event(
            "upload-parked",
            f"{entry.kind} {entry.seq}: {error.message}",
            priority=journal.ERROR,
            to_stderr=False,
            kit_digest=entry.digest,
        )


def _save_receipt(state: State, registry: Registry, repo: str, entry: OutboxEntry) -> None:
    """Durable before anything is freed; the last few are kept for whoever asks where a kit went."""
    receipt: dict[str, Any] = {
        "digest": str(entry.digest),
        "kind": entry.kind,
        "seq": entry.seq,
        "registry": registry.name,
        "repo": repo,
        "tag": entry.tag,
        "at": rfc3339_of_ns(time.time_ns()),
    }
    known = (state.load_document(LAST_UPLOAD) or {}).get("receipts", [])
    receipts = [*(known if isinstance(known, list) else []), receipt][-_RECEIPTS:]
    state.save_document(
        LAST_UPLOAD, {"at": receipt["at"], "seq": entry.seq, "registry": registry.name, "receipts": receipts}
    )
