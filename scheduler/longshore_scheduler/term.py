"""One term of leadership: what all parts of a leading scheduler share, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from longshore_cpu_workers.build import UNKNOWN, Build
from longshore_scheduler.cluster import ClusterLost, ClusterPort, PoolSpec
from longshore_scheduler.journal import Journal
from longshore_scheduler.plan import eligible_pools
from longshore_scheduler.policy import Limits
from longshore_scheduler.roster import Roster
from longshore_scheduler.run_times import RunTimes
from longshore_store.model import Fenced, StoreUnavailable
from longshore_store.needs import Needs
from longshore_store.settings import QueueSettings, SchedulerSettings
from longshore_store.store import Store
from longshore_store.telling import without_values

_log = logging.getLogger(__name__)
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

Row = TypeVar("Row")
Answer = TypeVar("Answer")


class Term:
    """A number that fences every write, and all that is forgotten when it is over.

    wake: something may be placed. chores: the sweep has something to do at once.
    writing: ids of jobs in writes of our own, so that their hints wake nobody.
    """

    def __init__(
        self,
        number: int,
        store: Store,
        cluster: ClusterPort,
        settings: SchedulerSettings,
        pools: Sequence[PoolSpec],
        queues: Mapping[str, QueueSettings],
        *,
        build: Build = UNKNOWN,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.number = number
        self.store = store
        self.cluster = cluster
        self.settings = settings
        self.pools: Mapping[str, PoolSpec] = {pool.name: pool for pool in pools}
        self.offers: Mapping[str, Needs] = {pool.name: pool.offer for pool in pools}
        self.build = build
        self.queues = queues
        self.limits = Limits(
            settings.maximum_crashes, settings.maximum_ooms, settings.maximum_interruptions
        )
        self.clock = clock
        self.chance = chance
        self.roster = Roster()
        self.run_times = RunTimes()
        self.journal = Journal(clock)
        self.writing: set[str] = set()
        self.wake = asyncio.Event()
        self.chores = asyncio.Event()
        self.over = asyncio.Event()
        self.stopping = False
        self.backlog = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def notice(self, job_ids: Sequence[str]) -> None:
        """A commit changed these jobs: wakes whoever may have something to do. Never waits.

        An empty id: what people ordered of queues or workers changed.
        """
        if self.writing.issuperset(job_ids):
            return
        held = self.roster.held
        foreign = [job_id for job_id in job_ids if job_id not in self.writing]
        if any(not job_id or job_id in held for job_id in foreign):
            self.chores.set()
        if any(job_id not in held for job_id in foreign):
            self.wake.set()

    def end(self, why: str) -> None:
        """Stops writing at once; whoever waits for `over` takes it from here."""
        if not self.over.is_set():
            level = logging.INFO if self.stopping else logging.WARNING
            _log.log(level, "term %d is over: %s", self.number, why)
            self.over.set()
            self.wake.set()
            self.chores.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs work that ends with the term; an exception in it is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Fenced | ClusterLost):
            _log.error("%s failed: %s", task.get_name(), without_values(error))

    async def close(self) -> None:
        """Cancels what still runs."""
        self.end("closed")
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def persist(
        self, write: Callable[[int, Sequence[Row]], Awaitable[list[str] | None]],
        rows: Sequence[Row],
    ) -> list[str]:  # fmt: skip
        """Writes rows, again and again while the store is away. Returns the stale job ids.

        Rows start with a job id. A row that the store refuses for ever is logged and left:
        the sweep finds its attempt as an orphan. Raises Fenced when the term is over.
        """
        if not rows:
            return []
        ids = [row[0] for row in rows]  # type: ignore[index]
        self.writing.update(ids)
        try:
            return await self._persist(write, rows)
        finally:
            self.writing.difference_update(ids)

    async def _persist(
        self, write: Callable[[int, Sequence[Row]], Awaitable[list[str] | None]],
        rows: Sequence[Row],
    ) -> list[str]:  # fmt: skip
        try:
            return await self.insist(lambda: write(self.number, rows)) or []
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - a row that cannot be written must not stop others
            if len(rows) == 1:
                what, job_id = type(rows[0]).__name__, rows[0][0]  # type: ignore[index]
                told = without_values(error)
                _log.error("the store refuses a %s of job %s: %s", what, job_id, told)
                return []
        half = len(rows) // 2
        stale = await self._persist(write, rows[:half])
        return stale + await self._persist(write, rows[half:])

    async def insist(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeats a call while the store is away, with pauses of 0.05 to 2 s.

        Raises:
            Fenced: the term is over, by the store's word or ours.
        """
        pause = _FIRST_PAUSE
        while True:
            if self.over.is_set():
                raise Fenced(f"term {self.number} is over")
            try:
                return await call()
            except Fenced:
                self.end("another leader has a newer one")
                raise
            except StoreUnavailable as error:
                _log.warning("the store is away, trying again in %.2f s: %s", pause, error)
            await self.pause(pause * (0.5 + 0.5 * self.chance()))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def confirm(self) -> None:
        """Asks the store whether this term is the newest. Raises Fenced where it is over."""
        await self.insist(lambda: self.store.require_term(self.number))

    async def pause(self, seconds: float) -> None:
        """Waits so long, or until the term is over."""
        await wait_for_event(self.over, seconds)

    def eligible(self, needs: Needs) -> set[str]:
        """The names of the pools that such a job may run on."""
        return eligible_pools(needs, self.offers)

    def ceiling(self, needs: Needs) -> Needs:
        """The most memory that a worker of an eligible pool offers."""
        offers = [self.offers[name] for name in self.eligible(needs)] or [needs]
        return needs._replace(
            memory_bytes=max(offer.memory_bytes for offer in offers),
            gpu_memory_bytes=max(offer.gpu_memory_bytes for offer in offers),
        )


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """True once the event is set, False after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
