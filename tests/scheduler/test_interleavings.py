"""Random interleavings of work and faults over a real scheduler and a real store.

Anything may break while the plan is carried out; then everything heals, and what is left must
drain by itself, with books that add up.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore_scheduler.roster import WorkerState
from longshore_scheduler.scheduler import Scheduler
from longshore_store.model import JobQuery, JobRecord
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.store import Store
from longshore_store.topology_records import QueueDeclaration
from tests.scheduler.harness import Clock, make_job, make_settings
from tests.scheduler.wild import WildCluster, WildStore
from tests.store.places import Kept, Place
from tests.store.recount import recount

SECONDS = 4.5  # for the examples of a test
HEALED_WITHIN = 60.0
POOLS = {"cpu": {"cpu": 2, "minimum_workers": 2, "maximum_workers": 4}}
TASKS = ("echo", "lasts", "waits", "raises", "crashes")

NUMBER = st.integers(0, 1000)
HARMLESS = st.one_of(
    st.tuples(st.just("submit"), NUMBER),
    st.tuples(st.just("submit"), NUMBER),
    st.tuples(st.just("finish"), NUMBER),
    st.tuples(st.just("cancel"), NUMBER),
    st.tuples(st.just("advance"), NUMBER),
    st.tuples(st.just("retry"), NUMBER),
)
OF_STORE = st.tuples(st.sampled_from(["fail_store", "depose", "crash", "restart"]), NUMBER)
OF_WORKERS = st.tuples(st.sampled_from(["kill", "freeze", "thaw", "lose_calls", "drain"]), NUMBER)
"""These end attempts early; those of the store must not."""


class World:
    """Two schedulers, one of which leads, on one store and one cluster."""

    def __init__(self, store: SqlStore, clock: Clock, seed: int) -> None:
        self.store = store
        self.clock = clock
        self.random = random.Random(seed)
        self.unsure = WildStore(store, self.random)
        self.cluster = WildCluster(clock.seconds, self.random)
        self.settings = make_settings(pools=POOLS, lease=3.0, term=1.0)
        self.schedulers: list[Scheduler] = []
        self.ids: list[str] = []
        self.repeated: set[str] = set()
        self.known: dict[str, JobRecord] = {}

    async def launch(self) -> None:
        scheduler = Scheduler(
            cast(Store, self.unsure),
            self.cluster,
            self.settings,
            keep_workers=True,
            clock=self.clock.seconds,
            chance=self.random.random,
        )
        self.schedulers.append(scheduler)
        failing, self.unsure.failing = self.unsure.failing, 0.0  # it may not start without
        await scheduler.start()
        self.unsure.failing = failing

    async def play(self, plan: list[tuple[str, int]]) -> None:
        for name, number in plan:
            step: Callable[[int], Awaitable[None]] = getattr(self, name)
            await step(number)
            for _ in range(number % 7):
                await asyncio.sleep(0.003)

    # -- steps

    async def submit(self, number: int) -> None:
        task = TASKS[number % len(TASKS)]
        jobs = [make_job(task) for _ in range(1 + number % 6)]
        await self.store.submit_jobs(jobs)
        self.ids += [job.id for job in jobs]
        if task in ("raises", "crashes"):
            self.repeated.update(job.id for job in jobs)

    async def finish(self, number: int) -> None:
        going = [(w, key) for w in self.cluster.wild if not w.frozen for key in w.attempts]
        if going:
            worker, key = going[number % len(going)]
            worker.finish(key)

    async def cancel(self, number: int) -> None:
        if self.ids:
            job_id = self.ids[number % len(self.ids)]
            await self.store.cancel_jobs([job_id], "", number % 2 == 0)

    async def retry(self, number: int) -> None:
        """A new run of a job that has ended; whatever its last attempt still does."""
        if self.ids:
            job_id = self.ids[number % len(self.ids)]
            if not await self.store.retry_jobs([job_id], ""):
                self.repeated.add(job_id)

    async def advance(self, number: int) -> None:
        self.clock.advance((0.01, 0.3, 2.0, 6.0)[number % 4])

    async def drain(self, number: int) -> None:
        known = await self.store.list_workers()
        if number % 5 == 0 and known:
            until_us = self.store.now_us() + 1_000_000
            worker = known[number % len(known)]
            await self.store.order_workers([worker.id], WorkerState.DRAINING, until_us)

    async def fail_store(self, number: int) -> None:
        self.unsure.failing = (0.0, 0.1, 0.3, 0.6)[number % 4]

    async def depose(self, number: int) -> None:
        """Whoever leads is replaced without being told."""
        self.clock.advance(1.1)
        await self.store.lead("usurper", 1)
        self.clock.advance(0.1)

    async def crash(self, number: int) -> None:
        """A process is gone, and another one takes its place."""
        scheduler = self.schedulers.pop(number % len(self.schedulers))
        await kill(scheduler)
        await self.launch()

    async def restart(self, number: int) -> None:
        scheduler = self.schedulers.pop(number % len(self.schedulers))
        await scheduler.stop(0.0)
        await self.launch()

    async def kill(self, number: int) -> None:
        if workers := self.cluster.wild:
            workers[number % len(workers)].die()

    async def freeze(self, number: int) -> None:
        if workers := self.cluster.wild:
            workers[number % len(workers)].frozen = True

    async def thaw(self, number: int) -> None:
        for worker in self.cluster.wild:
            worker.thaw()

    async def lose_calls(self, number: int) -> None:
        self.cluster.loss = (0.0, 0.1, 0.5)[number % 3]

    # -- the end

    async def heal(self) -> list[JobRecord]:
        """Nothing fails any more. Returns the jobs once all of them have ended."""
        self.unsure.failing = self.cluster.loss = 0.0
        await self.thaw(0)
        end = time.monotonic() + HEALED_WITHIN
        while True:
            for worker in self.cluster.wild:
                for key in list(worker.attempts):
                    worker.finish(key)
            jobs = await self.jobs()
            left = [job for job in jobs if job.state not in TERMINAL]
            if not left:
                return jobs
            assert time.monotonic() < end, [self.tell(job.id) for job in left]
            await self.pass_time(0.25)
            await asyncio.sleep(0.002)

    async def pass_time(self, seconds: float) -> None:
        """Without a change of leaders, which would mend what has to mend without one."""
        self.clock.advance(seconds)
        for scheduler in self.schedulers:
            if (led := scheduler._led) is not None:
                # As it does, but with all the time that a commit takes on a slow machine.
                term_us = round(self.settings.scheduler.term * 1e6)
                await self.store.lead(scheduler._leadership.leader_id, term_us)
                led.term.chores.set()

    async def jobs(self) -> list[JobRecord]:
        jobs = await self.store.list_jobs(JobQuery(limit=10_000), full=True)
        self.known = {job.id: job for job in jobs}
        return jobs

    def tell(self, job_id: str) -> str:
        """What became of a job, for who reads a failure."""
        job = self.known[job_id]
        ran = [key[1] for key in self.cluster.executions if key[0] == job_id]
        tries = [f"{a.fence} {a.worker_id} {a.failure_json}" for a in job.attempts]
        return f"{job.task} {job.state.name} fence {job.fence}, began as {ran}, attempts {tries}"

    async def close(self) -> None:
        self.unsure.failing = self.cluster.loss = 0.0
        for scheduler in self.schedulers:
            await scheduler.stop(0.0)


async def kill(scheduler: Scheduler) -> None:
    """As far as others can tell: it says nothing to anybody."""
    assert scheduler._main is not None
    assert scheduler._unsubscribe is not None
    scheduler._unsubscribe()
    scheduler._main.cancel()
    await asyncio.wait([scheduler._main])


class Stage:
    """One store for all examples: to open one takes longer than most of them."""

    async def open(self, folder: Path) -> None:
        self.clock = Clock()
        self.place = Place("sqlite", f"sqlite:///{folder / 'jobs.db'}")
        self.kept = Kept(self.place, await self.place.open(self.clock))
        self.store = self.kept.store

    async def run(self, plan: list[tuple[str, int]], seed: int) -> World:
        await self.kept.empty()
        await self.store.declare_queues([QueueDeclaration("default", 0, None, "")])
        world = World(self.store, self.clock, seed)
        try:
            await world.launch()
            await world.launch()
            await world.play(plan)
            await self.examine(world, await world.heal())
        finally:
            await world.close()
        return world

    async def examine(self, world: World, jobs: list[JobRecord]) -> None:
        assert {job.id for job in jobs} == set(world.ids)
        changes = await self.store.read_changes(dict.fromkeys(world.ids, 0))
        ends = {c.job_id: [e.to_state for e in c.events if e.to_state in TERMINAL] for c in changes}
        for job in jobs:
            assert (len(ends[job.id]), ends[job.id][-1]) == (job.run, job.state), "one end a run"
        assert set(world.cluster.executions.values()) <= {1}, "an attempt runs once"
        for job in jobs:
            if job.state == JobState.SUCCEEDED:
                assert job.value_json == f'"{job.fence}"', "a result of the attempt that counts"
        await recount(self.store)


def explore(steps: Any, examples: int, check: Callable[[World], None] = lambda world: None) -> None:
    """Carries out random plans; ends early, but never without an example, when time is up."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="wild-") as folder:
        stage = Stage()
        runner.run(stage.open(Path(folder)))
        started = time.monotonic()

        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(plan=st.lists(steps, min_size=8, max_size=40), seed=st.integers(0, 2**16))
        def example(plan: list[tuple[str, int]], seed: int) -> None:
            if time.monotonic() - started < SECONDS:
                check(runner.run(stage.run(plan, seed)))

        try:
            example()
        finally:
            runner.run(stage.store.close())


def test_everything_ends_once_whatever_breaks() -> None:
    explore(st.one_of(HARMLESS, HARMLESS, OF_STORE, OF_WORKERS), 30)


def test_faults_of_stores_and_leaders_alone_make_no_job_run_twice() -> None:
    """But for tasks that fail and jobs that people retry: its worker goes on, and so does it."""

    def check(world: World) -> None:
        begun = Counter(job_id for job_id, _ in world.cluster.executions)
        again = {job_id for job_id, count in begun.items() if count > 1} - world.repeated
        assert not again, [world.tell(job_id) for job_id in again]

    explore(st.one_of(HARMLESS, HARMLESS, OF_STORE), 30, check)
