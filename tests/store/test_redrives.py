"""Redrives as the store carries them out: a step, whole or not at all, and none twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from longshore_store import dead_letters
from longshore_store.model import (
    CheckpointUpdate,
    Fenced,
    OnConflict,
    UniqueClaim,
    UniquenessConflict,
)
from longshore_store.redrive_records import (
    MINIMUM_SAMPLE,
    Advanced,
    DeadLetters,
    RedriveRecord,
    RedriveState,
)
from longshore_store.redrives import MOST_AT_ONCE
from longshore_store.retention_records import Ended
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.tables import redrive_jobs
from tests.store.factory import SECOND, FakeClock, Yard, completion, new_job, setback
from tests.store.places import Place
from tests.store.recount import fetch
from tests.store.test_dead_letters import ALL, dead

RUNNING, COMPLETED = RedriveState.RUNNING, RedriveState.COMPLETED
STOPPED, TRIPPED = RedriveState.STOPPED, RedriveState.TRIPPED


async def begin(yard: Yard, redrive_id: str, **changes: Any) -> RedriveRecord:
    """A redrive of all dead letters there are."""
    values: dict[str, Any] = {
        "id": redrive_id,
        "letters": ALL,
        "rate_milli": 1500,
        "maximum_failures_milli": 0,
        "reason": "the disk is mended",
        "actor": "ann",
        "created_us": yard.clock(),
        "total": sum((await yard.store.count_dead_letters(ALL)).values()),
        **changes,
    }
    redrive = RedriveRecord(**values)
    await yard.store.create_redrive(redrive)
    yard.clock.advance(1)
    return redrive


async def found(store: SqlStore, redrive_id: str) -> RedriveRecord:
    [redrive] = [r for r in await store.list_redrives("acme", None, 100) if r.id == redrive_id]
    return redrive


async def fail_again(yard: Yard, job_id: str, how: str = "dead_letter_attempts") -> None:
    attempt = await yard.lease(job_id)
    stale = await getattr(yard.store, how)(yard.term, [setback(attempt, due_us=yard.clock())])
    assert stale == []


async def test_steps_in_order(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(5)]
    redrive = await begin(yard, "r1")
    assert await yard.store.running_redrives() == [redrive]
    steps = [await yard.store.advance_redrive(yard.term, "r1", 2) for _ in range(4)]
    assert steps == [Advanced(2, RUNNING), Advanced(2, RUNNING), Advanced(1, COMPLETED), None]
    assert [await yard.state(job_id) for job_id in ids] == [JobState.QUEUED] * 5
    ended = await found(yard.store, "r1")
    assert ended == replace(
        redrive, state=COMPLETED, ended_us=yard.clock(), after_id=ids[3 + 1], redriven=5
    )
    assert await yard.store.running_redrives() == []
    noted = await fetch(yard.store, select(redrive_jobs.c.job_id, redrive_jobs.c.run))
    assert sorted(map(tuple, noted)) == [(job_id, 2) for job_id in ids]


async def test_it_completes_with_its_last_job(yard: Yard) -> None:
    await dead(yard)
    await begin(yard, "r1")
    assert await yard.store.advance_redrive(yard.term, "r1", 1) == Advanced(1, COMPLETED)
    await begin(yard, "r2")
    assert await yard.store.advance_redrive(yard.term, "r2", 1) == Advanced(0, COMPLETED)


async def test_it_is_forgotten_after_the_last_of_its_jobs(yard: Yard) -> None:
    job_id = await dead(yard)
    await begin(yard, "with a job")
    await yard.store.advance_redrive(yard.term, "with a job", 1)
    await begin(yard, "without one")
    await yard.store.advance_redrive(yard.term, "without one", 1)
    ended_us = yard.clock()
    await begin(yard, "not over")

    async def prune(before_us: int) -> list[str]:
        await yard.store.prune_redrives(yard.term, before_us, 10)
        return [redrive.id for redrive in await yard.store.list_redrives("acme", None, 10)]

    assert await prune(ended_us - 1) == ["without one", "with a job", "not over"]
    assert await prune(yard.clock.advance(SECOND)) == ["with a job", "not over"]
    assert await yard.store.cancel_jobs([job_id], "", False) == []
    [job] = await yard.store.read_jobs([job_id])
    assert job.ended_us is not None
    assert await yard.store.prune_jobs(yard.term, [Ended(job_id, job.ended_us)]) == []
    assert await prune(yard.clock()) == ["not over"]
    with pytest.raises(Fenced):
        await yard.store.prune_redrives(yard.term - 1, yard.clock(), 10)


async def test_it_is_a_new_run_with_its_history(yard: Yard) -> None:
    attempt = await yard.running(total_timeout_us=5 * SECOND)
    await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, "7")])
    await yard.store.dead_letter_attempts(yard.term, [setback(attempt)])
    before = await yard.read(attempt.job_id)
    await begin(yard, "r1")
    now = yard.clock.advance(SECOND)
    await yard.store.advance_redrive(yard.term, "r1", 10)
    after = await yard.read(attempt.job_id)
    assert (after.state, after.run, after.ready_us) == (JobState.QUEUED, 2, now)
    assert after.attempts == before.attempts
    assert (after.failure_json, after.ended_us) == (None, None)
    leased = await yard.grant(attempt.job_id)
    assert (leased.attempts, leased.checkpoint_json) == (0, "7")
    assert leased.total_deadline_us == now + 5 * SECOND


async def test_the_event_says_who_and_why(yard: Yard) -> None:
    job_id = await dead(yard)
    before = await yard.read(job_id)
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 10)
    [changes] = await yard.store.read_changes({job_id: before.sequence})
    [event] = changes.events
    assert (event.from_state, event.to_state) == (JobState.DEAD_LETTERED, JobState.QUEUED)
    assert event.reason == "REDRIVEN"
    assert json.loads(event.body_json or "") == {
        "actor": "ann",
        "reason": "the disk is mended",
        "redrive_id": "r1",
    }


async def test_only_what_was_dead_before_it_began(yard: Yard) -> None:
    early, later = await dead(yard), await yard.running()
    await begin(yard, "r1")
    await yard.store.dead_letter_attempts(yard.term, [setback(later)])
    assert await yard.store.advance_redrive(yard.term, "r1", 10) == Advanced(1, COMPLETED)
    assert await yard.state(early) == JobState.QUEUED
    assert await yard.state(later.job_id) == JobState.DEAD_LETTERED


async def test_what_fails_again_is_not_taken_again(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(3)]
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 1)
    await fail_again(yard, ids[0])
    assert await yard.store.advance_redrive(yard.term, "r1", 10) == Advanced(2, COMPLETED)
    assert await yard.state(ids[0]) == JobState.DEAD_LETTERED
    assert (await yard.read(ids[0])).run == 2
    # Another redrive, made later, takes it.
    await begin(yard, "r2")
    assert await yard.store.advance_redrive(yard.term, "r2", 10) == Advanced(1, COMPLETED)


async def test_a_step_looks_at_so_many_and_goes_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of them it is for, and whatever else has failed."""
    monkeypatch.setattr(dead_letters, "STRETCH", 3)
    ids = [await dead(yard, task="crop" if i in (0, 5) else "resize") for i in range(8)]
    await begin(yard, "r1", letters=DeadLetters("acme", task="crop"))
    steps = [await yard.store.advance_redrive(yard.term, "r1", 1) for _ in range(3)]
    assert steps == [Advanced(1, RUNNING), Advanced(1, RUNNING), Advanced(0, COMPLETED)]
    assert (await found(yard.store, "r1")).after_id == ids[5]
    assert await yard.store.purge_dead_letters(ALL, "", 2) == (2, ids[2])
    assert await yard.store.purge_dead_letters(ALL, ids[2], 9) == (3, ids[6])
    assert await yard.store.purge_dead_letters(ALL, ids[6], 9) == (1, None)


