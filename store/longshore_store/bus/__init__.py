"""The bus: how the processes of one deployment hear of one another's commits at once.

It carries hints and nothing else. What it says may come twice, late, out of order or not at all,
and all stays correct: whoever listens also polls the store. So losing it changes latency only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from longshore_store.model import JobChanges
from longshore_store.store import Listener, Store

ANYTHING = ""
"""In place of a job's id: something that is no job changed, or it is not known what; look."""

Stop = Callable[[], None]


class BusRefused(Exception):
    """The bus cannot be used as it is set; one line says where, why, and what to do."""


@dataclass(frozen=True, slots=True)
class BusState:
    """How a bus stands, for health and metrics. Counts are those of this process since its start.

    connected: hints are exchanged. seconds: for how long it has been so, or not so.
    published, received: messages. dropped: hints that were not sent, for want of a connection or
    of room. malformed: messages that made no sense. interests: jobs that others watch.
    pending_bytes: what waits to be sent.
    """

    connected: bool
    seconds: float
    published: int
    received: int
    dropped: int
    malformed: int
    interests: int
    pending_bytes: int


class Follower(Protocol):
    """Who follows jobs that other processes change: the hub of a server. Nothing here may wait."""

    def watched(self) -> Sequence[str]:
        """Ids of the jobs that it follows now."""

    def cursors(self, job_ids: Iterable[str]) -> Mapping[str, int]:
        """For those of the jobs that it follows: the lowest sequence that one follower has."""

    def hear(self, changes: Sequence[JobChanges]) -> None:
        """Takes what another process read after its commit; it may be old or have gaps."""

    def doubt(self, job_ids: Iterable[str] | None) -> None:
        """Changes of these jobs, or of any where it is None, may have been missed."""


class Bus(Protocol):
    """What server and scheduler need of a bus. Only start and stop wait, for 2 s at most."""

    @property
    def state(self) -> BusState:
        """How it stands."""

    def on_wake(self, listener: Listener) -> Stop:
        """Calls `listener` with ids of jobs that other processes changed, not always all of
        them, or ANYTHING. Returns the way to stop."""

    def follow(self, follower: Follower) -> Stop:
        """Hands changes of the jobs it watches to the follower. Returns the way to stop."""

    def watch(self, job_id: str, cursor: int) -> None:
        """Tells the other processes at once that a follower watches this job from here on."""

    async def start(self) -> None:
        """Begins. An address that does not answer is tried again and again meanwhile.

        Raises:
            BusRefused: the address makes no sense, or the credentials are wrong.
        """

    async def stop(self) -> None:
        """Ends; what waits is dropped."""


async def open_bus(
    stack: AsyncExitStack, url: str | None, store: Store, cluster: str, *, publishes_wakes: bool
) -> Bus | None:
    """A started bus, stopped with the stack; None where there is no address.

    publishes_wakes: commits of this process are news to the scheduler; not those of its own.

    Raises:
        BusRefused: see Bus.start.
    """
    if url is None:
        return None
    # Imported here: the embedded service is one process and needs no redis.
    from longshore_store.bus.redis_bus import RedisBus  # noqa: PLC0415

    bus = RedisBus(url, store, cluster=cluster, publishes_wakes=publishes_wakes)
    await bus.start()
    stack.push_async_callback(bus.stop)
    return bus
