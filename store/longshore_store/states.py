"""The states of a job, and every edge between them.

There is no `update_status`: an edge is one Transition here and one store method of the same
name, so an edge that is not drawn below has no spelling.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class JobState(enum.IntEnum):
    """Where a job is; the values are those of longshore.v1.JobState."""

    SCHEDULED = 1
    """Held until its schedule_time. Put there by submit; promote_jobs, cancel_jobs and
    expire_jobs take it out."""

    BLOCKED = 2
    """Waits for parents. No release puts a job there yet."""

    QUEUED = 3
    """Ready. Put there by submit, promote_jobs, release_attempts, demote_attempts, retry_jobs
    and advance_redrive; lease_jobs, cancel_jobs and expire_jobs take it out."""

    LEASED = 4
    """Given to a worker; task code has not begun. Put there by lease_jobs; start_attempts, the
    outcome of the attempt, release_attempts, demote_attempts and cancel_jobs take it out."""

    RUNNING = 5
    """Task code runs. Put there by start_attempts; the outcome of the attempt,
    release_attempts, demote_attempts and cancel_jobs take it out."""

    RETRYING = 6
    """An attempt failed and the next one waits for its backoff. Put there by retry_attempts;
    promote_jobs, cancel_jobs and expire_jobs take it out."""

    CANCELLING = 7
    """Cancellation is stored, the worker has not confirmed it. Put there by cancel_jobs; only
    confirm_cancels takes it out, whatever the attempt ended with: Cancel's answer stands."""

    SUCCEEDED = 8
    """Terminal. Put there by complete_attempts. retry_jobs starts a new run; deleted by age."""

    FAILED = 9
    """Terminal: the task said never again. Put there by fail_attempts. Left as SUCCEEDED is."""

    CANCELLED = 10
    """Terminal. Put there by cancel_jobs (waiting jobs) and confirm_cancels."""

    EXPIRED = 11
    """Terminal: a queue or total deadline passed. Put there by expire_jobs (waiting jobs) and
    expire_attempts."""

    DEAD_LETTERED = 12
    """Terminal until a redrive: attempts, crashes or interruptions are used up. Put there by
    dead_letter_attempts. advance_redrive and retry_jobs start a new run; purge_dead_letters
    deletes it; kept longer than the others."""


WAITING = frozenset({JobState.SCHEDULED, JobState.BLOCKED, JobState.QUEUED, JobState.RETRYING})
ACTIVE = frozenset({JobState.LEASED, JobState.RUNNING, JobState.CANCELLING})
RUNNABLE = frozenset({JobState.LEASED, JobState.RUNNING})
TERMINAL = frozenset(
    {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.EXPIRED,
        JobState.DEAD_LETTERED,
    }
)


@dataclass(frozen=True, slots=True)
class Transition:
    """One edge: from any of `sources` to `target`, with the reason its event carries."""

    name: str
    sources: frozenset[JobState]
    target: JobState
    reason: str


PROMOTE = Transition(
    "promote_jobs", frozenset({JobState.SCHEDULED, JobState.RETRYING}), JobState.QUEUED, "DUE"
)
LEASE = Transition("lease_jobs", frozenset({JobState.QUEUED}), JobState.LEASED, "LEASED")
START = Transition("start_attempts", frozenset({JobState.LEASED}), JobState.RUNNING, "STARTED")
COMPLETE = Transition("complete_attempts", RUNNABLE, JobState.SUCCEEDED, "COMPLETED")
FAIL = Transition("fail_attempts", RUNNABLE, JobState.FAILED, "PERMANENT")
RETRY = Transition("retry_attempts", RUNNABLE, JobState.RETRYING, "TASK_ERROR")
DEAD_LETTER = Transition(
    "dead_letter_attempts", RUNNABLE, JobState.DEAD_LETTERED, "ATTEMPTS_EXHAUSTED"
)
RELEASE = Transition("release_attempts", RUNNABLE, JobState.QUEUED, "RELEASED")
DEMOTE = Transition("demote_attempts", RUNNABLE, JobState.QUEUED, "DEMOTED")
EXPIRE_ATTEMPT = Transition("expire_attempts", RUNNABLE, JobState.EXPIRED, "TOTAL_TIMEOUT")
CANCEL_WAITING = Transition("cancel_jobs", WAITING, JobState.CANCELLED, "CANCELLED")
CANCEL_ACTIVE = Transition("cancel_jobs", RUNNABLE, JobState.CANCELLING, "CANCEL_REQUESTED")
CONFIRM_CANCEL = Transition(
    "confirm_cancels", frozenset({JobState.CANCELLING}), JobState.CANCELLED, "CANCELLED"
)
EXPIRE_WAITING = Transition("expire_jobs", WAITING, JobState.EXPIRED, "DEADLINE")
RERUN = Transition("retry_jobs", TERMINAL, JobState.QUEUED, "RETRY_REQUESTED")
REDRIVE = Transition(
    "advance_redrive", frozenset({JobState.DEAD_LETTERED}), JobState.QUEUED, "REDRIVEN"
)

TRANSITIONS = (
    PROMOTE,
    LEASE,
    START,
    COMPLETE,
    FAIL,
    RETRY,
    DEAD_LETTER,
    RELEASE,
    DEMOTE,
    EXPIRE_ATTEMPT,
    CANCEL_WAITING,
    CANCEL_ACTIVE,
    CONFIRM_CANCEL,
    EXPIRE_WAITING,
    RERUN,
    REDRIVE,
)
