# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Records from applications in other languages: one session of the recording protocol.

The application runs the interpreter; this process records, with the same guarantees as the Python
API: only a model that passed this boot's check, evidence before the first record, an answer only
when the record is in the spool. An application on the same machine may ask for a ring in memory and
append to it by itself; this process then copies. Pure request and answer; sockets are in record_server.py.

Spec: FORMAT.md section "Recording protocol".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edgeprov.device.labels import add_labels
from edgeprov.device.model_store import StoredModel
from edgeprov.device.model_tensors import model_tensors, verified_tensors
from edgeprov.device.recorder import Recorder
from edgeprov.device.ring_session import RingSession, Sessions
from edgeprov.device.rotation import request_sync_of_all
from edgeprov.device.segments import SegmentKind, parse_opening
from edgeprov.device.trial import begin_load, confirm
from edgeprov.device.verified_load import load_verified
from edgeprov.errors import EdgeprovError, FormatError, ModelNotReady, TensorMismatch, UsageError
from edgeprov.formats.segment import RuntimeInfo, Tensor, check_slot
from edgeprov.formats.shapes import has_varying, shape_of_length
from edgeprov.limits import LIMITS
from edgeprov.store.ring import MAX_RING_BYTES
from edgeprov.store.spool import read_segment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.peer import Peer
    from edgeprov.device.tpm_work import TpmWork
    from edgeprov.formats.digest import Digest
    from edgeprov.store.state import State

_VERSION: Final = 1


