"""Ends attempts that have more memory than they asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from longshore_cpu_workers.attempt import Attempt, Stage
from longshore_cpu_workers.endings import too_much_memory
from longshore_cpu_workers.handle import Role, Runner
from longshore_cpu_workers.memory import SAMPLE_INTERVAL, MemoryLimit, Sample, exceeding


class MemoryWatch:
    """Samples runners, four times a second, while an attempt that asked for memory runs.

    Attempts of async tasks share a process, so nobody can tell what one of them has: no bound.
    """

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit = limit
        self._due = 0.0
        self._sampling: asyncio.Task[None] | None = None

    def tick(self, now: float, runners: Iterable[Runner]) -> None:
        """Begins to sample where it is time."""
        if self._limit == "off" or now < self._due or self._sampling is not None:
            return
        watched = {
            runner.pid: (runner, head)
            for runner in runners
            if runner.role is Role.SYNC and (head := runner.head) and _is_bounded(head)
        }
        if watched:
            self._sampling = asyncio.get_running_loop().create_task(self._sample(watched))

    async def _sample(self, watched: dict[int, tuple[Runner, Attempt]]) -> None:
        samples = [
            Sample(runner.pid, head.assignment.needs.memory_bytes, runner.memory_before)
            for runner, head in watched.values()
        ]
        try:
            found = await asyncio.to_thread(exceeding, samples)
        finally:
            self._due = time.monotonic() + SAMPLE_INTERVAL
            self._sampling = None
        for pid, used in found.items():
            runner, attempt = watched[pid]
            if runner.head is attempt and not runner.doomed:
                attempt.verdict = too_much_memory(attempt.assignment.needs.memory_bytes, used)
                runner.blamed = attempt
                runner.kill()


def _is_bounded(attempt: Attempt) -> bool:
    return attempt.stage is Stage.RUNNING and attempt.assignment.needs.memory_bytes > 0
