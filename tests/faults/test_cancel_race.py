"""Row 27: Cancel races the completion of a job, 10,000 times."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

from longshore_cpu_workers.wire import Assignment, Started, Succeeded
from longshore_scheduler.scheduler import Scheduler
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.topology_records import QueueDeclaration
from tests.faults.child import make_settings
from tests.faults.closing import Told, close_books, recovered
from tests.faults.scale import times
from tests.scheduler.fake_cluster import FakeCluster, FakeWorker
from tests.scheduler.harness import make_job, until

RACES = times(10_000, 4_000)
RACES_ON_POSTGRES = times(10_000, 500)
BEGUN = 0.9
FAIR = 0.3
BOUND = 60.0
ASKED = {JobState.CANCELLING, JobState.CANCELLED}


class Race:
    """Jobs that run for a random moment, each cancelled at another one.

    longest: seconds that a job runs at most; about what the store takes to end one. A cancel comes
    after at most `latest`, which follows the machine: where one side nearly always wins, there is
    no race.
    """

    def __init__(self, store: SqlStore, told: Told, longest: float) -> None:
        self.store = store
        self.told = told
        self.longest = longest
        self.latest = 2 * longest
        self.random = random.Random(told.seed)
        self.answers: Counter[JobState] = Counter()
        self.answered: dict[str, JobState] = {}
        self.begun: dict[str, asyncio.Event] = {}

    def run_job(self, worker: FakeWorker, job: Assignment) -> None:
        """A `Behaviour`: begins now, succeeds soon, unless the cancel came first."""
        worker.report(Started(job.job_id, job.fence, worker.clock()))
        self.begun[job.job_id].set()
        loop = asyncio.get_running_loop()
        loop.call_later(self.random.uniform(0, self.longest), _end, worker, job)

    async def some(self, count: int) -> None:
        """Submits jobs and cancels each at its moment."""
        jobs = [make_job() for _ in range(count)]
        ids = [job.id for job in jobs]
        self.begun |= {job_id: asyncio.Event() for job_id in ids}
        await self.store.submit_jobs(jobs)
        self.told.accepted.update(ids)
        await asyncio.gather(*map(self._cancel, ids))
        share = sum(self.answered[i] is JobState.SUCCEEDED for i in ids) / count
        if not FAIR < share < 1 - FAIR:
            self.latest *= 1.5 if share <= FAIR else 1 / 1.5

    async def _cancel(self, job_id: str) -> None:
        if self.random.random() < BEGUN:
            await self.begun[job_id].wait()
            await asyncio.sleep(self.random.uniform(0, self.latest))
        # As the Cancel of the server does it.
        await self.store.cancel_jobs([job_id], "raced", force=False)
        record = await self.store.read_job(job_id)
        assert record is not None
        self.answered[job_id] = record.state
        self.answers[record.state] += 1

    async def ended(self) -> bool:
        """True once nothing waits or runs."""
        return not sum(q.waiting + q.active for q in await self.store.list_queues())


def _end(worker: FakeWorker, job: Assignment) -> None:
    held = worker.jobs.get(job.job_id)
    if held is not None and held.fence == job.fence:
        worker.report(Succeeded(job.job_id, job.fence, worker.clock(), 0.01, "null"))


async def run_races(url: str, told: Told, races: int, at_once: int, longest: float) -> None:
    store = SqlStore(url)
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    race = Race(store, told, longest)
    cluster = FakeCluster(time.monotonic)
    cluster.default = race.run_job
    scheduler = Scheduler(store, cluster, make_settings({}), chance=race.random.random)
    await scheduler.start()
    await until(lambda: scheduler.ready_workers > 0, BOUND)
    try:
        for _ in range(races // at_once):
            await race.some(at_once)
        seconds = await recovered(race.ended, BOUND)
        final = {job.id: job.state for job in await store.read_jobs(list(race.answered))}
    finally:
        await scheduler.stop(0.0)
        await store.close()
    assert len(final) == races
    for job_id, answer in race.answered.items():
        expected = JobState.CANCELLED if answer in ASKED else answer
        assert final[job_id] is expected, f"{job_id} was answered {answer.name}"
    assert set(race.answers) <= ASKED | {JobState.SUCCEEDED} <= TERMINAL | ASKED
    told.ended.update(final)
    books = await close_books(url, told)
    won = {state.name.lower(): count for state, count in race.answers.items()}
    assert min(books.states[JobState.SUCCEEDED], books.states[JobState.CANCELLED]) > races / 20
    print(told.heal_line(seconds, races=races, **won))


async def test_cancel_races_completion(tmp_path: Path, seed: int) -> None:
    await run_races(f"sqlite:///{tmp_path}/store.db", Told(27, seed), RACES, 100, 0.02)


async def test_cancel_races_completion_on_postgres(postgres_url: str, seed: int) -> None:
    await run_races(postgres_url, Told(27, seed), RACES_ON_POSTGRES, 20, 0.05)
