"""The living workers of a term: hearing them, handing them work, and mourning them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Sequence

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import PROTOCOL, Cancel, DeviceInfo, Failure, WorkerInfo
from longshore_scheduler.absorb import Absorber, Batch
from longshore_scheduler.cluster import PoolSpec, WorkerGone
from longshore_scheduler.policy import Release
from longshore_scheduler.roster import Held, Told, Worker, WorkerState
from longshore_scheduler.specs import wire_needs
from longshore_scheduler.term import Term
from longshore_store.model import ActiveAttempt, Attempted, Fenced
from longshore_store.needs import parse_needs
from longshore_store.settings import PoolSettings
from longshore_store.telling import without_values
from longshore_store.topology_records import WorkerRecord

_log = logging.getLogger(__name__)
_UNAVAILABLE = 14
POLL_WAIT = 5.0
"""Seconds a worker may keep a poll open while it has nothing to say; less with a short lease."""

_POLLS_A_LEASE = 4

_SHORTEST_PERIOD = 0.01
_PERIOD_OF_A_REPORT = 0.001
"""Seconds from one poll with reports to the next: a call costs milliseconds for one or hundreds."""

_STOP_MARGIN = 15.0
"""Seconds beyond the grace for killing what does not end by itself."""

_LAST_REPORTS = 5.0
"""Seconds for absorbing what a stopped worker still has to say."""

DRAINED = Failure(
    FailureClass.DRAINED, _UNAVAILABLE, "DRAINED", "its worker was taken out of service"
)
UNDELIVERED = Failure(FailureClass.PREEMPTED, _UNAVAILABLE, "UNDELIVERED", "no worker got it")


class Crew:
    """Every worker has one task that follows it: poll, absorb, acknowledge."""

    def __init__(self, term: Term, absorber: Absorber) -> None:
        self._term = term
        self._absorber = absorber
        self._followers: dict[str, asyncio.Task[None]] = {}

    def welcome(self, info: WorkerInfo, pool: PoolSpec, *, answers: bool = True) -> Worker:
        """A worker is up: it takes work from now on, or from its first answer on."""
        worker = Worker(info, pool, self._term.store.now_us(), answers=answers)
        self._term.roster.add(worker)
        follower = self._term.spawn(self._follow_to_the_end(worker), f"follow {worker.id}")
        self._followers[worker.id] = follower
        _log.info(
            "worker %s of pool %s is up: process %d on node %s",
            worker.id,
            pool.name,
            info.pid,
            info.node,
            extra={"worker_id": worker.id, "pool": pool.name, "node": info.node},
        )
        self._term.wake.set()
        return worker

    async def adopt(self) -> int:
        """Takes over living workers and what they hold; releases what nobody holds.

        Attempts that had not begun are recalled: the earlier leader may have died between the
        lease and the call that hands it over. Returns how many attempts were released.
        """
        term = self._term
        # First the store, then the workers: whatever began in between is only reported.
        attempts = await term.insist(term.store.active_attempts)
        orders = {order.worker_id: order for order in await term.insist(term.store.worker_orders)}
        await self._adopt_workers()
        term.roster.obey(orders)  # before the first cycle places anything on them
        orphans: list[ActiveAttempt] = []
        recalls: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for job in attempts:
            worker = term.roster.workers.get(job.worker_id)
            if worker is None:
                orphans.append(job)
                continue
            held = term.roster.adopt(worker, job, parse_needs(job.needs_json), term.clock())
            if job.started_us is None:
                held.order(Told.RECALL, term.clock())
                recalls[worker.id].append((job.id, job.fence))
        for worker_id, pairs in recalls.items():
            self.tell(worker_id, term.cluster.recall(worker_id, pairs))
        await self.release_orphans(orphans)
        await self._forget_the_vanished()
        return len(orphans)

    async def _adopt_workers(self) -> None:
        """A worker that is slow to answer keeps what it holds until its lease is over.

        Ended are silent ones that the store does not know: they were not up yet when their leader
        died. A worker of a pool that nobody declares any more ends what it runs, and goes.
        """
        term = self._term
        found = await term.cluster.find_workers()
        silent = set(found.silent)
        known = await term.insist(term.store.list_workers) if silent else []
        unheard = {w.id: unheard_worker(w) for w in known if w.id in silent}
        ended = [worker_id for worker_id in found.silent if worker_id not in unheard]
        living = [(info, True) for info in found.answered]
        living += [(info, False) for info in unheard.values()]
        if ended:
            await term.confirm()
        for worker_id in ended:
            self.tell(worker_id, term.cluster.kill_worker(worker_id))
        for info, answers in living:
            pool = term.pools.get(info.pool) or former_pool(info)
            self.welcome(info, pool, answers=answers)

    async def _forget_the_vanished(self) -> None:
        """Workers that only the store still knows of are none."""
        term = self._term
        known = await term.insist(term.store.list_workers)
        vanished = [w.id for w in known if w.id not in term.roster.workers]
        if vanished:
            await term.insist(lambda: term.store.remove_workers(term.number, vanished))

    async def release_orphans(
        self, attempts: Sequence[ActiveAttempt], *, leased_by_us: bool = False
    ) -> None:
        """Releases attempts that the store counts as held and no worker has.

        leased_by_us: in this term. One that never was in the roster is a lease whose answer was
        lost: nobody got it, and nothing is counted against its job.
        """
        batch, roster = Batch(), self._term.roster
        lost = Counter(job.worker_id for job in attempts)
        for job in attempts:
            held, failure = roster.held.get(job.id), _lost("its worker is gone")
            if held is None or held.fence != job.fence:
                held = Held.orphan(job)
                if leased_by_us and job.started_us is None:
                    failure = UNDELIVERED
            roster.settle(held)
            beside = lost[job.worker_id] - 1
            self._absorber.set_back(batch, held, failure, job.started_us, beside=beside)
        await self._absorber.write(batch)

    async def _follow_to_the_end(self, worker: Worker) -> None:
        try:
            await self._follow(worker)
        except WorkerGone as error:
            await self.lose(worker, str(error))
        except Fenced:
            return
        except Exception as error:  # noqa: BLE001 - one bad worker must not end the term
            # Its text may quote what another tenant's job said.
            _log.error("worker %s cannot be followed: %s", worker.id, without_values(error))
            await self.lose(worker, f"its reports cannot be read: {type(error).__name__}")

    async def _follow(self, worker: Worker) -> None:
        acknowledged = 0
        # An answer is the heartbeat: quiet work must not look like silence.
        wait = min(POLL_WAIT, self._term.settings.lease / _POLLS_A_LEASE)
        while worker.state is not WorkerState.LOST:
            try:
                reply = await self._term.cluster.poll(worker.id, acknowledged, wait)
            except TimeoutError:
                await self._term.pause(0.2)
                continue  # the sweep counts its silence
            if not worker.answers:
                self._term.wake.set()
            heard_at = self._term.clock()
            worker.hear(self._term.store.now_us())
            if reply.outdated and not worker.outdated:
                _log.warning("worker %s is replaced: %s", worker.id, reply.outdated)
                worker.set_aside(reply.outdated)
                self._term.chores.set()
            for device in worker.close_devices(reply.set_aside):
                place = (worker.id, device.index, device.uuid)
                _log.error("worker %s: device %d (%s) failed attempts, and is set aside", *place)
            if reply.reports:
                worker.absorbing = True
                try:
                    batch = await self._absorber.absorb(worker, reply)
                finally:
                    worker.absorbing = False
                worker.count(len(batch.ended), len(batch.setbacks[Release]))
                self._end_strays(worker, batch.strays)
                await self._gather(heard_at, len(reply.reports))
            acknowledged = reply.last

    async def _gather(self, heard_at: float, reports: int) -> None:
        """Lets reports come together where they come in a stream; one alone goes at once."""
        if reports > 2:  # more than the start and the end of one attempt
            period = min(_PERIOD_OF_A_REPORT * reports, _SHORTEST_PERIOD)
            if (pause := heard_at + period - self._term.clock()) > 0:
                await self._term.pause(pause)

    def _end_strays(self, worker: Worker, strays: Iterable[Attempted]) -> None:
        cancels = [Cancel(job_id, fence, force=True) for job_id, fence in strays]
        if cancels:
            self.tell(worker.id, self._term.cluster.cancel(worker.id, cancels))

    async def give_up(self, unheard: Sequence[Held]) -> None:
        """Releases what its worker does not answer for: it was never handed over."""
        await self.release(unheard, UNDELIVERED)  # first: Fenced says that it is not ours
        for held in unheard:
            if held.worker is not None:
                order = [Cancel(held.job_id, held.fence, force=True)]
                self.tell(held.worker.id, self._term.cluster.cancel(held.worker.id, order))

    async def forget(self, attempts: Sequence[Held]) -> None:
        """Releases what a living worker does not have any more."""
        await self.release(attempts, _lost("its worker does not have it any more"))

    async def lose(self, worker: Worker, why: str) -> int:
        """Releases all that a dead or silent worker held. Returns how many attempts."""
        if worker.state is WorkerState.LOST:
            return 0
        stopped = worker.state is WorkerState.DRAINING
        gone = self._term.roster.remove(worker)
        _log.log(
            logging.INFO if stopped or worker.outdated else logging.WARNING,
            "worker %s left: %s; it held %d attempts",
            worker.id,
            why,
            len(gone),
            extra={"worker_id": worker.id, "pool": worker.pool.name},
        )
        follower = self._followers.pop(worker.id, None)
        # One that absorbs ends by itself when it has: what the worker said before it died stands.
        busy = worker.absorbing or follower is asyncio.current_task()
        if follower is not None and not busy:
            follower.cancel()
        # Before the kill: it raises Fenced where the worker is another leader's by now.
        term = self._term
        await term.insist(lambda: term.store.remove_workers(term.number, [worker.id]))
        # Silent is not dead: what still runs there must not outlive its lease.
        self.tell(worker.id, term.cluster.kill_worker(worker.id))
        left = [held for held in gone if not held.settled]
        beside = len(left) - 1
        others = f"; {beside} other attempts were on it" if beside > 0 else ""
        failure = DRAINED if stopped else _lost(why + others)
        await self.release(left, failure, beside=beside)
        term.chores.set()
        return len(gone)

    async def dismiss(self, grace: float) -> int:
        """Stops every worker: what has not begun comes back, what runs may finish in `grace` s.

        Returns how many attempts had to be released without a word of their worker.
        """
        workers = list(self._term.roster)
        for worker in workers:
            worker.state = WorkerState.DRAINING
        return sum(await asyncio.gather(*(self._dismiss(worker, grace) for worker in workers)))

    async def _dismiss(self, worker: Worker, grace: float) -> int:
        await self.bring_home(worker, grace)
        return await self.lose(worker, "stopped")

    async def bring_home(self, worker: Worker, grace: float) -> bool:
        """Stops a DRAINING worker: its tasks are asked for checkpoints, may finish, are ended.

        True where it stopped in order: nothing runs on it, and the store knows all it said.
        """
        try:
            async with asyncio.timeout(grace + _STOP_MARGIN):
                await self._term.cluster.stop_worker(worker.id, grace)
            async with asyncio.timeout(_LAST_REPORTS):
                while worker.held and worker.state is WorkerState.DRAINING:
                    if self._term.over.is_set():
                        return False
                    await self._term.pause(0.01)  # its follower absorbs the last reports
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more is to be hoped of it
            _log.warning("worker %s did not stop in order: %s", worker.id, error)
            return False
        return worker.state is WorkerState.DRAINING

    async def release(self, attempts: Sequence[Held], failure: Failure, *, beside: int = 0) -> None:
        """Gives attempts back to the queue, or ends them where the policy says so.

        beside: how many others were lost with each of them.
        """
        batch = Batch()
        for held in attempts:
            self._term.roster.settle(held)
            self._absorber.set_back(batch, held, failure, None, beside=beside)
        await self._absorber.write(batch)

    def tell(self, worker_id: str, call: Awaitable[None]) -> None:
        """Sends an order that the sweep repeats while it is due; nobody waits for it."""
        self._term.spawn(self._tell(call), f"tell {worker_id}")

    async def _tell(self, call: Awaitable[None]) -> None:
        try:
            await call
        except (WorkerGone, TimeoutError) as error:
            _log.debug("an order was not taken: %s", error)


def unheard_worker(record: WorkerRecord) -> WorkerInfo:
    """What the store knows of a worker that does not say it itself."""
    devices = tuple(DeviceInfo(**device) for device in json.loads(record.devices_json))
    capacity = wire_needs(record.shape_json)
    # Its protocol is taken for ours: it was made by us, and says it itself when it answers.
    place = (record.id, record.pool, record.node, record.pid)
    told = (PROTOCOL, record.build, record.build_description, record.build)
    return WorkerInfo(*place, capacity, devices, *told)


def former_pool(info: WorkerInfo) -> PoolSpec:
    """The pool of a worker whose own is no longer declared, as the worker shows it."""
    offer = info.capacity
    # Unchecked: what a worker says of itself must not keep anybody from leading.
    settings = PoolSettings.model_construct(
        cpu=offer.cpu_millis / 1000,
        memory=offer.memory_bytes,
        gpu=offer.gpu_millis // 1000,
        gpu_memory=offer.gpu_memory_bytes,
        custom=dict(offer.custom),
        minimum_workers=0,
    )
    return PoolSpec(info.pool, settings, former=True)


def _lost(why: str) -> Failure:
    return Failure(FailureClass.WORKER_LOST, _UNAVAILABLE, "WORKER_LOST", why)
