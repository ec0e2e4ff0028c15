"""Attempts that wait for resources: first in, first out among those that need the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from longshore_cpu_workers.attempt import Attempt, Stage
from longshore_cpu_workers.wire import Needs


class Owner(NamedTuple):
    """Whose attempts may be in one process, one after another or, of async tasks, together.

    tenant: empty where tenants share. task: the async task; empty for sync ones.
    """

    tenant: str = ""
    task: str = ""


class Shape(NamedTuple):
    """What makes attempts interchangeable for admission."""

    needs: Needs
    is_async: bool
    owner: Owner = Owner()


class Backlog:
    """Queues by shape. An attempt taken out by `discard` leaves its place lazily.

    Args:
        share: attempts of different tenants may follow one another in one process.
    """

    def __init__(self, *, share: bool = False) -> None:
        self._share = share
        self.async_tasks: frozenset[str] = frozenset()
        self._queues: dict[Shape, deque[Attempt]] = {}
        self._count = 0
        self._stale = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Attempt]:
        for queue in self._queues.values():
            yield from (a for a in queue if a.stage is Stage.WAITING)

    def push(self, attempt: Attempt) -> None:
        """Puts an attempt at the end."""
        self._count += 1
        self._queue(attempt).append(attempt)

    def push_back(self, attempts: Iterable[Attempt]) -> None:
        """Puts attempts back in front, in the order they came in."""
        for attempt in sorted(attempts, key=lambda a: a.serial, reverse=True):
            self._count += 1
            self._queue(attempt).appendleft(attempt)

    def discard(self) -> None:
        """Counts out one attempt whose stage is no longer WAITING."""
        self._count -= 1
        self._stale += 1
        if self._stale > 1000 and self._stale > self._count:
            self.sort_by(self.async_tasks)

    def sort_by(self, async_tasks: frozenset[str]) -> None:
        """Learns which tasks are async; what came in before is sorted again."""
        waiting = sorted(self, key=lambda a: a.serial)
        self.async_tasks = async_tasks
        self._queues.clear()
        self._count = self._stale = 0
        for attempt in waiting:
            self.push(attempt)

    def shapes(self) -> list[Shape]:
        """The shapes that have attempts waiting, the oldest head first."""
        heads = [(head.serial, shape) for shape in list(self._queues) if (head := self.head(shape))]
        return [shape for _, shape in sorted(heads, key=lambda pair: pair[0])]

    def head(self, shape: Shape) -> Attempt | None:
        """The next attempt of a shape; stays where it is."""
        queue = self._queues.get(shape, ())
        while queue and queue[0].stage is not Stage.WAITING:
            queue.popleft()
        if not queue:
            self._queues.pop(shape, None)
            return None
        return queue[0]

    def length(self, shape: Shape) -> int:
        """About how many of a shape wait."""
        return len(self._queues.get(shape, ()))

    def pop(self, shape: Shape) -> Attempt:
        """Takes the head, which there must be."""
        self._count -= 1
        return self._queues[shape].popleft()

    def _queue(self, attempt: Attempt) -> deque[Attempt]:
        a = attempt.assignment
        is_async = a.task in self.async_tasks
        owner = Owner("" if self._share else a.tenant, a.task if is_async else "")
        shape = Shape(a.needs, is_async, owner)
        return self._queues.setdefault(shape, deque())
