from __future__ import annotations

import asyncio

import pytest

from longshore_scheduler.cluster import ClusterLost
from longshore_store.process import Superseded
from tests.scheduler.harness import DEADLINE, Harness


async def test_a_lost_cluster_ends_the_scheduler(harness: Harness) -> None:
    scheduler = await harness.launch()
    harness.cluster.gone.set()
    with pytest.raises(ClusterLost):
        async with asyncio.timeout(DEADLINE):
            await scheduler.run_until(asyncio.Event())


async def test_told_to_stop_it_returns(harness: Harness) -> None:
    scheduler = await harness.launch()
    told = asyncio.Event()
    told.set()
    async with asyncio.timeout(DEADLINE):
        await scheduler.run_until(told)


async def test_a_scheduler_of_a_single_term_ends_when_it_is_replaced(harness: Harness) -> None:
    scheduler = await harness.launch(single_term=True)
    harness.clock.advance(60.0)
    assert await harness.store.lead("another", 1_000_000) is not None
    with pytest.raises(Superseded, match="another one leads"):
        async with asyncio.timeout(DEADLINE):
            await scheduler.run_until(asyncio.Event())
