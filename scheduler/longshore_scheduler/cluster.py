"""The port through which the scheduler sees workers; Ray is one thing behind it.

Exception
├── WorkerGone     the worker is dead or unknown; nothing more can be asked of it
└── ClusterLost    the whole cluster is gone, and this process cannot join another one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from longshore_cpu_workers.wire import Assignment, Cancel, PollReply, WorkerInfo
from longshore_store.needs import Needs, needs_json
from longshore_store.process import Superseded
from longshore_store.settings import PoolSettings


class WorkerGone(Exception):
    """The worker is dead or unknown. What it held is to be released."""


class ClusterLost(Superseded):
    """The cluster is gone. The process has to be started anew to join the next one."""


class PoolSpec(NamedTuple):
    """A pool as declared. `simulated`: its devices are pretended, and say so. `former`: nobody
    declares it any more, and its workers go once they hold nothing. `build`: what they run."""

    name: str
    settings: PoolSettings
    simulated: bool = False
    former: bool = False
    build: str = ""

    @property
    def shape_json(self) -> str:
        """What one worker offers, in the form of `needs_json`."""
        settings = self.settings
        return needs_json(
            cpu_millis=round(settings.cpu * 1000),
            memory_bytes=settings.memory,
            gpu_millis=settings.gpu * 1000,
            gpu_memory_bytes=settings.gpu_memory,
            accelerators=settings.accelerators,
            custom=settings.custom,
        )

    @property
    def offer(self) -> Needs:
        """What one worker offers."""
        settings = self.settings
        return Needs(
            cpu_millis=round(settings.cpu * 1000),
            memory_bytes=settings.memory,
            gpu_millis=settings.gpu * 1000,
            gpu_memory_bytes=settings.gpu_memory,
            accelerators=settings.accelerators,
            custom=tuple(sorted(settings.custom.items())),
        )


class Found(NamedTuple):
    """Workers of an earlier leader. silent: ids of those that exist and did not answer in time:
    they may be dead, or busy, or cut off for a moment."""

    answered: list[WorkerInfo]
    silent: list[str]


class ClusterPort(Protocol):
    """Creates workers and talks to them. Every call has a deadline of its own.

    Calls that name a worker raise WorkerGone once it is dead, and TimeoutError where it did not
    answer: then the call may or may not have reached it.
    """

    async def start(self, pools: Sequence[PoolSpec]) -> None:
        """Connects, or starts a local cluster with room for `pools`. Must not block the loop."""

    async def watch(self) -> None:
        """Raises ClusterLost once the cluster is gone; returns never."""

    async def create_worker(self, pool: PoolSpec, worker_id: str) -> WorkerInfo:
        """Makes a worker and answers once it is up. Raises WorkerGone where it died starting."""

    async def find_workers(self) -> Found:
        """The workers that an earlier leader made."""

    async def assign(self, worker_id: str, assignments: Sequence[Assignment]) -> None:
        """Hands attempts to a worker. Repeating an attempt it has changes nothing."""

    async def poll(self, worker_id: str, acknowledged: int, wait: float) -> PollReply:
        """Reports after `acknowledged`; answers at once if there are any, else after `wait` s."""

    async def cancel(self, worker_id: str, cancels: Sequence[Cancel]) -> None:
        """Ends attempts, begun or not; each is reported as Failed or Returned."""

    async def recall(self, worker_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Takes back (job id, fence) pairs: those not begun, or unknown, are Returned."""

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        """What a worker has: (job id, fence, stage), of attempts that have not ended."""

    async def stop_worker(self, worker_id: str, grace: float) -> None:
        """Not begun: Returned. Begun: may finish within `grace` s, then Failed as DRAINED.

        Answers once nothing runs; polling goes on until the last report is acknowledged.
        """

    async def kill_worker(self, worker_id: str) -> None:
        """Ends the worker and its processes at once. Unknown workers are fine."""

    async def close(self) -> None:
        """Disconnects. Workers of a local cluster die with it, those of an external one live."""
