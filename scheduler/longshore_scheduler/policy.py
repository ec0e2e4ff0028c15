"""What follows an attempt that ended without a result: DESIGN section 9, as one pure function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Failure
from longshore_scheduler.specs import RetryPolicy
from longshore_store.needs import Needs, needs_json, parse_needs

MEMORY_GROWTH = 1.5
"""What an attempt asks for after it ran out of memory, times what it had."""

_REFUNDED = frozenset({FailureClass.DRAINED, FailureClass.DEMOTED, FailureClass.PREEMPTED})
_INTERRUPTED = frozenset({FailureClass.WORKER_LOST, FailureClass.DEVICE_FAULT})

CHECKPOINTED = 10
"""By how much the bound of interruptions is higher for an attempt that has saved a checkpoint."""

REFUSED = "REFUSED"
"""The reason of an attempt that a living worker did not take."""
_MANY_DIGITS = 18


class Counters(NamedTuple):
    """What ended before this attempt, in this run."""

    attempts: int = 0
    crashes: int = 0
    ooms: int = 0
    interruptions: int = 0


class Limits(NamedTuple):
    """How often each class may strike; the last time ends the job."""

    crashes: int = 3
    ooms: int = 3
    interruptions: int = 10


class Retry(NamedTuple):
    """Another attempt at due_us. needs_json: what it asks for instead, or None."""

    due_us: int
    needs_json: str | None = None


class Release(NamedTuple):
    """Back to the queue at once, refunded."""


class Demote(NamedTuple):
    """To another queue, refunded: it outlived the attempt timeout of the one it is in."""

    queue: str


class Fail(NamedTuple):
    """Never again: FAILED."""


class DeadLetter(NamedTuple):
    """Used up: DEAD_LETTERED with its cause."""


class Expire(NamedTuple):
    """Its total deadline has passed: EXPIRED."""


Consequence = Retry | Release | Demote | Fail | DeadLetter | Expire


def consequence(
    failure: Failure,
    counters: Counters,
    policy: RetryPolicy,
    limits: Limits,
    *,
    now_us: int,
    total_deadline_us: int | None,
    needs: str,
    ceiling: Needs,
    overflow: str,
    beside: int = 0,
    checkpointed: bool = False,
    random: Callable[[], float],
) -> Consequence:
    """What becomes of the job.

    needs: its needs_json. ceiling: the most memory that a worker it may run on offers. overflow:
    the queue that takes it where its attempt timed out; empty where that counts as raised.
    beside: how many other attempts were lost with this one: any of them may have caused it, so it
    counts and does not dead-letter. checkpointed: the attempt got further, so it may be interrupted
    CHECKPOINTED times as often.
    random: uniform in [0, 1). CANCELLED here is task code that ended itself as if cancelled:
    as raised, so that it is bounded.
    """
    kind = failure.failure_class
    if kind in _REFUNDED:
        return Release()
    if kind in _INTERRUPTED:
        interruptions = counters.interruptions + 1
        most = limits.interruptions * (CHECKPOINTED if checkpointed else 1)
        if interruptions >= most and not beside:
            return DeadLetter()
        # The next worker may refuse it as fast, or lend it the same faulty device.
        if failure.reason == REFUSED or kind is FailureClass.DEVICE_FAULT:
            return Retry(now_us + round(backoff(policy, interruptions, random()) * 1e6))
        return Release()
    if kind is FailureClass.PERMANENT or failure.reason in policy.non_retryable_reasons:
        return Fail()
    if total_deadline_us is not None and now_us >= total_deadline_us:
        return Expire()
    if kind is FailureClass.TIMEOUT and overflow:
        return Demote(overflow)
    if _used_up(kind, counters, policy, limits):
        return DeadLetter()
    delay = backoff(policy, counters.attempts + counters.crashes + counters.ooms + 1, random())
    due_us = now_us + round(delay * 1e6)
    if kind is FailureClass.OUT_OF_MEMORY:
        facts = dict(failure.metadata)
        of_device = facts.get("memory") == "device"
        return Retry(due_us, more_memory(needs, ceiling, device=of_device, peak=_peak(facts)))
    return Retry(due_us)


def _peak(facts: Mapping[str, str]) -> int:
    """The most host memory that the attempt was seen to have, in bytes; 0 where nobody knows."""
    told = facts.get("peak_bytes", "")
    return int(told) if told.isdecimal() and len(told) < _MANY_DIGITS else 0


def backoff(policy: RetryPolicy, failures: int, random: float) -> float:
    """Seconds before the next attempt after so many failures, between (1 - jitter) of it and it."""
    try:
        growth = policy.multiplier ** (failures - 1)
    except OverflowError:  # a task may declare thousands of attempts
        growth = sys.float_info.max
    full = min(policy.initial_backoff * growth, policy.maximum_backoff)
    return full * (1.0 - policy.jitter * random)


def more_memory(needs: str, ceiling: Needs, *, device: bool, peak: int = 0) -> str:
    """The needs with half as much memory again as it had, of the device or of the host.

    peak: what it was seen to have of the host, where that was more than it asked for; so a need
    of 0, which asked for nothing in particular, becomes one. At most what a worker offers: a job
    that no worker can ever run would wait for ever.
    """
    have = parse_needs(needs)
    memory, gpu_memory = have.memory_bytes, have.gpu_memory_bytes
    if device:
        gpu_memory = max(gpu_memory, min(int(gpu_memory * MEMORY_GROWTH), ceiling.gpu_memory_bytes))
    else:
        wanted = int(max(memory, peak) * MEMORY_GROWTH)
        memory = max(memory, min(wanted, ceiling.memory_bytes))
    return needs_json(
        cpu_millis=have.cpu_millis,
        memory_bytes=memory,
        gpu_millis=have.gpu_millis,
        gpu_memory_bytes=gpu_memory,
        accelerators=have.accelerators,
        model=have.model,
        custom=dict(have.custom),
    )


def _used_up(kind: FailureClass, counters: Counters, policy: RetryPolicy, limits: Limits) -> bool:
    if kind is FailureClass.CRASH:
        return counters.crashes + 1 >= limits.crashes
    if kind is FailureClass.OUT_OF_MEMORY:
        return counters.ooms + 1 >= limits.ooms
    return counters.attempts + 1 >= policy.maximum_attempts
