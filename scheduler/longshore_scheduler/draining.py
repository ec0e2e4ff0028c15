"""What people ordered of workers, carried out: cordons, and drains from order to farewell.

An order lies in the store, so that it outlives the leader which carries it out: the next one
adopts the worker, finds the order and goes on. A drained worker stays for a while, idle: it
holds its place on its node, so that its replacement comes up on another one where there is room.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from longshore_scheduler.crew import Crew
from longshore_scheduler.pools import Pools
from longshore_scheduler.roster import Worker, WorkerState
from longshore_scheduler.term import Term
from longshore_store.orders import DrainUpdate, WorkerOrder

_log = logging.getLogger(__name__)

KEPT = 600.0
"""Seconds that a drained worker is kept at most; its node may be gone long before."""

PATIENCE = 5.0
"""Seconds in which a replacement that has room elsewhere comes up. One that has not needs the
place of a drained worker: on a machine whose only worker was drained, say."""

SEEN = 2.0
"""Seconds for whoever waits for the drain to read that the worker is idle, before it goes."""


@dataclass(slots=True)
class _Drain:
    """One worker on its way out. Clocks are the scheduler's; idle_at None while it has work.

    finished, released: what an earlier leader had counted.
    """

    worker: Worker
    begun_at: float
    finished: int
    released: int
    idle_at: float | None = None
    told: bool = False

    def update(self, known: WorkerOrder) -> DrainUpdate | None:
        """What the store does not know yet; None where it knows all."""
        finished = self.finished + self.worker.finished - known.finished
        released = self.released + self.worker.released - known.released
        idle = self.idle_at is not None and not self.told
        if not (finished or released or idle):
            return None
        return DrainUpdate(self.worker.id, finished, released, idle)


class Draining:
    """A chore of the sweep."""

    def __init__(self, term: Term, crew: Crew, pools: Pools) -> None:
        self._term = term
        self._crew = crew
        self._pools = pools
        self._drains: dict[str, _Drain] = {}
        self._yielded: dict[str, float] = {}

    async def run_once(self, now: float) -> int:
        """Reads the orders and does what is due. Returns how many workers changed their state."""
        term = self._term
        orders = await term.insist(self._orders)
        changed = term.roster.obey(orders)
        if changed:
            term.wake.set()
        for worker in term.roster:
            order = orders.get(worker.id)
            if order and order.state == WorkerState.DRAINING and worker.id not in self._drains:
                self._begin(worker, order, now)
        self._drains = {i: d for i, d in self._drains.items() if i in term.roster.workers}
        await self._record(orders)
        await self._let_go(now)
        return changed

    def _begin(self, worker: Worker, order: WorkerOrder, now: float) -> None:
        until_us = order.drain_until_us
        left = 0.0 if until_us is None else (until_us - self._term.store.now_us()) / 1e6
        _log.info(
            "worker %s is drained: its %d attempts have %.0f s",
            worker.id,
            len(worker.held),
            max(left, 0.0),
            extra={"worker_id": worker.id, "pool": worker.pool.name},
        )
        self._drains[worker.id] = drain = _Drain(worker, now, order.finished, order.released)
        self._term.spawn(self._drain(drain, max(left, 0.0)), f"drain {worker.id}")

    async def _drain(self, drain: _Drain, grace: float) -> None:
        worker = drain.worker
        home = await self._crew.bring_home(worker, grace)
        if not home:
            await self._crew.lose(worker, "it did not stop in order")
            return
        drain.idle_at = self._term.clock()
        _log.info(
            "nothing is left on worker %s: %d attempts ended, %d were taken back",
            worker.id,
            drain.finished + worker.finished,
            drain.released + worker.released,
            extra={"worker_id": worker.id, "pool": worker.pool.name},
        )
        self._term.chores.set()

    async def _orders(self) -> dict[str, WorkerOrder]:
        return {order.worker_id: order for order in await self._term.store.worker_orders()}

    def _updates(self, orders: Mapping[str, WorkerOrder]) -> list[DrainUpdate]:
        drains = [drain for drain in self._drains.values() if drain.worker.id in orders]
        updates = [drain.update(orders[drain.worker.id]) for drain in drains]
        return [update for update in updates if update is not None]

    async def _record(self, orders: Mapping[str, WorkerOrder]) -> None:
        """Tells the store, and so whoever waits for the drain, what came of it since."""
        idle = [drain for drain in self._drains.values() if drain.idle_at is not None]
        if self._updates(orders):
            await self._term.insist(self._try_to_record)
        for drain in idle:
            drain.told = True

    async def _try_to_record(self) -> None:
        # Read anew at each try: counts are added, and a try may have come through.
        if updates := self._updates(await self._orders()):
            await self._term.store.record_drains(self._term.number, updates)

    async def _let_go(self, now: float) -> None:
        """Ends drained workers that were kept for long, or whose place is needed."""
        idle: defaultdict[str, list[_Drain]] = defaultdict(list)
        for drain in self._drains.values():
            if drain.told and drain.idle_at is not None:
                idle[drain.worker.pool.name].append(drain)
        for pool, drains in idle.items():
            yielding = self._yielding(pool, drains, now)
            for drain in drains:
                assert drain.idle_at is not None
                if drain in yielding or now - drain.idle_at >= KEPT:
                    await self._crew.lose(drain.worker, "it was drained")

    def _yielding(self, pool: str, drains: list[_Drain], now: float) -> list[_Drain]:
        """As many as the pool still waits for, once these had time to come up elsewhere. All of a
        pool that is gone: nothing replaces them, and others may wait for their place."""
        ready = [d for d in drains if d.idle_at is not None and now - d.idle_at >= SEEN]
        if drains[0].worker.pool.former:
            return ready
        missing = self._pools.starting(pool)
        since = max(min(d.begun_at for d in drains), self._yielded.get(pool, -math.inf))
        if not missing or now - since < PATIENCE:
            return []
        if ready:
            self._yielded[pool] = now
        return ready[:missing]
