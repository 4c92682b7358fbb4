# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What the device service lets a child do, since it asks the TPM: a slow TPM never stands between ring and disk.

The child is answer_one() in a new interpreter. It reads one request on its standard input, a msgpack list, and
writes one answer; then it ends, and with it the TPM's library, which would take more memory than the service.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeprov.errors import StoreFull, TpmError
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.packing import Feeder, pack
from edgeprov.formats.segment import (
    RuntimeInfo,
    SegmentHeader,
    encode_runtime,
    encode_tensor,
    parse_segment_header,
    parse_tensor,
)
from edgeprov.limits import LIMITS, MIB
from edgeprov.store.segment_file import NewSegment

if TYPE_CHECKING:
    from edgeprov.device.context import Context
    from edgeprov.device.segments import Opened
    from edgeprov.store.state import State

_CHILD_S: Final = 300.0
_MESSAGE_BYTES: Final = 4 * LIMITS.segment_header_bytes + 1 * MIB


class TpmWork:
    """Starts children, one for each piece of work."""

    def __init__(self, context: Context, state: State) -> None:
        """Work for this device."""
        self._context = context
        self._state = state

    def open_segment(
        self, what: Opened, path: Path, make_room: Callable[[int], None] | None
    ) -> tuple[NewSegment, SegmentHeader]:
        """Open a quoted segment. Arguments and errors as of segments.open_quoted()."""
        kind = what.kind
        request = [
            "open-segment",
            {
                "slot": kind.slot,
                "model": str(kind.model),
                "inputs": [encode_tensor(item) for item in kind.inputs],
                "outputs": [encode_tensor(item) for item in kind.outputs],
                "runtime": encode_runtime(kind.runtime),
                "params": dict(kind.params),
                "captures": kind.captures,
                "user": kind.user,
                "key": what.key,
                "after_kit": what.after_kit,
                "path": str(path),
            },
        ]
        try:
            answer = _in_child(request)
        except StoreFull:
            if make_room is None:
                raise
            make_room(LIMITS.segment_header_bytes)
            answer = _in_child(request)
        return NewSegment.opened(path), parse_segment_header(answer[1])

    def begin_load(self, slot: str) -> None:
        """As trial.begin_load(); a child is needed only while a model is on trial."""
        active = self._state.active(slot)
        if active is not None and active.info.get("trial"):
            _in_child(["begin-load", slot])

    def confirm(self, slot: str, model: Digest) -> None:
        """As trial.confirm()."""
        active = self._state.active(slot)
        if active is not None and active.info.get("trial"):
            _in_child(["confirm", slot, str(model)])


def _in_child(request: list[Any]) -> list[Any]:
    from edgeprov.device.service_client import remote_error

    try:
        done = subprocess.run(
            [sys.executable, "-c", "from edgeprov.device.tpm_work import answer_one; answer_one()"],
            input=pack(request),
            stdout=subprocess.PIPE,
            timeout=_CHILD_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TpmError(f"the process that asks the TPM did not end: {error}") from error
    for answer in Feeder(max_bytes=_MESSAGE_BYTES, what="answer of the TPM's process").feed(done.stdout):
        if isinstance(answer, list) and answer and answer[0] == "error":
            raise remote_error(answer[1])
        if isinstance(answer, list) and answer and answer[0] == "done":
            return answer
    raise TpmError(f"the process that asks the TPM ended with code {done.returncode} and no answer")


def _work(request: list[Any]) -> list[Any]:
    from edgeprov.device.context import load_context
    from edgeprov.device.segments import Opened, SegmentKind, open_quoted
    from edgeprov.device.trial import begin_load, confirm

    context = load_context()
    state = context.state()
    if request[0] == "begin-load":
        begin_load(context, state, request[1])
    elif request[0] == "confirm":
        confirm(context, state, request[1], parse_digest(request[2]))
    else:
        asked = request[1]
        kind = SegmentKind(
            slot=asked["slot"],
            model=parse_digest(asked["model"]),
            inputs=tuple(parse_tensor(item, "inputs") for item in asked["inputs"]),
            outputs=tuple(parse_tensor(item, "outputs") for item in asked["outputs"]),
            runtime=RuntimeInfo(**asked["runtime"]),
            params=asked["params"],
            captures=asked["captures"],
            user=asked["user"],
        )
        opened = Opened(kind=kind, key=asked["key"], after_kit=asked["after_kit"])
        new, header = open_quoted(context, state, opened, lambda raw: NewSegment(Path(asked["path"]), raw))
        new.close()
        return ["done", header.raw]
    return ["done"]


def answer_one() -> None:
    """The child: read one request, do it, write the answer."""
    from edgeprov.device.record_session import encode_error
    from edgeprov.errors import EdgeprovError

    requests = Feeder(max_bytes=_MESSAGE_BYTES, what="request").feed(sys.stdin.buffer.read())
    try:
        answer = _work(next(iter(requests)))
    except EdgeprovError as error:
        answer = encode_error(error)
    sys.stdout.buffer.write(pack(answer))
