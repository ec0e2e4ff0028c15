"""How often something may leave the runner. Time comes in as an argument: seconds, monotonic."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Conflator(Generic[T]):
    """Lets at most one value through per interval; the newest waits for its turn."""

    __slots__ = ("_interval", "_next", "_waiting")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next = float("-inf")
        self._waiting: T | None = None

    def offer(self, value: T, now: float) -> T | None:
        """Takes a value; returns it if it may leave now, else keeps it instead of an older one."""
        if now < self._next:
            self._waiting = value
            return None
        self._next = now + self._interval
        self._waiting = None
        return value

    def due(self, now: float) -> T | None:
        """The waiting value, if its turn has come."""
        return None if self._waiting is None or now < self._next else self.last(now)

    def last(self, now: float) -> T | None:
        """The waiting value, whether its turn has come or not."""
        value, self._waiting = self._waiting, None
        if value is not None:
            self._next = now + self._interval
        return value

    @property
    def waits(self) -> bool:
        """True where a value waits."""
        return self._waiting is not None


class Allowance:
    """So many per second, with as many at once after a pause."""

    __slots__ = ("_left", "_rate", "_then")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._left = rate
        self._then = now

    def take(self, now: float) -> bool:
        """Uses up one; False where none is left."""
        self._left = min(self._rate, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
