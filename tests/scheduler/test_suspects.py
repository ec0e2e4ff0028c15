"""A job that takes its worker down is told from its neighbours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore_cpu_workers.wire import Assignment, Started
from longshore_scheduler.plan import WorkerView, plan
from longshore_scheduler.suspects import ALONE, SUSPECT_AFTER, company
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import FakeWorker, echo, hang
from tests.scheduler.harness import Harness, make_job, make_settings, until
from tests.scheduler.test_plan import make_heads, make_snapshot, make_view, placed_by_worker

MAXIMUM = 10


@pytest.mark.parametrize(
    ("interruptions", "maximum", "expected"),
    [
        (0, 10, None),
        (2, 10, None),
        (3, 10, 7),
        (4, 10, 3),
        (5, 10, 1),
        (6, 10, 0),
        (8, 10, 0),
        (9, 10, ALONE),
        (12, 10, ALONE),
        (0, 1, None),
        (1, 1, ALONE),
        (1, 2, ALONE),
        (500, 1000, 0),
    ],
)
def test_the_company_of_a_suspect(interruptions: int, maximum: int, expected: int | None) -> None:
    assert company(interruptions, maximum) == expected


def heads(count: int, interruptions: int, task: str = "t") -> list[Any]:
    return [head._replace(interruptions=interruptions) for head in make_heads(count, task=task)]


def test_suspects_share_a_worker_with_few_others() -> None:
    views = [make_view("v"), make_view("w")]
    for interruptions, most in ((SUSPECT_AFTER - 1, 4), (4, 4), (5, 2), (6, 1)):
        planned = plan(make_snapshot(views, heads(10, interruptions)))
        assert placed_by_worker(planned) == {"v": most, "w": most}
    planned = plan(make_snapshot(views, [*heads(2, 6), *heads(10, 0, "other")]))
    assert placed_by_worker(planned) == {"v": 4, "w": 4}, "others run beside them"


def test_the_strictest_suspect_on_a_worker_counts() -> None:
    view = make_view("w")._replace(attempts=1, interrupted=(6,))
    assert not plan(make_snapshot([view], heads(1, 4))).placements
    assert len(plan(make_snapshot([view], heads(1, 2))).placements) == 1


def test_a_job_that_must_run_alone_gets_a_worker_to_itself() -> None:
    idle, busy = make_view("idle"), make_view("busy")._replace(attempts=1)
    planned = plan(make_snapshot([busy, idle], [*heads(1, 9), *heads(9, 0, "other")]))
    assert placed_by_worker(planned) == {"idle": 1, "busy": 4}
    alone = idle._replace(attempts=1, interrupted=(9,))
    planned = plan(make_snapshot([busy, alone], heads(9, 0)))
    assert placed_by_worker(planned) == {"busy": 4}, "nothing joins it"


def test_a_worker_is_kept_free_for_a_job_that_must_run_alone() -> None:
    one = make_view("one")._replace(attempts=1)
    two = make_view("two")._replace(attempts=2)
    waits = heads(1, 9)
    planned = plan(make_snapshot([one, two], [*heads(9, 0, "other"), *waits]))
    assert placed_by_worker(planned) == {"two": 4}
    assert waits[0] in planned.waiting
    alone = WorkerView("gone", "cpu", one.offer, one.room, attempts=1, interrupted=(9,))
    planned = plan(make_snapshot([one, two, alone], [*heads(9, 0, "other"), *waits]))
    assert placed_by_worker(planned) == {"one": 4, "two": 4}, "one at a time"


def take_the_worker_down(worker: FakeWorker, job: Assignment) -> None:
    worker.report(Started(job.job_id, job.fence, worker.clock()))
    worker.die()


async def test_a_job_that_takes_its_worker_down_is_dead_lettered_and_no_neighbour_is(
    harness: Harness,
) -> None:
    harness.cluster.behaviour["poison"] = take_the_worker_down
    harness.cluster.default = hang
    pools = {"cpu": {"cpu": 4, "minimum_workers": 2, "maximum_workers": 2}}
    await harness.launch(make_settings(pools=pools))
    good = await harness.submit(*(make_job() for _ in range(4)))
    (poison,) = await harness.submit(make_job("poison"))
    good += await harness.submit(*(make_job() for _ in range(2)))
    while (bad := await harness.job(poison)).counted.interruptions < MAXIMUM - 1:
        await asyncio.sleep(0.005)
    # From here on it waits until it has a worker to itself, and the others go on.
    harness.cluster.default = echo
    while bad.state is not JobState.DEAD_LETTERED:
        for worker in harness.cluster.alive:
            for job in [job for job in worker.jobs.values() if job.job_id in worker.begun]:
                worker.succeed(job)
        await asyncio.sleep(0.005)
        bad = await harness.job(poison)
    assert len(bad.attempts) == bad.counted.interruptions == MAXIMUM
    jobs = await harness.reach(JobState.SUCCEEDED, *good)
    beside = [job for job in jobs if job.counted.interruptions]
    assert beside, "some were on the worker with it"
    assert "other attempts were on it" in (beside[0].attempts[0].failure_json or "")


async def all_begun(harness: Harness, workers: int) -> None:
    """Waits until four jobs run on the newest of so many workers."""
    await until(lambda: harness.cluster.created == workers)
    await until(lambda: any(len(worker.begun) == 4 for worker in harness.cluster.alive))


async def test_a_worker_that_is_lost_for_no_fault_of_a_job_costs_it_no_company(
    harness: Harness,
) -> None:
    harness.cluster.default = hang
    await harness.launch()
    await harness.submit(*(make_job() for _ in range(4)))
    for lost in range(SUSPECT_AFTER - 1):
        await all_begun(harness, lost + 1)
        harness.cluster.only().die()
    await all_begun(harness, SUSPECT_AFTER)
