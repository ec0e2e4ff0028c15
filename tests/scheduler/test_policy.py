"""What follows a failure, class by class, and the laws of the backoff."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Failure
from longshore_scheduler.policy import (
    Consequence,
    Counters,
    DeadLetter,
    Demote,
    Expire,
    Fail,
    Limits,
    Release,
    Retry,
    backoff,
    consequence,
)
from longshore_scheduler.specs import RetryPolicy
from longshore_store.needs import Needs, needs_json, parse_needs

GIB = 1024**3
NOW = 1_000_000_000
POLICY = RetryPolicy(maximum_attempts=3, non_retryable_reasons=frozenset({"BAD_INPUT"}))
CEILING = Needs(memory_bytes=8 * GIB, gpu_memory_bytes=24 * GIB)
NEEDS = needs_json(cpu_millis=1000, memory_bytes=2 * GIB, gpu_millis=500, gpu_memory_bytes=4 * GIB)

NONE = Counters()
INTERRUPTIONS = (FailureClass.WORKER_LOST, FailureClass.DEVICE_FAULT)
REFUNDS = (FailureClass.DRAINED, FailureClass.PREEMPTED, FailureClass.DEMOTED)


def decide(
    kind: FailureClass, counters: Counters = NONE, message: str = "", **changes: Any
) -> Consequence:
    facts = changes.pop("metadata", ())
    failure = Failure(kind, 10, changes.pop("reason", "BROKEN"), message, facts)
    values: dict[str, Any] = {
        "now_us": NOW,
        "total_deadline_us": None,
        "needs": NEEDS,
        "ceiling": CEILING,
        "overflow": "",
        "random": lambda: 0.0,
        **changes,
    }
    return consequence(failure, counters, POLICY, Limits(), **values)


@pytest.mark.parametrize(
    ("kind", "counters", "expected"),
    [
        (FailureClass.TASK_ERROR, Counters(), Retry),
        (FailureClass.TASK_ERROR, Counters(attempts=1), Retry),
        (FailureClass.TASK_ERROR, Counters(attempts=2), DeadLetter),
        (FailureClass.TIMEOUT, Counters(attempts=2), DeadLetter),
        (FailureClass.CANCELLED, Counters(attempts=2), DeadLetter),
        (FailureClass.PERMANENT, Counters(), Fail),
        (FailureClass.CRASH, Counters(attempts=2, crashes=1), Retry),
        (FailureClass.CRASH, Counters(crashes=2), DeadLetter),
        (FailureClass.OUT_OF_MEMORY, Counters(crashes=2, ooms=1), Retry),
        (FailureClass.OUT_OF_MEMORY, Counters(ooms=2), DeadLetter),
        (FailureClass.WORKER_LOST, Counters(interruptions=8), Release),
        (FailureClass.DEVICE_FAULT, Counters(interruptions=8), Retry),
        *((kind, Counters(interruptions=9), DeadLetter) for kind in INTERRUPTIONS),
        *((kind, Counters(9, 9, 9, 99), Release) for kind in REFUNDS),
    ],
)
def test_what_follows(kind: FailureClass, counters: Counters, expected: type) -> None:
    assert isinstance(decide(kind, counters), expected)


def test_reasons_that_are_never_retried() -> None:
    assert decide(FailureClass.TASK_ERROR, reason="BAD_INPUT") == Fail()


def test_a_passed_deadline_ends_it() -> None:
    for kind in (FailureClass.TASK_ERROR, FailureClass.TIMEOUT, FailureClass.CRASH):
        assert decide(kind, Counters(attempts=9), total_deadline_us=NOW) == Expire()
    assert decide(FailureClass.PERMANENT, total_deadline_us=NOW) == Fail()
    assert isinstance(decide(FailureClass.TASK_ERROR, total_deadline_us=NOW + 1), Retry)


def test_what_outlives_its_attempt_timeout_overflows() -> None:
    assert decide(FailureClass.TIMEOUT, Counters(9, 9, 9, 99), overflow="slow") == Demote("slow")
    assert decide(FailureClass.TIMEOUT, overflow="slow", total_deadline_us=NOW) == Expire()
    assert decide(FailureClass.TIMEOUT, overflow="slow", reason="BAD_INPUT") == Fail()
    for kind in set(FailureClass) - {FailureClass.TIMEOUT}:
        assert decide(kind, overflow="slow") == decide(kind)


def test_out_of_memory_asks_for_half_as_much_again() -> None:
    host = decide(FailureClass.OUT_OF_MEMORY, message="Killed")
    device = decide(FailureClass.OUT_OF_MEMORY, metadata=(("memory", "device"),))
    assert isinstance(host, Retry)
    assert isinstance(device, Retry)
    assert parse_needs(host.needs_json or "").memory_bytes == 3 * GIB
    assert parse_needs(host.needs_json or "").gpu_memory_bytes == 4 * GIB
    assert parse_needs(device.needs_json or "").gpu_memory_bytes == 6 * GIB


@pytest.mark.parametrize(
    ("asked", "peak", "wanted"),
    [
        (0, str(2 * GIB), 3 * GIB),
        (GIB, str(4 * GIB), 6 * GIB),
        (2 * GIB, str(GIB), 3 * GIB),
        (0, str(100 * GIB), 8 * GIB),
        (0, "much", 0),
        (0, "9" * 400, 0),
    ],
)
def test_what_it_was_seen_to_have_counts(asked: int, peak: str, wanted: int) -> None:
    needs = needs_json(cpu_millis=1, memory_bytes=asked)
    facts = (("memory", "host"), ("peak_bytes", peak))
    decided = decide(FailureClass.OUT_OF_MEMORY, needs=needs, metadata=facts)
    assert isinstance(decided, Retry)
    assert parse_needs(decided.needs_json or "").memory_bytes == wanted


def test_a_device_fault_has_a_pause_before_the_next_attempt() -> None:
    first, later = (decide(FailureClass.DEVICE_FAULT, Counters(interruptions=n)) for n in (0, 4))
    assert isinstance(first, Retry)
    assert isinstance(later, Retry)
    assert NOW < first.due_us < later.due_us


def test_no_more_memory_is_asked_for_than_a_worker_offers() -> None:
    needs = needs_json(cpu_millis=1, memory_bytes=7 * GIB)
    decided = decide(FailureClass.OUT_OF_MEMORY, needs=needs)
    assert isinstance(decided, Retry)
    assert parse_needs(decided.needs_json or "").memory_bytes == 8 * GIB


POLICIES = st.builds(
    RetryPolicy,
    maximum_attempts=st.integers(1, 100),
    initial_backoff=st.floats(0, 86_400),
    multiplier=st.floats(1, 10),
    maximum_backoff=st.floats(0, 86_400),
    jitter=st.floats(0, 1),
)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 200), CHANCE)
def test_a_backoff_stays_between_its_jitter_and_its_cap(
    policy: RetryPolicy, failures: int, chance: float
) -> None:
    full = backoff(policy._replace(jitter=0.0), failures, chance)
    delay = backoff(policy, failures, chance)
    assert full * (1 - policy.jitter) - 1e-9 <= delay <= full <= policy.maximum_backoff


@given(POLICIES, st.integers(1, 200), CHANCE)
def test_a_backoff_never_shrinks_from_one_failure_to_the_next(
    policy: RetryPolicy, failures: int, chance: float
) -> None:
    assert backoff(policy, failures, chance) <= backoff(policy, failures + 1, chance)


@pytest.mark.parametrize(("initial", "longest"), [(1.0, 300.0), (0.0, 0.0)])
def test_a_backoff_has_its_cap_after_any_number_of_failures(initial: float, longest: float) -> None:
    policy = RetryPolicy(5000, initial, 2.0, 300.0, 0.0)
    assert backoff(policy, 4999, 0.5) == longest


@given(POLICIES, st.sampled_from(list(FailureClass)))
def test_every_class_of_failure_ends_a_job_at_last(policy: RetryPolicy, kind: FailureClass) -> None:
    if kind in REFUNDS:  # the scheduler's own doing, never the job's
        return
    counters = Counters(policy.maximum_attempts, 3, 3, 10)
    failure = Failure(kind, 10, "BROKEN", "")
    decided = consequence(
        failure, counters, policy, Limits(), now_us=NOW, total_deadline_us=None,
        needs=NEEDS, ceiling=CEILING, overflow="", random=lambda: 0.5,
    )  # fmt: skip
    assert isinstance(decided, Fail | DeadLetter)
