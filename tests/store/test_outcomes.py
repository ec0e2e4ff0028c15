from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from longshore.sdk.failures import FailureClass
from longshore_store.failure import FailureRecord
from longshore_store.model import EventRecord, Lease, Start
from longshore_store.states import (
    DEAD_LETTER,
    DEMOTE,
    EXPIRE_ATTEMPT,
    FAIL,
    RELEASE,
    RETRY,
    RUNNABLE,
    TERMINAL,
    JobState,
    Transition,
)
from longshore_store.store import Stale
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import (
    HOUR,
    REACHABLE,
    SECOND,
    START_US,
    Attempt,
    Yard,
    completion,
    new_job,
    recall,
    setback,
)

ENDINGS = (FAIL, RETRY, DEAD_LETTER, RELEASE, DEMOTE, EXPIRE_ATTEMPT)
Report = Callable[[Attempt], Awaitable[Stale]]


def ending(yard: Yard, edge: Transition) -> Report:
    method = getattr(yard.store, edge.name)

    async def report(attempt: Attempt) -> Stale:
        told = setback(attempt, due_us=START_US + HOUR, queue="slow")
        stale: Stale = await method(yard.term, [told])
        return stale

    return report


async def events_after(yard: Yard, job_id: str, sequence: int) -> tuple[EventRecord, ...]:
    [changes] = await yard.store.read_changes({job_id: sequence})
    return changes.events


async def check_guards(
    yard: Yard, report: Report, sources: frozenset[JobState], target: JobState
) -> None:
    """A report is taken in its states and under its fence; else it changes nothing."""
    for state in REACHABLE:
        job = await yard.job_in(state)
        before = await yard.read(job.job_id)
        assert await report(Attempt(job.job_id, job.fence - 1)) == [job.job_id]
        assert await report(Attempt(job.job_id, job.fence + 1)) == [job.job_id]
        if state in sources:
            assert await report(job) == []
            assert await yard.state(job.job_id) == target
            assert await report(job) == [job.job_id], "once"
        else:
            assert await report(job) == [job.job_id]
            assert await yard.read(job.job_id) == before
    assert await report(Attempt("no-such-job", 1)) == ["no-such-job"]


async def test_start_in_each_state(yard: Yard) -> None:
    async def report(attempt: Attempt) -> Stale:
        return await yard.store.start_attempts(yard.term, [Start(*attempt, START_US)])

    await check_guards(yard, report, frozenset({JobState.LEASED}), JobState.RUNNING)


async def test_complete_in_each_state(yard: Yard) -> None:
    async def report(attempt: Attempt) -> Stale:
        return await yard.store.complete_attempts(yard.term, [completion(attempt)])

    await check_guards(yard, report, RUNNABLE, JobState.SUCCEEDED)


@pytest.mark.parametrize("edge", ENDINGS, ids=lambda e: e.name)
async def test_endings_in_each_state(yard: Yard, edge: Transition) -> None:
    await check_guards(yard, ending(yard, edge), RUNNABLE, edge.target)


async def test_a_started_attempt(yard: Yard) -> None:
    attempt = await yard.leased(queue_timeout_us=SECOND, total_timeout_us=HOUR)
    now = yard.clock.advance(SECOND)
    await yard.start(attempt)
    record = await yard.read(attempt.job_id)
    assert (record.state, record.first_started_us) == (JobState.RUNNING, now)
    [shown] = record.attempts
    assert (shown.started_us, shown.devices_json, shown.ended_us) == (now, '["gpu0"]', None)
    await yard.store.release_attempts(yard.term, [setback(attempt)])
    assert await yard.store.next_due_us() == START_US + HOUR, "the queue's deadline is met"


async def test_a_result(yard: Yard) -> None:
    attempt = await yard.running()
    now = yard.clock.advance(SECOND)
    value = '"' + "é'" * 60_000 + '"'
    assert await yard.store.complete_attempts(yard.term, [completion(attempt, value=value)]) == []
    record = await yard.read(attempt.job_id)
    assert (record.state, record.ended_us) == (JobState.SUCCEEDED, now)
    assert (record.value_json, record.artifacts_json) == (value, '[{"name":"a"}]')
    [shown] = record.attempts
    assert (shown.started_us, shown.ended_us, shown.failure_class) == (START_US, now, 0)
    assert shown.devices_json == '["gpu0"]'


@pytest.mark.parametrize("edge", ENDINGS, ids=lambda e: e.name)
async def test_an_attempt_that_failed(yard: Yard, edge: Transition) -> None:
    attempt = await yard.running()
    now = yard.clock.advance(SECOND)
    assert await ending(yard, edge)(attempt) == []
    record = await yard.read(attempt.job_id)
    assert record.ended_us == (now if edge.target in TERMINAL else None)
    assert record.due_us == (START_US + HOUR if edge is RETRY else None)
    [shown] = record.attempts
    assert (shown.fence, shown.number, shown.run, shown.worker_id) == (1, 1, 1, "w1")
    assert (shown.queued_us, shown.leased_us, shown.started_us) == (START_US,) * 3
    assert (shown.ended_us, shown.failure_class) == (now, FailureClass.TASK_ERROR)
    failure = FailureRecord.from_json(shown.failure_json or "")
    assert failure.message == "it broke"
    assert record.failure_json == (shown.failure_json if edge.target in TERMINAL else None)
    [event] = await events_after(yard, attempt.job_id, 3)
    assert (event.from_state, event.to_state) == (JobState.RUNNING, edge.target)
    assert (event.reason, event.body_json) == ("TASK_ERROR", shown.failure_json)
    assert event.due_us == record.due_us


