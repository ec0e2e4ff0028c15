"""The chores of a term: each is a function that does its work once and returns a count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from longshore_cpu_workers.wire import Cancel
from longshore_scheduler.crew import Crew
from longshore_scheduler.draining import Draining
from longshore_scheduler.forgotten import Forgotten
from longshore_scheduler.pools import Pools
from longshore_scheduler.redriving import Redriving
from longshore_scheduler.roster import Held, Told, Worker, WorkerState
from longshore_scheduler.term import Term, wait_for_event
from longshore_store.model import ActiveAttempt, Attempted
from longshore_store.orders import CancelOrder

_LIMIT = 1000
OVERDUE = 0.25
"""Seconds after which an attempt that was handed ahead should have begun."""

_REPEAT = 5.0
"""Seconds after which an order to a worker is given again."""

_PUBLISH_EVERY = 3.0
_ORPHANS_EVERY = 5.0


class Swept(NamedTuple):
    """How much each chore did."""

    promoted: int = 0
    expired: int = 0
    cancelled: int = 0
    recalled: int = 0
    lost: int = 0
    unheard: int = 0
    orphans: int = 0
    asked: int = 0
    steered: int = 0
    redriven: int = 0
    retired: int = 0
    started: int = 0


@dataclass(slots=True)
class _Clocks:
    """When a chore was done last, by the scheduler's clock.

    swept_us: by the store's; before the first sweep, when the term began.
    """

    swept_us: int
    published: float = float("-inf")
    orphans: float = float("-inf")
    suspects: set[tuple[str, int]] = field(default_factory=set)


class Sweep:
    """Runs at the sweep interval, when something falls due, and when it is asked to.

    rounds: how often it ran; for tests that wait for nothing to happen.
    """

    def __init__(self, term: Term, crew: Crew, pools: Pools) -> None:
        self._term = term
        self._crew = crew
        self._pools = pools
        self._draining = Draining(term, crew, pools)
        self._forgotten = Forgotten(term, crew)
        self._redriving = Redriving(term)
        self._clocks = _Clocks(term.store.now_us())
        self.rounds = 0
        self._shown: frozenset[tuple[str, WorkerState]] | None = None

    async def run(self) -> None:
        """Until the term is over."""
        while not self._term.over.is_set():
            await self.run_once()
            self.rounds += 1
            await wait_for_event(self._term.chores, await self._until_next())
            self._term.chores.clear()

    async def run_once(self) -> Swept:
        """Every chore that is due."""
        now = self._term.clock()
        due = await self._due()
        swept = Swept(
            promoted=await self.promote() if due else 0,
            expired=await self.expire() if due else 0,
            cancelled=await self.order_cancels(),
            recalled=self.recall_overdue(now),
            lost=await self.lose_silent(),
            unheard=await self.release_unheard(),
            orphans=await self.release_orphans(now),
            asked=self._forgotten.run_once(now),
            steered=await self._draining.run_once(now),
            redriven=await self._redriving.run_once(),
            retired=await self._pools.retire(),
            started=self._pools.maintain(),
        )
        await self._publish(now)
        self._term.journal.sum_up()
        return swept

    async def _until_next(self) -> float:
        """Seconds until a chore is due: at most the sweep interval, at least a millisecond."""
        term = self._term
        wait = term.settings.sweep_interval
        if any(worker.quick_count for worker in term.roster):
            wait = min(wait, OVERDUE)
        due_us = await term.insist(term.store.next_due_us)
        if due_us is not None:
            wait = min(wait, (due_us - term.store.now_us()) / 1e6)
        return max(wait, 0.001)

    async def _due(self) -> bool:
        """True where a job waits for a time that has come: most sweeps then write nothing."""
        due_us = await self._term.insist(self._term.store.next_due_us)
        return due_us is not None and due_us <= self._term.store.now_us()

    async def promote(self) -> int:
        """Queues what has fallen due."""
        promoted = await self._all(self._term.store.promote_jobs)
        if promoted:
            self._term.wake.set()
        return promoted

    async def expire(self) -> int:
        """Ends waiting jobs whose deadline has passed."""
        return await self._all(self._term.store.expire_jobs)

    async def _all(self, step: Callable[[int, int], Awaitable[int]]) -> int:
        """Repeats a bounded step until it has nothing left to do."""
        total, count = 0, _LIMIT
        while count >= _LIMIT:
            count = await self._term.insist(lambda: step(self._term.number, _LIMIT))
            total += count
        return total

    async def order_cancels(self) -> int:
        """Tells workers of cancelled jobs; confirms those that nobody runs."""
        term = self._term
        ended: list[Attempted] = []
        cancels: defaultdict[Worker, list[Cancel]] = defaultdict(list)
        recalls: defaultdict[Worker, list[tuple[str, int]]] = defaultdict(list)
        for order in await term.insist(term.store.cancel_orders):
            worker = term.roster.workers.get(order.worker_id)
            held = term.roster.find(order.job_id, order.fence)
            if worker is None:
                ended.append(Attempted(order.job_id, order.fence))
            elif held is not None:
                self._order(order, worker, held, cancels, recalls)
        for worker, orders in cancels.items():
            self._crew.tell(worker.id, term.cluster.cancel(worker.id, orders))
        for worker, pairs in recalls.items():
            self._crew.tell(worker.id, term.cluster.recall(worker.id, pairs))
        await term.persist(term.store.confirm_cancels, ended)
        return len(ended) + len(cancels) + len(recalls)

    def _order(
        self,
        order: CancelOrder,
        worker: Worker,
        held: Held,
        cancels: defaultdict[Worker, list[Cancel]],
        recalls: defaultdict[Worker, list[tuple[str, int]]],
    ) -> None:
        """Recall what has not begun, which is quick and clean; cancel what has."""
        begun = held.started_at is not None or held.told is Told.RECALL
        strength = Told.FORCE if order.force else Told.CANCEL if begun else Told.RECALL
        now = self._term.clock()
        if strength <= held.told and now - held.ordered_at < _REPEAT:
            return
        if strength is Told.RECALL:
            recalls[worker].append((held.job_id, held.fence))
        else:
            cancels[worker].append(Cancel(held.job_id, held.fence, order.force))
        held.order(strength, now)

    def recall_overdue(self, now: float) -> int:
        """Takes back what waits behind slower work than was thought, if another worker is idle or
        its task has turned slow."""
        recalls: defaultdict[Worker, list[tuple[str, int]]] = defaultdict(list)
        for worker in self._term.roster:
            for held in worker.overdue(now - OVERDUE):
                if held.started_at is not None:
                    self._learn(worker, held, now)
                elif self._recallable(worker, held):
                    recalls[worker].append((held.job_id, held.fence))
                    held.order(Told.RECALL, now)
        for worker, pairs in recalls.items():
            self._crew.tell(worker.id, self._term.cluster.recall(worker.id, pairs))
        return sum(map(len, recalls.values()))

    def _learn(self, worker: Worker, held: Held, now: float) -> None:
        if held.estimate is not None and held.started_at is not None:
            worker.outgrow(held)
            self._term.run_times.observe(held.task, now - held.started_at)

    def _recallable(self, worker: Worker, held: Held) -> bool:
        waits = held.ahead and held.fence > 0 and held.told is Told.NOTHING
        return waits and (self._is_slow(held.task) or self._idle_elsewhere(worker, held))

    def _is_slow(self, task: str) -> bool:
        """It would not be handed ahead any more: what was waits in the queue again, where what is
        more urgent goes first."""
        term = self._term
        return term.run_times.means.get(task, 0.0) > term.settings.prefetch

    def _idle_elsewhere(self, worker: Worker, held: Held) -> bool:
        pools = self._term.eligible(held.needs)
        return any(
            other is not worker
            and other.pool.name in pools
            and other.idle_for(held.task, held.needs)
            for other in self._term.roster
        )

    async def lose_silent(self) -> int:
        """Releases what workers hold that have been silent for longer than the lease.

        The store's clock judges, which the published heartbeats are by too. Time in which this
        process itself did not run is not their silence: a step counts for at most two intervals,
        however long it was.
        """
        settings, store = self._term.settings, self._term.store
        lease_us, now_us = settings.lease * 1e6, store.now_us()
        step_us, self._clocks.swept_us = now_us - self._clocks.swept_us, now_us
        excess_us = max(0, step_us - round(2e6 * settings.sweep_interval))
        for worker in self._term.roster:
            worker.excuse(step_us if worker.absorbing else excess_us, now_us)
        lost = 0
        for worker in [w for w in self._term.roster if w.silent_us(now_us) > lease_us]:
            silent_us = worker.silent_us(store.now_us())
            if silent_us > lease_us:  # still: the one before it may have taken long
                await self._crew.lose(worker, f"silent for {silent_us / 1e6:.0f} s")
                lost += 1
        return lost

    async def release_unheard(self) -> int:
        """Releases what was to be given up, had not begun and was not answered for in a lease.

        The worker lives and would have answered: an earlier leader leased the attempt and died
        before it handed it over.
        """
        unheard = [held for worker in self._term.roster for held in self._unheard(worker)]
        await self._crew.give_up(unheard)
        return len(unheard)

    def _unheard(self, worker: Worker) -> list[Held]:
        # Up to its last reply all is known that it said: what we did not ask for may be an answer.
        quiet = (self._term.store.now_us() - worker.heard_us) / 1e6
        before = self._term.clock() - quiet - self._term.settings.lease
        return [
            held
            for held in worker.overdue(before)
            if held.told is not Told.NOTHING and held.started_at is None and held.told_at < before
        ]

    async def release_orphans(self, now: float) -> int:
        """Releases attempts that the store counts as held and nobody has.

        A lease whose commit was reported as an error leaves one. Only what is an orphan twice in
        a row is: between the two readings every write in flight has ended.
        """
        if now - self._clocks.orphans < _ORPHANS_EVERY:
            return 0
        self._clocks.orphans = now
        term = self._term
        attempts = await term.insist(term.store.active_attempts)
        orphans = [job for job in attempts if self._is_orphan(job)]
        known = self._clocks.suspects
        again = [job for job in orphans if (job.id, job.fence) in known]
        self._clocks.suspects = {(job.id, job.fence) for job in orphans}
        await self._crew.release_orphans(again, leased_by_us=True)
        return len(again)

    def _is_orphan(self, job: ActiveAttempt) -> bool:
        if job.id in self._term.writing:
            return False
        held = self._term.roster.held.get(job.id)
        if held is None or held.fence != job.fence:
            return True
        # Nobody is left who could bring its outcome, or what came of it is not in the store.
        worker = held.worker
        return worker is None or (worker.state is WorkerState.LOST and not worker.absorbing)

    async def _publish(self, now: float) -> None:
        if now - self._clocks.published >= _PUBLISH_EVERY or self._unpublished():
            self._clocks.published = now
            await self._pools.publish()

    def _unpublished(self) -> bool:
        """A worker came or went, or changed its state."""
        shown = frozenset((worker.id, worker.state) for worker in self._term.roster)
        changed, self._shown = shown != self._shown, shown
        return changed
