# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What a technician types and sees: upload, export to a stick, receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprov.cli.device.meter import progress_line
from edgeprov.cli.device.upload import parse_rate, parse_span
from edgeprov.cli.device_main import main
from edgeprov.device.transfer import Tally
from edgeprov.errors import UsageError
from tests.support.sender import Sender


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def device(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sender:
    sender.fill(2, 1000)
    sender.fill(3, 1000)
    sender.context(f"oci:{tmp_path}/registry")
    monkeypatch.setenv("EDGEPROV_CONFIG", str(sender.root / "edgeprov.toml"))
    return sender


def test_upload_tells_each_kit_and_the_sum(device: Sender, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", "--json", "--for", "5m", "--limit", "2M", "--order", "smallest"]) == 0
    told = lines(capsys)
    assert [item["type"] for item in told] == ["uploaded", "uploaded", "upload"]
    assert [item["seq"] for item in told[:2]] == [1, 2]
    assert told[0]["kind"] == "kit"
    assert told[2]["sent"] == 2
    assert told[2]["queued"] == 0
    assert not device.state.outbox()
    assert main(["upload"]) == 0
    assert "0 sent" in capsys.readouterr().out


def test_upload_without_a_link_keeps_everything(
    device: Sender, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprov.registry.retry.FIRST_WAIT_S", 0.01)
    device.context("127.0.0.1:1")
    assert main(["upload", "--json"]) == 40
    told = lines(capsys)
    assert [item["type"] for item in told] == ["waiting", "waiting", "upload", "error"]
    assert told[2]["queued"] == 2
    assert len(device.state.outbox()) == 2


def test_what_is_waited_for_is_told_with_its_advice_once(
    device: Sender, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device.context("127.0.0.1:1")
    monkeypatch.setattr("edgeprov.registry.retry.FIRST_WAIT_S", 0.01)
    assert main(["upload"]) == 40
    told = capsys.readouterr()
    assert told.out.count("Connection refused; next try in") == 2
    assert told.out.count("Check the link") == 1
    assert "Check the link" in told.err
    assert main(["upload", "--json"]) == 40
    waiting = [item for item in lines(capsys) if item["type"] == "waiting"]
    assert [item["code"] for item in waiting] == [40, 40]
    assert all("refused" in item["message"] and item["advice"] for item in waiting)


def test_an_install_without_a_link_tells_what_it_waits_for(
    device: Sender, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device.context("127.0.0.1:1")
    monkeypatch.setattr("edgeprov.registry.retry.FIRST_WAIT_S", 0.01)
    assert main(["model", "install", f"127.0.0.1:1/models/x@sha256:{'ab' * 32}", "--json"]) == 40
    assert [item["type"] for item in lines(capsys)][:2] == ["waiting", "waiting"]


def test_a_metered_link_is_left_alone_unless_told_otherwise(device: Sender, capsys: pytest.CaptureFixture[str]) -> None:
    (device.root / "run" / "metered").write_text("yes\n")
    assert main(["upload"]) == 100
    assert "metered" in capsys.readouterr().out
    assert main(["upload", "--now"]) == 0


def test_export_verifies_and_goes_on(device: Sender, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stick = tmp_path / "stick"
    assert main(["export", str(stick), "--verify", "--json"]) == 0
    told = lines(capsys)
    assert [item["type"] for item in told] == ["exported", "exported", "export"]
    assert told[2]["verified"]
    first = told[2]["bytes"]
    device.fill(1, 1000)
    assert main(["export", str(stick), "--verify", "--json"]) == 0
    told = lines(capsys)
    assert told[-1]["count"] == 3
    assert told[-1]["bytes"] < first
    assert len(device.state.outbox()) == 3  # nothing is freed before a receipt


@pytest.mark.parametrize("text", ["", "0", "5 m", "m", "-5s", "5d", "1e3", "٣s"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_span(text)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1G", "1.5M"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


def test_times_and_rates_have_units() -> None:
    assert [parse_span(text) for text in ("90", "30s", "5m", "2h")] == [90, 30, 300, 7200]
    assert [parse_rate(text) for text in ("0", "500", "500k", "2M")] == [0, 500, 500_000, 2_000_000]


def test_the_bar_shows_bytes_kits_rate_and_time_left() -> None:
    tally = Tally(total_bytes=40_000_000, done_bytes=10_000_000, artifacts=12, done_artifacts=3)
    assert (
        progress_line(tally, 1_000_000)
        == "[#####...............] 10.0 MB of 40.0 MB, 3 of 12 kits, 1.0 MB/s, 0:30 left"
    )
    assert progress_line(tally, 0) == "[#####...............] 10.0 MB of 40.0 MB, 3 of 12 kits"
    assert "2:46:40 left" in progress_line(tally, 3000)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (76, "[#####...............] 10.0 MB of 40.0 MB, 3 of 12 kits, 1.0 MB/s, 0:30 left"),
        (75, "10.0 MB of 40.0 MB, 3 of 12 kits, 1.0 MB/s, 0:30 left"),
        (52, "10.0 MB of 40.0 MB, 3 of 12 kits, 0:30 left"),
        (42, "10.0 MB of 40.0 MB, 0:30 left"),
        (28, "10.0 MB of 40.0 MB"),
        (17, "25 %"),
        (3, "25 "),
        (0, ""),
    ],
)
def test_a_narrow_terminal_shows_whole_figures(columns: int, expected: str) -> None:
    tally = Tally(total_bytes=40_000_000, done_bytes=10_000_000, artifacts=12, done_artifacts=3)
    assert progress_line(tally, 1_000_000, columns) == expected
