# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Structured log: journald's native protocol where there is a journal, one line on stderr elsewhere.

Each event has a fixed MESSAGE_ID (``edgeprov/data/edgeprov.catalog`` explains them). Payloads,
tensors and credentials are never logged. Logging never fails a command: evidence is in the kits.

Spec: systemd, "Native Journal Protocol".
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from typing import Final

from edgeprov.errors import EdgeprovError

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"

ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6

EVENTS: Final[Mapping[str, str]] = {
    "identity-created": "4ae5d1b8c3374e6fa1f0c6de0a7f0101",
    "identity-installed": "4ae5d1b8c3374e6fa1f0c6de0a7f0102",
    "model-installed": "4ae5d1b8c3374e6fa1f0c6de0a7f0103",
    "model-activated": "4ae5d1b8c3374e6fa1f0c6de0a7f0104",
    "model-refused": "4ae5d1b8c3374e6fa1f0c6de0a7f0105",
    "model-returned": "4ae5d1b8c3374e6fa1f0c6de0a7f0106",
    "boot-checked": "4ae5d1b8c3374e6fa1f0c6de0a7f0107",
    "segment-opened": "4ae5d1b8c3374e6fa1f0c6de0a7f0108",
    "records-discarded": "4ae5d1b8c3374e6fa1f0c6de0a7f010a",
    "kit-sealed": "4ae5d1b8c3374e6fa1f0c6de0a7f010b",
    "tombstone-signed": "4ae5d1b8c3374e6fa1f0c6de0a7f010c",
    "kit-uploaded": "4ae5d1b8c3374e6fa1f0c6de0a7f010d",
    "kit-exported": "4ae5d1b8c3374e6fa1f0c6de0a7f010e",
    "kit-freed": "4ae5d1b8c3374e6fa1f0c6de0a7f010f",
    "quarantined": "4ae5d1b8c3374e6fa1f0c6de0a7f0110",
    "clock-jumped": "4ae5d1b8c3374e6fa1f0c6de0a7f0111",
    "receipt-installed": "4ae5d1b8c3374e6fa1f0c6de0a7f0112",
    "attested": "4ae5d1b8c3374e6fa1f0c6de0a7f0113",
    "upload-parked": "4ae5d1b8c3374e6fa1f0c6de0a7f0114",
    "model-removed": "4ae5d1b8c3374e6fa1f0c6de0a7f0115",
    "signature-damaged": "4ae5d1b8c3374e6fa1f0c6de0a7f0116",
    "numbers-unknown": "4ae5d1b8c3374e6fa1f0c6de0a7f0117",
    "segment-missing": "4ae5d1b8c3374e6fa1f0c6de0a7f0118",
    "head-made": "4ae5d1b8c3374e6fa1f0c6de0a7f0119",
    "head-failed": "4ae5d1b8c3374e6fa1f0c6de0a7f011a",
    "identity-renamed": "4ae5d1b8c3374e6fa1f0c6de0a7f011b",
    "failed": "4ae5d1b8c3374e6fa1f0c6de0a7f01ff",
}
"""Event name to MESSAGE_ID. An id is never changed or reused."""


def event(name: str, message: str, *, priority: int = INFO, to_stderr: bool = True, **values: object) -> None:
    """Write one event.

    Args:
        name: A key of EVENTS.
        message: One line for a person.
        priority: syslog priority, 3 (error) to 7 (debug).
        to_stderr: False where the command itself tells it to its user: without a journal, once is enough.
        values: Further fields; ``model_digest=...`` becomes ``EDGEPROV_MODEL_DIGEST``.
    """
    entry = {"MESSAGE": message, "PRIORITY": str(priority), "MESSAGE_ID": EVENTS[name], "EDGEPROV_EVENT": name}
    entry.update({f"EDGEPROV_{key.upper()}": str(value) for key, value in values.items()})
    _send(entry, priority, to_stderr=to_stderr)


def failure(error: EdgeprovError) -> None:
    """Write the event of an error that ends a command."""
    entry = {
        "MESSAGE": error.message,
        "PRIORITY": str(ERROR),
        "MESSAGE_ID": error.message_id,
        "EDGEPROV_EVENT": "failed",
        "EDGEPROV_ERROR": type(error).__name__,
        "EDGEPROV_EXIT_CODE": str(error.exit_code),
        "EDGEPROV_ADVICE": error.advice,
    }
    _send(entry, ERROR, to_stderr=False)


def encode_entry(entry: Mapping[str, str]) -> bytes:
    """One datagram: ``KEY=value`` lines; values with a newline as key, 64-bit LE length, bytes."""
    lines = []
    for key, text in entry.items():
        value = text.encode("utf-8", "replace")
        if b"\n" in value:
            lines.append(key.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            lines.append(key.encode() + b"=" + value + b"\n")
    return b"".join(lines)


def _send(entry: Mapping[str, str], priority: int, *, to_stderr: bool = True) -> None:
    # JOURNAL_STREAM is set by systemd for services: only there is the journal our stderr anyway.
    if os.environ.get("JOURNAL_STREAM"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.setblocking(False)  # noqa: FBT003 - socket's own signature
                client.sendto(encode_entry({**entry, "SYSLOG_IDENTIFIER": "edgeprov"}), JOURNAL_SOCKET)
            return
        except OSError:
            pass  # no journal after all: stderr
    level = os.environ.get("EDGEPROV_LOG", str(WARNING))
    if to_stderr and level.isdigit() and priority <= int(level):
        sys.stderr.write(f"<{priority}>edgeprov: {entry['MESSAGE']}\n")