class Session:
    """One connection. Its recorder has a lane of the slot from ``hello`` to close().

    Attributes:
        refused: The first error that was answered.
        wants_weights: The model, where its bytes were asked for.
        ring: Session whose ring is to be sent with the answer.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        slot: str,
        *,
        peer: Peer | None = None,
        sessions: Sessions | None = None,
        work: TpmWork | None = None,
    ) -> None:
        """Serve ``slot`` unless ``hello`` names another.

        Args:
            context: The device.
            state: Its state folder, opened for writing.
            slot: Slot.
            peer: The application, where it is on this machine and known.
            sessions: All sessions with a ring; None allows none.
            work: Does what needs the TPM outside of this process.
        """
        self._context = context
        self._state = state
        self._slot = slot
        self._peer = peer
        self._sessions = sessions
        self._work = work
        self._recorder: Recorder | None = None
        self.ring: RingSession | None = None
        self._session: RingSession | None = None
        self.refused: EdgeprovError | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._inputs: tuple[Tensor, ...] = ()
        self._varies = False
        self._loaded: str | None = None
        self.wants_weights: StoredModel | None = None
        self._verbs: Mapping[str, Callable[[list[Any]], list[Any] | None]] = {
            "model": self._model,
            "hello": self._hello,
            "resume": self._resume,
            "record": self._record,
            "label": self._label,
            "sync": self._sync,
            "room": self._room,
            "wake": self._wake,
            "jump": self._jump,
            "confirm": self._confirm,
            "close": self._close,
        }

    def handle(self, message: object) -> list[Any] | None:
        """Answer one message; an error is an answer too, and the session goes on. None where there is no answer.

        Args:
            message: A decoded request: a list whose first item is its verb.
        """
        try:
            if not isinstance(message, list) or not message or message[0] not in self._verbs:
                raise FormatError(f"a request is a list that begins with one of {', '.join(self._verbs)}")
            return self._verbs[message[0]](message[1:])
        except EdgeprovError as error:
            self.refused = self.refused or error
            return encode_error(error)

    def close(self) -> None:
        """End recording; everything acknowledged is synced. A session with a ring goes on while its process lives."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        self._belong(None)

    def _belong(self, session: RingSession | None) -> None:
        """Make this a connection of a session."""
        if self._session is not None:
            self._session.connections -= 1
        if session is not None:
            session.connections += 1
        self._session = session

    def _hello(self, arguments: list[Any]) -> list[Any]:
        if self._recorder is not None or self._session is not None:
            raise UsageError("hello came twice")
        if len(arguments) != 1 or not isinstance(arguments[0], dict):
            raise FormatError("hello takes one map")
        hello = arguments[0]
        if hello.get("v") != _VERSION:
            raise FormatError(f"this is version {_VERSION} of the recording protocol")
        slot = check_slot(_typed(hello, "slot", str, self._slot))
        inputs = tuple(_tensor(item) for item in _typed(hello, "inputs", list, []))
        outputs = tuple(_tensor(item) for item in _typed(hello, "outputs", list, []))
        if not outputs:
            raise FormatError("hello names no outputs")
        stored = load_verified(
            self._context,
            self._state,
            slot,
            begin=None if slot == self._loaded else self._begin_load,
            wanted=_typed(hello, "model", str, "") or None,
        )
        model = stored.manifest.digest
        known_inputs, known_outputs = model_tensors(stored)
        self._inputs = verified_tensors(inputs, known_inputs, "input") if inputs else ()
        self._outputs = verified_tensors(outputs, known_outputs, "output")
        self._varies = has_varying(self._outputs)
        runtime = _typed(hello, "runtime", dict, {})
        info = RuntimeInfo(
            name=_typed(runtime, "name", str, "unknown"),
            version=_typed(runtime, "version", str, ""),
            threads=_typed(runtime, "threads", int, 1),
            delegate=_typed(runtime, "delegate", str, ""),
        )
        params = _typed(hello, "params", dict, {})
        if hello.get("ring") is True:
            return self._hello_ring(slot, model, info, params)
        self._recorder = Recorder(
            self._context,
            self._state,
            slot=slot,
            model=model,
            inputs=self._inputs,
            outputs=self._outputs,
            runtime=info,
            params=params,
            open_segment=None if self._work is None else self._work.open_segment,
        )
        self._slot = slot
        if hello.get("weights") is True:
            self.wants_weights = stored
        return ["ready", {"model": str(model), "slot": slot, "capture": self._context.config.record.capture}]

    def _hello_ring(self, slot: str, model: Digest, runtime: RuntimeInfo, params: dict[str, Any]) -> list[Any]:
        peer, sessions = self._peer, self._sessions
        if peer is None or sessions is None:
            raise UsageError("a ring is handed out by the device service only", advice="Leave `ring` out of hello.")
        capture = self._context.config.record.capture
        if capture != "none" and not self._inputs:
            raise FormatError("hello names no inputs, and record.capture wants them")
        kind = SegmentKind(
            slot=slot,
            model=model,
            inputs=self._inputs,
            outputs=self._outputs,
            runtime=runtime,
            params=params,
            captures=capture != "none",
            user=peer.uid,
        )
        open_segment = None if self._work is None else self._work.open_segment
        self.ring = sessions.add(
            slot, peer, lambda: RingSession(self._context, self._state, kind, peer, open_segment=open_segment)
        )
        self._belong(self.ring)
        self._slot = slot
        return ["ready", self.ring.ready()]

    def _model(self, arguments: list[Any]) -> list[Any]:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise FormatError("model takes a slot")
        slot = check_slot(arguments[0] or self._slot)
        stored = load_verified(self._context, self._state, slot, begin=self._begin_load)
        self._loaded = slot  # the hello that follows belongs to the same load
        self.wants_weights = stored
        kit = stored.kit
        return ["model", {"slot": slot, "model": str(stored.manifest.digest), "name": kit.name, "version": kit.version}]

    def _begin_load(self, slot: str) -> None:
        if self._work is None:
            begin_load(self._context, self._state, slot)
        else:
            self._work.begin_load(slot)

    def _resume(self, arguments: list[Any]) -> list[Any]:
        if len(arguments) != 1 or not isinstance(arguments[0], str) or self._peer is None or self._sessions is None:
            raise FormatError("resume takes the name of a session")
        session = self._sessions.of(arguments[0], self._peer)
        if session is None:
            raise ModelNotReady(f"the session {arguments[0][:40]} has ended", advice="Load the model again.")
        self._belong(session)
        self._slot = session.kind.slot
        return ["resumed", session.kind.slot]

    def _ring_session(self) -> RingSession:
        if self._session is None:
            raise UsageError("hello with a ring comes first")
        return self._session

    def _room(self, arguments: list[Any]) -> list[Any]:
        if len(arguments) != 1 or type(arguments[0]) is not int or not 0 <= arguments[0] <= MAX_RING_BYTES:
            raise FormatError("room takes a number of bytes")
        return ["room", self._ring_session().make_room(arguments[0])]

    def _wake(self, _arguments: list[Any]) -> None:
        if self._session is not None:
            self._session.wake()

    def _jump(self, arguments: list[Any]) -> None:
        if self._session is not None and len(arguments) == 1 and type(arguments[0]) is int:
            self._session.note_jump(max(-(2**53), min(2**53, arguments[0])))

    def _confirm(self, _arguments: list[Any]) -> None:
        if self._session is not None:
            model = self._session.kind.model
            if self._work is None:
                confirm(self._context, self._state, self._slot, model)
            else:
                self._work.confirm(self._slot, model)

    def _close(self, _arguments: list[Any]) -> list[Any]:
        session = self._ring_session()
        session.sync()
        self._belong(None)
        if self._sessions is not None:
            self._sessions.end(session)
        return ["closed"]

    def _record(self, arguments: list[Any]) -> list[Any]:
        if self._recorder is None:
            raise UsageError("hello comes first")
        if not 2 <= len(arguments) <= 5:
            raise FormatError("record takes duration_ns, outputs, and optionally inputs, params and shapes")
        duration_ns, outputs, inputs, params, shapes = (*arguments, None, None, None)[:5]
        if not isinstance(duration_ns, int) or isinstance(duration_ns, bool) or not 0 <= duration_ns < 2**63:
            raise FormatError("record: duration_ns is not a number of nanoseconds")
        _verify_tensors(outputs, self._outputs, "output")
        if inputs is not None or self._recorder.captures:
            _verify_tensors(inputs, self._inputs, "input")
        if params is not None and not isinstance(params, dict):
            raise FormatError("record: params is not a map")
        if shapes is None and self._varies:
            shapes = [shape_of_length(tensor, len(data)) for tensor, data in zip(self._outputs, outputs, strict=True)]
        n = self._recorder.append(outputs, duration_ns=duration_ns, inputs=inputs or (), params=params, shapes=shapes)
        return ["recorded", n]

    def _label(self, arguments: list[Any]) -> list[Any]:
        if len(arguments) not in (3, 4) or not isinstance(arguments[0], int) or not isinstance(arguments[2], str):
            raise FormatError("label takes a record number, a value, a source and optionally a slot")
        n, value, source, slot = (*arguments, self._slot)[:4]
        if not isinstance(slot, str):
            raise FormatError("label: the slot is not text")
        self._verify_own(slot)
        if slot == self._slot and self._recorder is not None:
            self._recorder.store()
        elif slot == self._slot and self._session is not None:
            self._session.copy()
        write_out = partial(request_sync_of_all, self._context, self._state.spool(check_slot(slot)))
        add_labels(self._state, slot, [(n, value)], source=source, write_out=write_out)
        return ["labelled", n]

    def _verify_own(self, slot: str) -> None:
        """An application labels records of its own user only; root and the service's user label all."""
        if self._peer is None or self._peer.uid in (0, os.getuid()):
            return
        evidence = [read_segment(info.path).evidence for info in self._state.spool(slot).segments()]
        if any(parse_opening(item).user != self._peer.uid for item in evidence if item):
            raise UsageError(
                f"slot {slot} holds records of another user",
                advice="Give each user's application a slot of its own; `edgeprov label` as root labels all.",
            )

    def _sync(self, arguments: list[Any]) -> list[Any]:
        if not arguments and self._session is not None:
            return ["synced", self._session.sync()]
        if arguments or self._recorder is None:
            raise UsageError("sync takes nothing, after hello")
        self._recorder.sync()
        return ["synced", self._recorder.synced_n]


