# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The keeper of a lane's segments: goes on with one of the same kind, or opens one that takes a number of the counter.

A segment belongs to a boot, slot, model, user and set of runtime facts. A session of the same kind goes on in it
without the TPM. Opening one is, in this order: the header with the next number, synced; the counter; the quote over
the header, synced; only then records. A header without a quote keeps its number for the next opening (or the next
kit); one with a quote is never written again.

Spec: FORMAT.md section "Segment header".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeprov import journal
from edgeprov._dataclass import dataclass
from edgeprov.device.counter_state import (
    COUNTER_LOCK,
    choose_number,
    reconcile,
    save_counter_state,
    take_number,
)
from edgeprov.device.event_log import is_logged, quote_with_log, verify_active, verify_measured
from edgeprov.device.identity import verify_not_ended, verify_own_name
from edgeprov.device.seal_recovery import finish_committed
from edgeprov.device.series_state import load_head
from edgeprov.errors import FormatError, NotStored, StoreError, StoreFull
from edgeprov.formats.fields import binary_member, check_keys, list_member, uint_member
from edgeprov.formats.packing import pack, unpack
from edgeprov.formats.segment import SegmentHeader, build_segment_header, parse_segment_header
from edgeprov.formats.tpmt import Attestation, parse_pcr_values
from edgeprov.limits import LIMITS
from edgeprov.store.spool import SegmentInfo, read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.formats.digest import Digest
    from edgeprov.formats.segment import RuntimeInfo, Tensor
    from edgeprov.store.segment_file import NewSegment
    from edgeprov.store.spool import SlotSpool, SpoolWriter
    from edgeprov.store.state import State

Open = Callable[[Any, Path, "Callable[[int], None] | None"], "tuple[NewSegment, SegmentHeader]"]
"""Opens an ``Opened`` in a file of this name; the last argument frees bytes of a full spool for one more try."""

Own = tuple[str, bytes, str]
"""Boot, enrollment and name of this device: those of a segment that is gone on with."""

_KEY_BYTES: Final = 32
_VARYING_BYTES: Final = 64 * 1024  # of a tensor whose size varies


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentKind:
    """What all records of a segment have in common, besides boot, device and enrollment.

    Attributes:
        captures: Records hold input digests, so the segment has a key for them.
        user: User id of the application.
    """

    slot: str
    model: Digest
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    runtime: RuntimeInfo
    params: Mapping[str, Any]
    captures: bool
    user: int

    def largest_frame_bytes(self, capture: str) -> int:
        """A guess of the largest record with its captured input, for the size of a ring."""
        tensors = (*self.outputs, *self.inputs) if capture in ("sampled", "full") else self.outputs
        return sum(tensor.nbytes or _VARYING_BYTES for tensor in tensors) + LIMITS.params_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The evidence of an open segment as it lies in the spool."""

    log: bytes
    quote: Attestation
    user: int


def encode_opening(opening: Opening) -> bytes:
    """The payload of the EVIDENCE frame."""
    quote = opening.quote
    return pack(
        {
            "log": opening.log,
            "attest": quote.attest,
            "signature": quote.signature,
            "pcrs": [list(item) for item in quote.pcrs],
            "user": opening.user,
        }
    )


def parse_opening(raw: bytes) -> Opening:
    """Read the payload of an EVIDENCE frame.

    Raises:
        FormatError: Malformed.
    """
    what = "evidence of an open segment"
    obj = check_keys(
        unpack(raw, max_bytes=LIMITS.event_log_bytes + 64 * 1024, what=what),
        frozenset(("log", "attest", "signature", "pcrs", "user")),
        what,
    )
    return Opening(
        log=binary_member(obj, "log", what, LIMITS.event_log_bytes),
        quote=Attestation(
            attest=binary_member(obj, "attest", what, LIMITS.attestation_bytes),
            signature=binary_member(obj, "signature", what, LIMITS.attestation_bytes),
            pcrs=parse_pcr_values(list_member(obj, "pcrs", what, 24), what),
        ),
        user=uint_member(obj, "user", what),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A segment that is to be opened.

    Attributes:
        kind: What its records have in common.
        key: 32 random bytes for digests of inputs, or None.
        after_kit: A kit ends the segment before: this one takes a number in any case.
    """

    kind: SegmentKind
    key: bytes | None
    after_kit: bool