async def test_the_selection_is_that_of_the_redrive(yard: Yard) -> None:
    await dead(yard, tenant="other")
    await dead(yard, task="crop")
    await begin(yard, "r1", letters=DeadLetters("acme", task="resize"))
    assert await yard.store.advance_redrive(yard.term, "r1", 10) == Advanced(0, COMPLETED)


async def test_jobs_that_have_moved_on_are_passed_over(yard: Yard) -> None:
    retried, purged, left = [await dead(yard) for _ in range(3)]
    await begin(yard, "r1")
    await yard.store.retry_jobs([retried], "")
    assert (await yard.store.purge_dead_letters(ALL, "", 1)).deleted == 1
    assert await yard.store.advance_redrive(yard.term, "r1", 10) == Advanced(1, COMPLETED)
    assert await yard.store.read_job(purged) is None
    assert (await yard.read(left)).run == 2
    assert (await found(yard.store, "r1")).redriven == 1


@pytest.mark.parametrize(
    ("how", "counted"),
    [
        ("dead_letter_attempts", 1),
        ("fail_attempts", 1),
        ("retry_attempts", 0),
        ("expire_attempts", 0),
        ("release_attempts", 0),
    ],
)
async def test_failures_are_counted_as_they_happen(yard: Yard, how: str, counted: int) -> None:
    redriven, stranger = await dead(yard), await yard.submit()
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 10)
    await fail_again(yard, redriven, how)
    await fail_again(yard, stranger, how)
    assert (await found(yard.store, "r1")).failed == counted


