# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A device that sealed nothing for a while leaves an attested head where its kits go, and the desk keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeprov
from edgeprov.device.export import export
from edgeprov.device.seal import seal
from edgeprov.device.upload import unsent, upload
from edgeprov.errors import FormatError, TpmError
from edgeprov.formats.head import Head, parse_head_artifact, parse_head_tag
from edgeprov.store.layout import Layout
from edgeprov.store.state import OutboxEntry
from edgeprov.verify.head_check import verify_head
from tests.support.site import Site

DESK = Path(__file__).parents[2] / ".venv/fleet/bin/edgeprov-fleet"
DAY_S = 86_400


class Clock:
    """The device's clock, which a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.ahead_s * 10**9)

    def wait(self, seconds: float) -> None:
        self.ahead_s += int(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def infer(site: Site) -> None:
    with edgeprov.open_device(site.config_file) as device:
        device.load_model().run(np.zeros((1, 30), np.int8))


def heads_in(layout: Layout) -> list[tuple[str, Head]]:
    """Reference and head of each head in a registry folder."""
    found = []
    for ref, descriptor in layout.refs().items():
        if parse_head_tag(ref.rpartition(":")[2] or ref) is None:
            continue
        manifest = layout.load_manifest(descriptor.digest)
        found.append((ref, parse_head_artifact(manifest, layout.load_blob(manifest.layers[0], max_bytes=1 << 20))))
    return found


def sent_heads(site: Site) -> list[OutboxEntry]:
    return [entry for entry in upload(site.context).sent if entry.kind == "head"]


def test_an_upload_leaves_a_head_when_nothing_was_sealed_for_a_day(ready: Site, clock: Clock):
    assert not sent_heads(ready), "the first run only begins to wait"
    clock.wait(DAY_S - 60)
    assert not sent_heads(ready)
    clock.wait(120)
    counter = ready.tpm.counter
    (entry,) = sent_heads(ready)
    assert ready.tpm.counter == counter, "a head takes no number"
    assert not sent_heads(ready), "one a day"
    ((ref, head),) = heads_in(Layout.open(ready.registry))
    assert ref == f"{entry.repo}:{entry.tag}"
    assert entry.repo == f"data/unit-1/{head.at[:4]}"
    found = verify_head(head, None, ready.unit.verified(), ready.world.policy)
    assert (found.seq, found.nonce, found.newest) == (counter, None, None)
    assert not unsent(ready.context.state())


def test_a_kit_counts_as_a_word_and_open_records_stand_in_the_head(ready: Site, clock: Clock):
    infer(ready)
    seal(ready.context)
    clock.wait(DAY_S - 60)
    assert [entry.kind for entry in upload(ready.context).sent] == ["kit"]
    infer(ready)
    clock.wait(120)
    (_entry,) = sent_heads(ready)
    ((_ref, head),) = heads_in(Layout.open(ready.registry))
    (item,) = head.parsed_standing().open
    assert (item.first, item.last) == (2, 2)
    assert head.newest is not None


def test_a_device_without_a_link_keeps_one_head_only(ready: Site, clock: Clock):
    """The newest one is worth more; and one that lost its outbox entry goes with the others."""
    good = ready.config_file.read_text()
    ready.config_file.write_text(good.replace(f"oci:{ready.registry}", "127.0.0.1:9/nowhere"))
    state = ready.context.state()
    for _ in range(4):
        upload(ready.context, None)
        clock.wait(DAY_S + 60)
    (waiting,) = [entry for entry in unsent(state) if entry.kind == "head"]
    state.remove_outbox(waiting.digest)
    upload(ready.context)
    (newest,) = unsent(state)
    assert newest.digest != waiting.digest
    assert [descriptor.digest for ref, descriptor in state.layout.refs().items() if parse_head_tag(ref)] == [
        newest.digest
    ]
    ready.config_file.write_text(good)
    (sent,) = sent_heads(ready)
    assert sent.digest == newest.digest
    assert not any(parse_head_tag(ref) for ref in state.layout.refs())


@pytest.mark.parametrize("broken", ["never", "no TPM", "metered"])
def test_what_keeps_a_head_away_keeps_no_kit(ready: Site, clock: Clock, broken: str):
    if broken == "never":
        ready.config_file.write_text(ready.config_file.read_text() + "\n[upload]\nhead_s = 0\n")
    infer(ready)
    seal(ready.context)
    clock.wait(3 * DAY_S)
    if broken == "no TPM":
        ready.tpm.fails = TpmError("the TPM does not answer")
    if broken == "metered":
        (ready.context.run_dir / "metered").write_text("yes")
        assert upload(ready.context).sent == []
        assert [entry.kind for entry in unsent(ready.context.state())] == ["kit"]
        return
    assert [entry.kind for entry in upload(ready.context).sent] == ["kit"]


def desk(*argv: object, code: int = 0) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGEPROV", "PYTHON"))}
    done = subprocess.run(
        [str(DESK), *map(str, argv), "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def move_tag(folder: Path) -> None:
    """Give the head of a folder one more tag, with another counter value."""
    layout = Layout.open(folder)
    ((ref, _head),) = heads_in(layout)
    layout.save_manifest(layout.load_manifest(layout.refs()[ref].digest), ref=ref.replace(".h0", ".h1"))


def test_a_stick_with_a_moved_head_gives_none(ready: Site, tmp_path: Path, clock: Clock):
    upload(ready.context)
    clock.wait(2 * DAY_S)
    stick = tmp_path / "stick"
    export(ready.context, stick)
    move_tag(stick)
    told = desk("import", stick, "--to", f"oci:{ready.registry}", code=FormatError.exit_code)
    assert [item["why"] for item in told if item["type"] == "fault" and "moved or forged" in item["why"]]
    assert told[-1]["heads"] <= 1


@pytest.mark.parametrize("way", ["upload", "stick"])
def test_the_desk_keeps_heads_and_refuses_moved_ones(ready: Site, tmp_path: Path, clock: Clock, way: str):
    infer(ready)
    seal(ready.context)
    upload(ready.context)
    clock.wait(2 * DAY_S)
    fleet, registry = tmp_path / "fleet", ready.registry
    if way == "stick":
        stick = tmp_path / "stick"
        assert [entry.kind for entry in export(ready.context, stick).entries] == ["head"]
        (taken,) = desk("import", stick, "--to", f"oci:{registry}")
        assert (taken["kits"], taken["heads"], taken["faults"]) == (0, 1, 0)
    else:
        assert len(sent_heads(ready)) == 1
    (synced,) = [item for item in desk("sync", f"oci:{registry}", "--fleet", fleet) if item["type"] == "synced"]
    assert (synced["kits"], synced["heads"], synced["faults"]) == (1, 1, 0)
    move_tag(registry)
    again = desk("sync", f"oci:{registry}", "--fleet", tmp_path / "second")
    (fault,) = [item for item in again if item["type"] == "fault"]
    assert "moved or forged" in fault["why"]
    assert [item["heads"] for item in again if item["type"] == "synced"] == [1]