class SegmentKeeper:
    """Opens, goes on with and ends the segments of one lane, for one session at a time.

    Attributes:
        header: Of the segment that takes records; None while there is none.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        writer: SpoolWriter,
        kind: SegmentKind,
        begun: Callable[[SegmentHeader], None],
        open_segment: Open | None = None,
    ) -> None:
        """Use the lane's writer.

        Args:
            context: The device.
            state: Its state folder.
            writer: Of the lane.
            kind: What the session's records have in common.
            begun: Told of each segment before its first record, under the writer's lock.
            open_segment: Does the work of open_quoted() somewhere else.

        Raises:
            IdentityError: No enrollment: nobody would know whose records they are.
        """
        self._context = context
        self._state = state
        self._writer = writer
        self._kind = kind
        self._begun = begun
        self._open_segment = open_segment or self._here
        self._own = own_of(context)  # without an enrollment nothing is recorded
        self.header: SegmentHeader | None = None
        self._key: bytes | None = None

    def go_on(self) -> bool:
        """Let records go into an open segment of the same kind, without the TPM; False when there is none.

        Raises:
            StoreError: The disk failed.
        """
        for path in reversed(self._writer.open_segments):
            header = _fitting(self._own, path, self._kind) if self._writer.can_go_on(path) else None
            if header is not None:
                with self._writer.lock:
                    self._writer.go_on(path)
                    self.header = header
                    self._key = header.input_key
                    self._begun(header)
                return True
        return False

    def open(self, *, after_kit: bool = False, make_room: Callable[[int], None] | None = None) -> Path | None:
        """Open a segment and let records go into it; the one before is ended.

        Args:
            after_kit: A kit ends the segment before: this one takes a number in any case.
            make_room: Frees bytes of a full spool, for one more try.

        Returns:
            The file of the segment before, ended; None where there was none or it holds no record.

        Raises:
            ModelNotReady: The TPM has not measured this model as the slot's in this boot.
            TpmError: The TPM failed; nothing is recorded without evidence.
            StoreFull: No room.
            StoreError: The disk failed.
        """
        # One key for the whole session: an application beside the service does not learn when a segment ends.
        key = self._key = self._key or os.urandom(_KEY_BYTES)
        new, header = self._open_segment(
            Opened(kind=self._kind, key=key if self._kind.captures else None, after_kit=after_kit),
            self._writer.next_path(),
            make_room,
        )
        with self._writer.lock:
            ended = self._writer.use(new)
            self.header = header
            self._begun(header)
        journal.event(
            "segment-opened",
            f"slot {self._kind.slot}: segment {header.number}, recording from {self._writer.next_n}",
            priority=7,
            slot=self._kind.slot,
            model_digest=self._kind.model,
            number=header.number,
        )
        return ended

    def end(self) -> Path | None:
        """End the segment that takes records, if it has any; the next record needs another one.

        Raises:
            StoreError: The disk failed.
        """
        with self._writer.lock:
            self.header = None
            return self._writer.close_segment()

    def _here(
        self, what: Opened, path: Path, make_room: Callable[[int], None] | None
    ) -> tuple[NewSegment, SegmentHeader]:
        return open_quoted(self._context, self._state, what, partial(self._prepare, path, make_room))

    def _prepare(self, path: Path, make_room: Callable[[int], None] | None, header: bytes) -> NewSegment:
        try:
            return self._writer.prepare(header, path)
        except StoreFull:
            if make_room is None:
                raise
            make_room(len(header))
            return self._writer.prepare(header, path)


def own_of(context: Context) -> Own:
    """Boot, enrollment and name of this device. Errors as of Context.enrollment."""
    return context.boot_id(), context.enrollment, context.urn


def has_segment_of(own: Own, lane: SlotSpool, kind: SegmentKind) -> bool:
    """Whether a session of this kind could go on in a segment that the lane's last writer left.

    Raises:
        StoreError: The spool cannot be read.
    """
    head = lane.head()
    names = {*head.open, *([head.writing.name] if head.writing else [])}
    for name in names:
        with suppress(NotStored):
            if _fitting(own, lane.folder / name, kind) is not None:
                return True
    return False


def _fitting(own: Own, path: Path, kind: SegmentKind) -> SegmentHeader | None:
    """The header of a segment that a session of this kind goes on in; None of another segment."""
    segment = read_segment(path)
    try:
        header, opening = parse_segment_header(segment.header), parse_opening(segment.evidence)
    except FormatError:
        return None
    fits = (
        (header.boot_id, header.enrollment, header.device) == own
        and header.model == kind.model
        and header.inputs == kind.inputs
        and header.outputs == kind.outputs
        and header.runtime == kind.runtime
        and pack(dict(header.params)) == pack(dict(kind.params))
        and (header.input_key is not None) == kind.captures
        and opening.user == kind.user
    )
    return header if fits else None


def open_quoted(
    context: Context, state: State, what: Opened, prepare: Callable[[bytes], NewSegment]
) -> tuple[NewSegment, SegmentHeader]:
    """Write a segment's header, take its number, and add the TPM's quote over it. Nothing takes records there yet.

    Args:
        context: The device.
        state: Its state folder.
        what: The segment.
        prepare: Writes a header into a new file, durably.

    Raises:
        ModelNotReady: The TPM has not measured this model as the slot's in this boot.
        TpmError: The TPM failed.
        StoreFull: No room.
        StoreError: The disk failed.
    """
    kind = what.kind
    with context.tpm() as tpm, state.lock(COUNTER_LOCK, wait=True), tpm.group():
        verify_own_name(context, state, tpm)
        verify_not_ended(state)
        if not is_logged(context, kind.slot, kind.model):
            verify_measured(context, tpm, kind.slot, kind.model)
        finish_committed(state)
        found = reconcile(state, tpm)
        head = load_head(state)
        number, shared, counted = choose_number(
            found, head.seq if head else None, kind.slot, after_kit=what.after_kit, now_ns=time.time_ns()
        )
        clock = tpm.clock()
        header = build_segment_header(
            model=kind.model,
            slot=kind.slot,
            device=context.urn,
            enrollment=context.enrollment,
            number=number,
            shared=shared,
            prev=found.state.newest,
            boot_id=context.boot_id(),
            opened_at_ns=max(time.time_ns(), 0),
            opened_mono_ns=time.monotonic_ns(),
            reset_count=clock.reset_count,
            restart_count=clock.restart_count,
            tpm_clock_ms=clock.clock_ms,
            inputs=kind.inputs,
            outputs=kind.outputs,
            runtime=kind.runtime,
            params=kind.params,
            input_key=what.key,
        )
        new = prepare(header.raw)
        try:
            drop_unquoted(state, found.unquoted)  # after the new header, which keeps their number
            if not shared:
                take_number(tpm, found)
            quote, log = quote_with_log(context, tpm, header.sha256)
            verify_active(log, kind.slot, kind.model)  # the quote shows whether the log is true
            new.start(encode_opening(Opening(log=log, quote=quote, user=kind.user)))
            save_counter_state(state, counted.opened(f"{kind.slot}/{new.path.name}", header))
        except BaseException:
            new.close()
            if shared:
                with suppress(StoreError):
                    state.spool(kind.slot).drop_unquoted(new.path)
            raise
    return new, header


def drop_unquoted(state: State, unquoted: Sequence[tuple[str, SegmentInfo]]) -> None:
    """Remove headers without a quote, once something else on the disk stands for their number.

    Raises:
        StoreError: They cannot be removed.
    """
    for slot, info in unquoted:
        state.spool(slot).drop_unquoted(info.path)
