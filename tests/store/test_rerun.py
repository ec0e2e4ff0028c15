from __future__ import annotations

import asyncio

import pytest

from longshore.sdk.failures import FailureClass
from longshore_store.model import (
    CallKey,
    CheckpointUpdate,
    IdempotencyConflict,
    ProgressUpdate,
)
from longshore_store.states import TERMINAL, JobState
from tests.store.factory import HOUR, REACHABLE, SECOND, FakeClock, Yard, completion, setback
from tests.store.places import Place


async def test_retry_in_each_state(yard: Yard) -> None:
    for state in REACHABLE:
        job = await yard.job_in(state)
        before = await yard.read(job.job_id)
        now = yard.clock.advance(SECOND)
        stale = await yard.store.retry_jobs([job.job_id], "again")
        after = await yard.read(job.job_id)
        if state not in TERMINAL:
            assert stale == [job.job_id]
            assert after == before
            continue
        assert (stale, after.state, after.run) == ([], JobState.QUEUED, 2)
        assert (after.ready_us, after.ended_us, after.due_us) == (now, None, None)
        assert (after.value_json, after.failure_json) == (None, None)
        assert after.attempts == before.attempts, "history is kept"
        assert (after.fence, after.number) == (before.fence, before.number)
        assert after.revision == before.revision + 1
        leased = await yard.grant(job.job_id)
        assert (leased.fence, leased.number) == (before.fence + 1, before.number + 1)
        assert (leased.attempts, leased.crashes, leased.ooms, leased.interruptions) == (0,) * 4


async def test_repeated_and_unknown_ids(yard: Yard) -> None:
    done, failed = await yard.completed(), (await yard.job_in(JobState.FAILED)).job_id
    waiting = await yard.submit()
    ids = [done, waiting, "no-such-job", failed, done]
    assert await yard.store.retry_jobs(ids, "") == [waiting, "no-such-job"]
    assert await yard.store.retry_jobs([], "") == []


async def test_both_runs_are_in_the_history(yard: Yard) -> None:
    job_id = await yard.completed()
    await yard.store.retry_jobs([job_id], "")
    second = await yard.lease(job_id, "w2")
    await yard.start(second)
    await yard.store.fail_attempts(yard.term, [setback(second, FailureClass.PERMANENT)])
    await yard.store.retry_jobs([job_id], "")
    third = await yard.lease(job_id, "w3")
    await yard.store.complete_attempts(yard.term, [completion(third, value="3")])
    record = await yard.read(job_id)
    told = [(a.run, a.fence, a.number, a.worker_id, a.failure_class) for a in record.attempts]
    assert told == [(1, 1, 1, "w1", 0), (2, 2, 2, "w2", 2), (3, 3, 3, "w3", 0)]
    assert [a.build for a in record.attempts] == ["b-w1", "b-w2", "b-w3"]
    assert record.value_json == "3"


async def test_a_revision_never_falls(yard: Yard) -> None:
    attempt = await yard.running()
    for i in range(3):
        await yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, f"{i}")])
    await yard.store.complete_attempts(yard.term, [completion(attempt)])
    before = await yard.read(attempt.job_id)
    await yard.store.retry_jobs([attempt.job_id], "")
    after = await yard.read(attempt.job_id)
    assert after.revision == before.revision + 1
    assert (before.progress_json, after.progress_json) == ("2", None)


async def test_a_new_run_has_its_deadline_again(yard: Yard) -> None:
    attempt = await yard.running(total_timeout_us=HOUR)
    await yard.store.expire_attempts(yard.term, [setback(attempt)])
    now = yard.clock.advance(5 * HOUR)
    await yard.store.retry_jobs([attempt.job_id], "")
    assert await yard.store.expire_jobs(yard.term, 10) == 0
    assert await yard.store.next_due_us() == now + HOUR
    assert (await yard.grant(attempt.job_id)).total_deadline_us == now + HOUR


async def test_a_run_again_after_success_begins_at_the_beginning(yard: Yard) -> None:
    """A dead letter resumes from its checkpoint; what succeeded has nothing to resume."""
    for end, kept in ((yard.store.dead_letter_attempts, "7"), (None, None)):
        attempt = await yard.running()
        await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, "7")])
        if end is None:
            await yard.store.complete_attempts(yard.term, [completion(attempt)])
        else:
            await end(yard.term, [setback(attempt)])
        await yard.store.retry_jobs([attempt.job_id], "")
        assert (await yard.grant(attempt.job_id)).checkpoint_json == kept


async def test_retry_and_cancel_in_one_transaction(yard: Yard) -> None:
    job_id = await yard.completed()
    cancelled, rerun = await asyncio.gather(
        yard.store.cancel_jobs([job_id], "", False), yard.store.retry_jobs([job_id], "")
    )
    assert (cancelled, rerun) == ([], [])
    assert await yard.state(job_id) == JobState.CANCELLED


async def test_two_processes_retry_at_once(postgres_place: Place, clock: FakeClock) -> None:
    stores = [await postgres_place.open(clock) for _ in range(2)]
    yard = await Yard.make(stores[0], clock)
    for _ in range(10):
        job_id = await yard.completed()
        stale = await asyncio.gather(*(s.retry_jobs([job_id], "") for s in stores))
        assert sorted(stale) == [[], [job_id]]
        assert (await yard.read(job_id)).run == 2


async def test_a_run_that_is_over_is_not_run_again(yard: Yard) -> None:
    job_id = await yard.completed()
    assert await yard.store.retry_jobs([job_id], "", run=2) == [job_id]
    assert await yard.store.retry_jobs([job_id], "", run=1) == []
    assert (await yard.read(job_id)).run == 2


async def test_a_key_starts_one_run_and_goes_with_its_job(yard: Yard) -> None:
    job_id, other = await yard.completed(), await yard.completed()
    key = CallKey("acme", "k", "f")
    for _ in range(2):
        assert await yard.store.retry_jobs([job_id], "", key=key) == []
        assert (await yard.read(job_id)).run == 2
    for taken in (key._replace(fingerprint="g"), key):
        with pytest.raises(IdempotencyConflict):
            await yard.store.retry_jobs([other], "", key=taken)
    elsewhere = key._replace(tenant="other")
    assert await yard.store.retry_jobs([other], "", key=elsewhere) == []


async def test_two_processes_retry_under_one_key(postgres_place: Place, clock: FakeClock) -> None:
    stores = [await postgres_place.open(clock) for _ in range(2)]
    yard = await Yard.make(stores[0], clock)
    for n in range(10):
        job_id = await yard.completed()
        key = CallKey("acme", f"k{n}", "f")
        stale = await asyncio.gather(*(s.retry_jobs([job_id], "", key=key) for s in stores))
        assert stale == [[], []]
        assert (await yard.read(job_id)).run == 2
