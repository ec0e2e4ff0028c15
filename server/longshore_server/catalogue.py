"""Tasks, queues and pools as admission sees them: read from the store about once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longshore.v1 import job_pb2
from longshore_server.answering import log_surprise
from longshore_server.capacity import Offer, offers
from longshore_server.rates import DrainRates, Rate
from longshore_server.tasks import TaskEntry, parse_task
from longshore_store.model import StoreUnavailable
from longshore_store.store import Store
from longshore_store.topology_records import QueueRecord, TaskRecord

PERIOD = 1.0
OLDEST = 3.0
READ_TIMEOUT = 5.0
LOST_AFTER = 10.0
LOST_READS = 2
"""Seconds, and readings in a row, without success until the store counts as out of reach. Seconds
alone pass for a process that was paused, too."""

NO_RATE = Rate(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One reading. `version` changes only where something that was declared changed.

    led: a scheduler leads.
    placements caches what `placement.place` answered from this reading.
    """

    tasks: Mapping[str, TaskEntry]
    queues: Mapping[str, QueueRecord]
    offers: tuple[Offer, ...]
    rates: Mapping[str, Rate]
    version: int
    read_at: float
    led: bool = True
    placements: dict[tuple[Any, ...], job_pb2.Placement] = field(default_factory=dict)

    def rate(self, queue: str) -> Rate:
        """The drain rate of a queue; zero where nothing was measured yet."""
        return self.rates.get(queue, NO_RATE)


class CatalogueReader:
    """Keeps the newest Catalogue. A reading is shared by all who wait for it."""

    def __init__(self, store: Store, *, period: float = PERIOD) -> None:
        self._store = store
        self._period = period
        self._failures = 0
        self._rates = DrainRates()
        self._entries: dict[str, TaskEntry] = {}
        self._declared: tuple[Any, ...] = ()
        self._version = 0
        self._newest: Catalogue | None = None
        self._begun = 0.0
        self._lock = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to read once a period, so that drain rates are measured evenly."""
        self._loop = asyncio.create_task(self._keep_reading(), name="catalogue")

    async def stop(self) -> None:
        """Ends the reading."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    async def current(self) -> Catalogue:
        """A reading that is at most a few seconds old. Raises StoreUnavailable."""
        newest = self._newest
        if newest is not None and time.monotonic() - newest.read_at < OLDEST:
            return newest
        return await self.refresh()

    async def refresh(self) -> Catalogue:
        """A reading that began after this call did. Raises StoreUnavailable."""
        called = time.monotonic()
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._lock:
                # Those who waited for a reading that failed need one of their own.
                if self._newest is None or self._begun < called:
                    begun = time.monotonic()
                    self._newest = await self._read()
                    self._begun = begun
                return self._newest
        except TimeoutError as error:
            raise StoreUnavailable("the catalogue could not be read in time") from error

    @property
    def lost(self) -> bool:
        """True while the store is out of reach: not for a moment, and not for one reading."""
        read_at = self._newest.read_at if self._newest is not None else 0.0
        return self._failures >= LOST_READS and time.monotonic() - read_at >= LOST_AFTER

    async def _keep_reading(self) -> None:
        while True:
            try:
                await self.refresh()
                self._failures = 0
            except StoreUnavailable:
                self._failures += 1  # who needs a reading now asks again, and is told
            except Exception as error:  # noqa: BLE001  # the loop must outlive a surprise
                self._failures += 1
                log_surprise(error, "the reading of the catalogue")
            await asyncio.sleep(self._period)

    async def _read(self) -> Catalogue:
        tasks = await self._store.list_tasks()
        queues = await self._store.list_queues()
        pools = await self._store.list_pools()
        leader = await self._store.leader()
        declared = (
            tasks,
            [(q.name, q.attempt_timeout_us, q.overflow_to) for q in queues],
            [(p.name, p.shape_json) for p in pools],
        )
        if declared != self._declared:
            self._declared = declared
            self._version += 1
            self._entries = self._parsed(tasks)
        now = time.monotonic()
        return Catalogue(
            tasks=self._entries,
            queues={queue.name: queue for queue in queues},
            offers=offers(pools),
            rates=self._rates.observe(queues, now),
            version=self._version,
            read_at=now,
            led=leader is not None and leader.until_us > self._store.now_us(),
        )

    def _parsed(self, records: list[TaskRecord]) -> dict[str, TaskEntry]:
        entries = {}
        for name, document in records:
            try:
                entries[name] = parse_task(document)
            except Exception as error:  # noqa: BLE001  # one broken task must not hide others
                log_surprise(error, f"the document of task {name!r}, which is left out")
        return entries
