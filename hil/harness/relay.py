#!/usr/bin/env python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The wire between the virtual device and the registry; QEMU starts one per connection.

Usage: relay.py PORT FAULT_FILE. The fault file holds JSON, read at each connection:
  {"mode": "ok"}                  as it comes
  {"mode": "refuse"}              hang up at once
  {"mode": "stall"}               take bytes, never answer
  {"mode": "cut", "bytes": N}     hang up after N bytes towards the registry
  {"mode": "slow", "delay": S}    wait S seconds before each piece
  {"mode": "portal"}              a captive portal: 200 and a page for everything
With {"log": FILE, "note": FILE} each manifest that the registry took is noted before the device hears of it:
its reference, and how long the log (of the disk's writes) was at that moment.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

PAGE = b"<html><body>Welcome to the hospital guest network. Please accept the terms.</body></html>"


ASKED = re.compile(rb"PUT /v2/\S+/manifests/(\S+) HTTP/")
TAKEN = re.compile(rb"HTTP/1\.[01] 201 ")


class Notes:
    """Which manifests the registry confirmed on this connection, and when."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self._log, self._note = fault.get("log"), fault.get("note")
        self._asked = ""

    def sent(self, data: bytes) -> None:
        """The device asks."""
        if found := ASKED.match(data):
            self._asked = found[1].decode()

    def answered(self, data: bytes) -> None:
        """The registry answers."""
        if self._note and self._asked and TAKEN.match(data):
            line = json.dumps({"reference": self._asked, "at": os.stat(self._log).st_size})
            with open(self._note, "a") as notes:
                notes.write(line + "\n")
            self._asked = ""


def main() -> None:
    port, faults = int(sys.argv[1]), Path(sys.argv[2])
    try:
        fault = json.loads(faults.read_text())
    except (OSError, ValueError):
        fault = {"mode": "ok"}
    with faults.with_suffix(".connections").open("ab") as connections:
        connections.write(b".")
    mode = fault["mode"]
    if mode == "refuse":
        return
    if mode == "stall":
        while os.read(0, 65536):
            pass
        return
    if mode == "portal":
        os.read(0, 65536)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\nConnection: close\r\n\r\n"
        os.write(1, head.encode() + PAGE)
        return
    left = fault["bytes"] if mode == "cut" else None
    notes = Notes(fault)
    with socket.create_connection(("127.0.0.1", port)) as server:
        sources = [0, server]
        while sources:
            for source in select.select(sources, [], [])[0]:
                data = os.read(0, 65536) if source == 0 else server.recv(65536)
                time.sleep(fault.get("delay", 0) if mode == "slow" else 0)
                if source == 0:
                    if not data:
                        sources.remove(0)
                        server.shutdown(socket.SHUT_WR)
                        continue
                    if left is not None and len(data) >= left:
                        server.sendall(data[:left])
                        return
                    left = None if left is None else left - len(data)
                    notes.sent(data)
                    server.sendall(data)
                elif data:
                    notes.answered(data)
                    os.write(1, data)
                else:
                    return


if __name__ == "__main__":
    main()
