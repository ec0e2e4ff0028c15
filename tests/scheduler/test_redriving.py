"""Redrives, carried out by the leader at their rate; clocks move only when a test says so."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_scheduler import redriving
from longshore_scheduler.redriving import Redriving
from longshore_scheduler.term import Term
from longshore_store import dead_letters
from longshore_store.failure import FailureRecord
from longshore_store.model import Fenced, Lease, Setback, StoreUnavailable
from longshore_store.redrive_records import DeadLetters, RedriveRecord, RedriveState
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeCluster, fail, hang
from tests.scheduler.harness import Harness, make_job, make_settings

ALL = DeadLetters("t")
_numbers = itertools.count(1)


async def bury(harness: Harness, term: int, count: int, task: str = "echo") -> list[str]:
    """Dead letters, made by a leader of this term."""
    ids = await harness.submit(*(make_job(task) for _ in range(count)))
    leased = await harness.store.lease_jobs(term, [Lease(job_id, 0, "w") for job_id in ids])
    failure = FailureRecord(FailureClass.CRASH, 2, "CRASH", "").to_json()
    setbacks = [
        Setback(job.id, job.fence, FailureClass.CRASH, "CRASH", failure, 1) for job in leased
    ]
    assert await harness.store.dead_letter_attempts(term, setbacks) == []
    return ids


async def begin(harness: Harness, rate: float, **changes: Any) -> str:
    """A redrive of all dead letters."""
    values: dict[str, Any] = {
        "id": f"redrive-{next(_numbers):06}",
        "letters": ALL,
        "rate_milli": round(rate * 1000),
        "maximum_failures_milli": 0,
        "reason": "why",
        "actor": "who",
        "created_us": harness.clock(),
        "total": 0,
        **changes,
    }
    redrive = RedriveRecord(**values)
    await harness.store.create_redrive(redrive)
    return redrive.id


async def found(harness: Harness, redrive_id: str) -> RedriveRecord:
    [redrive] = [r for r in await harness.store.list_redrives("t", None, 9) if r.id == redrive_id]
    return redrive


async def lead(harness: Harness, leader_id: str = "one") -> Term:
    """A term without a scheduler: the test calls the chore."""
    number = await harness.store.lead(leader_id, 3600_000_000)
    assert number is not None
    settings = make_settings().scheduler
    cluster = FakeCluster(harness.clock.seconds)
    return Term(number, harness.store, cluster, settings, [], {}, clock=harness.clock.seconds)


class Chore:
    """A redriving chore that is called when time has passed."""

    def __init__(self, harness: Harness, term: Term) -> None:
        self._clock = harness.clock
        self._redriving = Redriving(term)

    async def after(self, seconds: float) -> int:
        self._clock.advance(seconds)
        return await self._redriving.run_once()


async def test_as_many_as_the_rate_allows(harness: Harness) -> None:
    term = await lead(harness)
    ids = await bury(harness, term.number, 20)
    await begin(harness, 4.0)
    chore = Chore(harness, term)
    assert await chore.after(0) == 1, "the first one goes at once"
    assert [await chore.after(0.25) for _ in range(4)] == [1, 1, 1, 1]
    assert await chore.after(0.5) == 2
    assert await chore.after(0.1) == 0
    assert await chore.after(0.15) == 1
    states = {job.id: job.state for job in await harness.store.read_jobs(ids)}
    assert [states[job_id] for job_id in ids[:8]] == [JobState.QUEUED] * 8, "the oldest first"
    assert set(states.values()) == {JobState.QUEUED, JobState.DEAD_LETTERED}
    assert term.wake.is_set()


async def test_its_begin_and_its_end_are_logged(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    term = await lead(harness)
    await bury(harness, term.number, 3)
    redrive_id = await begin(harness, 1.0, total=3)
    chore = Chore(harness, term)
    with caplog.at_level(logging.INFO):
        for _ in range(6):
            await chore.after(1.0)
    told = [r.getMessage() for r in caplog.records if vars(r).get("redrive_id") == redrive_id]
    begun, ended = told
    assert begun == f"redrive {redrive_id} of 3 dead letters is under way"
    assert ended.startswith(f"redrive {redrive_id} has ended as COMPLETED: 3 of 3 dead letters")


async def test_a_low_rate_over_a_long_time(harness: Harness) -> None:
    term = await lead(harness)
    await bury(harness, term.number, 20)
    redrive_id = await begin(harness, 0.1)
    chore = Chore(harness, term)
    assert await chore.after(0) == 1
    taken = [await chore.after(1.0) for _ in range(50)]
    assert sum(taken) == 5
    assert (await found(harness, redrive_id)).redriven == 6


async def test_a_pause_is_not_made_up_for_by_a_flood(harness: Harness) -> None:
    term = await lead(harness)
    await bury(harness, term.number, 50)
    await begin(harness, 10.0)
    chore = Chore(harness, term)
    await chore.after(0)
    assert await chore.after(3600.0) == 10, "a second's worth"


async def test_a_high_rate_goes_in_bounded_steps(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redriving, "STEP", 7)
    term = await lead(harness)
    await bury(harness, term.number, 40)
    redrive_id = await begin(harness, 1000.0)
    chore = Chore(harness, term)
    assert await chore.after(0) == 1
    assert await chore.after(0.02) == 20
    assert await chore.after(1.0) == 19
    redrive = await found(harness, redrive_id)
    assert (redrive.state, redrive.redriven) == (RedriveState.COMPLETED, 40)
    assert await chore.after(1.0) == 0


async def test_what_is_passed_over_costs_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of many are looked for in bounded steps, and the rate is that of jobs."""
    monkeypatch.setattr(dead_letters, "STRETCH", 3)
    term = await lead(harness)
    await bury(harness, term.number, 10)
    wanted = await bury(harness, term.number, 4, task="rare")
    await harness.store.retry_jobs(wanted[:1], "by hand")
    redrive_id = await begin(harness, 1.0, letters=DeadLetters("t", task="rare"))
    chore = Chore(harness, term)
    assert [await chore.after(s) for s in (0, 1.0, 1.0)] == [1, 1, 1]
    assert (await found(harness, redrive_id)).state == RedriveState.COMPLETED
    assert [job.run for job in await harness.store.read_jobs(wanted)] == [2] * 4


