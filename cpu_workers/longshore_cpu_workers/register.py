"""The attempts a worker knows: those that go on, and the names of those that ended lately."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator

from longshore_cpu_workers.attempt import Attempt, Key, Stage
from longshore_cpu_workers.outbox import Outbox
from longshore_cpu_workers.wire import (
    Assignment,
    Checkpointed,
    Failed,
    Failure,
    Report,
    Returned,
)


class Register:
    """Every attempt enters once and leaves with exactly one of three reports."""

    def __init__(self, outbox: Outbox, *, remembered: int = 20_000) -> None:
        self._outbox = outbox
        self._active: dict[Key, Attempt] = {}
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._remembered = remembered
        self._serials = itertools.count(1)

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._active.values()))

    def enter(self, assignment: Assignment) -> Attempt | None:
        """A new attempt; None where this one is known already: the scheduler repeated a call."""
        key = (assignment.job_id, assignment.fence)
        if key in self._active or key in self._ended:
            return None
        attempt = self._active[key] = Attempt(assignment, next(self._serials))
        return attempt

    def get(self, key: Key) -> Attempt | None:
        """An attempt that has not ended."""
        return self._active.get(key)

    def leave(self, attempt: Attempt, report: Report) -> None:
        """Ends an attempt with its outcome."""
        attempt.stage = Stage.ENDED
        key = attempt.key
        if self._active.pop(key, None) is None:
            return
        self._outbox.add(report)
        self._remember(key)

    def disown(self, key: Key) -> None:
        """Reports an attempt that never came as Returned, once, and takes it no more."""
        if key in self._active or key in self._ended:
            return
        self._outbox.add(Returned(*key, time.monotonic()))
        self._remember(key)

    def fail(
        self, attempt: Attempt, failure: Failure, *, at: float | None = None, began: bool = True
    ) -> None:
        """Ends an attempt without a result; `began` False says that task code never ran."""
        at = time.monotonic() if at is None else at
        seconds = at - attempt.started_at if began and attempt.started_at is not None else None
        self.leave(attempt, Failed(*attempt.key, at, seconds, failure))

    def give_back(self, attempt: Attempt) -> None:
        """Ends an attempt that did not begin: the scheduler has it again."""
        self.leave(attempt, Returned(*attempt.key, time.monotonic()))

    def _remember(self, key: Key) -> None:
        self._ended[key] = None
        if len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    def keep_checkpoint(self, attempt: Attempt, at: float, number: int, value: str) -> None:
        """Sends a checkpoint; an older one that was never sent is replaced by it.

        What can still be acknowledged is the one that was sent and the newest: no more are kept.
        """
        report = Checkpointed(*attempt.key, at, value)
        attempt.checkpoints = [*attempt.checkpoints[:1], (report, number)]
        self._outbox.replace(report)

    @staticmethod
    def saved(attempt: Attempt, report: Checkpointed) -> int | None:
        """The runner's number of an acknowledged checkpoint."""
        for index, (sent, number) in enumerate(attempt.checkpoints):
            if sent is report:
                del attempt.checkpoints[: index + 1]
                return number
        return None
