from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from longshore.sdk.failures import FailureClass
from longshore_store.model import (
    CallKey,
    CheckpointUpdate,
    IdempotencyConflict,
    JobQuery,
    NewJob,
    OnConflict,
    QueueFull,
    UniqueClaim,
    UniquenessConflict,
)
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import jobs
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import (
    HOUR,
    REACHABLE,
    SECOND,
    FakeClock,
    Yard,
    completion,
    new_job,
    recall,
    setback,
)
from tests.store.places import Place
from tests.store.recount import fetch

REJECT = OnConflict.REJECT
RETURN = OnConflict.RETURN_EXISTING


def unique(
    on_conflict: OnConflict = REJECT, window_us: int | None = None, **changes: Any
) -> NewJob:
    return new_job(unique=UniqueClaim("order-7", window_us, on_conflict), **changes)


async def test_a_second_one_is_rejected(store: SqlStore) -> None:
    first = unique()
    await store.submit_jobs([first])
    for method in (store.submit_jobs, store.check_jobs):
        with pytest.raises(UniquenessConflict) as refused:
            await method([new_job(), unique()])
        assert (refused.value.index, refused.value.key) == (1, "order-7")
        assert refused.value.existing_id == first.id
    assert [row[0] for row in await fetch(store, select(jobs.c.id))] == [first.id]


async def test_a_second_one_gets_the_first(yard: Yard) -> None:
    attempt = await yard.running(unique=UniqueClaim("order-7", None, RETURN))
    [answer] = await yard.store.submit_jobs([unique(RETURN)])
    assert (answer.job_id, answer.created, answer.state) == (
        attempt.job_id,
        False,
        JobState.RUNNING,
    )


async def test_keys_belong_to_a_task_of_a_tenant(store: SqlStore) -> None:
    batch = [unique(), unique(tenant="b"), unique(task="crop")]
    assert all(a.created for a in await store.submit_jobs(batch))


@pytest.mark.parametrize("state", REACHABLE, ids=lambda s: s.name)
async def test_a_claim_without_a_window_lasts_while_active(yard: Yard, state: JobState) -> None:
    claim = UniqueClaim("order-7", None, REJECT)
    submit = yard.submit

    async def claiming(**changes: Any) -> str:
        return await submit(unique=claim, **changes)

    yard.submit = claiming  # type: ignore[method-assign]
    holder = await yard.job_in(state)
    if state in TERMINAL:
        [answer] = await yard.store.submit_jobs([unique()])
        assert answer.created
    else:
        with pytest.raises(UniquenessConflict) as refused:
            await yard.store.submit_jobs([unique()])
        assert refused.value.existing_id == holder.job_id


async def test_a_window_counts_from_acceptance(yard: Yard) -> None:
    first = await yard.submit(unique=UniqueClaim("order-7", HOUR, RETURN))
    await yard.store.cancel_jobs([first], "", False)
    yard.clock.advance(HOUR - 1)
    [answer] = await yard.store.submit_jobs([unique(RETURN, HOUR)])
    assert (answer.job_id, answer.created, answer.state) == (first, False, JobState.CANCELLED)
    yard.clock.advance(1)
    [answer] = await yard.store.submit_jobs([unique(RETURN, HOUR)])
    assert answer.created


async def test_the_queued_one_is_replaced(yard: Yard) -> None:
    first = await yard.submit(
        unique=UniqueClaim("order-7", None, REJECT),
        idempotency_key="mine",
        labels={"version": "1", "kept": "x"},
    )
    newer = unique(
        OnConflict.REPLACE_QUEUED,
        payload='{"n":2}',
        spec=b"second",
        queue="slow",
        priority=90,
        needs_json='{"cpu_millis":2000}',
        fingerprint="f2",
        total_timeout_us=HOUR,
        labels={"version": "2", "kept": "x"},
    )
    [answer] = await yard.store.submit_jobs([newer])
    assert (answer.job_id, answer.created, answer.state) == (first, False, JobState.QUEUED)

    record = await yard.read(first)
    assert (record.payload, record.spec, record.queue) == ('{"n":2}', b"second", "slow")
    assert (record.priority, record.needs_json) == (90, '{"cpu_millis":2000}')
    assert (await yard.grant(first)).total_deadline_us == yard.clock() + HOUR
    [changes] = await yard.store.read_changes({first: 1})
    assert changes.events[0].reason == "REPLACED"
    for value, expected in (("1", []), ("2", [first])):
        found = await yard.store.list_jobs(JobQuery(labels=(("version", value),)))
        assert [r.id for r in found] == expected
    # Its first caller asks again, and has done nothing wrong.
    [again] = await yard.store.submit_jobs([new_job(idempotency_key="mine")])
    assert again.job_id == first


