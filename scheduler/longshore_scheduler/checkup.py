"""What workers hold, against what the store has leased to them: the doctor's word on the living.

A lease is granted, delivered, reported and settled in four places, so each of the three kinds of
finding may be true for a moment: only what is found twice counts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from longshore_scheduler.cluster import Found, WorkerGone
from longshore_store.doctor.examination import SECOND_LOOK, seen_twice
from longshore_store.doctor.findings import Examined, Finding

NAME = "workers"

Leases = Mapping[tuple[str, int], str]
"""The worker of each leased attempt, by (job id, fence)."""

Holdings = Mapping[str, Sequence[tuple[str, int, str]]]
"""What each worker that answers has: (job id, fence, stage)."""


class Asked(Protocol):
    """What of the cluster port is used."""

    async def find_workers(self) -> Found:
        """The living workers."""

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        """What a worker has: (job id, fence, stage)."""


class _Seen(NamedTuple):
    leases: Leases
    holdings: Holdings


async def check_up(
    cluster: Asked,
    read_leases: Callable[[], Awaitable[Leases]],
    *,
    second_look: float = SECOND_LOOK,
) -> Examined:
    """Asks every living worker, and once more after `second_look` seconds where it is odd.

    Raises:
        StoreUnavailable, WorkerGone: the store or the cluster cannot be asked.
    """
    seen = await _look(cluster, read_leases)
    found = list(compare(seen.leases, seen.holdings))
    if found:
        await asyncio.sleep(second_look)
        seen = await _look(cluster, read_leases)
        found = seen_twice(found, list(compare(seen.leases, seen.holdings)))
    attempts = sum(map(len, seen.holdings.values()))
    examined = Examined(NAME, f"{len(seen.holdings):,} workers, {attempts:,} attempts")
    examined.add(found)
    return examined


def compare(leases: Leases, holdings: Holdings) -> Iterator[Finding]:
    """Ghosts, zombies and twins; of workers that did not answer nothing is known."""
    running: defaultdict[str, list[str]] = defaultdict(list)
    for worker_id, attempts in holdings.items():
        for job_id, fence, stage in attempts:
            if stage == "RUNNING":
                running[job_id].append(f"{worker_id} (fence {fence})")
            if leases.get((job_id, fence)) != worker_id:
                found = f"{stage} on worker {worker_id} without a lease"
                yield Finding(NAME, f"job {job_id} fence {fence} zombie", found, "ended")
    known = {w: {(job, fence) for job, fence, _ in held} for w, held in holdings.items()}
    for (job_id, fence), worker_id in leases.items():
        if worker_id in known and (job_id, fence) not in known[worker_id]:
            found = f"leased to worker {worker_id}, which does not have it"
            yield Finding(NAME, f"job {job_id} fence {fence} ghost", found, "released")
    for job_id, places in running.items():
        if len(places) > 1:
            yield Finding(NAME, f"job {job_id} twin", f"runs on {' and '.join(places)}", "once")


async def _look(cluster: Asked, read_leases: Callable[[], Awaitable[Leases]]) -> _Seen:
    """The leases first: what is granted later is no zombie, because it is looked at twice."""
    leases = await read_leases()
    ids = [info.worker_id for info in (await cluster.find_workers()).answered]
    answers = await asyncio.gather(*map(cluster.held, ids), return_exceptions=True)
    holdings = {}
    for worker_id, answer in zip(ids, answers, strict=True):
        if not isinstance(answer, BaseException):
            holdings[worker_id] = answer
        elif not isinstance(answer, WorkerGone | TimeoutError):
            raise answer
    return _Seen(leases, holdings)
