"""PoolService: where jobs run, and workers taken out of service.

The server reaches no worker. It writes an order into the store, which the leading scheduler
carries out, this one or the next, and waits until the store says that it is done.
"""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from longshore.v1 import pool_service_pb2 as pools
from longshore.v1.pool_service_pb2_grpc import PoolServiceServicer
from longshore_server.answering import answers, waiting_time
from longshore_server.convert import pool_message, worker_message
from longshore_server.identity import Context
from longshore_server.paging import check_name, named_page
from longshore_server.refusals import Code, Faults, Refusal, cut, not_found, unavailable
from longshore_server.spec_checks import check_duration
from longshore_server.times import HOUR, SECOND, micros, timestamp
from longshore_store.orders import WorkerOrder
from longshore_store.store import Store
from longshore_store.topology_records import WorkerRecord

POOL, WORKER = "longshore.v1.Pool", "longshore.v1.Worker"
DEFAULT_GRACE = Duration(seconds=30)
LONGEST_GRACE = 24 * HOUR
POLL = 0.2
"""Seconds between two looks at what a scheduler has done."""

MARGIN = 60.0
"""Seconds beyond the grace: cancelling and killing take 25, another leader may take over."""

CORDON_PATIENCE = 30.0
MOST_IDS = 1000
READY, CORDONED, DRAINING, LOST = (
    pools.WORKER_STATE_READY,
    pools.WORKER_STATE_CORDONED,
    pools.WORKER_STATE_DRAINING,
    pools.WORKER_STATE_LOST,
)


class _Seen(NamedTuple):
    """A worker as last read, with what was ordered of it. `gone`: there is no row any more."""

    worker: WorkerRecord
    order: WorkerOrder | None
    gone: bool = False

    @property
    def drains(self) -> bool:
        return self.order is not None and self.order.state == DRAINING

    @property
    def drained(self) -> bool:
        """True once the scheduler said that nothing is left on it."""
        return is_drained(self.order)


def is_drained(order: WorkerOrder | None) -> bool:
    """True once the scheduler said that nothing is left on the worker."""
    return order is not None and order.state == DRAINING and order.drain_until_us is None


