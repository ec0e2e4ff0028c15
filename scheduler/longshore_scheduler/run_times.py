"""How long tasks run, learnt from reports: what prefetch and estimates are based on."""

from __future__ import annotations

from collections.abc import Mapping

FLOOR = 20e-6
"""Seconds. A worker spends about this on a job whatever its code does."""

_ALPHA = 0.2
_MAXIMUM_TASKS = 10_000


class RunTimes:
    """An exponentially weighted mean per task, in seconds.

    A mean, not a median: one long run among short ones must stop prefetching at once.
    """

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    @property
    def means(self) -> Mapping[str, float]:
        """Seconds by task; a task that never ran is absent."""
        return self._means

    def observe(self, task: str, seconds: float, count: int = 1) -> None:
        """Counts `count` runs that took `seconds` together."""
        mean = max(seconds / count, FLOOR)
        known = self._means.get(task)
        if known is None:
            if len(self._means) >= _MAXIMUM_TASKS:
                self._means.clear()
            self._means[task] = mean
            return
        weight = 1.0 - (1.0 - _ALPHA) ** count
        self._means[task] = known + weight * (mean - known)
