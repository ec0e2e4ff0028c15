"""Pools: as many workers as declared, made again when they die."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import Counter
from collections.abc import Sequence

from longshore_cpu_workers.build import Build
from longshore_cpu_workers.wire import WorkerInfo
from longshore_scheduler.cluster import PoolSpec
from longshore_scheduler.crew import Crew
from longshore_scheduler.roster import Worker, WorkerState
from longshore_scheduler.term import Term
from longshore_store.topology_records import PoolRecord, WorkerRecord

_log = logging.getLogger(__name__)
_FIRST_PAUSE = 0.25
_ORDERED = (WorkerState.CORDONED, WorkerState.DRAINING)
_LONGEST_PAUSE = 30.0
_SPARED = 4
"""One worker of so many, and at least one, may be away for a new build at a time."""


def announce(pools: Sequence[PoolSpec]) -> list[PoolRecord]:
    """Pools before any worker is up: what the server needs to admit jobs."""
    return [pool_record(pool, ready=0, starting=0, active=0) for pool in pools]


def pool_record(
    pool: PoolSpec,
    *,
    ready: int,
    starting: int,
    active: int,
    cordoned: int = 0,
    lacks: str = "[]",
) -> PoolRecord:
    """What the store publishes of a pool."""
    settings = pool.settings
    return PoolRecord(
        pool.name,
        pool.shape_json,
        settings.minimum_workers,
        settings.maximum_workers,
        ready,
        starting,
        active,
        pool.simulated,
        pool.build,
        lacks,
        cordoned,
    )


class Pools:
    """Keeps each pool at its size. One worker of a pool is replaced with backoff."""

    def __init__(self, term: Term, crew: Crew) -> None:
        self._term = term
        self._crew = crew
        self._starting: Counter[str] = Counter()

    def maintain(self) -> int:
        """Starts what is missing. Returns how many workers it began to start."""
        begun = 0
        if self._term.stopping:
            return 0
        for pool in self._term.pools.values():
            self._renew(pool)
            missing = self._wanted(pool) - self._size(pool.name) - self._starting[pool.name]
            for _ in range(max(missing, 0)):
                self._starting[pool.name] += 1
                self._term.spawn(self._start(pool), f"start worker of {pool.name}")
                begun += 1
        return begun

    def _renew(self, pool: PoolSpec) -> None:
        """Sets workers of another build aside: idle ones first, and no more at a time than the
        pool can spare. The next ones follow when the replacements are up.

        Until its turn a worker goes on: a pool that let them all go would serve nobody.
        """
        behind = [w for w in self._term.roster if w.pool.name == pool.name and _is_behind(w, pool)]
        if not behind:
            return
        for worker in behind:
            worker.behind = True
        absent = self._wanted(pool) - self._size(pool.name)
        spare = max(1, self._wanted(pool) // _SPARED) - absent
        for worker in sorted(behind, key=lambda worker: len(worker.held))[: max(spare, 0)]:
            worker.set_aside(f"it has build {worker.info.build}, and {pool.build} is deployed")
            _log.info("worker %s is replaced: %s", worker.id, worker.outdated)
            self._term.chores.set()  # an idle one goes at once

    def _wanted(self, pool: PoolSpec) -> int:
        # Autoscaling goes here: between minimum and maximum by backlog and drain rate.
        return pool.settings.minimum_workers

    def _size(self, name: str) -> int:
        """Workers that stay: one that leaves has a replacement from the start."""
        leaving = (
            bool(worker.outdated) or worker.state is WorkerState.DRAINING
            for worker in self._term.roster
            if worker.pool.name == name
        )
        return sum(not leaves for leaves in leaving)

    async def retire(self) -> int:
        """Ends workers that are replaced, once they hold nothing."""
        # One that is drained as well may still be waited for: that ends it.
        steered = [w for w in self._term.roster if w.state is not WorkerState.DRAINING]
        idle = [worker for worker in steered if worker.outdated and not worker.held]
        for worker in idle:
            await self._crew.lose(worker, worker.outdated)
        return len(idle)

    def starting(self, name: str) -> int:
        """How many workers of a pool are not up yet."""
        return self._starting[name]

    async def _start(self, pool: PoolSpec) -> None:
        """Tries until a worker is up, with pauses of 0.25 to 30 s."""
        pause = _FIRST_PAUSE
        try:
            while not (self._term.stopping or self._term.over.is_set()):
                # Declared anew meanwhile, with another build: the worker is made for that.
                if await self._try(self._term.pools.get(pool.name, pool)):
                    return
                await self._term.pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._starting[pool.name] -= 1

    async def _try(self, pool: PoolSpec) -> bool:
        worker_id = f"{pool.name}-{uuid.uuid4().hex[:12]}"
        try:
            info = await self._term.cluster.create_worker(pool, worker_id)
        except Exception as error:  # noqa: BLE001 - one that answers with an error is of no use
            _log.warning("a worker of pool %s did not come up: %s", pool.name, error)
            self._crew.tell(worker_id, self._term.cluster.kill_worker(worker_id))
            return False
        if self._term.stopping:
            await self._term.cluster.kill_worker(worker_id)
            return True
        _compare(info, self._term.build)
        self._crew.welcome(info, pool)
        self._term.chores.set()
        return True

    async def publish(self) -> int:
        """Heartbeats of the workers, and the numbers of the pools. Returns how many workers."""
        term = self._term
        workers = [worker_record(worker) for worker in term.roster]
        pools = [self._record(pool) for pool in term.pools.values()]
        writes = [term.insist(lambda: term.store.publish_pools(pools, term.number))]
        if workers:
            writes.append(term.insist(lambda: term.store.record_workers(term.number, workers)))
        await asyncio.gather(*writes)
        # One that was removed meanwhile must not come back as a row that nobody owns.
        left = [record.id for record in workers if record.id not in term.roster.workers]
        if left:
            await term.insist(lambda: term.store.remove_workers(term.number, left))
        return len(workers)

    def _record(self, pool: PoolSpec) -> PoolRecord:
        workers = [w for w in self._term.roster if w.pool.name == pool.name]
        return pool_record(
            pool,
            ready=sum(w.state is WorkerState.READY for w in workers),
            starting=self._starting[pool.name],
            cordoned=sum(w.state in _ORDERED and not w.outdated for w in workers),
            active=sum(len(w.held) for w in workers),
            lacks=self._lacks([w for w in workers if w.takes_work]),
        )

    def _lacks(self, workers: Sequence[Worker]) -> str:
        """The declared tasks that none of these workers has."""
        declared = frozenset(self._term.build.tasks)
        if any(w.info.tasks is None or declared <= w.info.tasks - w.lacks for w in workers):
            return "[]"
        found = (w.info.tasks - w.lacks for w in workers if w.info.tasks is not None)
        return json.dumps(sorted(declared.difference(*found)))


def _is_behind(worker: Worker, pool: PoolSpec) -> bool:
    """It was made for another build, and has another one. What a worker made for this build has
    is what there is on its machine: another try would bring the same."""
    stays = not worker.outdated and worker.state in (WorkerState.READY, WorkerState.CORDONED)
    info = worker.info
    return stays and pool.build not in ("", info.build, info.made_for)


def _compare(info: WorkerInfo, build: Build) -> None:
    """Says where a new worker has other code than the scheduler that made it."""
    if info.build == build.id:
        return
    missing = [] if info.tasks is None else sorted(set(build.tasks) - info.tasks)
    _log.log(
        logging.WARNING if missing else logging.INFO,
        "worker %s on node %s has build %s (%s), not %s as this scheduler%s: drain it once its"
        " machine has the new code",
        info.worker_id,
        info.node,
        info.build,
        info.description,
        build.id,
        f"; it lacks {', '.join(missing)}" if missing else "",
    )


def worker_record(worker: Worker) -> WorkerRecord:
    """What the store publishes of a worker. Its heartbeat is when it was last heard."""
    info = worker.info
    return WorkerRecord(
        worker.id,
        worker.pool.name,
        int(worker.state),
        info.node,
        info.pid,
        worker.shape_json,
        json.dumps([device._asdict() for device in info.devices]),
        len(worker.held),
        worker.began_us,
        worker.heard_us,
        info.build,
        info.description,
    )
