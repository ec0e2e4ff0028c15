from __future__ import annotations

import asyncio

import pytest

from longshore.sdk.failures import FailureClass
from longshore_store.failure import FailureRecord
from longshore_store.model import Attempted
from longshore_store.orders import CancelOrder
from longshore_store.sql import SqlStore
from longshore_store.states import RUNNABLE, TERMINAL, WAITING, JobState
from tests.store.factory import REACHABLE, SECOND, Attempt, Yard, completion, new_job, setback
from tests.store.places import Place


@pytest.mark.parametrize("state", REACHABLE, ids=lambda s: s.name)
async def test_cancel_in_each_state(yard: Yard, state: JobState) -> None:
    job = await yard.job_in(state)
    before = await yard.read(job.job_id)
    now = yard.clock.advance(SECOND)
    stale = await yard.store.cancel_jobs([job.job_id], "changed my mind", False)
    after = await yard.read(job.job_id)
    if state in WAITING:
        assert (stale, after.state, after.ended_us) == ([], JobState.CANCELLED, now)
    elif state in RUNNABLE:
        assert (stale, after.state, after.ended_us) == ([], JobState.CANCELLING, None)
    else:
        assert stale == [job.job_id]
        assert after == before
        return
    failure = FailureRecord.from_json(after.failure_json or "")
    assert (failure.failure_class, failure.reason) == (FailureClass.CANCELLED, "CANCELLED")
    assert failure.message == "changed my mind"
    assert after.sequence == before.sequence + 1
    assert after.fence == before.fence


async def test_unknown_repeated_and_mixed_ids(yard: Yard) -> None:
    waiting, running = await yard.submit(), await yard.running()
    done = await yard.completed()
    ids = [waiting, "no-such-job", running.job_id, done, waiting]
    assert await yard.store.cancel_jobs(ids, "", False) == ["no-such-job", done]
    assert await yard.store.cancel_jobs(ids, "", False) == ids
    assert await yard.store.cancel_jobs([], "", False) == []


async def test_the_scheduler_gets_the_order(yard: Yard) -> None:
    gentle, forced = await yard.cancelling(), await yard.cancelling(force=True)
    await yard.job_in(JobState.RUNNING)
    orders = sorted(await yard.store.cancel_orders())
    assert orders == [
        CancelOrder(gentle.job_id, gentle.fence, "w1", False),
        CancelOrder(forced.job_id, forced.fence, "w1", True),
    ]


async def test_a_second_cancel_may_force(yard: Yard) -> None:
    attempt = await yard.cancelling()
    assert await yard.store.cancel_jobs([attempt.job_id], "", True) == [attempt.job_id]
    [order] = await yard.store.cancel_orders()
    assert order.force
    await yard.store.cancel_jobs([attempt.job_id], "", False)
    [order] = await yard.store.cancel_orders()
    assert order.force, "a force is not taken back"


async def test_the_outcome_of_a_cancelled_attempt_is_not_kept(yard: Yard) -> None:
    """Cancel's answer stands, whatever the attempt ended with."""
    attempt = await yard.cancelling()
    store, stale = yard.store, [attempt.job_id]
    assert await store.complete_attempts(yard.term, [completion(attempt)]) == stale
    assert await store.retry_attempts(yard.term, [setback(attempt, due_us=1)]) == stale
    assert await store.release_attempts(yard.term, [setback(attempt)]) == stale
    assert await yard.state(attempt.job_id) == JobState.CANCELLING


async def test_a_confirmed_cancel_ends_the_attempt(yard: Yard) -> None:
    attempt = await yard.cancelling()
    now = yard.clock.advance(SECOND)
    assert await yard.store.confirm_cancels(yard.term, [Attempted(*attempt)]) == []
    record = await yard.read(attempt.job_id)
    assert (record.state, record.ended_us) == (JobState.CANCELLED, now)
    [ended] = record.attempts
    assert (ended.fence, ended.number, ended.ended_us) == (1, 1, now)
    assert ended.failure_class == FailureClass.CANCELLED
    assert FailureRecord.from_json(record.failure_json or "").message == "no longer needed"
    assert await yard.store.cancel_orders() == []


@pytest.mark.parametrize("state", REACHABLE, ids=lambda s: s.name)
async def test_confirm_in_each_state(yard: Yard, state: JobState) -> None:
    job = await yard.job_in(state)
    older = Attempt(job.job_id, job.fence - 1)
    assert await yard.store.confirm_cancels(yard.term, [Attempted(*older)]) == [job.job_id]
    expected = [] if state == JobState.CANCELLING else [job.job_id]
    assert await yard.store.confirm_cancels(yard.term, [Attempted(*job)]) == expected


async def test_cancel_meets_the_outcome(yard: Yard) -> None:
    """In one transaction: the cancel is first, so the result is stale."""
    attempt = await yard.running()
    cancelled, stale = await asyncio.gather(
        yard.store.cancel_jobs([attempt.job_id], "", False),
        yard.store.complete_attempts(yard.term, [completion(attempt)]),
    )
    assert (cancelled, stale) == ([], [attempt.job_id])
    assert await yard.state(attempt.job_id) == JobState.CANCELLING


async def test_cancels_of_two_processes(postgres_place: Place) -> None:
    """In opposite orders: whoever meets a deadlock tries again."""
    stores: list[SqlStore] = [await postgres_place.open() for _ in range(2)]
    for _ in range(10):
        ids = [new_job().id for _ in range(200)]
        await stores[0].submit_jobs([new_job(id=job_id) for job_id in ids])
        one, two = await asyncio.gather(
            stores[0].cancel_jobs(ids, "one", False),
            stores[1].cancel_jobs(ids[::-1], "two", False),
        )
        assert sorted([*one, *two]) == ids, "each was cancelled by one of them"


async def test_a_terminal_job_keeps_its_result(yard: Yard) -> None:
    job_id = await yard.completed()
    await yard.store.cancel_jobs([job_id], "", True)
    record = await yard.read(job_id)
    assert (record.state, record.value_json) == (JobState.SUCCEEDED, '"done"')
    assert record.failure_json is None
    assert record.state in TERMINAL