@pytest.mark.parametrize("edge", ENDINGS, ids=lambda e: e.name)
async def test_the_start_comes_with_the_outcome(yard: Yard, edge: Transition) -> None:
    attempt = await yard.leased()
    now = yard.clock.advance(SECOND)
    method = getattr(yard.store, edge.name)
    await method(yard.term, [setback(attempt, started_us=START_US + 5, due_us=now, queue="slow")])
    started, ended = await events_after(yard, attempt.job_id, 2)
    assert (started.sequence, started.from_state, started.to_state) == (3, 4, 5)
    assert (started.time_us, started.reason, started.number) == (START_US + 5, "STARTED", 1)
    assert (ended.sequence, ended.from_state, ended.to_state) == (4, 5, edge.target)
    record = await yard.read(attempt.job_id)
    assert (record.first_started_us, record.attempts[0].started_us) == (START_US + 5,) * 2


async def test_the_start_comes_with_the_result(yard: Yard) -> None:
    """Some of a batch had their start stored before: theirs is kept, and no second event."""
    known, late = await yard.running(), await yard.leased()
    yard.clock.advance(SECOND)
    both = [completion(known, START_US + 9), completion(late, START_US + 9)]
    assert await yard.store.complete_attempts(yard.term, both) == []
    assert [e.to_state for e in await events_after(yard, known.job_id, 2)] == [5, 8]
    assert [e.to_state for e in await events_after(yard, late.job_id, 2)] == [5, 8]
    assert (await yard.read(known.job_id)).attempts[0].started_us == START_US
    assert (await yard.read(late.job_id)).attempts[0].started_us == START_US + 9


async def test_start_and_outcome_in_one_transaction(yard: Yard) -> None:
    attempt = await yard.leased()
    results, starts = await asyncio.gather(
        yard.store.complete_attempts(yard.term, [completion(attempt)]),
        yard.store.start_attempts(yard.term, [Start(*attempt, START_US)]),
    )
    assert (results, starts) == ([], [])
    assert [e.to_state for e in await events_after(yard, attempt.job_id, 2)] == [5, 8]


async def test_a_recall_gives_the_number_back(yard: Yard) -> None:
    attempt = await yard.leased()
    await yard.store.release_attempts(yard.term, [recall(attempt)])
    record = await yard.read(attempt.job_id)
    assert (record.state, record.number, record.fence) == (JobState.QUEUED, 0, 1)
    assert record.attempts == ()
    leased = await yard.grant(attempt.job_id)
    assert (leased.number, leased.fence) == (1, 2)


async def test_a_recall_of_what_has_started_is_an_attempt(yard: Yard) -> None:
    """The report says unstarted; the store knows better."""
    attempt = await yard.running()
    await yard.store.release_attempts(yard.term, [recall(attempt)])
    record = await yard.read(attempt.job_id)
    assert (record.number, record.fence) == (1, 1)
    assert [a.failure_class for a in record.attempts] == [FailureClass.DRAINED]


async def test_a_lost_worker_keeps_the_number(yard: Yard) -> None:
    attempt = await yard.leased()
    lost = setback(attempt, FailureClass.WORKER_LOST, started_us=None)
    await yard.store.release_attempts(yard.term, [lost])
    record = await yard.read(attempt.job_id)
    assert (record.number, len(record.attempts)) == (1, 1)
    assert record.attempts[0].started_us is None
    assert (await yard.grant(attempt.job_id)).interruptions == 1


COUNTS = {
    FailureClass.TASK_ERROR: (1, 0, 0, 0),
    FailureClass.TIMEOUT: (1, 0, 0, 0),
    FailureClass.CRASH: (0, 1, 0, 0),
    FailureClass.OUT_OF_MEMORY: (0, 0, 1, 0),
    FailureClass.WORKER_LOST: (0, 0, 0, 1),
    FailureClass.DEVICE_FAULT: (0, 0, 0, 1),
    FailureClass.DRAINED: (0, 0, 0, 0),
    FailureClass.DEMOTED: (0, 0, 0, 0),
    FailureClass.PREEMPTED: (0, 0, 0, 0),
}


async def test_each_class_has_its_counter(yard: Yard) -> None:
    for failure_class, counts in COUNTS.items():
        attempt = await yard.running()
        for _ in range(2):
            await yard.store.release_attempts(yard.term, [setback(attempt, failure_class)])
            leased = await yard.grant(attempt.job_id)
            attempt = Attempt(leased.id, leased.fence)
            await yard.start(attempt)
        found = (leased.attempts, leased.crashes, leased.ooms, leased.interruptions)
        assert found == tuple(2 * n for n in counts), failure_class.name
        [active] = [a for a in await yard.store.active_attempts() if a.id == leased.id]
        assert (active.attempts, active.crashes, active.ooms, active.interruptions) == found