def encode_error(error: EdgeprovError) -> list[Any]:
    """The answer that stands for an error."""
    return [
        "error",
        {
            "code": error.exit_code,
            "error": type(error).__name__,
            "message": error.message,
            "advice": error.advice,
            "retryable": error.retryable,
        },
    ]


def _typed(obj: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = obj.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FormatError(f"hello: {key!r} is not of type {kind.__name__}")
    return value


def _tensor(item: object) -> Tensor:
    if not isinstance(item, dict):
        raise FormatError("hello: a tensor is a map")
    try:
        return Tensor(
            name=item["name"],
            shape=tuple(item["shape"]),
            dtype=item["dtype"],
            scale=tuple(float(value) for value in item.get("scale", ())),
            zero_point=tuple(item.get("zero_point", ())),
            axis=item.get("axis", 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"hello: a tensor has name, shape and dtype: {error}") from error


def _verify_tensors(buffers: object, tensors: tuple[Tensor, ...], kind: str) -> None:
    if not isinstance(buffers, list) or len(buffers) != len(tensors):
        raise TensorMismatch(f"the model has {len(tensors)} {kind} tensors", advice="Send what hello announced.")
    for data, tensor in zip(buffers, tensors, strict=True):
        if not isinstance(data, bytes) or len(data) > LIMITS.input_bytes:
            raise TensorMismatch(f"{kind} {tensor.name!r} is not binary, or too long", advice="Send raw tensor bytes.")
        if tensor.nbytes is not None and len(data) != tensor.nbytes:
            raise TensorMismatch(
                f"{kind} {tensor.name!r} must have {tensor.nbytes} bytes, not {len(data)}",
                advice="Send what hello announced.",
            )
