# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes on one state folder: recorders of two slots, labellers, a sealer, a collector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgeprov.errors import StoreBusy
from edgeprov.store.spool import LABEL, RECORD, read_segment
from edgeprov.store.state import State

RECORDER = """
import sys
from pathlib import Path
from edgeprov.store.state import State
root, slot = Path(sys.argv[1]), sys.argv[2]
with State.open(root, write=True).spool(slot).open_writer(sync="interval", interval_ms=1) as writer:
    print("ready", flush=True)
    sys.stdin.readline()
    for segment in range(20):
        writer.open_segment(b"header of " + slot.encode(), b"evidence")
        for _ in range(200):
            writer.append_record(b"%s %d" % (slot.encode(), writer.next_n))
        writer.close_segment()
"""
LABELLER = """
import sys
from pathlib import Path
from edgeprov.store.state import State
labels = State.open(Path(sys.argv[1]), write=True).labels("one")
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    labels.append([b"%s %d" % (sys.argv[2].encode(), number)])
"""
COLLECTOR = """
import sys
from pathlib import Path
from edgeprov.errors import StoreBusy
from edgeprov.store.state import State
state = State.open(Path(sys.argv[1]), write=True)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    try:
        state.layout.collect_garbage(state.pinned())
    except StoreBusy:
        pass
    State.open(Path(sys.argv[1]), write=True)  # sweeps
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.stderr and child.stderr.read()
        yield child
        _, errors = child.communicate("go\n")
        assert child.returncode == 0, errors


def test_everyone_at_once_loses_and_mixes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "state"
    state = State.open(root, write=True)
    found: dict[str, list[bytes]] = {"one": [], "two": []}
    with ExitStack() as stack:
        children = [stack.enter_context(process(RECORDER, root, slot)) for slot in found]
        children += [stack.enter_context(process(LABELLER, root, name)) for name in ("a", "b")]
        children.append(stack.enter_context(process(COLLECTOR, root)))
        with pytest.raises(StoreBusy):
            state.spool("one").open_writer()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        while any(child.poll() is None for child in children):  # a sealer beside them
            for slot, rows in found.items():
                _seal(state, slot, rows)
    for slot, rows in found.items():
        _seal(state, slot, rows)
        assert rows == [b"%s %d" % (slot.encode(), number) for number in range(1, 4001)]
        assert state.spool(slot).recover().next == 4001
    state.labels("one").rotate()
    logs = state.labels("one").segments()
    labels = [row for info in logs for kind, row in read_segment(info.path).rows() if kind == LABEL]
    for name in ("a", "b"):
        mine = [row for row in labels if row.startswith(name.encode())]
        assert mine == [b"%s %d" % (name.encode(), number) for number in range(100)]
    assert state.quarantined() == ()


def _seal(state: State, slot: str, rows: list[bytes]) -> None:
    with state.layout.batch():
        for info in state.spool(slot).segments():
            if not info.closed:
                continue
            mine = [row for kind, row in read_segment(info.path).rows() if kind == RECORD]
            state.layout.save_blob(b"\n".join(mine), "a/b")
            try:
                state.spool(slot).free(info)
            except StoreBusy:
                return  # closed this very moment: its writer is about to say so
            rows += mine
