# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium over its debugging pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One page; ``requests`` are all addresses that it asked for, ``errors`` what its scripts said."""

    def __init__(self, to: int, frm: int) -> None:
        self._to, self._from = to, frm
        self._buffer, self._id, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise AssertionError(answer["error"])
                return answer["result"]
            self._event(answer)

    def open(self, url: str) -> None:
        self._loaded = False
        # A step within the page (only what is behind # differs) loads nothing.
        fresh = "loaderId" in self.call("Page.navigate", url=url)
        while fresh and not self._loaded:
            self._event(self._next())

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true; the page's own message tells why it never gets so."""
        for _ in range(1500):
            if self.js(f"!!({condition})"):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {condition}\n{self.js('document.body.innerText')[:2000]}")

    def download_to(self, folder: Path) -> None:
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def type(self, selector: str, text: str) -> None:
        """Put text into a field as a keyboard would."""
        self.js(f"(e => {{ e.focus(); e.select?.(); }})(document.querySelector({selector!r}))")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({selector!r}).click()")

    def key(self, name: str) -> None:
        codes = {
            "Enter": 13,
            " ": 32,
            "Tab": 9,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "Home": 36,
            "End": 35,
        }
        text = {"Enter": "\r", " ": " "}.get(name)
        base: dict[str, Any] = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **base, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **base)

    def prefer(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def tree(self) -> list[dict[str, Any]]:
        """The accessibility tree: what a screen reader is told."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": node.get("role", {}).get("value"), "name": node.get("name", {}).get("value", "")}
            for node in nodes
            if not node.get("ignored")
        ]

    def _event(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._from, 65536)
            assert chunk, "the browser went away"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser() -> Iterator[Browser]:
    """A fresh browser; skipped where there is none, unless CI=true."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        assert os.environ.get("CI") != "true", "chromium is missing"
        pytest.skip("no chromium")
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def wire() -> None:  # the pipe's ends are descriptors 3 and 4 by contract
            high = [os.dup(theirs_read), os.dup(theirs_write)]
            while min(high) < 10:
                high = [os.dup(fd) for fd in high]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}",
             "--no-first-run", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"],
            preexec_fn=wire,  # noqa: PLW1509 - dup2 only
            close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_read)
        os.close(theirs_write)
        try:
            yield Browser(ours_write, ours_read)
        finally:
            process.terminate()
            process.wait(timeout=30)
            os.close(ours_write)
            os.close(ours_read)