async def depths(yard: Yard) -> dict[str, tuple[int, int]]:
    return {q.name: (q.waiting, q.active) for q in await yard.store.list_queues()}


async def test_a_move_takes_the_job_and_its_count_along(yard: Yard) -> None:
    queues = [QueueDeclaration(name, 0, None, "") for name in ("fast", "slow")]
    await yard.store.declare_queues(queues)
    started, leased, stays = await yard.running(), await yard.leased(), await yard.running()
    gone = setback(Attempt(stays.job_id, 9), FailureClass.DEMOTED, queue="slow")
    moves = [setback(a, FailureClass.DEMOTED, queue="slow") for a in (started, leased)]
    assert await yard.store.demote_attempts(yard.term, [*moves, gone]) == [stays.job_id]
    assert await depths(yard) == {"fast": (0, 1), "slow": (2, 0)}
    for attempt in (started, leased):
        record = await yard.read(attempt.job_id)
        assert (record.queue, record.state) == ("slow", JobState.QUEUED)
        assert [a.failure_class for a in record.attempts] == [FailureClass.DEMOTED]
        assert record.counted == (0, 0, 0, 0)
    [lane] = await yard.store.waiting_lanes()
    heads = await yard.store.queue_heads([(lane, 9)])
    assert (lane.queue, {head.id for head in heads}) == ("slow", {started.job_id, leased.job_id})
    granted = await yard.grant(started.job_id)
    assert granted.queue == "slow"
    back = setback(Attempt(granted.id, granted.fence), FailureClass.DEMOTED, queue="fast")
    assert await yard.store.demote_attempts(yard.term, [back]) == []
    assert await depths(yard) == {"fast": (1, 1), "slow": (1, 0)}


async def test_a_queue_stays_while_jobs_may_be_moved_there(yard: Yard) -> None:
    names = ("fast", "slow", "idle", "idler")
    targets = {"fast": "slow", "idle": "idler"}
    queues = [QueueDeclaration(name, 0, None, targets.get(name, "")) for name in names]
    await yard.store.declare_queues(queues)
    waiting = await yard.submit(queue="fast")
    await yard.store.declare_queues([], yard.term)
    assert [q.name for q in await yard.store.list_queues()] == ["fast", "slow"]
    await yard.store.cancel_jobs([waiting], "", False)
    await yard.store.declare_queues([], yard.term)
    assert await yard.store.list_queues() == []


async def test_needs_may_grow(yard: Yard) -> None:
    attempt = await yard.running()
    bigger = '{"cpu_millis":1000,"memory_bytes":3221225472}'
    grown = setback(attempt, FailureClass.OUT_OF_MEMORY, needs_json=bigger)
    await yard.store.release_attempts(yard.term, [grown])
    leased = await yard.grant(attempt.job_id)
    assert leased.needs_json == bigger
    same = setback(Attempt(leased.id, leased.fence))
    await yard.store.release_attempts(yard.term, [same])
    assert (await yard.read(attempt.job_id)).needs_json == bigger


async def test_old_and_new_attempts_report_at_once(yard: Yard) -> None:
    """A lost worker comes back with its outcome while the next one delivers its own."""
    old = await yard.running()
    await yard.store.release_attempts(yard.term, [setback(old, FailureClass.WORKER_LOST)])
    new = await yard.lease(old.job_id, "w2")
    other = await yard.running()
    reports = [completion(a) for a in (old, new, other, new)]
    assert await yard.store.complete_attempts(yard.term, reports) == [old.job_id]
    assert await yard.state(old.job_id) == JobState.SUCCEEDED
    assert (await yard.read(old.job_id)).sequence == 7


async def test_a_batch_answers_its_own_stale(yard: Yard) -> None:
    good, bad = await yard.running(), await yard.running()
    stale = await asyncio.gather(
        yard.store.fail_attempts(yard.term, [setback(good)]),
        yard.store.fail_attempts(yard.term, [setback(Attempt(bad.job_id, 99)), setback(bad)]),
        yard.store.fail_attempts(yard.term, [setback(Attempt("no-such-job", 1))]),
        yard.store.fail_attempts(yard.term, []),
    )
    assert list(stale) == [[], [bad.job_id], ["no-such-job"], []]
    assert await yard.state(bad.job_id) == JobState.FAILED


async def test_eight_thousand_results(yard: Yard) -> None:
    batch = [new_job() for _ in range(8_000)]
    await yard.store.submit_jobs(batch)
    await yard.store.lease_jobs(yard.term, [Lease(job.id, 0, "w1") for job in batch])
    results = [completion(Attempt(job.id, 1), value="{}") for job in batch]
    assert await yard.store.complete_attempts(yard.term, results) == []
    assert await yard.store.active_attempts() == []
