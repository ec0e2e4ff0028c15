"""Durable echo jobs per second, from submit_many to SUCCEEDED."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from benchmarks.service import postgres, running
from longshore import AsyncClient
from longshore.v1.job_pb2 import JobSpec

DEADLINE = 300.0
_POLL = 0.02


class Rate(NamedTuple):
    """Jobs per second: accepted by submit_many, and brought to SUCCEEDED."""

    accepted: float
    succeeded: float


async def on_sqlite(jobs: int, rounds: int) -> list[Rate]:
    """The embedded service over SQLite."""
    async with running() as (client, _):
        return [await one_round(client, jobs) for _ in range(rounds)]


async def on_postgres(jobs: int, rounds: int) -> list[Rate]:
    """The embedded service over Postgres on the same machine."""
    async with postgres() as url, running(url) as (client, _):
        return [await one_round(client, jobs) for _ in range(rounds)]


async def one_round(client: AsyncClient, jobs: int) -> Rate:
    """Submits echo jobs to a service that is up, and waits until they have succeeded."""
    began = time.perf_counter()
    handles = await client.submit_many(
        JobSpec(task="echo", payload=f'{{"n":{n}}}') for n in range(jobs)
    )
    accepted = time.perf_counter() - began
    async with asyncio.timeout(DEADLINE):
        while await _unfinished(client):
            await asyncio.sleep(_POLL)
    ended = time.perf_counter() - began
    await _check(client, len(handles), jobs)
    return Rate(jobs / accepted, jobs / ended)


async def _unfinished(client: AsyncClient) -> int:
    return sum(queue.waiting + queue.active for queue in await client.queues())


async def _check(client: AsyncClient, handles: int, jobs: int) -> None:
    """A rate of jobs that did not all succeed is no rate."""
    others = [job async for job in client.list(filter="state != SUCCEEDED")]
    if handles != jobs or others:
        raise SystemExit(f"{handles} of {jobs} accepted, {len(others)} did not succeed")
