"""How fast queues drain, measured from their counters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from longshore_store.topology_records import QueueRecord

MEMORY = 10.0
"""Seconds after which a measurement counts a third."""


class Rate(NamedTuple):
    """Jobs leased per second: the moving mean and its standard deviation."""

    mean: float
    deviation: float


class DrainRates:
    """Moving averages of `QueueRecord.drained`, fed with every reading of the queues."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def observe(self, queues: Iterable[QueueRecord], now: float) -> dict[str, Rate]:
        """Takes a reading at the monotonic second `now`; returns the rates known so far."""
        seen = {queue.name: queue.drained for queue in queues}
        for name, drained in seen.items():
            self._observe(name, drained, now)
        for name in self._last.keys() - seen.keys():
            del self._last[name]
            self._rates.pop(name, None)
        return {n: Rate(mean, math.sqrt(var)) for n, (mean, var) in self._rates.items()}

    def _observe(self, name: str, drained: int, now: float) -> None:
        before, then = self._last.get(name, (drained, now))
        passed = now - then
        if name in self._last and passed < 0.05:
            return  # too short to divide by
        self._last[name] = (drained, now)
        if passed <= 0:
            return
        current = max(0, drained - before) / passed
        if name not in self._rates:
            self._rates[name] = (current, 0.0)
            return
        mean, variance = self._rates[name]
        weight = 1 - math.exp(-passed / MEMORY)
        step = current - mean
        # West's incremental form of the exponentially weighted mean and variance.
        self._rates[name] = (
            mean + weight * step,
            (1 - weight) * (variance + weight * step * step),
        )
