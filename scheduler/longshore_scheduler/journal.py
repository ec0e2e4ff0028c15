"""What the log says of jobs: one line for each attempt that ended without a result, with a bound.

A line names job, worker, task and failure class. It never quotes a message: task code wrote that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from longshore.sdk.failures import FailureClass
from longshore_scheduler.policy import Consequence, DeadLetter, Demote, Expire, Fail, Release, Retry
from longshore_scheduler.roster import Held
from longshore_store.model import Setback

_log = logging.getLogger(__name__)

LINES = 50
"""Lines about attempts in one PERIOD; what is beyond is counted, and the sum is one line."""

PERIOD = 10.0

_TOLD: dict[type[Consequence], tuple[int, str]] = {
    DeadLetter: (logging.WARNING, "it is a dead letter"),
    Demote: (logging.INFO, "it goes on in another queue"),
    Expire: (logging.INFO, "it has expired"),
    Fail: (logging.WARNING, "it has failed"),
    Release: (logging.INFO, "it is queued again"),
    Retry: (logging.INFO, "it is tried again"),
}
_QUIET = frozenset({FailureClass.PREEMPTED})
"""Recalls: nothing has happened to the job."""


class Journal:
    """Bounds the lines of a term, so that a flood of failures is no flood of lines."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._lines = 0
        self._left_out = 0

    def attempt_ended(self, held: Held, setback: Setback, decided: Consequence) -> None:
        """An attempt ended without a result; `decided` is what becomes of its job."""
        if setback.failure_class in _QUIET:
            return
        level, what = _TOLD[type(decided)]
        if not _log.isEnabledFor(level) or not self._has_room():
            return
        kind, worker = FailureClass(setback.failure_class).name, held.worker
        _log.log(
            level,
            "job %s (%s): an attempt on %s ended with %s; %s",
            held.job_id,
            held.task,
            worker.id if worker is not None else "a worker that is gone",
            kind,
            what,
            extra={
                "job_id": held.job_id,
                "worker_id": worker.id if worker is not None else "",
                "task_name": held.task,
                "queue": held.queue,
                "failure_class": kind,
            },
        )

    def sum_up(self) -> None:
        """Says how many lines were left out, once their period is over."""
        if self._clock() - self._began < PERIOD:
            return
        if self._left_out:
            _log.warning("%d more attempts ended without a result", self._left_out)
        self._began, self._lines, self._left_out = self._clock(), 0, 0

    def _has_room(self) -> bool:
        self.sum_up()
        if self._lines < LINES:
            self._lines += 1
            return True
        self._left_out += 1
        return False