async def test_a_started_one_is_not_replaced(yard: Yard) -> None:
    attempt = await yard.leased(unique=UniqueClaim("order-7", None, REJECT))
    [answer] = await yard.store.submit_jobs([unique(OnConflict.REPLACE_QUEUED, payload="2")])
    assert (answer.job_id, answer.state) == (attempt.job_id, JobState.LEASED)
    assert (await yard.read(attempt.job_id)).payload == '{"width":640}'


async def test_one_that_was_interrupted_is_not_replaced(yard: Yard) -> None:
    """Its checkpoint is of its own payload."""
    attempt = await yard.running(unique=UniqueClaim("order-7", None, REJECT))
    await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, '{"page":7}')])
    lost = setback(attempt, FailureClass.WORKER_LOST)
    assert await yard.store.release_attempts(yard.term, [lost]) == []
    [answer] = await yard.store.submit_jobs([unique(OnConflict.REPLACE_QUEUED, payload="2")])
    assert (answer.job_id, answer.created) == (attempt.job_id, False)
    leased = await yard.grant(attempt.job_id)
    assert (leased.payload, leased.checkpoint_json) == ('{"width":640}', '{"page":7}')


async def test_one_that_was_recalled_is_replaced(yard: Yard) -> None:
    attempt = await yard.leased(unique=UniqueClaim("order-7", None, REJECT))
    assert await yard.store.release_attempts(yard.term, [recall(attempt)]) == []
    await yard.store.submit_jobs([unique(OnConflict.REPLACE_QUEUED, payload="2")])
    assert (await yard.read(attempt.job_id)).payload == "2"


async def test_a_replaced_one_moves_only_where_there_is_room(store: SqlStore) -> None:
    slow = QueueDeclaration("slow", 1, None, "")
    await store.declare_queues([QueueDeclaration("fast", 1, None, ""), slow])
    first = unique()
    await store.submit_jobs([first, new_job(queue="slow")])
    with pytest.raises(QueueFull) as refused:
        await store.submit_jobs([unique(OnConflict.REPLACE_QUEUED, queue="slow")])
    assert (refused.value.queue, refused.value.waiting) == ("slow", 1)
    [stays] = await store.submit_jobs([unique(OnConflict.REPLACE_QUEUED, payload="2")])
    assert (stays.job_id, stays.created) == (first.id, False)


@pytest.mark.parametrize("state", [s for s in REACHABLE if s not in TERMINAL])
async def test_the_existing_one_is_cancelled(yard: Yard, state: JobState) -> None:
    submit = yard.submit

    async def claiming(**changes: Any) -> str:
        return await submit(unique=UniqueClaim("order-7", None, REJECT), **changes)

    yard.submit = claiming  # type: ignore[method-assign]
    holder = await yard.job_in(state)
    newer = unique(OnConflict.CANCEL_EXISTING)
    [answer] = await yard.store.submit_jobs([newer])
    assert (answer.job_id, answer.created) == (newer.id, True)
    assert await yard.state(holder.job_id) in (JobState.CANCELLED, JobState.CANCELLING)
    with pytest.raises(UniquenessConflict) as refused:
        await yard.store.submit_jobs([unique()])
    assert refused.value.existing_id == newer.id


async def test_cancelling_the_existing_one_makes_room(store: SqlStore) -> None:
    await store.declare_queues([QueueDeclaration("fast", 1, None, "")])
    await store.submit_jobs([unique()])
    newer = unique(OnConflict.CANCEL_EXISTING)
    assert [a.created for a in await store.check_jobs([newer])] == [True]
    assert [a.created for a in await store.submit_jobs([newer])] == [True]


async def test_an_existing_one_needs_no_room(store: SqlStore) -> None:
    await store.declare_queues([QueueDeclaration("fast", 1, None, "")])
    await store.submit_jobs([unique()])
    [answer] = await store.submit_jobs([unique(RETURN)])
    assert not answer.created


