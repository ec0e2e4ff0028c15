"""Reports of a worker, kept until the scheduler has acknowledged them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from longshore_cpu_workers.wire import (
    Checkpointed,
    Failed,
    Logged,
    PollReply,
    Progressed,
    Report,
    Succeeded,
)

LINES_PER_REPORT = 100


@dataclass(slots=True)
class _Cell:
    """A place in the queue whose report a newer one may still replace: it was never sent."""

    key: tuple[type, str, int]
    report: Report


class Outbox:
    """An ordered queue of reports with a bound that outcomes never hit.

    A report gets its number when it is sent first; before that, progress and checkpoints are
    replaced by newer ones of the same attempt and log lines are merged. Starts and outcomes
    are bounded by the number of assignments; log lines by `max_lines`, the rest is counted.
    """

    def __init__(
        self,
        on_acknowledged: Callable[[Checkpointed], None],
        *,
        limit: int = 2048,
        max_bytes: int = 8 << 20,
        max_lines: int = 20_000,
    ) -> None:
        self._on_acknowledged = on_acknowledged
        self._limit = limit
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._last = 0
        self._lines = 0
        self._sent: deque[Report] = deque()
        self._waiting: deque[Report | _Cell] = deque()
        self._cells: dict[tuple[type, str, int], _Cell] = {}
        self._ready = asyncio.Event()

    def add(self, report: Report) -> None:
        """Appends a start or an outcome: never merged, never dropped."""
        self._waiting.append(report)
        self._ready.set()

    def replace(self, report: Progressed | Checkpointed) -> None:
        """Appends a report, or puts it in the place of an older one that was not sent yet."""
        cell = self._cells.get((type(report), report.job_id, report.fence))
        if cell is None:
            self._open(report)
        else:
            cell.report = report

    def log(self, report: Logged) -> None:
        """Appends lines, or counts them as dropped where too many wait."""
        room = self._max_lines - self._lines
        if room < len(report.lines):
            lost = len(report.lines) - max(0, room)
            kept = report.lines[: max(0, room)]
            report = report._replace(lines=kept, dropped=report.dropped + lost)
        self._lines += len(report.lines)
        cell = self._cells.get((Logged, report.job_id, report.fence))
        if cell is not None and isinstance(cell.report, Logged):
            merged = cell.report.lines + report.lines
            if len(merged) <= LINES_PER_REPORT:
                dropped = cell.report.dropped + report.dropped
                cell.report = report._replace(lines=merged, dropped=dropped)
                return
        self._open(report)

    async def poll(self, ack: int, wait: float) -> PollReply:
        """Forgets what is acknowledged and returns what is not, waiting up to `wait` seconds.

        Raises:
            ValueError: ack is a number that no report ever had.
        """
        if ack > self._last:
            raise ValueError(f"ack {ack} is beyond {self._last}, the newest report ever sent")
        self._acknowledge(ack)
        if not self._sent and not self._waiting:
            await self._wait(wait)
        # A start is often followed at once by its outcome: let the loop read that too.
        await asyncio.sleep(0)
        self._number()
        return PollReply(self._last, time.monotonic(), tuple(self._sent))

    def __len__(self) -> int:
        return len(self._sent) + len(self._waiting)

    def _open(self, report: Report) -> None:
        cell = _Cell((type(report), report.job_id, report.fence), report)
        self._cells[cell.key] = cell
        self._waiting.append(cell)
        self._ready.set()

    async def _wait(self, wait: float) -> None:
        self._ready.clear()
        try:
            await asyncio.wait_for(self._ready.wait(), wait)
        except TimeoutError:
            return

    def _acknowledge(self, ack: int) -> None:
        for _ in range(len(self._sent) - (self._last - ack)):
            report = self._sent.popleft()
            if type(report) is Checkpointed:
                self._on_acknowledged(report)

    def _number(self) -> None:
        """Numbers waiting reports up to the bounds of a reply, always at least one."""
        size = sum(map(_size, self._sent))
        while self._waiting and len(self._sent) < self._limit and size < self._max_bytes:
            item = self._waiting.popleft()
            if type(item) is _Cell:
                item = self._close(item)
            assert not isinstance(item, _Cell)
            size += _size(item)
            self._sent.append(item)
            self._last += 1

    def _close(self, cell: _Cell) -> Report:
        if self._cells.get(cell.key) is cell:
            del self._cells[cell.key]
        if isinstance(cell.report, Logged):
            self._lines -= len(cell.report.lines)
        return cell.report


def _size(report: Report) -> int:
    """About how many bytes a report takes; small ones count as nothing."""
    match report:
        case Succeeded():
            return len(report.value) + sum(len(ref.uri) for ref in report.artifacts)
        case Checkpointed():
            return len(report.value)
        case Progressed():
            return len(report.body)
        case Logged():
            return sum(map(len, report.lines))
        case Failed():
            failure = report.failure
            pairs = failure.metadata + failure.violations
            told = len(failure.message) + len(failure.traceback)
            return told + sum(len(name) + len(text) for name, text in pairs)
    return 0
