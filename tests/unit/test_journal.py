# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The log reaches a journal socket in the native form, and stderr elsewhere."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgeprov import journal
from edgeprov.errors import StoreFull


def test_values_with_newlines_are_length_prefixed() -> None:
    raw = journal.encode_entry({"A": "x", "B": "y\nz"})
    assert raw == b"A=x\n" + b"B\n" + (3).to_bytes(8, "little") + b"y\nz\n"


def test_an_event_reaches_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        monkeypatch.setattr(journal, "JOURNAL_SOCKET", str(path))
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        journal.event("kit-sealed", "sealed", kit_digest="sha256:00")
        lines = server.recv(65536).decode().splitlines()
    assert "MESSAGE=sealed" in lines
    assert f"MESSAGE_ID={journal.EVENTS['kit-sealed']}" in lines
    assert "EDGEPROV_KIT_DIGEST=sha256:00" in lines


def test_without_a_journal_only_what_matters_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.delenv("EDGEPROV_LOG", raising=False)
    journal.event("kit-sealed", "quiet")
    journal.event("quarantined", "loud", priority=journal.WARNING)
    assert capsys.readouterr().err == "<4>edgeprov: loud\n"


def test_a_dead_journal_never_fails_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "JOURNAL_SOCKET", str(tmp_path / "gone"))
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    journal.event("quarantined", "loud", priority=journal.ERROR)
    assert "loud" in capsys.readouterr().err
    journal.failure(StoreFull("full"))  # shown by the command itself, not twice
    assert capsys.readouterr().err == ""
