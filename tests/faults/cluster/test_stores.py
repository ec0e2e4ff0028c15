"""Rows 15 and 19: Postgres and Redis that go away under load."""

from __future__ import annotations

import asyncio
import random
import signal
import time

from tests.faults.cluster.deployment import DEADLINE, Deployment, recovered

SEED = 7


async def test_row_15_postgres_stops_again_and_again(deployment: Deployment) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    worked = [asyncio.create_task(deployment.work(100, pause=0.01)) for _ in range(5)]
    for _ in range(3):
        await asyncio.sleep(0.5)  # some work between two faults
        await deployment.cluster.postgres.down(signal.SIGQUIT)  # immediate: as a crash
        await asyncio.sleep(chance.uniform(0.0, 2.0))  # the length of the fault itself
        await deployment.cluster.postgres.start()
    began = time.monotonic()
    for handles in await asyncio.gather(*worked):
        await deployment.results(handles)
    recovered("15", began)


async def test_row_19_without_redis_everything_goes_on_slower(deployment: Deployment) -> None:
    with_redis = await _latency(deployment)
    await deployment.cluster.redis.down(signal.SIGKILL)
    without = await _latency(deployment)
    await deployment.results(await deployment.work(200))
    await deployment.cluster.redis.start()
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE):
        while await _latency(deployment) > max(4 * with_redis, without / 2):
            await asyncio.sleep(0.1)
    recovered("19", began)
    print(f"submit to result: {with_redis:.3f} s with Redis, {without:.3f} s without")


async def _latency(deployment: Deployment) -> float:
    """Median seconds from Submit to the result of a job that does nothing."""
    times = []
    for _ in range(7):
        began = time.monotonic()
        (handle,) = await deployment.work(1)
        await handle.result(timeout=DEADLINE)
        times.append(time.monotonic() - began)
    return sorted(times)[3]