async def test_a_check_cancels_nothing(yard: Yard) -> None:
    first = unique()
    await yard.store.submit_jobs([first])
    for policy in (OnConflict.CANCEL_EXISTING, OnConflict.REPLACE_QUEUED):
        await yard.store.check_jobs([unique(policy, payload="2")])
    record = await yard.read(first.id)
    assert (record.state, record.payload, record.sequence) == (JobState.QUEUED, first.payload, 1)


async def test_one_key_twice_in_a_call(store: SqlStore) -> None:
    first = unique(RETURN)
    answers = await store.submit_jobs([first, unique(RETURN)])
    assert [(a.job_id, a.created) for a in answers] == [(first.id, True), (first.id, False)]


async def test_many_at_once(store: SqlStore) -> None:
    answers = await asyncio.gather(*(store.submit_jobs([unique(RETURN)]) for _ in range(30)))
    assert sum(a.created for [a] in answers) == 1
    assert len({a.job_id for [a] in answers}) == 1


async def test_two_processes_claim_at_once(postgres_place: Place, clock: FakeClock) -> None:
    stores = [await postgres_place.open(clock) for _ in range(2)]
    for i in range(20):
        claim = UniqueClaim(f"order-{i}", None, RETURN)
        answers = await asyncio.gather(*(s.submit_jobs([new_job(unique=claim)]) for s in stores))
        assert sum(a.created for [a] in answers) == 1
        clock.advance(SECOND)


async def test_a_replaced_scheduled_job_does_not_jump_the_queue(
    store: SqlStore, clock: FakeClock
) -> None:
    replace = OnConflict.REPLACE_QUEUED
    [held] = await store.submit_jobs([unique(replace, due_us=clock() + HOUR)])
    clock.advance(SECOND)
    await store.submit_jobs([unique(replace)])
    record = await store.read_job(held.job_id)
    assert record is not None
    assert (record.state, record.ready_us) == (JobState.QUEUED, clock())
    clock.advance(SECOND)
    await store.submit_jobs([unique(replace)])
    again = await store.read_job(held.job_id)
    assert again is not None
    assert again.ready_us == record.ready_us, "one that waits already keeps its place"


# -- idempotency keys beside uniqueness


@pytest.mark.parametrize("on_conflict", [RETURN, OnConflict.REPLACE_QUEUED])
async def test_a_key_is_kept_although_the_call_was_answered_with_another_job(
    store: SqlStore, on_conflict: OnConflict
) -> None:
    first = unique(on_conflict)
    [made] = await store.submit_jobs([first])
    second = unique(on_conflict, idempotency_key="k2", payload='{"n":2}')
    third = unique(on_conflict, idempotency_key="k3", payload='{"n":3}', fingerprint="f3")
    for job in (second, third):
        [answer] = await store.submit_jobs([job])
        assert (answer.job_id, answer.created) == (made.job_id, False)
    payload = await read_payload(store, made.job_id)
    repeat = unique(on_conflict, idempotency_key="k2", payload='{"n":2}')
    [answer] = await store.submit_jobs([repeat])
    assert (answer.job_id, answer.created) == (made.job_id, False)
    assert await read_payload(store, made.job_id) == payload, "a repeat replaces nothing"


async def read_payload(store: SqlStore, job_id: str) -> str:
    record = await store.read_job(job_id, full=True)
    assert record is not None
    assert record.payload is not None
    return record.payload


async def test_a_repeat_after_the_job_has_ended_runs_nothing_again(yard: Yard) -> None:
    store = yard.store
    attempt = await yard.running(unique=UniqueClaim("order-7", None, RETURN))
    await store.submit_jobs([unique(RETURN, idempotency_key="k")])
    assert await store.complete_attempts(yard.term, [completion(attempt)]) == []
    [answer] = await store.submit_jobs([unique(RETURN, idempotency_key="k")])
    assert (answer.job_id, answer.created, answer.state) == (
        attempt.job_id,
        False,
        JobState.SUCCEEDED,
    )


