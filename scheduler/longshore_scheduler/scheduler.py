"""The scheduler: one leader that runs cycle after cycle, and standbys that wait."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from longshore_cpu_workers.build import UNKNOWN, Build
from longshore_scheduler.absorb import Absorber
from longshore_scheduler.cluster import ClusterLost, ClusterPort, PoolSpec
from longshore_scheduler.crew import Crew
from longshore_scheduler.cycle import Cycle
from longshore_scheduler.declaring import known_queues
from longshore_scheduler.delivery import Delivery
from longshore_scheduler.leader import Leadership
from longshore_scheduler.pools import Pools, announce
from longshore_scheduler.retention import Retention
from longshore_scheduler.sweep import Sweep
from longshore_scheduler.term import Term, wait_for_event
from longshore_store.model import StoreUnavailable
from longshore_store.process import Superseded
from longshore_store.settings import Settings
from longshore_store.store import Store

_log = logging.getLogger(__name__)
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_LONGEST_CLUSTER_PAUSE = 3.0  # a try is cheap, and jobs wait


class Scheduler:
    """Leads when it may, and then schedules.

    Args:
        store: open already; stays open.
        cluster: where workers live; started once this one leads, closed by `stop`.
        settings: the deployment; pools and clocks are read here.
        leader_id: must differ between schedulers that may run at once. A process that is the
            only one there can be (embedded) passes a fixed one and leads again at once after
            a restart, instead of waiting until its earlier term has run out.
        simulate_gpus: devices of GPU pools are pretended.
        artifacts: the folder of the jobs' artifacts, where this process has it: they are deleted
            with their jobs. None leaves them.
        keep_workers: `stop` leaves workers and what they run to the next leader.
        single_term: it ends with its first term, and its process is to be started anew: what a
            paused or cut off leader knew is not worth keeping. Else it seeks leadership again.
        build: of the tasks that this scheduler declares: workers are brought to it.
        declare: done at the start of a term, whose number it gets; a standby must not declare
            what is not in force.
        clock: seconds, monotonic. chance: uniform in [0, 1).
    """

    def __init__(
        self,
        store: Store,
        cluster: ClusterPort,
        settings: Settings,
        *,
        leader_id: str | None = None,
        simulate_gpus: bool = False,
        artifacts: Path | None = None,
        keep_workers: bool = False,
        single_term: bool = False,
        build: Build = UNKNOWN,
        declare: Callable[[int], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings.scheduler
        self._retention = settings.retention
        self._artifacts = artifacts
        self._pools = [
            PoolSpec(name, pool, simulate_gpus and pool.gpu > 0, build=build.id)
            for name, pool in settings.pools.items()
        ]
        self._build = build
        self._queues = settings.queues
        self._keep_workers = keep_workers
        self._single_term = single_term
        self._declare = declare
        self._clock = clock
        self._chance = chance
        self._alone = leader_id is not None
        self._leadership = Leadership(store, leader_id or _unique_id(), self._settings.term)
        self._stopping = asyncio.Event()
        self._led: _Led | None = None
        self._cluster_up = False
        self._main: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def leading(self) -> bool:
        """True while this one holds the term and its cluster is up."""
        return self._led is not None and self._led.up.is_set()

    @property
    def ready_workers(self) -> int:
        """Workers that take work now."""
        return len(self._led.term.roster.ready()) if self._led else 0

    async def start(self) -> None:
        """Begins to seek leadership. Publishes the pools where nobody else can have done it, so
        that jobs are admitted before workers are up."""
        if self._main is not None:
            raise RuntimeError("a Scheduler starts once; make another one")
        if self._alone or not await self._store.list_pools():
            await self._announce(None)
        self._unsubscribe = self._store.subscribe(self.notify)
        self._main = asyncio.create_task(self._run(), name="scheduler")

    async def _announce(self, term: int | None) -> None:
        """Publishes the pools as declared, without live numbers, if others are published."""
        published = {(pool.name, pool.shape_json) for pool in await self._store.list_pools()}
        if published != {(pool.name, pool.shape_json) for pool in self._pools}:
            await self._store.publish_pools(announce(self._pools), term)

    def deploy(self, build: Build) -> None:
        """The tasks have another build from now on: workers are brought to it."""
        self._build = build
        self._pools = [pool._replace(build=build.id) for pool in self._pools]
        if self._led is not None:
            term = self._led.term
            term.build, term.pools = build, {pool.name: pool for pool in self._pools}
            term.chores.set()

    def notify(self, job_ids: Iterable[str]) -> None:
        """Hints that these jobs changed: new, cancelled, whatever. Returns at once."""
        if self._led is not None:
            self._led.term.notice(list(job_ids))

    async def run(self) -> None:
        """Waits until the scheduler has stopped. Raises what it died of."""
        if self._main is not None:
            await asyncio.shield(self._main)

    async def run_until(self, told: asyncio.Event) -> None:
        """Waits until `told`. Raises what the scheduler died of; Superseded where it ended."""
        asked = asyncio.create_task(told.wait())
        died = asyncio.create_task(self.run())
        try:
            await asyncio.wait((asked, died), return_when=asyncio.FIRST_COMPLETED)
            if not told.is_set():
                await died
                raise Superseded("the scheduler's term is over: another one leads")
        finally:
            asked.cancel()
            died.cancel()

    async def stop(self, grace: float) -> None:
        """Leases no more, brings the workers home, resigns.

        Each part has a deadline of its own; together they are below `grace` + 120 s.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        try:
            if self._led is not None:
                await self._led.wind_down(grace, keep_workers=self._keep_workers)
        except (StoreUnavailable, TimeoutError) as error:
            why = str(error) or "it did not answer in time"
            _log.warning("stopped without telling the store all: %s", why)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._led is not None:
            self._led.term.end("stopped")
        if self._main is not None:
            # A cluster that is still starting cannot be waited for, nor does it hold anything.
            await asyncio.wait([self._main], timeout=_LONGEST_PAUSE if self._cluster_up else 0)
            self._main.cancel()
            await asyncio.wait([self._main], timeout=_LONGEST_PAUSE)
        await self._leadership.resign()
        await self._cluster.close()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            number = await self._leadership.win(self._stopping)
            if number is not None:
                await self._lead(number)
                if self._single_term:
                    return
                # A term that ends at once, again and again, must not spin.
                await wait_for_event(self._stopping, _FIRST_PAUSE)

    async def _lead(self, number: int) -> None:
        _log.info("leading in term %d as %s", number, self._leadership.leader_id)
        term = Term(
            number,
            self._store,
            self._cluster,
            self._settings,
            self._pools,
            self._queues,
            build=self._build,
            clock=self._clock,
            chance=self._chance,
        )
        self._led = led = _Led(term)
        try:
            keeper = term.spawn(self._leadership.keep(number, term.over), "keep leadership")
            worker = term.spawn(self._work(led), "schedule")
            term.spawn(Retention(term, self._retention, self._artifacts).run(), "retention")
            over = term.spawn(_wait(term.over), "wait for the end of the term")
            await asyncio.wait((keeper, worker, over), return_when=asyncio.FIRST_COMPLETED)
            if worker.done() and isinstance(worker.exception(), ClusterLost):
                await worker  # what runs in this process cannot be used again
        finally:
            await term.close()
            self._led = None

    async def _work(self, led: _Led) -> None:
        if (declare := self._declare) is not None:
            await led.term.insist(lambda: declare(led.term.number))
        await led.term.insist(lambda: self._announce(led.term.number))
        kept = await led.term.insist(self._store.list_queues)
        led.term.queues = known_queues(self._queues, kept)
        await self._start_cluster(led.term)
        lost = led.term.spawn(self._cluster.watch(), "watch the cluster")
        led_to_the_end = led.term.spawn(led.run(), "lead")
        await asyncio.wait((lost, led_to_the_end), return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            await lost

    async def _start_cluster(self, term: Term) -> None:
        pause = _FIRST_PAUSE
        while not self._cluster_up:
            try:
                await self._cluster.start(self._pools)
                self._cluster_up = True
            except ClusterLost:  # this process cannot try again
                raise
            except ConnectionError as error:
                _log.warning("%s; trying again in %.1f s", error, pause)
                await term.pause(pause)
                pause = min(pause * 2, _LONGEST_CLUSTER_PAUSE)
            except Exception:  # noqa: BLE001 - whatever keeps it away, jobs are accepted meanwhile
                _log.exception("the cluster does not start, trying again in %.1f s", pause)
                await term.pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)


def _unique_id() -> str:
    """Tells people where this scheduler runs; no other one has it, before or after."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class _Led:
    """The parts of one term, put together."""

    def __init__(self, term: Term) -> None:
        self.term = term
        self.crew = Crew(term, Absorber(term))
        self.pools = Pools(term, self.crew)
        self.cycle = Cycle(term, Delivery(term, self.crew))
        self.sweep = Sweep(term, self.crew, self.pools)
        self.up = asyncio.Event()
        self._cycling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the term is over or a part of it fails."""
        await self.crew.adopt()
        self._cycling = self.term.spawn(self.cycle.run(), "cycle")
        sweeping = self.term.spawn(self.sweep.run(), "sweep")
        self.up.set()
        await asyncio.wait((self._cycling, sweeping), return_when=asyncio.FIRST_COMPLETED)
        if self.term.stopping:  # the cycle has ended in order, the last reports still come
            await self.term.over.wait()

    async def wind_down(self, grace: float, *, keep_workers: bool) -> None:
        """Lets the cycle under way end, then sends the workers home."""
        self.term.stopping = True
        self.term.wake.set()
        if self._cycling is not None:
            await asyncio.wait([self._cycling], timeout=5.0)
        if not keep_workers:
            async with asyncio.timeout(grace + 25.0):
                await self.crew.dismiss(grace)
                await self.pools.publish()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