async def test_redrives_advance_side_by_side(harness: Harness) -> None:
    term = await lead(harness)
    ids = await bury(harness, term.number, 10)
    one, two = await begin(harness, 1.0), await begin(harness, 2.0)
    chore = Chore(harness, term)
    assert await chore.after(0) == 2
    assert await chore.after(1.0) == 3
    redrives = [await found(harness, redrive_id) for redrive_id in (one, two)]
    assert [redrive.redriven for redrive in redrives] == [2, 3]
    runs = [job.run for job in await harness.store.read_jobs(ids)]
    assert sorted(runs) == [1] * 5 + [2] * 5, "none was taken by both"


async def test_a_new_redrive_is_found_within_a_second(harness: Harness) -> None:
    term = await lead(harness)
    chore = Chore(harness, term)
    assert await chore.after(0) == 0
    await bury(harness, term.number, 1)
    redrive_id = await begin(harness, 1.0)
    assert await chore.after(redriving.LOOK_EVERY_US / 1e6) == 1
    assert (await found(harness, redrive_id)).state == RedriveState.COMPLETED


async def test_a_new_leader_goes_on_where_the_old_one_was(harness: Harness) -> None:
    term = await lead(harness)
    ids = await bury(harness, term.number, 10)
    redrive_id = await begin(harness, 2.0)
    old = Chore(harness, term)
    assert [await old.after(0), await old.after(1.0)] == [1, 2]
    harness.clock.advance(7200)
    new_term = await lead(harness, "two")
    assert new_term.number == term.number + 1
    new = Chore(harness, new_term)
    assert await new.after(0) == 0, "it begins without credit"
    with pytest.raises(Fenced):
        await old.after(1.0)
    assert term.over.is_set()
    assert [await new.after(1.0) for _ in range(4)] == [2, 2, 2, 1]
    redrive = await found(harness, redrive_id)
    assert (redrive.state, redrive.redriven) == (RedriveState.COMPLETED, 10)
    assert [job.run for job in await harness.store.read_jobs(ids)] == [2] * 10


