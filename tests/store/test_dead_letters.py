"""Which jobs are dead letters, and what is left of those that are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select

from longshore.sdk.failures import FailureClass
from longshore_store.committer import Transaction, Write
from longshore_store.deletion import Deletion
from longshore_store.model import (
    CallKey,
    CheckpointUpdate,
    LogUpdate,
    OnConflict,
    ProgressUpdate,
    UniqueClaim,
)
from longshore_store.redrive_records import DeadLetters
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import jobs, metadata
from tests.store.factory import REACHABLE, SECOND, FakeClock, Yard, next_line, setback
from tests.store.places import Place
from tests.store.recount import fetch

ALL = DeadLetters("acme")
OF_A_JOB = (
    "job_specs",
    "job_results",
    "job_progress",
    "job_checkpoints",
    "job_labels",
    "attempts",
    "events",
    "unique_claims",
    "redrive_jobs",
)


async def dead(
    yard: Yard, failure_class: FailureClass = FailureClass.TASK_ERROR, **changes: Any
) -> str:
    """A dead letter."""
    attempt = await yard.running(**changes)
    failure = setback(attempt, failure_class)
    assert await yard.store.dead_letter_attempts(yard.term, [failure]) == []
    return attempt.job_id


async def listed(store: SqlStore, letters: DeadLetters) -> list[str]:
    return [job.id for job in await store.list_dead_letters(letters, None, 100)]


async def test_only_dead_letters_are_listed_the_newest_first(yard: Yard) -> None:
    for state in REACHABLE:
        await yard.job_in(state)
    found = [await dead(yard), await dead(yard)]
    page = await yard.store.list_dead_letters(ALL, None, 100, full=True)
    assert [job.state for job in page] == [JobState.DEAD_LETTERED] * 3
    assert [job.id for job in page][:2] == found[::-1]
    assert page[0].attempts[0].failure_class == FailureClass.TASK_ERROR
    assert await yard.store.count_dead_letters(ALL) == {("resize", "fast"): 3}


async def test_pages(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(5)]
    seen: list[str] = []
    after: str | None = None
    while page := await yard.store.list_dead_letters(ALL, after, 2):
        assert len(page) <= 2
        seen += [job.id for job in page]
        after = page[-1].id
    assert seen == ids[::-1]


async def test_selections(yard: Yard) -> None:
    first = await dead(yard, queue="slow")
    second_us = yard.clock.advance(SECOND)
    second = await dead(yard, FailureClass.CRASH, task="crop")
    third_us = yard.clock.advance(SECOND)
    third = await dead(yard, FailureClass.CRASH)
    await dead(yard, tenant="other")
    for conditions, expected in (
        ({"queue": "slow"}, [first]),
        ({"task": "crop"}, [second]),
        ({"failure_class": FailureClass.CRASH}, [third, second]),
        ({"failure_class": FailureClass.CRASH, "task": "resize"}, [third]),
        ({"ended_from_us": second_us}, [third, second]),
        ({"ended_before_us": third_us}, [second, first]),
        ({"ended_from_us": second_us, "ended_before_us": third_us}, [second]),
        ({"queue": "none"}, []),
    ):
        letters = DeadLetters("acme", **conditions)
        assert await listed(yard.store, letters) == expected, conditions
        counted = await yard.store.count_dead_letters(letters)
        assert sum(counted.values()) == len(expected)
        assert DeadLetters.from_json(letters.to_json()) == letters


async def test_the_class_is_that_of_the_last_attempt(yard: Yard) -> None:
    job_id = await dead(yard, FailureClass.CRASH)
    await yard.store.retry_jobs([job_id], "")
    attempt = await yard.lease(job_id)
    await yard.store.dead_letter_attempts(yard.term, [setback(attempt, FailureClass.TIMEOUT)])
    for wanted, expected in ((FailureClass.CRASH, []), (FailureClass.TIMEOUT, [job_id])):
        assert await listed(yard.store, DeadLetters("acme", failure_class=wanted)) == expected


async def test_a_purge_deletes_the_chosen_in_batches(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(5)]
    kept = [await dead(yard, task="crop"), (await yard.job_in(JobState.FAILED)).job_id]
    told: list[str] = []
    yard.store.subscribe(told.extend)
    letters = DeadLetters("acme", task="resize")
    assert await yard.store.purge_dead_letters(letters, "", 3) == (3, ids[2])
    assert await yard.store.purge_dead_letters(letters, ids[2], 3) == (2, None)
    assert await yard.store.purge_dead_letters(letters, "", 3) == (0, None)
    assert sorted(told) == ids
    assert await yard.store.read_jobs(ids) == []
    assert len(await yard.store.read_jobs(kept)) == 2


async def rows(store: SqlStore) -> dict[str, int]:
    found = {}
    for name in (*OF_A_JOB, "jobs"):
        [[n]] = await fetch(store, select(func.count()).select_from(metadata.tables[name]))
        found[name] = n
    return found


async def test_nothing_is_left_of_a_deleted_job(yard: Yard) -> None:
    from tests.store.test_redrives import begin  # it stands on this file

    bystander = await yard.completed()
    before = await rows(yard.store)
    claim = UniqueClaim("order-7", None, OnConflict.REJECT)
    job_id = await dead(yard, labels={"x": "1"}, unique=claim, idempotency_key="k")
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 10)
    attempt = await yard.lease(job_id)
    await yard.start(attempt)
    await yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, "1")])
    await yard.store.record_logs(yard.term, [LogUpdate(*attempt, next_line(), "{}")])
    await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, "1")])
    await yard.store.dead_letter_attempts(yard.term, [setback(attempt)])
    full = await rows(yard.store)
    assert {name for name in full if full[name] > before[name]} == {*OF_A_JOB, "jobs"}
    assert await yard.store.purge_dead_letters(ALL, "", 10) == (1, None)
    assert await rows(yard.store) == before
    assert (await yard.read(bystander)).value_json == '"done"'
    assert await yard.submit(idempotency_key="k") != job_id


async def test_the_key_of_a_retry_goes_with_its_job(yard: Yard) -> None:
    job_id, key = await dead(yard), CallKey("acme", "k", "f")
    assert await yard.store.retry_jobs([job_id], "", key=key) == []
    attempt = await yard.lease(job_id)
    await yard.start(attempt)
    await yard.store.dead_letter_attempts(yard.term, [setback(attempt)])
    assert await yard.store.purge_dead_letters(ALL, "", 10) == (1, None)
    other = await yard.completed()
    assert await yard.store.retry_jobs([other], "", key=key) == []
    assert (await yard.read(other)).run == 2


def tables_of_a_job() -> Iterator[str]:
    for table in metadata.sorted_tables:
        if "job_id" in table.c:
            yield table.name


def test_every_table_of_a_job_is_thought_of() -> None:
    assert set(tables_of_a_job()) == set(OF_A_JOB)


async def delete(store: SqlStore, ids: list[str]) -> int:
    """Deletes as a handler of the committer does."""
    deletion = Deletion(store._dialect)

    async def handler(tx: Transaction, writes: list[Write]) -> None:
        for write in writes:
            write.answer = await deletion.delete(tx, [(job_id,) for job_id in write.rows])

    store._handlers["delete_for_test"] = handler
    deleted: int = await store._write("delete_for_test", ids)
    return deleted


async def test_only_what_has_ended_is_deleted(yard: Yard) -> None:
    ids = [(await yard.job_in(state)).job_id for state in REACHABLE]
    assert await delete(yard.store, [*ids, "no-such-job"]) == len(TERMINAL)
    left = {job.state for job in await yard.store.read_jobs(ids)}
    assert left == set(REACHABLE) - TERMINAL
    assert await delete(yard.store, ids) == 0
    assert await delete(yard.store, []) == 0


@pytest.mark.parametrize("ending", ["completed", "dead"])
async def test_deletion_and_retry_in_two_processes(
    postgres_place: Place, clock: FakeClock, ending: str
) -> None:
    """One of them comes first: a whole job is left, or nothing of it."""
    one, two = [await postgres_place.open(clock) for _ in range(2)]
    yard = await Yard.make(one, clock)
    for _ in range(20):
        job_id = await (yard.completed() if ending == "completed" else dead(yard))
        deleted, stale = await asyncio.gather(delete(one, [job_id]), two.retry_jobs([job_id], ""))
        assert (deleted, stale) in ((1, [job_id]), (0, []))
    waiting = await fetch(one, select(jobs.c.state))
    assert {row[0] for row in waiting} <= {JobState.QUEUED}
    for name in ("attempts", "events"):
        owners = metadata.tables[name].c.job_id
        orphans = select(func.count()).where(owners.not_in(select(jobs.c.id)))
        assert (await fetch(one, orphans))[0][0] == 0, name
