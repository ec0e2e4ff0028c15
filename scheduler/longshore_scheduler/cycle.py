"""The cycle: which jobs wait, where they go, and the leases that make it true."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from longshore_scheduler.delivery import Delivery
from longshore_scheduler.plan import LaneKey, Plan, Snapshot, WorkerView, plan
from longshore_scheduler.term import Term, wait_for_event
from longshore_scheduler.turns import MAXIMUM_HEADS, Turns
from longshore_store.model import Fenced, Head, Lease, Leased, StoreUnavailable

_log = logging.getLogger(__name__)
_FEWEST_HEADS = 64
_DIG_EVERY = 1.0
_SHORTEST_PERIOD = 0.005
_LONGEST_PERIOD = 0.02
_PERIOD_OF_A_JOB = 0.002
_MOST_LOST = 1000


class CycleCounts(NamedTuple):
    """What a cycle did. `full`: all that was read was placed, so that more may be placeable."""

    heads: int = 0
    placed: int = 0
    leased: int = 0
    assigned: int = 0
    full: bool = False


class Cycle:
    """snapshot -> plan -> lease -> assign, while the crew absorbs reports and the sweep sweeps."""

    def __init__(self, term: Term, delivery: Delivery) -> None:
        self._term = term
        self._delivery = delivery
        self._turns = Turns()
        self._next = -math.inf
        self._hidden = False
        self._dug_at = -math.inf
        self._lost: set[str] = set()

    async def run(self) -> None:
        """Until the term is over: at once when woken, else at the sweep interval."""
        term = self._term
        while not (term.over.is_set() or term.stopping):
            woken = await wait_for_event(term.wake, term.settings.sweep_interval)
            term.wake.clear()
            if term.over.is_set() or term.stopping:
                return
            await self._gather()
            try:
                counts = await self.run_once()
            except Fenced:
                term.end("another leader has a newer one")
            except StoreUnavailable as error:
                _log.warning("a cycle was given up, the store is away: %s", error)
                await term.pause(0.1)
                term.wake.set()
            else:
                self._next = term.clock() + self._period(counts) if counts.leased else -math.inf
                self._follow_up(counts, woken)

    async def _gather(self) -> None:
        """Lets work come together where cycles follow one another; an idle one starts at once.

        A cycle costs three transactions and a call to a worker, whether for one job or hundreds.
        """
        pause = self._next - self._term.clock()
        if pause > 0:
            await asyncio.sleep(pause)

    def _period(self, counts: CycleCounts) -> float:
        """Seconds to the next cycle: where many came since the last one, many more will come.

        Not while jobs wait: then it is room that is short, and what is free is given at once.
        """
        if self._term.backlog:
            return _SHORTEST_PERIOD
        return min(max(_PERIOD_OF_A_JOB * counts.leased, _SHORTEST_PERIOD), _LONGEST_PERIOD)

    def _follow_up(self, counts: CycleCounts, woken: bool) -> None:
        if counts.full and counts.leased:
            self._term.wake.set()
        elif woken and not counts.heads:  # perhaps a job for later: see when it is due
            self._term.chores.set()

    async def run_once(self) -> CycleCounts:
        """One cycle. Raises StoreUnavailable and Fenced, with no room taken for nothing."""
        self._term.backlog = True  # until we know better: a report meanwhile must wake us
        wanted = self._appetite()
        if not wanted:
            return CycleCounts(heads=1)
        snapshot, unread = await self._snapshot(wanted)
        planned = plan(snapshot)
        self._term.backlog = unread or bool(planned.waiting)
        self._hidden = unread and bool(planned.waiting)
        self._note_lost(planned.waiting, snapshot.workers)
        leased = await self._lease(planned)
        assigned = await self._delivery.hand_over(leased)
        heads, placed = sum(map(len, snapshot.heads.values())), len(planned.placements)
        return CycleCounts(heads, placed, len(leased), assigned, unread and heads == placed)

    async def _snapshot(self, wanted: int) -> tuple[Snapshot, bool]:
        """Workers and the front of every lane; and whether there is more than was read."""
        term = self._term
        lanes = await term.store.waiting_lanes()
        self._turns.join(lanes)
        rations = self._turns.ration(lanes, wanted)
        heads = await term.store.queue_heads(rations, self._still_lost()) if rations else []
        snapshot = Snapshot(
            workers=[worker.view() for worker in term.roster.ready()],
            heads=self._by_lane(heads),
            offers=term.offers,
            run_times=term.run_times.means,
            passes=self._turns.passes,
            prefetch=term.settings.prefetch,
            maximum_prefetch=term.settings.maximum_prefetch,
            maximum_interruptions=term.limits.interruptions,
        )
        return snapshot, sum(lane.waiting for lane in lanes) > len(heads) > 0

    def _still_lost(self) -> list[str]:
        if self._lost:
            workers = [worker.view() for worker in self._term.roster.ready()]
            self._lost = {task for task in self._lost if _is_lost(task, workers)}
        return sorted(self._lost)

    def _note_lost(self, waiting: Iterable[Head], workers: Sequence[WorkerView]) -> None:
        """Jobs whose task no worker has may be many, after a deploy that dropped it: from the next
        cycle on they are not read, so that they do not hide those behind them."""
        new = {head.task for head in waiting} - self._lost
        new = {task for task in new if _is_lost(task, workers)}
        if new and len(self._lost) < _MOST_LOST:
            self._lost |= new
            self._term.wake.set()

    def _appetite(self) -> int:
        """How many heads the workers could take at most; 0 where no worker has any room."""
        ready = [worker for worker in self._term.roster.ready() if worker.room.runners > 0]
        if not ready:
            return 0
        ahead = self._term.settings.maximum_prefetch if self._term.run_times.means else 0
        room = sum(max(w.room.runners + ahead - w.quick_count, 0) for w in ready)
        return min(max(room, self._fewest()), MAXIMUM_HEADS)

    def _fewest(self) -> int:
        """What fits nowhere must not hide what waits behind it: now and then all is looked at.
        Not in each cycle, as that costs tens of milliseconds and the front may just be a backlog.
        """
        now = self._term.clock()
        if not self._hidden or now - self._dug_at < _DIG_EVERY:
            return _FEWEST_HEADS
        self._dug_at = now
        return MAXIMUM_HEADS

    def _by_lane(self, heads: Iterable[Head]) -> dict[LaneKey, list[Head]]:
        held = self._term.roster.held
        lanes: dict[LaneKey, list[Head]] = {}
        for head in heads:
            known = held.get(head.id)
            if known is None or known.settled:
                lanes.setdefault((head.queue, head.tenant), []).append(head)
        return lanes

    async def _lease(self, planned: Plan) -> list[Leased]:
        """Leases what was placed; gives back the room of what was not granted."""
        if not planned.placements:
            return []
        term = self._term
        self._turns.charge(planned.served)
        builds = {worker.id: worker.info.build for worker in term.roster}
        leases = [
            Lease(head.id, head.fence, worker, builds[worker])
            for head, worker, *_ in planned.placements
        ]
        ids = [lease.job_id for lease in leases]
        reserved = term.roster.reserve(planned.placements, term.clock())
        leased: list[Leased] = []
        term.writing.update(ids)
        try:
            leased = await term.store.lease_jobs(term.number, leases)
        finally:
            term.writing.difference_update(ids)
            if len(leased) < len(leases):
                granted = {job.id for job in leased}
                term.roster.drop(held for held in reserved if held.job_id not in granted)
        return leased


def _is_lost(task: str, workers: Sequence[WorkerView]) -> bool:
    return not any(worker.has(task) for worker in workers)
