"""What is too old goes, whatever is not stays, and what stays adds up."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy import Table, func, select

from longshore_store.model import (
    CheckpointUpdate,
    EventKind,
    Fenced,
    JobRecord,
    LogUpdate,
    OnConflict,
    ProgressUpdate,
    UniqueClaim,
)
from longshore_store.retention import SCANNED
from longshore_store.retention_records import DAY, Ages, Ended, ages_of
from longshore_store.settings import RetentionSettings
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import events, job_checkpoints, metadata, queue_counts
from tests.store.factory import (
    HOUR,
    Attempt,
    FakeClock,
    Yard,
    completion,
    new_job,
    next_line,
    setback,
)
from tests.store.places import Place
from tests.store.recount import fetch

AGES = ages_of(RetentionSettings())
ALL = 100


def kept_for(days: float, logs: float = 1.0) -> Ages:
    return Ages(dict.fromkeys(TERMINAL, round(days * DAY)), round(logs * DAY))


async def count(store: SqlStore, table: Table) -> int:
    [(found,)] = await fetch(store, select(func.count()).select_from(table))
    return int(found)


async def find(yard: Yard, ages: Ages, limit: int = ALL) -> tuple[list[str], list[str]]:
    """The jobs and the logs of one whole pass, with what each step said deleted."""
    jobs: list[str] = []
    logs: list[str] = []
    after, store = "", yard.store
    while True:
        step = await store.prunable_jobs(ages, after, limit)
        assert await store.prune_jobs(yard.term, step.jobs) == []
        assert await store.prune_logs(yard.term, step.logs) == []
        jobs += [job.job_id for job in step.jobs]
        logs += [job.job_id for job in step.logs]
        if not step.after_id:
            return jobs, logs
        assert step.after_id > after
        after = step.after_id


async def prune(yard: Yard, ages: Ages, limit: int = ALL) -> list[str]:
    return (await find(yard, ages, limit))[0]


async def ended(record: JobRecord) -> Ended:
    assert record.ended_us is not None
    return Ended(record.id, record.ended_us)


async def logged(yard: Yard, lines: int, *, end: bool = True) -> Attempt:
    """A job with so many log lines, and a few state changes around them."""
    attempt = await yard.running()
    updates = [LogUpdate(*attempt, next_line(), f'{{"lines":["{n}"]}}') for n in range(lines)]
    await yard.store.record_logs(yard.term, updates)
    if end:
        await yard.store.complete_attempts(yard.term, [completion(attempt)])
    return attempt


# -- jobs


@pytest.mark.parametrize("state", sorted(TERMINAL))
async def test_each_state_has_its_age(yard: Yard, state: JobState) -> None:
    job = await yard.job_in(state)
    yard.clock.advance(AGES.jobs[state] - 1)
    assert await prune(yard, AGES) == []
    yard.clock.advance(1)
    assert await prune(yard, AGES) == [job.job_id]
    assert await yard.store.read_job(job.job_id) is None


async def test_what_has_not_ended_stays_whatever_its_age(yard: Yard) -> None:
    for state in (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING, JobState.CANCELLING):
        await yard.job_in(state)
    yard.clock.advance(1000 * DAY)
    assert await prune(yard, AGES) == []


async def test_a_job_stays_as_long_as_the_window_of_its_uniqueness_key(
    yard: Yard, clock: FakeClock
) -> None:
    claim = UniqueClaim("report", 30 * DAY, OnConflict.RETURN_EXISTING)
    attempt = await yard.running(unique=claim)
    await yard.store.complete_attempts(yard.term, [completion(attempt)])
    clock.advance(20 * DAY)
    assert await prune(yard, AGES) == []
    [answer] = await yard.store.submit_jobs([new_job(unique=claim)])
    assert (answer.job_id, answer.created) == (attempt.job_id, False)
    clock.advance(11 * DAY)
    assert await prune(yard, AGES) == [attempt.job_id]


async def test_nothing_of_a_job_stays_behind(yard: Yard) -> None:
    attempt = await yard.running(labels={"x": "1"}, idempotency_key="k")
    await yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, "1")])
    await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, "1")])
    await yard.store.retry_attempts(yard.term, [setback(attempt, due_us=yard.clock())])
    await yard.store.cancel_jobs([attempt.job_id], "", False)
    yard.clock.advance(8 * DAY)
    assert await prune(yard, AGES) == [attempt.job_id]
    left = {t.name: await count(yard.store, t) for t in metadata.sorted_tables}
    assert {name for name, n in left.items() if n} == {"leaders", "queue_counts"}
    again = await yard.store.submit_jobs([new_job(idempotency_key="k")])
    assert again[0].created, "its key is free again"


async def test_a_pass_is_made_of_small_steps(yard: Yard, clock: FakeClock) -> None:
    jobs = [await yard.submit() for _ in range(10)]
    await yard.store.cancel_jobs(jobs, "", False)
    clock.advance(8 * DAY)
    step = await yard.store.prunable_jobs(AGES, "", 4)
    assert [job.job_id for job in step.jobs] == jobs[:4]
    assert step.after_id == jobs[3]
    assert await prune(yard, AGES, 4) == jobs


async def test_a_step_reads_a_bounded_part_of_what_is_kept(yard: Yard, clock: FakeClock) -> None:
    """Dead letters that stay for a month are passed once in a pass, not once in each step."""
    waiting = [new_job() for _ in range(SCANNED * ALL + 5)]
    await yard.store.submit_jobs(waiting)
    late = await yard.completed()
    clock.advance(8 * DAY)
    first = await yard.store.prunable_jobs(AGES, "", ALL)
    assert (first.jobs, first.after_id) == ([], waiting[SCANNED * ALL - 1].id)
    second = await yard.store.prunable_jobs(AGES, first.after_id, ALL)
    assert [job.job_id for job in second.jobs] == [late]
    assert second.after_id == ""


async def test_a_pass_ends_where_all_are_too_young(yard: Yard, clock: FakeClock) -> None:
    await yard.completed()
    clock.advance(8 * DAY)
    young = [new_job() for _ in range(2 * SCANNED * ALL)]
    await yard.store.submit_jobs(young)
    step = await yard.store.prunable_jobs(AGES, young[0].id, ALL)
    assert step == ([], [], "")


async def test_jobs_with_many_events_count_for_several(yard: Yard, clock: FakeClock) -> None:
    talkative = [(await logged(yard, 40)).job_id for _ in range(4)]
    clock.advance(8 * DAY)
    step = await yard.store.prunable_jobs(AGES, "", 10)
    assert [job.job_id for job in step.jobs] == talkative[:1]
    assert await prune(yard, AGES, 10) == talkative
    assert await count(yard.store, events) == 0


async def test_a_job_that_was_run_again_meanwhile_stays(yard: Yard, clock: FakeClock) -> None:
    again, ended_anew = await yard.completed(), await yard.completed()
    clock.advance(8 * DAY)
    found = (await yard.store.prunable_jobs(AGES, "", ALL)).jobs
    assert [job.job_id for job in found] == [again, ended_anew]
    await yard.store.retry_jobs([again, ended_anew], "")
    await yard.store.cancel_jobs([ended_anew], "", False)
    for method in (yard.store.prune_jobs, yard.store.prune_logs, yard.store.prune_checkpoints):
        assert await method(yard.term, found) == [again, ended_anew]
    assert await yard.state(again) == JobState.QUEUED
    assert await yard.state(ended_anew) == JobState.CANCELLED


async def test_an_old_term_deletes_nothing(yard: Yard, clock: FakeClock) -> None:
    job = await ended(await yard.read(await yard.completed()))
    clock.advance(8 * DAY)
    calls: list[Any] = [yard.store.prune_jobs, yard.store.prune_logs, yard.store.prune_checkpoints]
    for call in calls:
        with pytest.raises(Fenced):
            await call(yard.term - 1, [job])
    with pytest.raises(Fenced):
        await yard.store.compact_counts(yard.term - 1, ALL)
    assert await yard.state(job.job_id) == JobState.SUCCEEDED


async def test_a_job_that_somebody_holds_is_passed_over(
    postgres_place: Place, clock: FakeClock
) -> None:
    """Nobody waits: neither the leader, nor who is about to run the job again."""
    yard = await Yard.make(await postgres_place.open(clock), clock)
    held, free = [await ended(await yard.read(await yard.completed())) for _ in range(2)]
    clock.advance(8 * DAY)
    connection = await asyncpg.connect(postgres_place.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", held.job_id)
            assert await yard.store.prune_jobs(yard.term, [held, free]) == [held.job_id]
    finally:
        await connection.close()
    assert await yard.state(held.job_id) == JobState.SUCCEEDED
    assert await yard.store.read_job(free.job_id) is None


# -- log lines


async def test_log_lines_go_before_their_job(yard: Yard, clock: FakeClock) -> None:
    ages = kept_for(30)
    old = await logged(yard, 5)
    plain = await yard.completed()
    running = await logged(yard, 5, end=False)
    clock.advance(DAY - 1)
    assert await find(yard, ages) == ([], [])
    clock.advance(1)
    assert await find(yard, ages) == ([], [old.job_id])
    assert await find(yard, ages) == ([], []), "done once"
    [changes] = await yard.store.read_changes({old.job_id: 0})
    assert [e.kind for e in changes.events] == [EventKind.STATE]
    assert changes.events[-1].to_state == JobState.SUCCEEDED
    assert changes.first_sequence == changes.events[0].sequence == changes.sequence, (
        "a gap, then the end"
    )
    [whole] = await yard.store.read_changes({plain: 0})
    assert len(whole.events) == whole.sequence
    [live] = await yard.store.read_changes({running.job_id: 0})
    assert sum(e.kind == EventKind.LOG for e in live.events) == 5


async def test_a_job_without_its_lines_can_be_run_again(yard: Yard, clock: FakeClock) -> None:
    attempt = await logged(yard, 3)
    clock.advance(2 * DAY)
    assert await find(yard, kept_for(30)) == ([], [attempt.job_id])
    await yard.store.retry_jobs([attempt.job_id], "")
    again = await yard.lease(attempt.job_id)
    await yard.start(again)
    await yard.store.record_logs(yard.term, [LogUpdate(*again, next_line(), '{"lines":["x"]}')])
    await yard.store.complete_attempts(yard.term, [completion(again)])
    clock.advance(2 * DAY)
    assert await find(yard, kept_for(30)) == ([], [attempt.job_id])
    assert await count(yard.store, events) == 1


async def test_lines_of_some_and_all_of_others_in_one_step(yard: Yard, clock: FakeClock) -> None:
    gone = await logged(yard, 3)
    clock.advance(6 * DAY)
    quiet = await logged(yard, 3)
    clock.advance(2 * DAY)
    assert await find(yard, kept_for(7)) == ([gone.job_id], [quiet.job_id])


# -- checkpoints


async def test_checkpoints_of_what_succeeded_go(yard: Yard, clock: FakeClock) -> None:
    done, failed, running = [await yard.running() for _ in range(3)]
    saved = [CheckpointUpdate(*attempt, "7") for attempt in (done, failed, running)]
    await yard.store.save_checkpoints(yard.term, saved)
    await yard.store.complete_attempts(yard.term, [completion(done)])
    await yard.store.fail_attempts(yard.term, [setback(failed)])
    spent = await yard.store.spent_checkpoints("", ALL)
    assert [job.job_id for job in spent.jobs] == [done.job_id]
    assert spent.after_id == ""
    assert await yard.store.prune_checkpoints(yard.term, spent.jobs) == []
    left = await fetch(yard.store, select(job_checkpoints.c.job_id))
    assert sorted(row[0] for row in left) == sorted([failed.job_id, running.job_id])


async def test_checkpoints_are_looked_at_in_steps(yard: Yard) -> None:
    attempts = [await yard.running() for _ in range(5)]
    saved = [CheckpointUpdate(*attempt, "7") for attempt in attempts]
    await yard.store.save_checkpoints(yard.term, saved)
    await yard.store.complete_attempts(yard.term, [completion(attempts[3])])
    first = await yard.store.spent_checkpoints("", 2)
    assert (first.jobs, first.after_id) == ([], attempts[1].job_id)
    second = await yard.store.spent_checkpoints(first.after_id, 2)
    assert [job.job_id for job in second.jobs] == [attempts[3].job_id]
    assert (await yard.store.spent_checkpoints(second.after_id, 2)).after_id == ""


def test_what_the_settings_say() -> None:
    assert AGES.jobs[JobState.SUCCEEDED] == 7 * 24 * HOUR
    assert AGES.jobs[JobState.DEAD_LETTERED] == 30 * DAY
    assert set(AGES.jobs) == TERMINAL
    assert AGES.shortest == 7 * DAY
    assert kept_for(30, logs=2).shortest == 2 * DAY


async def test_counters_survive_the_jobs(yard: Yard, clock: FakeClock) -> None:
    await yard.completed()
    clock.advance(8 * DAY)
    await prune(yard, AGES)
    rows = await fetch(yard.store, select(queue_counts.c.drained))
    assert [int(row[0]) for row in rows] == [1], "what was ever leased"
