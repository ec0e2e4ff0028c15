"""Idle Submit to task code running: one job at a time, on a service with nothing else to do."""

from __future__ import annotations

import time
from typing import NamedTuple

from benchmarks.service import running
from longshore import AsyncClient


class Latency(NamedTuple):
    """Milliseconds from before the call of Submit until task code began."""

    p50: float
    p99: float


async def measure(jobs: int) -> Latency:
    """The start is the attempt's start_time; client and service share a machine and a clock."""
    async with running() as (client, _):
        return await one_round(client, jobs)


async def one_round(client: AsyncClient, jobs: int) -> Latency:
    """On a service that is up."""
    times = sorted([await _one(client) for _ in range(jobs)])
    return Latency(_quantile(times, 0.5), _quantile(times, 0.99))


async def _one(client: AsyncClient) -> float:
    before = time.time()
    handle = await client.submit("echo", {})
    job = await handle.result_job(timeout=30)
    return (job.start_time.ToNanoseconds() / 1e9 - before) * 1e3


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
