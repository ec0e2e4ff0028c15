"""Assignments that workers refuse, and leases that nobody got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Assignment
from longshore_scheduler.delivery import REFUSALS
from longshore_store.model import Lease, Leased, StoreUnavailable
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import hang
from tests.scheduler.harness import Harness, make_job, make_settings, until


class Refusing:
    """Puts workers in the place of the harness's that refuse what this says."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.task: str | None = None
        self.worker: str | None = None
        self._assign = harness.cluster.assign
        monkeypatch.setattr(harness.cluster, "assign", self)

    async def __call__(self, worker_id: str, assignments: Sequence[Assignment]) -> None:
        self.calls += 1
        if worker_id == self.worker or any(a.task == self.task for a in assignments):
            raise TypeError("Assignment takes 11 positional arguments but 12 were given")
        await self._assign(worker_id, assignments)


async def test_a_refused_attempt_is_counted_and_tried_later_and_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.launch(make_settings(maximum_interruptions=3))
    refusing = Refusing(harness, monkeypatch)
    refusing.task = "poison"
    poison, *good = await harness.submit(
        make_job("poison", priority=90), *(make_job() for _ in range(3))
    )
    done = await harness.reach(JobState.SUCCEEDED, *good)
    assert [len(job.attempts) for job in done] == [1, 1, 1], "neighbours do not go round with it"
    for number in (1, 2):
        job = await harness.retrying(poison, number)
        assert job.due_us is not None
        assert job.due_us > harness.store.now_us()
        harness.clock.advance(60.0)
    (job,) = await harness.reach(JobState.DEAD_LETTERED, poison)
    assert [a.failure_class for a in job.attempts] == [FailureClass.WORKER_LOST] * 3
    assert '"REFUSED"' in (job.failure_json or "")
    assert refusing.calls <= 12


async def test_a_worker_that_refuses_all_is_replaced(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.launch(make_settings(pools={"cpu": {"cpu": 8, "maximum_runners": 8}}))
    bad = harness.cluster.only()
    refusing = Refusing(harness, monkeypatch)
    refusing.worker = bad.info.worker_id
    ids = await harness.submit(*(make_job() for _ in range(8)))
    await until(lambda: not bad.alive)
    harness.clock.advance(60.0)
    jobs = await harness.reach(JobState.SUCCEEDED, *ids)
    assert sum(len(job.attempts) > 1 for job in jobs) == REFUSALS, "the others are not counted"
    assert harness.cluster.created == 2


async def test_a_worker_that_runs_something_is_not_ended_with_its_refusals(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await harness.launch_hanging()
    bad = harness.cluster.only()
    refusing = Refusing(harness, monkeypatch)
    refusing.worker = bad.info.worker_id
    await harness.submit(*(make_job() for _ in range(3)))
    await until(lambda: len(harness.cluster.alive) == 2)
    bad.succeed(bad.assigned[0])
    (job,) = await harness.reach(JobState.SUCCEEDED, running)
    assert len(job.attempts) == 1


async def test_leases_whose_answers_were_lost_are_not_counted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.launch(make_settings(maximum_interruptions=2))
    lease_jobs, lost = harness.store.lease_jobs, 0

    async def lose_the_answer(term: int, leases: Sequence[Lease]) -> list[Leased]:
        nonlocal lost
        answer: Any = await lease_jobs(term, leases)
        if lost == 3:
            return list(answer)
        lost += 1
        raise StoreUnavailable("after the commit")

    monkeypatch.setattr(harness.store, "lease_jobs", lose_the_answer)
    harness.cluster.default = hang
    (job_id,) = await harness.submit(make_job())
    while not harness.cluster.only().assigned:
        harness.clock.advance(6.0)  # orphans are looked for every 5 s
        await harness.sweeps(2)
    (job,) = await harness.reach(JobState.RUNNING, job_id)
    assert (lost, job.counted.interruptions, len(job.attempts)) == (3, 0, 1)
