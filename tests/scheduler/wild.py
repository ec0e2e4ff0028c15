"""A cluster and a store on which anything may go wrong, until they are healed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

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
from longshore_scheduler.cluster import PoolSpec, WorkerGone
from longshore_scheduler.specs import wire_needs
from longshore_store.model import StoreUnavailable
from longshore_store.sql import SqlStore
from tests.scheduler.fake_cluster import FakeCluster, FakeWorker

Key = tuple[str, int]
CANCELLED = Failure(FailureClass.CANCELLED, 1, "CANCELLED", "")
_POLL = 0.01  # real seconds: clocks of these tests are fast
_READS = frozenset(
    {
        "active_attempts",
        "cancel_orders",
        "list_workers",
        "next_due_us",
        "queue_heads",
        "running_redrives",
        "waiting_lanes",
        "worker_orders",
    }
)


class WildWorker(FakeWorker):
    """Takes an attempt once, whatever is repeated, and answers as a real worker does.

    executions: how often each attempt began, on all workers. pending: calls that reached it while
    it was stopped; they are carried out, in order, when it goes on.
    """

    def __init__(
        self, info: WorkerInfo, clock: Callable[[], float], executions: Counter[Key]
    ) -> None:
        super().__init__(info, clock)
        self.attempts: dict[Key, Assignment] = {}
        self.running: set[Key] = set()
        self.pending: list[Callable[[], None]] = []
        self._ended: set[Key] = set()
        self._executions = executions

    def call(self, order: Callable[[], None]) -> None:
        if self.frozen:
            self.pending.append(order)
        else:
            order()

    def thaw(self) -> None:
        super().thaw()
        orders, self.pending = self.pending, []
        if self.alive:
            for order in orders:
                order()

    def take(self, job: Assignment) -> None:
        key = (job.job_id, job.fence)
        if key in self.attempts or key in self._ended:
            return
        self.attempts[key] = job
        if self.stops:
            self.end(Returned(*key, self.clock()))
        elif job.task != "waits":
            self.begin(key)
            if job.task == "echo":
                self.finish(key)

    def begin(self, key: Key) -> None:
        if key in self.attempts and key not in self.running:
            self.running.add(key)
            self._executions[key] += 1
            self.report(Started(*key, self.clock()))

    def finish(self, key: Key) -> None:
        """As its task says; the value of a success tells whose it is."""
        self.begin(key)
        task, now = self.attempts[key].task, self.clock()
        if task == "raises":
            self.end(Failed(*key, now, 0.01, Failure(FailureClass.TASK_ERROR, 2, "BROKEN", "")))
        elif task == "crashes":
            self.end(Failed(*key, now, 0.01, Failure(FailureClass.CRASH, 13, "SIGSEGV", "")))
        else:
            self.end(Succeeded(*key, now, 0.01, f'"{key[1]}"'))

    def end(self, report: Report) -> None:
        key = (report.job_id, report.fence)
        if self.attempts.pop(key, None) is not None:
            self.running.discard(key)
            self._ended.add(key)
            self.report(report)

    def cancel(self, order: Cancel) -> None:
        key = (order.job_id, order.fence)
        self.end(Failed(*key, self.clock(), 0.01 if key in self.running else None, CANCELLED))

    def recall(self, job_id: str, fence: int) -> None:
        key = (job_id, fence)
        if key in self.running or key in self._ended:
            return
        self.attempts.pop(key, None)
        self._ended.add(key)
        self.report(Returned(*key, self.clock()))

    async def poll(self, acknowledged: int, wait: float) -> PollReply:
        return await super().poll(acknowledged, min(wait, _POLL))

    async def stop(self, grace: float) -> None:
        self.stops.append(grace)
        while self.frozen and self.alive:
            await asyncio.sleep(_POLL)
        for key in list(self.attempts):
            if key not in self.running:
                self.end(Returned(*key, self.clock()))
        ends_at = self.clock() + grace
        while self.alive and self.attempts and self.clock() < ends_at:
            await asyncio.sleep(_POLL)
        if not self.alive:
            raise WorkerGone(f"{self.info.worker_id} is dead")
        drained = Failure(FailureClass.DRAINED, 14, "DRAINED", "")
        for key in list(self.attempts):
            self.end(Failed(*key, self.clock(), 0.01, drained))


class WildCluster(FakeCluster):
    """Calls that hand something over are lost with this chance, before or after they arrived."""

    def __init__(self, clock: Callable[[], float], chance: random.Random) -> None:
        super().__init__(clock)
        self.executions: Counter[Key] = Counter()
        self.loss = 0.0
        self._random = chance

    @property
    def wild(self) -> list[WildWorker]:
        return [worker for worker in self.alive if isinstance(worker, WildWorker)]

    async def create_worker(self, pool: PoolSpec, worker_id: str) -> WorkerInfo:
        self.created += 1
        place = (worker_id, pool.name, "node", next(self._pids))
        info = WorkerInfo(*place, wire_needs(pool.shape_json), protocol=PROTOCOL)
        self.workers[worker_id] = WildWorker(info, self.clock, self.executions)
        await asyncio.sleep(0)
        return info

    async def assign(self, worker_id: str, assignments: Sequence[Assignment]) -> None:
        worker = self._wild(worker_id)

        def take() -> None:
            for job in assignments:
                worker.take(job)

        await self._hand_over(worker, take)

    async def cancel(self, worker_id: str, cancels: Sequence[Cancel]) -> None:
        worker = self._wild(worker_id)

        def cancel() -> None:
            for order in cancels:
                worker.cancel(order)

        await self._hand_over(worker, cancel)

    async def recall(self, worker_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        worker = self._wild(worker_id)

        def recall() -> None:
            for job_id, fence in attempts:
                worker.recall(job_id, fence)

        await self._hand_over(worker, recall)

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        worker = self._wild(worker_id)
        return [
            (*key, "RUNNING" if key in worker.running else "WAITING") for key in worker.attempts
        ]

    async def kill_worker(self, worker_id: str) -> None:
        if self._random.random() >= self.loss:
            await super().kill_worker(worker_id)

    async def _hand_over(self, worker: WildWorker, order: Callable[[], None]) -> None:
        await asyncio.sleep(0)
        if self._random.random() < self.loss:
            raise TimeoutError("it was lost on its way")
        worker.call(order)
        if worker.frozen:
            await asyncio.sleep(_POLL)
        if worker.frozen or self._random.random() < self.loss:
            raise TimeoutError("its answer was lost")

    def _wild(self, worker_id: str) -> WildWorker:
        worker = self._find(worker_id)
        assert isinstance(worker, WildWorker)
        return worker


class WildStore:
    """Passes every call on. A share of the writes fails: half before it is done, half after.

    Of the reads a tenth as many: whoever fails to read only waits.
    """

    def __init__(self, store: SqlStore, chance: random.Random) -> None:
        self._store = store
        self._random = chance
        self.failing = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(method):
            return method
        return self._unsure(method, 0.05 if name in _READS else 0.5)

    def _unsure(self, method: Callable[..., Any], share: float) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            if self._random.random() < self.failing * share:
                raise StoreUnavailable("it is away")
            answer = await method(*args, **options)
            if self._random.random() < self.failing * share:
                raise StoreUnavailable("done, and the answer was lost on its way")
            return answer

        return call
