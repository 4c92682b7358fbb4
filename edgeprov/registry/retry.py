# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""How long to go on, how fast, and how long to wait after a failure: the manners of a transfer.

Waits grow as ``random(0, min(15 min, 2 s * 2^n))``, so that a fleet that lost one link together does
not come back together; what the registry asks for (Retry-After) is waited at least.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from edgeprov._dataclass import dataclass
from edgeprov.errors import RegistryError

FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 900.0
FIRST_CONTACT_ATTEMPTS: Final = 3
"""Failures in a row before anything was ever reached: there is no link, the next timer run tries again."""
ATTEMPTS: Final = 8
"""Failures in a row of one request after the registry had answered before."""

T = TypeVar("T")


class OutOfTime(Exception):  # not a failure: the run ends here as it was told to
    """The time budget of this contact is used up."""


@dataclass(frozen=True, slots=True)
class WaitClock:
    """Time and chance, so that tests need neither."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


class Pace:
    """One contact with a registry."""

    def __init__(
        self,
        *,
        budget_s: float = 0,
        bytes_per_s: int = 0,
        clock: WaitClock | None = None,
        waiting: Callable[[float, RegistryError], None] = lambda _seconds, _error: None,
    ) -> None:
        """Start the budget now.

        Args:
            budget_s: Seconds for the whole contact; 0 for no end. With a budget, failures are
                repeated until it ends instead of for a number of times.
            bytes_per_s: Bandwidth limit on average; 0 for none.
            clock: Replaced in tests.
            waiting: Told before each wait.
        """
        self.clock = clock or WaitClock()
        self._waiting = waiting
        self._rate = bytes_per_s
        self._end = self.clock.monotonic() + budget_s if budget_s else None
        self._free_at = 0.0
        self._failures = 0
        self._reached = False

    def attempt(self, call: Callable[[], T]) -> T:
        """Repeat ``call`` while waiting may cure its failure.

        Raises:
            OutOfTime: The budget does not last for another try.
            RegistryError: It failed for good, or too often.
        """
        while True:
            self.verify_time()
            try:
                result = call()
            except RegistryError as error:
                self._reached = self._reached or error.status is not None
                if not error.retryable:
                    raise
                self._wait_after(error)
            else:
                self.advanced()
                return result

    def advanced(self) -> None:
        """Something arrived: failures in a row are counted from here."""
        self._reached = True
        self._failures = 0

    def verify_time(self, needed_s: float = 0.0) -> None:
        """Stop when the budget is used up, or would be in ``needed_s``.

        Raises:
            OutOfTime: So it is.
        """
        if self._end is not None and self.clock.monotonic() + needed_s >= self._end:
            raise OutOfTime

    def spend(self, sent_bytes: int) -> None:
        """Keep to the bandwidth limit: sleep until the link would be free again at that rate.

        Raises:
            OutOfTime: The budget ends before that.
        """
        if not self._rate:
            return
        now = self.clock.monotonic()
        self._free_at = max(self._free_at, now) + sent_bytes / self._rate
        pause = self._free_at - now
        self.verify_time(pause)
        self.clock.sleep(pause)

    def _wait_after(self, error: RegistryError) -> None:
        self._failures += 1
        allowed = ATTEMPTS if self._reached else FIRST_CONTACT_ATTEMPTS
        if self._end is None and self._failures >= allowed:
            raise error
        # 2^20 is past the cap already; an exponent without end would overflow one day.
        ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._failures - 1, 20))
        pause = self.clock.chance() * ceiling
        if error.retry_after_s is not None:
            # A registry may ask for much; beyond the cap it is the next run's turn.
            if error.retry_after_s > LONGEST_WAIT_S:
                raise error
            # Up to twice as long: it told many devices the same.
            pause = error.retry_after_s * (1 + self.clock.chance()) + self.clock.chance()
        self.verify_time(pause)
        self._waiting(pause, error)
        self.clock.sleep(pause)
