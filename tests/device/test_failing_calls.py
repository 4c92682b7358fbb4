# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Each system call of a recording session fails once, in the application and in the service.

A clear error comes, no descriptor stays open, and the slot is free for the next session.
"""

from __future__ import annotations

import gc
import os
import selectors
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeprov
from edgeprov.device.peer import Peer, watch_ends
from edgeprov.device.ring_session import RingSession
from edgeprov.device.segments import SegmentKind
from edgeprov.errors import EdgeprovError, NotStored
from edgeprov.formats.segment import RuntimeInfo, Tensor
from tests.device.conftest import use
from tests.support.crashpoints import EVERYTHING
from tests.support.failing_calls import descriptors, failing
from tests.support.site import Site

X = np.arange(30, dtype=np.int8).reshape(1, 30)
STEP = 1 if EVERYTHING else 11


def alone(_site: Site, _pid: int) -> None:
    """An application without a service."""
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(X)
        model.sync()
        model.run(X)


def beside(site: Site, pid: int) -> None:
    """The service of an application; it is started again while the application goes on."""
    state = site.context.state()
    active = state.active("default")
    assert active is not None
    kind = SegmentKind(
        slot="default",
        model=active.model,
        inputs=(),
        outputs=(Tensor(name="p", shape=(1, 1), dtype="int8"),),
        runtime=RuntimeInfo(name="tflite-c", version="2.14.0", threads=1, delegate=""),
        params={},
        captures=False,
        user=0,
    )
    for resume in (None, 0):  # then the lane of the session before
        peer = Peer(pid, 0)
        try:
            session = RingSession(site.context, state, kind, peer, resume=resume)
        except EdgeprovError:
            peer.close()
            raise
        try:
            session.make_room(1000)
            session.sync()
            if resume is None:
                session.leave()
        except EdgeprovError:
            session.end()
            raise
    session.end()


@pytest.mark.parametrize("work", [alone, beside])
def test_a_call_that_fails(
    template: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Site, int], None]
) -> None:
    number = 0
    while True:
        (folder := tmp_path / str(number)).mkdir()
        site = use(template.clone(folder), monkeypatch)
        child = subprocess.Popen(["sleep", "600"])
        gc.collect()
        before = descriptors()
        with failing(number) as injected:
            try:
                work(site, child.pid)
            except EdgeprovError as error:
                assert error.exit_code != 1, (number, injected.name, error)
        gc.collect()
        left = {fd: name for fd, name in descriptors().items() if before.get(fd) != name}
        child.kill()
        child.wait()
        assert not left, (number, injected.name, left)
        with edgeprov.open_device() as device:
            device.load_model().run(X)
        if injected.name is None:
            break
        number += STEP
    assert number > 200


def test_a_process_that_has_ended_is_not_watched() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(NotStored, match="has ended"):
        Peer(child.pid, 0)


def test_the_end_of_a_process_is_noticed_whose_descriptor_was_another_ones() -> None:
    first, second = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    with selectors.DefaultSelector() as selector:
        gone = Peer(first.pid, 0)
        watch_ends(selector, {gone})
        number = gone.pidfd
        gone.close()
        assert gone.ended
        gone.close()
        peer = Peer(second.pid, 0)
        assert peer.pidfd == number
        watch_ends(selector, {gone, peer})
        assert not selector.select(0)
        assert not peer.ended
        second.kill()
        ((key, _),) = selector.select(60)
        assert key.data is peer
        assert peer.ended
        peer.close()
        watch_ends(selector, set())
    first.kill()
    first.wait()
    second.wait()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