async def test_a_key_of_a_call_that_got_another_job_is_no_free_key(store: SqlStore) -> None:
    await store.submit_jobs([unique(RETURN)])
    [held] = await store.submit_jobs([unique(RETURN, idempotency_key="k")])
    other = new_job(idempotency_key="k", fingerprint="f2")
    with pytest.raises(IdempotencyConflict) as refused:
        await store.submit_jobs([new_job(), other])
    assert (refused.value.index, refused.value.existing_id) == (1, held.job_id)
    assert len(await fetch(store, select(jobs.c.id))) == 1


async def test_what_was_accepted_under_a_key_is_found(store: SqlStore) -> None:
    made, held = new_job(idempotency_key="k1"), unique(RETURN)
    await store.submit_jobs([made, held])
    await store.submit_jobs([unique(RETURN, idempotency_key="k2", fingerprint="f2")])
    keys = [("k1", made.fingerprint), ("k2", "f2"), ("k2", "another"), ("k3", "f")]
    found = await store.find_accepted([CallKey(made.tenant, *key) for key in keys])
    assert [answer and (answer.job_id, answer.created) for answer in found] == [
        (made.id, False),
        (held.id, False),
        None,
        None,
    ]


# -- a job that runs again


async def test_a_retry_waits_while_another_job_holds_its_key(yard: Yard) -> None:
    store, claim = yard.store, UniqueClaim("order-7", None, RETURN)
    first = await yard.running(unique=claim)
    assert await store.complete_attempts(yard.term, [completion(first)]) == []
    second = await yard.running(unique=claim)
    assert second.job_id != first.job_id
    with pytest.raises(UniquenessConflict) as refused:
        await store.retry_jobs([first.job_id], "again")
    assert (refused.value.key, refused.value.existing_id) == ("order-7", second.job_id)
    assert (await yard.read(first.job_id)).state == JobState.SUCCEEDED
    assert await store.complete_attempts(yard.term, [completion(second)]) == []
    assert await store.retry_jobs([first.job_id], "again") == []
    [answer] = await store.submit_jobs([unique(RETURN)])
    assert (answer.job_id, answer.created) == (first.job_id, False), "it has its key back"


async def test_of_two_jobs_of_one_key_one_runs_again(yard: Yard) -> None:
    store, claim = yard.store, UniqueClaim("order-7", None, RETURN)
    ended = []
    for _ in range(2):
        attempt = await yard.running(unique=claim)
        assert await store.complete_attempts(yard.term, [completion(attempt)]) == []
        ended.append(attempt.job_id)
    assert await store.retry_jobs(ended, "again") == [ended[1]]
    states = [(await yard.read(job_id)).state for job_id in ended]
    assert states == [JobState.QUEUED, JobState.SUCCEEDED]


async def test_a_job_that_runs_again_after_its_window_has_its_key(yard: Yard) -> None:
    store, claim = yard.store, UniqueClaim("order-7", HOUR, RETURN)
    first = await yard.submit(unique=claim)
    await store.cancel_jobs([first], "", False)
    yard.clock.advance(HOUR)
    assert await store.retry_jobs([first], "again") == []
    [answer] = await store.submit_jobs([unique(RETURN, HOUR)])
    assert (answer.job_id, answer.created) == (first, False)


async def test_a_retry_does_not_wait_for_a_window_that_is_over(yard: Yard) -> None:
    store, claim = yard.store, UniqueClaim("order-7", HOUR, RETURN)
    first = await yard.submit(unique=claim)
    await store.cancel_jobs([first], "", False)
    yard.clock.advance(HOUR)
    second = await yard.submit(unique=claim)
    with pytest.raises(UniquenessConflict):
        await store.retry_jobs([first], "again")
    yard.clock.advance(HOUR)  # a submission would be accepted by now
    assert (await yard.read(second)).state == JobState.QUEUED
    assert await store.retry_jobs([first], "again") == []


async def test_the_key_of_a_submission_is_not_free_for_a_retry(yard: Yard) -> None:
    job = await yard.submit(idempotency_key="mine")
    await yard.store.cancel_jobs([job], "", False)
    with pytest.raises(IdempotencyConflict) as refused:
        await yard.store.retry_jobs([job], "again", key=CallKey("acme", "mine", "retry"))
    assert (refused.value.key, refused.value.existing_id) == ("mine", job)
    assert (await yard.read(job)).state == JobState.CANCELLED
