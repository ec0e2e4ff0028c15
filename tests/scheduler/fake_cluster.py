"""A cluster of workers that are plain objects: no processes, no sleeping, faults on demand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import (
    PROTOCOL,
    Assignment,
    Cancel,
    Failed,
    Failure,
    PollReply,
    Report,
    Returned,
    Started,
    Succeeded,
    WorkerInfo,
)
from longshore_scheduler.cluster import ClusterLost, Found, PoolSpec, WorkerGone
from longshore_scheduler.specs import wire_needs

Behaviour = Callable[["FakeWorker", Assignment], None]


def echo(worker: FakeWorker, job: Assignment) -> None:
    """Begins and succeeds at once."""
    now = worker.clock()
    worker.report(
        Started(job.job_id, job.fence, now),
        Succeeded(job.job_id, job.fence, now, 10e-6, job.payload),
    )


def hang(worker: FakeWorker, job: Assignment) -> None:
    """Begins and does not end until the test says so."""
    worker.report(Started(job.job_id, job.fence, worker.clock()))


def never_begin(worker: FakeWorker, job: Assignment) -> None:
    """Stays in the backlog of the worker."""


def fail(kind: FailureClass, reason: str = "BROKEN", message: str = "") -> Behaviour:
    """Begins and fails."""

    def behave(worker: FakeWorker, job: Assignment) -> None:
        worker.report(Started(job.job_id, job.fence, worker.clock()))
        worker.fail(job, Failure(kind, 10, reason, message))

    return behave


class FakeWorker:
    """What a worker actor does, as far as the scheduler can tell."""

    def __init__(self, info: WorkerInfo, clock: Callable[[], float]) -> None:
        self.info = info
        self.clock = clock
        self.jobs: dict[str, Assignment] = {}
        self.assigned: list[Assignment] = []
        self.cancelled: list[Cancel] = []
        self.recalled: list[tuple[str, int]] = []
        self.begun: set[str] = set()
        self.alive = True
        self.frozen = False
        self.obeys = True
        self.deaf = False
        self.outdated = ""
        self.stops: list[float] = []
        self.polls = 0
        self._reports: list[Report] = []
        self._last = 0
        self._changed = asyncio.Event()

    def report(self, *reports: Report) -> None:
        for report in reports:
            if isinstance(report, Started):
                self.begun.add(report.job_id)
            job = self.jobs.get(report.job_id)
            ended = isinstance(report, Succeeded | Failed | Returned)
            if ended and job is not None and job.fence == report.fence:
                del self.jobs[report.job_id]
        self._reports += reports
        self._last += len(reports)
        self._changed.set()

    def succeed(self, job: Assignment, seconds: float = 0.01, value: str = "{}") -> None:
        self.report(Succeeded(job.job_id, job.fence, self.clock(), seconds, value))

    def fail(self, job: Assignment, failure: Failure) -> None:
        seconds = 0.01 if job.job_id in self.begun else None
        self.report(Failed(job.job_id, job.fence, self.clock(), seconds, failure))

    async def poll(self, acknowledged: int, wait: float) -> PollReply:
        self.polls += 1
        first = self._last - len(self._reports)
        del self._reports[: max(acknowledged - first, 0)]
        if not self._reports and self.alive and not self.frozen:
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass
        while self.frozen and self.alive:
            self._changed.clear()
            await self._changed.wait()
        if not self.alive:
            raise WorkerGone(f"{self.info.worker_id} is dead")
        return PollReply(self._last, self.clock(), tuple(self._reports), self.outdated)

    def die(self) -> None:
        self.alive = False
        self._changed.set()

    def thaw(self) -> None:
        self.frozen = False
        self._changed.set()

    def cancel(self, order: Cancel) -> None:
        self.cancelled.append(order)
        job = self.jobs.get(order.job_id)
        if self.obeys and job is not None and job.fence == order.fence:
            self.fail(job, Failure(FailureClass.CANCELLED, 1, "CANCELLED", ""))

    async def stop(self, grace: float) -> None:
        """What begun may end by itself until the test's clock has moved by the grace."""
        self.stops.append(grace)
        for job in list(self.jobs.values()):
            if job.job_id not in self.begun:
                self.report(Returned(job.job_id, job.fence, self.clock()))
        ends_at = self.clock() + grace
        while self.alive and (self.frozen or (self.jobs and self.clock() < ends_at)):
            await asyncio.sleep(0.002)
        if not self.alive:
            raise WorkerGone(f"{self.info.worker_id} is dead")
        for job in list(self.jobs.values()):
            self.fail(job, Failure(FailureClass.DRAINED, 14, "DRAINED", ""))

    def recall(self, job_id: str, fence: int) -> None:
        self.recalled.append((job_id, fence))
        job = self.jobs.get(job_id)
        known = job is None or job.fence == fence  # one that never came is given back too
        if known and job_id not in self.begun and not self.deaf:
            self.report(Returned(job_id, fence, self.clock()))