class PoolService(PoolServiceServicer):
    """Pools and workers as the scheduler last recorded them, and orders to it."""

    def __init__(self, store: Store, *, poll: float = POLL) -> None:
        self._store = store
        self._poll = poll

    @answers
    async def ListPools(
        self, request: pools.ListPoolsRequest, context: Context
    ) -> pools.ListPoolsResponse:
        """A page of pools, by name."""
        rows = sorted(await self._store.list_pools(), key=lambda pool: pool.name)
        found, token = named_page(rows, lambda pool: pool.name, pool_message, request, "pools")
        return pools.ListPoolsResponse(pools=found, next_page_token=token)

    @answers
    async def ListWorkers(
        self, request: pools.ListWorkersRequest, context: Context
    ) -> pools.ListWorkersResponse:
        """A page of workers, by id, of one pool or of all."""
        workers = await self._store.list_workers()
        faults = Faults()
        await self._check_pool(request.pool, workers, faults)
        faults.check()
        rows = [w for w in workers if not request.pool or w.pool == request.pool]
        rows.sort(key=lambda worker: worker.id)
        query = ("workers", request.pool)
        found, token = named_page(rows, lambda w: w.id, worker_message, request, *query)
        orders = {order.worker_id: order for order in await self._store.worker_orders()}
        for worker in found:
            worker.drained = is_drained(orders.get(worker.worker_id))
        return pools.ListWorkersResponse(workers=found, next_page_token=token)

    @answers
    async def GetScheduler(
        self, request: pools.GetSchedulerRequest, context: Context
    ) -> pools.GetSchedulerResponse:
        """Who leads, as the store knows it."""
        leader = await self._store.leader()
        if leader is None:
            return pools.GetSchedulerResponse()
        answer = pools.GetSchedulerResponse(
            leads=leader.until_us > self._store.now_us(),
            scheduler_id=leader.leader_id,
            term=leader.term,
        )
        if leader.until_us:
            answer.term_end_time.CopyFrom(timestamp(leader.until_us))
        return answer

    @answers
    async def DrainWorkers(
        self, request: pools.DrainWorkersRequest, context: Context
    ) -> pools.DrainWorkersResponse:
        """Orders a drain and answers once nothing is left on the workers."""
        grace = request.grace if request.HasField("grace") else DEFAULT_GRACE
        chosen = await self._choose(request, grace)
        until_us = self._store.now_us() + micros(grace)
        await self._store.order_workers([w.id for w in chosen], DRAINING, until_us)
        last = self._now() + waiting_time(context)
        seen = await self._wait(
            chosen,
            lambda one: one.gone or one.drained,
            lambda seen: min(_end_of_drain(seen), last),
        )
        idle = [_brief(worker_message(_at_rest(one))) for one in seen]
        finished = sum(one.order.finished for one in seen if one.order)
        return pools.DrainWorkersResponse(
            workers=idle, finished_attempts=finished, released_attempts=sum(map(_released, seen))
        )

    @answers
    async def CordonWorker(
        self, request: pools.CordonWorkerRequest, context: Context
    ) -> pools.CordonWorkerResponse:
        """Orders a cordon, or its end, and answers once the scheduler knows."""
        check_name(request.worker_id, "worker_id")
        worker = (await self._by_id()).get(request.worker_id)
        if worker is None:
            raise not_found(WORKER, request.worker_id)
        state = CORDONED if request.cordoned else READY
        await self._store.order_workers([worker.id], state)
        until = self._now() + min(CORDON_PATIENCE, waiting_time(context))
        (seen,) = await self._wait([worker], lambda one: _obeys(one, state), lambda _: until)
        if seen.gone:
            raise not_found(WORKER, worker.id)
        if seen.drains and not request.cordoned:
            message = f"worker {worker.id!r} is drained and goes: its pool replaces it"
            raise Refusal(Code.FAILED_PRECONDITION, "WORKER_DRAINING", message)
        return pools.CordonWorkerResponse(worker=worker_message(seen.worker))

    # Choosing

    async def _choose(
        self, request: pools.DrainWorkersRequest, grace: Duration
    ) -> list[WorkerRecord]:
        """Every worker that is named, or in the pool, or on the node. Raises Refusal."""
        faults = Faults()
        if not (request.worker_ids or request.pool or request.node):
            faults.add("worker_ids", "is empty, and so are pool and node; choose some workers")
        if len(request.worker_ids) > MOST_IDS:
            text = f"has {len(request.worker_ids)} ids; give at most {MOST_IDS}, or a pool"
            faults.add("worker_ids", text)
        check_duration(grace, "grace", faults, longest=LONGEST_GRACE)
        faults.check()
        by_id = await self._by_id()
        for place, worker_id in enumerate(request.worker_ids):
            if worker_id not in by_id:
                text = f"{cut(worker_id, 128)!r} is no worker now: `longshore workers` lists them"
                faults.missing(f"worker_ids[{place}]", WORKER, worker_id, text)
        await self._check_pool(request.pool, by_id.values(), faults)
        nodes = _nodes(request.node, {worker.node for worker in by_id.values()}, faults)
        faults.check()
        named = set(request.worker_ids)
        return [
            worker
            for worker in by_id.values()
            if worker.id in named
            or (request.pool and worker.pool == request.pool)
            or worker.node in nodes
        ]

    async def _by_id(self) -> dict[str, WorkerRecord]:
        return {worker.id: worker for worker in await self._store.list_workers()}

    async def _check_pool(self, name: str, workers: Iterable[WorkerRecord], faults: Faults) -> None:
        """A pool that settings dropped may still have workers."""
        if not name or any(worker.pool == name for worker in workers):
            return
        known = sorted(pool.name for pool in await self._store.list_pools())
        if name not in known:
            there_are = ", ".join(known) or "none yet"
            text = f"there is no pool {cut(name, 64)!r}; there are: {there_are}"
            faults.missing("pool", POOL, name, text)

    # Waiting

    async def _wait(
        self,
        chosen: Sequence[WorkerRecord],
        done: Callable[[_Seen], bool],
        until: Callable[[Sequence[_Seen]], float],
    ) -> list[_Seen]:
        """Polls the store until `done` holds of every worker, or the time `until` has come.

        Raises:
            Refusal: UNAVAILABLE, with those that are not done; the order stands.
        """
        seen = [_Seen(worker, None) for worker in chosen]
        while True:
            seen = await self._look(seen)
            late = [one.worker.id for one in seen if not done(one)]
            if not late:
                return seen
            left = until(seen) - self._now()
            if left <= 0:
                message = (
                    f"not carried out yet for {cut(', '.join(late), 200)}: the order stands, and "
                    "is carried out once a scheduler leads; call again to wait for it"
                )
                raise unavailable("ORDER_PENDING", message, 1.0)
            await asyncio.sleep(min(self._poll, left))

    async def _look(self, seen: Sequence[_Seen]) -> list[_Seen]:
        # The orders first: a worker that they call idle then is one in the second reading too.
        orders = {order.worker_id: order for order in await self._store.worker_orders()}
        workers = await self._by_id()
        return [
            one._replace(gone=True)
            if one.gone or one.worker.id not in workers
            else _Seen(workers[one.worker.id], orders.get(one.worker.id))
            for one in seen
        ]

    def _now(self) -> float:
        return self._store.now_us() / SECOND


def _end_of_drain(seen: Sequence[_Seen]) -> float:
    """The last second by which a drain should be over; the first order of a worker stands."""
    ends = [one.order.drain_until_us or 0 for one in seen if one.order and not one.gone]
    return max(ends, default=0) / SECOND + MARGIN


def _obeys(one: _Seen, state: int) -> bool:
    return one.gone or one.drains or one.worker.state == state


def _at_rest(one: _Seen) -> WorkerRecord:
    """One that has gone, as it went: idle at the end of its drain, or before."""
    if not one.gone:
        return one.worker
    return one.worker._replace(state=DRAINING if one.drained else LOST, active_attempts=0)


def _brief(worker: pools.Worker) -> pools.Worker:
    """A drain may be of thousands: what one can look up is left out."""
    worker.ClearField("resources")
    worker.ClearField("devices")
    return worker


def _released(one: _Seen) -> int:
    """A worker that vanished in its drain has lost what it held last."""
    counted = one.order.released if one.order else 0
    return counted + (one.worker.active_attempts if one.gone and not one.drained else 0)


def _nodes(wanted: str, nodes: set[str], faults: Faults) -> set[str]:
    """Those that are named, by host or id or both; else the only one that begins so."""
    if not wanted:
        return set()
    named = {node for node in nodes if wanted in (node, *node.split("/"))}
    if named:
        return named
    begun = {node for node in nodes if any(p.startswith(wanted) for p in (node, *node.split("/")))}
    if len(begun) > 1:
        listed = ", ".join(sorted(begun)[:5])
        text = f"{cut(wanted, 128)!r} begins the names of several nodes: {listed}; name one"
        faults.add("node", text)
    return begun