async def test_a_step_whose_answer_is_lost(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed: its repetition takes the next jobs, and none twice."""
    term = await lead(harness)
    ids = await bury(harness, term.number, 4)
    redrive_id = await begin(harness, 2.0)
    advance, lost = harness.store.advance_redrive, [True]

    async def losing(*arguments: Any) -> Any:
        answer = await advance(*arguments)
        if lost and lost.pop():
            raise StoreUnavailable("the answer is lost")
        return answer

    monkeypatch.setattr(harness.store, "advance_redrive", losing)
    chore = Chore(harness, term)
    await chore.after(0)
    for _ in range(3):
        await chore.after(1.0)
    assert (await found(harness, redrive_id)).redriven == 4
    assert [job.run for job in await harness.store.read_jobs(ids)] == [2] * 4


async def test_it_stops_by_itself_where_they_fail_again(harness: Harness) -> None:
    """The whole scheduler: jobs fail on its workers, and it notices in its sweep."""
    term = await lead(harness, "first")
    ids = await bury(harness, term.number, 40)
    await harness.store.resign("first")
    harness.cluster.default = fail(FailureClass.PERMANENT)
    redrive_id = await begin(harness, 10.0, maximum_failures_milli=300)
    scheduler = await harness.launch(make_settings(term=300.0))
    assert scheduler.leading
    redrive = await found(harness, redrive_id)
    while redrive.state is RedriveState.RUNNING:
        harness.clock.advance(0.2)
        await harness.sweeps()
        redrive = await found(harness, redrive_id)
    assert redrive.state is RedriveState.TRIPPED
    assert "failed again: more than a share of 0.3" in redrive.stop_reason
    assert 10 <= redrive.redriven < 40
    jobs = await harness.store.read_jobs(ids)
    assert sum(job.run == 2 for job in jobs) == redrive.redriven
    await harness.reach(JobState.FAILED, *(job.id for job in jobs if job.run == 2))
    assert (await found(harness, redrive_id)).failed == redrive.redriven


async def test_schedulers_that_take_turns(harness: Harness) -> None:
    term = await lead(harness, "first")
    ids = await bury(harness, term.number, 12)
    await harness.store.resign("first")
    redrive_id = await begin(harness, 3.0)
    for enough in (5, 12):
        # Its term outlasts the jumps of the clock.
        scheduler = await harness.launch(make_settings(term=300.0))
        while (await found(harness, redrive_id)).redriven < enough:
            harness.clock.advance(0.3)
            await harness.sweeps(2)
        await scheduler.stop(0.0)
    redrive = await found(harness, redrive_id)
    assert (redrive.state, redrive.redriven, redrive.failed) == (RedriveState.COMPLETED, 12, 0)
    assert [job.run for job in await harness.store.read_jobs(ids)] == [2] * 12


async def test_a_stopped_redrive_goes_no_further(harness: Harness) -> None:
    harness.cluster.default = hang
    term = await lead(harness)
    await bury(harness, term.number, 5)
    redrive_id = await begin(harness, 1.0)
    chore = Chore(harness, term)
    await chore.after(0)
    await harness.store.stop_redrive(redrive_id, "t", "enough")
    assert await chore.after(1.0) == 0
    assert (await found(harness, redrive_id)).redriven == 1