async def test_a_failure_is_counted_once_and_of_its_own_run(yard: Yard) -> None:
    job_id = await dead(yard)
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 10)
    attempt = await yard.lease(job_id)
    twice = [setback(attempt), setback(attempt), setback(attempt._replace(fence=1))]
    await yard.store.dead_letter_attempts(yard.term, twice)
    await yard.store.dead_letter_attempts(yard.term, twice)
    assert (await found(yard.store, "r1")).failed == 1
    await yard.store.retry_jobs([job_id], "")
    await fail_again(yard, job_id)
    assert (await found(yard.store, "r1")).failed == 1


async def test_it_trips_above_its_share(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(MINIMUM_SAMPLE + 4)]
    await begin(yard, "r1", maximum_failures_milli=200)
    for job_id in ids[: MINIMUM_SAMPLE - 1]:
        await yard.store.advance_redrive(yard.term, "r1", 1)
        if job_id in ids[:3]:
            await fail_again(yard, job_id)
    # 3 of 9 are more than a fifth, and too few to tell; 3 of 10 are not.
    assert await yard.store.advance_redrive(yard.term, "r1", 1) == Advanced(1, RUNNING)
    assert await yard.store.advance_redrive(yard.term, "r1", 1) == Advanced(0, TRIPPED)
    assert await yard.store.advance_redrive(yard.term, "r1", 1) is None
    redrive = await found(yard.store, "r1")
    assert (redrive.state, redrive.redriven, redrive.failed) == (TRIPPED, MINIMUM_SAMPLE, 3)
    assert redrive.stop_reason == "3 of 10 failed again: more than a share of 0.2"
    assert redrive.ended_us == yard.clock()
    assert await yard.state(ids[-1]) == JobState.DEAD_LETTERED
    await fail_again(yard, ids[5])
    assert (await found(yard.store, "r1")).failed == 4, "counted on"


async def test_without_a_share_it_never_trips(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(MINIMUM_SAMPLE + 2)]
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", MINIMUM_SAMPLE)
    for job_id in ids[:MINIMUM_SAMPLE]:
        await fail_again(yard, job_id)
    assert await yard.store.advance_redrive(yard.term, "r1", 10) == Advanced(2, COMPLETED)


async def test_stopping(yard: Yard) -> None:
    ids = [await dead(yard) for _ in range(3)]
    await begin(yard, "r1")
    await yard.store.advance_redrive(yard.term, "r1", 1)
    assert await yard.store.stop_redrive("r1", "other", "not yours") is None
    assert (await found(yard.store, "r1")).state == RUNNING
    for reason in ("by bob: enough", "by carol: again"):
        stopped = await yard.store.stop_redrive("r1", "acme", reason)
        assert stopped is not None
        assert (stopped.state, stopped.stop_reason) == (STOPPED, "by bob: enough")
    assert await yard.store.advance_redrive(yard.term, "r1", 1) is None
    assert await yard.state(ids[0]) == JobState.QUEUED
    assert await yard.state(ids[1]) == JobState.DEAD_LETTERED
    assert await yard.store.stop_redrive("r2", "acme", "") is None


