# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A minimum rate for answers: a server that sends a byte now and then does not hold a run for ever.

A time-out bounds one read only. Here the headers and the body of an answer must arrive with a minimum rate in
each window of time, so an answer of n bytes takes at most ``n / rate`` seconds and two windows.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _RatedReader(io.RawIOBase):
    """Reads a socket; raises TimeoutError when a window of time brought too little."""

    def __init__(self, inner: Any, window_s: float, bytes_per_s: float) -> None:
        super().__init__()
        self._inner = inner
        self._window_s = window_s
        self._needed = window_s * bytes_per_s
        self._since = 0.0  # set by the first bytes: how long a server thinks is bounded by the time-out of a read
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._since and time.monotonic() - self._since >= self._window_s:
            if self._count < self._needed:
                raise TimeoutError(f"timed out: {self._count} bytes in {self._window_s:g} s")
            self._since, self._count = time.monotonic(), 0
        count: int | None = self._inner.readinto(buffer)
        if count:
            self._since = self._since or time.monotonic()
            self._count += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _RatedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, window_s: float, bytes_per_s: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_RatedReader(self.fp.detach(), window_s, bytes_per_s))


@functools.cache
def _pool_classes(window_s: float, bytes_per_s: float) -> dict[str, type]:
    response = functools.partial(_RatedResponse, window_s=window_s, bytes_per_s=bytes_per_s)
    plain = type("_Plain", (HTTPConnection,), {"response_class": response})
    secure = type("_Secure", (HTTPSConnection,), {"response_class": response})
    return {
        "http": type("_PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


class RatedAdapter(HTTPAdapter):  # type: ignore[misc]
    """An adapter of requests whose answers must arrive with a minimum rate."""

    def __init__(self, *, window_s: float, bytes_per_s: float, connections: int) -> None:
        self._pools = _pool_classes(window_s, bytes_per_s)
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """See HTTPAdapter."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager
