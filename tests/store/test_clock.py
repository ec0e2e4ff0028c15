"""What the passing of time does: promote, expire, next_due; and the store's own clock."""

from __future__ import annotations

import time

import pytest

from longshore.sdk.failures import CODES, FailureClass
from longshore_store import sql
from longshore_store.failure import FailureRecord
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.ticks import ticks_us
from tests.store.factory import HOUR, SECOND, START_US, FakeClock, Yard, new_job, recall, setback
from tests.store.places import Place


async def test_scheduled_and_retrying_jobs_become_due(yard: Yard) -> None:
    soon = await yard.submit(due_us=START_US + SECOND)
    retrying = await yard.ended(yard.store.retry_attempts, due_us=START_US + SECOND)
    later = await yard.submit(due_us=START_US + HOUR)
    assert await yard.store.promote_jobs(yard.term, 10) == 0
    assert await yard.store.next_due_us() == START_US + SECOND
    now = yard.clock.advance(SECOND)
    assert await yard.store.promote_jobs(yard.term, 10) == 2
    for job_id in (soon, retrying):
        record = await yard.read(job_id)
        assert (record.state, record.ready_us, record.due_us) == (JobState.QUEUED, now, None)
    assert await yard.state(later) == JobState.SCHEDULED
    [changes] = await yard.store.read_changes({soon: 1})
    assert (changes.events[0].from_state, changes.events[0].reason) == (1, "DUE")
    assert await yard.store.next_due_us() == START_US + HOUR


async def test_promotion_has_a_limit_and_an_order(yard: Yard) -> None:
    batch = [new_job(due_us=START_US + 100 - i) for i in range(10)]
    await yard.store.submit_jobs(batch)
    yard.clock.advance(HOUR)
    assert await yard.store.promote_jobs(yard.term, 3) == 3
    assert [await yard.state(j.id) for j in batch[-4:]] == [JobState.SCHEDULED] + [
        JobState.QUEUED
    ] * 3
    assert await yard.store.promote_jobs(yard.term, 100) == 7
    assert await yard.store.promote_jobs(yard.term, 100) == 0


async def test_waiting_jobs_expire(yard: Yard) -> None:
    queue = await yard.submit(queue_timeout_us=SECOND, total_timeout_us=HOUR)
    total = await yard.submit(total_timeout_us=SECOND)
    scheduled = await yard.submit(due_us=START_US + HOUR, queue_timeout_us=SECOND)
    patient = await yard.submit(queue_timeout_us=HOUR)
    assert await yard.store.expire_jobs(yard.term, 10) == 0
    now = yard.clock.advance(SECOND)
    assert await yard.store.expire_jobs(yard.term, 2) == 2
    assert await yard.store.expire_jobs(yard.term, 2) == 1
    for job_id in (queue, total, scheduled):
        record = await yard.read(job_id)
        assert (record.state, record.ended_us) == (JobState.EXPIRED, now)
        failure = FailureRecord.from_json(record.failure_json or "")
        assert failure.failure_class == FailureClass.TIMEOUT
        assert failure.code == CODES["DEADLINE_EXCEEDED"]
    assert await yard.state(patient) == JobState.QUEUED
    assert await yard.store.next_due_us() == START_US + HOUR


async def test_held_jobs_do_not_expire_here(yard: Yard) -> None:
    """Their deadline is the scheduler's to see: a process has to be stopped first."""
    attempt = await yard.leased(queue_timeout_us=SECOND)
    yard.clock.advance(SECOND)
    assert await yard.store.expire_jobs(yard.term, 10) == 0
    assert await yard.store.next_due_us() is None
    await yard.store.release_attempts(yard.term, [recall(attempt)])
    assert await yard.store.expire_jobs(yard.term, 10) == 1


async def test_once_started_the_total_deadline_counts(yard: Yard) -> None:
    attempt = await yard.running(queue_timeout_us=SECOND, total_timeout_us=HOUR)
    await yard.store.retry_attempts(yard.term, [setback(attempt, due_us=START_US + 2 * HOUR)])
    yard.clock.advance(2 * SECOND)
    assert await yard.store.expire_jobs(yard.term, 10) == 0
    yard.clock.advance(HOUR)
    assert await yard.store.expire_jobs(yard.term, 10) == 1
    failure = FailureRecord.from_json((await yard.read(attempt.job_id)).failure_json or "")
    assert failure.message == "the job did not end in time"


async def test_nothing_is_due(yard: Yard) -> None:
    assert await yard.store.next_due_us() is None
    await yard.submit()
    await yard.completed()
    assert await yard.store.next_due_us() is None


async def test_the_clock_never_falls(place: Place, clock: FakeClock) -> None:
    store = await place.open(clock)
    clock.advance(SECOND)
    assert store.now_us() == START_US + SECOND
    clock.advance(-HOUR)
    assert store.now_us() == START_US + SECOND


async def test_the_clock_is_the_databases(place: Place) -> None:
    store: SqlStore = await place.open()
    await store.lead("a", SECOND)
    assert abs(store.now_us() - time.time_ns() // 1000) < 60 * SECOND


async def test_the_time_goes_on_while_the_machine_sleeps(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job for eight o'clock is due at eight, although the lid was shut at seven."""
    store = await place.open()
    before, slept = store.now_us(), HOUR
    monkeypatch.setattr(sql, "ticks_us", lambda: ticks_us() + slept)
    assert store.now_us() >= before + HOUR


def test_ticks_are_of_the_clock_that_does_not_stop() -> None:
    at = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    assert 0 <= ticks_us() - at < 60 * SECOND


async def test_a_machine_that_slept_asks_for_the_time_again(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may have stood still meanwhile; a server never leads, but it stamps jobs."""
    monkeypatch.setattr(sql, "CLOCK_KEPT", 0.0)
    awake, slept = await postgres_place.open(), await postgres_place.open()
    slept._offset_us -= HOUR
    slept._last_us = 0
    [answer] = await slept.submit_jobs([new_job()])
    assert abs(awake.now_us() - answer.created_us) < 60 * SECOND