async def test_lists_are_of_a_tenant_and_paged(yard: Yard) -> None:
    for redrive_id in ("r1", "r2", "r3"):
        await begin(yard, redrive_id)
    await begin(yard, "r4", letters=DeadLetters("other"))
    ids = [r.id for r in await yard.store.list_redrives("acme", None, 2)]
    assert ids == ["r3", "r2"]
    assert [r.id for r in await yard.store.list_redrives("acme", "r2", 2)] == ["r1"]
    assert [r.id for r in await yard.store.running_redrives()] == ["r1", "r4", "r2", "r3"]


async def test_a_replaced_leader_redrives_nothing(yard: Yard) -> None:
    job_id = await dead(yard)
    await begin(yard, "r1")
    with pytest.raises(Fenced):
        await yard.store.advance_redrive(yard.term - 1, "r1", 1)
    assert await yard.state(job_id) == JobState.DEAD_LETTERED


async def test_steps_and_stops_in_two_processes(postgres_place: Place, clock: FakeClock) -> None:
    """What was stopped takes no job more, and no job is taken twice."""
    one, two = [await postgres_place.open(clock) for _ in range(2)]
    yard = await Yard.make(one, clock)
    for turn in range(10):
        ids = [await dead(yard) for _ in range(6)]
        await begin(yard, f"r{turn}")
        first, second, stopped, _ = await asyncio.gather(
            one.advance_redrive(yard.term, f"r{turn}", 2),
            two.advance_redrive(yard.term, f"r{turn}", 2),
            two.stop_redrive(f"r{turn}", "acme", "enough"),
            one.retry_jobs(ids[2:3], ""),
        )
        assert stopped is not None
        taken = sum(step.redriven for step in (first, second) if step is not None)
        assert (await found(one, f"r{turn}")).redriven == taken
        runs = [job.run for job in await one.read_jobs(ids)]
        assert max(runs) <= 2
        assert runs.count(2) == taken + ((await yard.read(ids[2])).run == 2) - (
            ids[2] in {row[0] for row in await fetch(one, select(redrive_jobs.c.job_id))}
        )
        await one.purge_dead_letters(ALL, "", 100)


async def test_a_claim_holds_again_while_the_new_run_is_active(yard: Yard) -> None:
    claim = UniqueClaim("order-7", None, OnConflict.RETURN_EXISTING)
    for rerun in ("retry", "redrive"):
        job_id = await dead(yard, unique=claim._replace(key=rerun))
        if rerun == "retry":
            await yard.store.retry_jobs([job_id], "")
        else:
            await begin(yard, "r1")
            await yard.store.advance_redrive(yard.term, "r1", 10)
        again = new_job(unique=claim._replace(key=rerun))
        [answer] = await yard.store.submit_jobs([again])
        assert (answer.job_id, answer.created) == (job_id, False)
        attempt = await yard.lease(job_id)
        await yard.store.complete_attempts(yard.term, [completion(attempt)])
        [answer] = await yard.store.submit_jobs([again])
        assert answer.created


async def test_a_claim_is_taken_over_before_or_after_a_retry(
    postgres_place: Place, clock: FakeClock
) -> None:
    """Never in the middle of it: the submission gets the job that runs, or the claim, and then the
    job does not run again."""
    one, two = [await postgres_place.open(clock) for _ in range(2)]
    yard = await Yard.make(one, clock)
    for turn in range(20):
        claim = UniqueClaim(f"order-{turn}", None, OnConflict.RETURN_EXISTING)
        job_id = await dead(yard, unique=claim)
        [answer], refused = await asyncio.gather(
            two.submit_jobs([new_job(unique=claim)]), refusal(one.retry_jobs([job_id], ""))
        )
        assert (refused is not None) == answer.created
        [holder] = await one.submit_jobs([new_job(unique=claim)])
        assert not holder.created
        assert holder.job_id == answer.job_id
        assert answer.created == (answer.job_id != job_id)


async def refusal(retry: Awaitable[list[str]]) -> UniquenessConflict | None:
    try:
        assert await retry == []
    except UniquenessConflict as error:
        return error
    return None


async def test_a_tenant_cannot_keep_others_from_redriving(yard: Yard) -> None:
    for i in range(MOST_AT_ONCE + 2):
        await begin(yard, f"r{i:02}")
    await begin(yard, "s0", letters=replace(ALL, tenant="other"))
    running = [r.id for r in await yard.store.running_redrives()]
    assert running == ["r00", "s0", *(f"r{i:02}" for i in range(1, MOST_AT_ONCE - 1))]
