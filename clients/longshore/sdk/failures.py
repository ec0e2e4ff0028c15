"""How task code says that it failed.

Exception
├── TaskError            failed with a reason; retried like any other exception
│   └── PermanentError   failed, and would fail again: never retried
└── JobCancelled         raised inside task code by ctx when its job was cancelled

Any other exception counts as a TaskError whose reason is its class name.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType


class FailureClass(enum.IntEnum):
    """Why an attempt ended without a result; the values are those of longshore.v1.FailureClass."""

    TASK_ERROR = 1
    PERMANENT = 2
    TIMEOUT = 3
    CRASH = 4
    OUT_OF_MEMORY = 5
    WORKER_LOST = 6
    DEVICE_FAULT = 7
    DRAINED = 8
    DEMOTED = 9
    PREEMPTED = 10
    CANCELLED = 11


CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
}


class TaskError(Exception):
    """Task code failed, with a reason that programs can compare.

    Args:
        message: one sentence for people: what was wrong, with which value, what to do.
        reason: UPPER_SNAKE_CASE; what `non_retryable_reasons` of a job is matched with.
        code: a name in `CODES`, the canonical code of the failure.
        metadata: short facts for programs, such as {"input": "video"}.
        violations: (field path, what is wrong with it), where the payload is to blame.
    """

    # Of subclasses whose own __init__ says nothing of them.
    reason: str = "TASK_ERROR"
    code: int = CODES["ABORTED"]
    metadata: Mapping[str, str] = MappingProxyType({})
    violations: Sequence[tuple[str, str]] = ()

    def __init__(
        self,
        message: str,
        *,
        reason: str = "TASK_ERROR",
        code: str = "ABORTED",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = CODES[code]
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)


class PermanentError(TaskError):
    """Task code failed and would fail again: the job ends FAILED, whatever attempts are left."""


class JobCancelled(BaseException):
    """The job was cancelled, or its attempt is to end; clean up and let it pass.

    A BaseException, so that a task's `except Exception` does not swallow it.
    """