class FakeCluster:
    """Implements the port. `behaviour` by task; the default is echo."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.workers: dict[str, FakeWorker] = {}
        self.behaviour: dict[str, Behaviour] = {}
        self.default: Behaviour = echo
        self.failing_starts = 0
        self.created = 0
        self.places: int | None = None
        self.code: str | None = None  # the build that its machines have; None is the wanted one
        self.tasks: frozenset[str] | None = None
        self.closed = False
        self.gone = asyncio.Event()
        self._pids = itertools.count(1000)

    @property
    def alive(self) -> list[FakeWorker]:
        return [worker for worker in self.workers.values() if worker.alive]

    def only(self) -> FakeWorker:
        (worker,) = self.alive
        return worker

    async def start(self, pools: Sequence[PoolSpec]) -> None:
        await asyncio.sleep(0)

    async def watch(self) -> None:
        await self.gone.wait()
        raise ClusterLost("the cluster was told to be gone")

    async def create_worker(self, pool: PoolSpec, worker_id: str) -> WorkerInfo:
        self.created += 1
        if self.failing_starts:
            self.failing_starts -= 1
            raise WorkerGone("it died while it started")
        while self.places is not None and len(self.alive) >= self.places:
            await asyncio.sleep(0.002)
        capacity = wire_needs(pool.shape_json)
        place = (worker_id, pool.name, "node", next(self._pids))
        build = pool.build if self.code is None else self.code
        info = WorkerInfo(
            *place,
            capacity,
            protocol=PROTOCOL,
            build=build,
            made_for=pool.build,
            tasks=self.tasks,
        )
        self.workers[worker_id] = FakeWorker(info, self.clock)
        return info

    async def find_workers(self) -> Found:
        return Found(
            [worker.info for worker in self.alive if not worker.frozen],
            [worker.info.worker_id for worker in self.alive if worker.frozen],
        )

    async def assign(self, worker_id: str, assignments: Sequence[Assignment]) -> None:
        worker = self._find(worker_id)
        worker.assigned += assignments
        for job in assignments:
            worker.jobs[job.job_id] = job
            if worker.stops:
                worker.report(Returned(job.job_id, job.fence, worker.clock()))
                continue
            self.behaviour.get(job.task, self.default)(worker, job)

    async def poll(self, worker_id: str, acknowledged: int, wait: float) -> PollReply:
        return await self._find(worker_id).poll(acknowledged, wait)

    async def cancel(self, worker_id: str, cancels: Sequence[Cancel]) -> None:
        worker = self._find(worker_id)
        for order in cancels:
            worker.cancel(order)

    async def recall(self, worker_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        worker = self._find(worker_id)
        for job_id, fence in attempts:
            worker.recall(job_id, fence)

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        worker = self._find(worker_id)
        return [
            (job.job_id, job.fence, "RUNNING" if job.job_id in worker.begun else "WAITING")
            for job in worker.jobs.values()
        ]

    async def stop_worker(self, worker_id: str, grace: float) -> None:
        await self._find(worker_id).stop(grace)

    async def kill_worker(self, worker_id: str) -> None:
        if worker_id in self.workers:
            self.workers[worker_id].die()

    async def close(self) -> None:
        self.closed = True

    def _find(self, worker_id: str) -> FakeWorker:
        worker = self.workers.get(worker_id)
        if worker is None or not worker.alive:
            raise WorkerGone(f"{worker_id} is dead")
        return worker
