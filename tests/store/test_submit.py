from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from longshore_store.model import Accepted, JobQuery, Lane, QueueFull
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.tables import job_labels, jobs
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import HOUR, NEEDS, SECOND, START_US, FakeClock, Yard, new_job
from tests.store.recount import fetch

AWKWARD = '{"a":"' + "ü漢🙂'\"\\u0000;--%s :x $1 \u2028" * 20 + '"}'


async def stored(store: SqlStore) -> int:
    return len(await fetch(store, select(jobs.c.id)))


def bounded(maximum: int, name: str = "fast") -> QueueDeclaration:
    return QueueDeclaration(name, maximum, None, "")


async def test_a_new_job_waits(store: SqlStore) -> None:
    job = new_job(priority=70, idempotency_key="k", labels={"team": "a"})
    answer = await store.submit_jobs([job])
    assert answer == [Accepted(job.id, True, JobState.QUEUED, START_US)]

    record = await store.read_job(job.id, full=True)
    assert record is not None
    assert (record.tenant, record.task, record.queue) == ("acme", "resize", "fast")
    assert (record.priority, record.needs_json) == (70, NEEDS)
    assert (record.state, record.run, record.number, record.fence) == (JobState.QUEUED, 1, 0, 0)
    assert (record.created_us, record.ready_us, record.due_us) == (START_US, START_US, None)
    assert (record.spec, record.payload) == (job.spec, job.payload)
    assert (record.sequence, record.revision, record.attempts) == (1, 1, ())
    assert (record.worker_id, record.first_started_us, record.ended_us) == (None, None, None)
    assert (record.value_json, record.artifacts_json, record.failure_json) == (None, None, None)


async def test_the_first_event_says_submitted(store: SqlStore) -> None:
    job = new_job()
    await store.submit_jobs([job])
    [changes] = await store.read_changes({job.id: 0})
    [event] = changes.events
    assert (event.sequence, event.from_state, event.to_state) == (1, 0, JobState.QUEUED)
    assert (event.reason, event.time_us, event.number) == ("SUBMITTED", START_US, 0)


async def test_a_later_job_is_scheduled(store: SqlStore, clock: FakeClock) -> None:
    later, past = new_job(due_us=clock() + SECOND), new_job(due_us=clock())
    answers = await store.submit_jobs([later, past])
    assert [a.state for a in answers] == [JobState.SCHEDULED, JobState.QUEUED]
    record = await store.read_job(later.id)
    assert record is not None
    assert record.due_us == clock() + SECOND


async def test_answers_come_in_the_order_of_the_jobs(store: SqlStore) -> None:
    batch = [new_job(tenant=f"t{i % 3}", queue=f"q{i % 5}") for i in range(100)]
    answers = await store.submit_jobs(batch)
    assert [a.job_id for a in answers] == [job.id for job in batch]
    assert await store.submit_jobs([]) == []


@pytest.mark.parametrize("payload", [AWKWARD, '"' + "x" * 256 * 1024 + '"', "", "null"])
async def test_bodies_come_back_as_they_went(store: SqlStore, payload: str) -> None:
    job = new_job(payload=payload, spec=bytes(range(256)), tenant="tenant 'ü'", queue='q"🙂')
    await store.submit_jobs([job])
    record = await store.read_job(job.id, full=True)
    assert record is not None
    assert (record.payload, record.spec) == (payload, job.spec)
    assert (record.tenant, record.queue) == (job.tenant, job.queue)


async def test_numbers_in_text_stay_text(store: SqlStore) -> None:
    job = new_job(idempotency_key="007", fingerprint="1e3", labels={"version": "1.0"})
    await store.submit_jobs([job])
    [again] = await store.submit_jobs([new_job(idempotency_key="007", fingerprint="1e3")])
    assert again.job_id == job.id
    [found] = await store.list_jobs(JobQuery(labels=(("version", "1.0"),)))
    assert found.id == job.id


async def test_a_huge_call_is_one_commit(store: SqlStore) -> None:
    heard: list[int] = []
    store.subscribe(lambda ids: heard.append(len(list(ids))))
    answers = await store.submit_jobs([new_job() for _ in range(8_000)])
    assert len({a.job_id for a in answers}) == 8_000
    assert heard == [8_000]
    assert await store.waiting_lanes() == [Lane("fast", "acme", 8_000)]


