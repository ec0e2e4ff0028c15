"""The states of a job, by name: for callers who compare and print them."""

from __future__ import annotations

import enum


class JobState(enum.IntEnum):
    """Where a job is; the values are those of longshore.v1.JobState, and compare equal to them.

    A newer server may have more: `job.state` is a plain number, which need not be one of these.
    """

    SCHEDULED = 1
    BLOCKED = 2
    QUEUED = 3
    LEASED = 4
    RUNNING = 5
    RETRYING = 6
    CANCELLING = 7
    SUCCEEDED = 8
    FAILED = 9
    CANCELLED = 10
    EXPIRED = 11
    DEAD_LETTERED = 12

    @property
    def is_terminal(self) -> bool:
        """True once the job has ended: only a Retry or a Redrive leaves such a state."""
        return self >= JobState.SUCCEEDED
