"""Circuit: open while Redis does not answer, so that nobody waits for it or piles up for it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
STEADY = 10.0
"""Seconds that a connection must last for the pauses to begin anew."""


class Circuit:
    """Says whether hints flow, and when to try again where they do not.

    Args:
        place: host and port, for the log.
        clock: seconds, monotonic. chance: uniform in [0, 1).
    """

    def __init__(
        self,
        place: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.closed = False
        self._place = place
        self._clock = clock
        self._chance = chance
        self._since = clock()
        self._pause = FIRST_PAUSE
        self._told: type[Exception] | None = None

    @property
    def seconds(self) -> float:
        """How long it has been closed, or not."""
        return self._clock() - self._since

    def close(self) -> None:
        """Redis answers."""
        if self._told is not None:
            _log.warning("Redis at %s answers again after %.1f s", self._place, self.seconds)
            self._told = None
        self._turn(closed=True)

    def open(self, why: Exception) -> float:
        """Redis does not answer. Returns the seconds after which to try again.

        Said once, however often it is tried; and again where it now is for another kind of reason.
        """
        if self.closed and self.seconds >= STEADY:
            self._pause = FIRST_PAUSE
        self._turn(closed=False)
        if type(why) is not self._told:
            _log.warning("%s; going on by polling the store", why)
            self._told = type(why)
        pause = self._pause * (0.5 + self._chance())
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return min(pause, LONGEST_PAUSE)

    def _turn(self, *, closed: bool) -> None:
        if closed != self.closed:
            self.closed = closed
            self._since = self._clock()