async def test_labels_are_stored(store: SqlStore) -> None:
    job = new_job(labels={"team": "a", "Größe": "ü"})
    await store.submit_jobs([job, new_job()])
    found = await fetch(store, select(job_labels.c.name, job_labels.c.value, job_labels.c.job_id))
    assert sorted(map(tuple, found)) == [("Größe", "ü", job.id), ("team", "a", job.id)]


async def test_deadlines_are_spans_from_acceptance(yard: Yard) -> None:
    job = new_job(queue_timeout_us=SECOND, total_timeout_us=HOUR)
    await yard.store.submit_jobs([job])
    assert await yard.store.next_due_us() == START_US + SECOND
    leased = await yard.grant(job.id)
    assert leased.total_deadline_us == START_US + HOUR


async def test_check_answers_and_stores_nothing(store: SqlStore) -> None:
    kept = new_job(idempotency_key="k")
    await store.submit_jobs([kept])
    heard: list[str] = []
    store.subscribe(heard.extend)
    fresh = new_job(labels={"a": "b"}, due_us=START_US + HOUR)
    answers = await store.check_jobs([fresh, new_job(idempotency_key="k")])
    assert answers == [
        Accepted(fresh.id, True, JobState.SCHEDULED, START_US),
        Accepted(kept.id, False, JobState.QUEUED, START_US),
    ]
    assert await store.read_job(fresh.id) is None
    assert await fetch(store, select(job_labels.c.name)) == []
    assert heard == []
    await store.submit_jobs([fresh])


async def test_a_check_beside_a_submission(store: SqlStore) -> None:
    """Both in one transaction: only the check is undone."""
    kept, checked = new_job(), new_job()
    await asyncio.gather(store.submit_jobs([kept]), store.check_jobs([checked]))
    assert await store.read_job(kept.id) is not None
    assert await store.read_job(checked.id) is None


async def test_a_full_queue_refuses_the_whole_call(store: SqlStore) -> None:
    await store.declare_queues([bounded(3)])
    await store.submit_jobs([new_job(), new_job()])
    other = new_job(queue="other")
    with pytest.raises(QueueFull) as refused:
        await store.submit_jobs([other, new_job(), new_job()])
    assert (refused.value.queue, refused.value.waiting, refused.value.maximum) == ("fast", 2, 3)
    assert refused.value.index in (1, 2)
    with pytest.raises(QueueFull):
        await store.check_jobs([new_job(), new_job()])
    assert await store.read_job(other.id) is None
    await store.submit_jobs([new_job()])


async def test_the_bound_is_exact_among_many_callers(store: SqlStore) -> None:
    await store.declare_queues([bounded(10)])
    calls = [store.submit_jobs([new_job(), new_job(), new_job()]) for _ in range(40)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(a, list) for a in answers) == 3
    assert sum(isinstance(a, QueueFull) for a in answers) == 37
    assert await stored(store) == 9


async def test_only_waiting_jobs_count_against_the_bound(yard: Yard) -> None:
    await yard.store.declare_queues([bounded(1)])
    await yard.running()
    waiting = await yard.submit()
    with pytest.raises(QueueFull):
        await yard.submit()
    await yard.store.cancel_jobs([waiting], "", False)
    await yard.submit()


async def test_a_full_queue_still_knows_its_keys(store: SqlStore) -> None:
    """The caller whose answer was lost asks again: that needs no room."""
    await store.declare_queues([bounded(2)])
    first = [new_job(idempotency_key="a"), new_job(idempotency_key="b")]
    await store.submit_jobs(first)
    again = await store.submit_jobs([new_job(idempotency_key="b"), new_job(idempotency_key="a")])
    assert [(a.job_id, a.created) for a in again] == [(first[1].id, False), (first[0].id, False)]
    with pytest.raises(QueueFull) as refused:
        await store.submit_jobs([new_job(idempotency_key="a"), new_job(idempotency_key="c")])
    assert refused.value.index == 1
    assert await stored(store) == 2
