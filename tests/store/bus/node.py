"""A process of a deployment, as far as hints go: store, bus and hub. Tests have two of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from longshore_server.hub import WatchHub
from longshore_server.mailbox import Mailbox
from longshore_store.bus.redis_bus import RedisBus
from longshore_store.model import JobChanges
from longshore_store.sql import SqlStore
from tests.store.bus.patience import NEVER
from tests.store.patience import LONG


class CountingStore(SqlStore):
    """Counts the reads of changes, and those that were answered."""

    reads = answered = 0

    async def read_changes(self, cursors: Mapping[str, int]) -> list[JobChanges]:
        """See Store."""
        self.reads += 1
        try:
            return await super().read_changes(cursors)
        finally:
            self.answered += 1


class HearingHub(WatchHub):
    """Knows how far each job has come by what the bus told of it."""

    def start(self) -> None:
        """See WatchHub."""
        self.heard: dict[str, int] = {}
        super().start()

    def hear(self, changes: Sequence[JobChanges]) -> None:
        """See Follower."""
        super().hear(changes)
        for one in changes:
            self.heard[one.job_id] = max(one.sequence, self.heard.get(one.job_id, 0))


class Node:
    """Args: the database, the Redis; poll: seconds between two polls of the hub."""

    def __init__(
        self, url: str, redis_url: str, *, poll: float = NEVER, cluster: str = "test"
    ) -> None:
        self.url = url
        self.store = CountingStore(url)
        self._redis_url = redis_url
        self._poll = poll
        self._cluster = cluster

    async def __aenter__(self) -> Self:
        await self.store.open()
        self.bus = RedisBus(self._redis_url, self.store, cluster=self._cluster)
        await self.bus.start()
        self.hub = HearingHub(self.store, 1000, poll=self._poll, bus=self.bus)
        self.hub.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.stop()
        await self.bus.stop()
        await self.store.close()

    async def settled(self, cursor: int, box: Mailbox) -> int:
        """Waits until the box is there and no read is due or under way. Returns their number."""

        def settled() -> bool:
            return self.store.reads == self.store.answered and not self.hub._dirty

        await until(lambda: box.cursor >= cursor and settled())
        return self.store.reads


def mailbox(cursor: int) -> Mailbox:
    """Of a watch that has sent all up to the cursor."""
    return Mailbox(cursor, 0, include_logs=True, limit=1000)


async def until(condition: Callable[[], bool], seconds: float = LONG) -> float:
    """Waits for a condition, looking often. Returns how long it took, in seconds."""
    begin = time.perf_counter()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
    return time.perf_counter() - begin
