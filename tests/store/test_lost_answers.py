"""A commit whose answer is lost: the caller sees an outage, asks again, and it was done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from longshore_store.dialects import Work
from longshore_store.model import Attempted, Fenced, JobRecord, Lease, Start, StoreUnavailable
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from tests.store.factory import SECOND, Attempt, Yard, completion, new_job, setback

Again = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def lost_answers(store: SqlStore) -> AsyncIterator[None]:
    """Transactions commit, and then the connection is gone before anybody is told."""
    dialect: Any = store._dialect
    transact = dialect.transact

    async def lose(work: Work[Any]) -> Any:
        await transact(work)
        raise ConnectionResetError("the connection was lost")

    dialect.transact = lose
    try:
        yield
    finally:
        del dialect.transact


async def twice(store: SqlStore, call: Again) -> Any:
    """The answer to the second try."""
    async with lost_answers(store):
        with pytest.raises(StoreUnavailable):
            await call()
    return await call()


def facts(job: JobRecord) -> tuple[Any, ...]:
    return (job.state, job.run, job.number, job.fence, job.sequence, len(job.attempts), job.counted)


async def test_a_submit_with_a_key_is_one_job(yard: Yard) -> None:
    first = new_job(idempotency_key="k", fingerprint="same")
    async with lost_answers(yard.store):
        with pytest.raises(StoreUnavailable):
            await yard.store.submit_jobs([first])
    again = new_job(idempotency_key="k", fingerprint="same")  # a server gives it another id
    [answer] = await yard.store.submit_jobs([again])
    assert (answer.job_id, answer.created) == (first.id, False)
    assert (await yard.read(first.id)).sequence == 1


async def test_a_lease_stays_and_is_not_granted_again(yard: Yard) -> None:
    job_id = await yard.submit()
    lease = [Lease(job_id, 0, "w1")]
    assert await twice(yard.store, lambda: yard.store.lease_jobs(yard.term, lease)) == []
    job = await yard.read(job_id)
    assert (job.state, job.fence, job.number, job.sequence) == (JobState.LEASED, 1, 1, 2)


@pytest.mark.parametrize("ending", ["fail", "retry", "dead_letter", "release", "expire"])
async def test_an_attempt_ends_once(yard: Yard, ending: str) -> None:
    attempt, other = await yard.running(), await yard.running()
    store = yard.store
    rows = [setback(attempt, due_us=yard.clock() + SECOND)]
    end = getattr(store, f"{ending}_attempts")
    assert await end(yard.term, [setback(other, due_us=yard.clock() + SECOND)]) == []
    assert await twice(store, lambda: end(yard.term, rows)) == [attempt.job_id]
    assert facts(await yard.read(attempt.job_id)) == facts(await yard.read(other.job_id))


async def test_an_attempt_succeeds_and_starts_once(yard: Yard) -> None:
    attempt, store = await yard.leased(), yard.store
    start = [Start(*attempt, yard.clock(), "[]")]
    assert await twice(store, lambda: store.start_attempts(yard.term, start)) == [attempt.job_id]
    done = [completion(attempt)]
    assert await twice(store, lambda: store.complete_attempts(yard.term, done)) == [attempt.job_id]
    job = await yard.read(attempt.job_id)
    assert (job.state, job.sequence, len(job.attempts)) == (JobState.SUCCEEDED, 4, 1)


async def test_a_cancel_is_confirmed_once(yard: Yard) -> None:
    attempt, store = await yard.cancelling(), yard.store
    confirmed = [Attempted(*attempt)]
    stale = await twice(store, lambda: store.confirm_cancels(yard.term, confirmed))
    assert stale == [attempt.job_id]
    job = await yard.read(attempt.job_id)
    assert (job.state, len(job.attempts)) == (JobState.CANCELLED, 1)


async def test_time_moves_a_job_once(yard: Yard) -> None:
    store = yard.store
    late = await yard.submit(due_us=yard.clock() + SECOND)
    gone = await yard.submit(queue_timeout_us=SECOND)
    yard.clock.advance(2 * SECOND)
    assert await twice(store, lambda: store.promote_jobs(yard.term, 10)) == 0
    assert await twice(store, lambda: store.expire_jobs(yard.term, 10)) == 0
    assert [(await yard.read(i)).sequence for i in (late, gone)] == [2, 2]


async def test_a_leader_that_asks_again_has_the_same_term(yard: Yard) -> None:
    store = yard.store
    await twice(store, lambda: store.resign("yard"))
    assert await twice(store, lambda: store.lead("next", 1000 * SECOND)) == yard.term + 1
    with pytest.raises(Fenced):
        await store.require_term(yard.term)
    await store.require_term(yard.term + 1)


async def test_what_is_committed_beside_it_is_repeated_with_it(yard: Yard) -> None:
    """Many callers share a commit, and its fate."""
    store = yard.store
    attempts = [await yard.running() for _ in range(3)]
    job = new_job(idempotency_key="beside")

    async def tell(attempt: Attempt) -> Any:
        return await store.complete_attempts(yard.term, [completion(attempt)])

    async with lost_answers(store):
        calls = [tell(attempt) for attempt in attempts] + [store.submit_jobs([job])]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
    assert [await tell(attempt) for attempt in attempts] == [[a.job_id] for a in attempts]
    assert {(await yard.read(a.job_id)).state for a in attempts} == {JobState.SUCCEEDED}
