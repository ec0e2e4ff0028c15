"""Row 2: a write succeeds and its caller sees an error, in 8 % of all calls of the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from longshore import AsyncClient, JobHandle
from longshore.v1 import job_pb2
from longshore_store.states import JobState
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.scale import times
from tests.faults.serving import Serving

JOBS = times(20_000, 2_000)
AT_ONCE = 25
CALLERS = 16
RATE = 0.08
FEWEST = 3  # of some 300 calls: a seed may be kind
BOUND = 60.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


async def test_lost_answers_of_the_store_lose_and_double_nothing(
    url: str, tmp_path: Path, seed: int
) -> None:
    told = Told(2, seed)
    server = Serving(tmp_path, url, unsure=RATE, seed=seed)
    async with server, AsyncClient(server.target, timeout=BOUND) as client:
        told.accepted |= {handle.id for handle in await submit_all(client)}
        assert len(told.accepted) == JOBS
        seconds = await recovered(lambda: all_ended(client), BOUND)
        told.ended |= {job.job_id: job.state async for job in client.list(page_size=1000)}
        stats = await server.ask("stats")
        await server.stop()
    assert stats["failures"] >= FEWEST
    books = await close_books(url, told, server.marks)
    assert books.states == {JobState.SUCCEEDED: JOBS}
    counts = {"jobs": JOBS, "calls": stats["calls"], "lost_answers": stats["failures"]}
    print(told.heal_line(seconds, **counts, extra_executions=books.extra))


async def submit_all(client: AsyncClient) -> list[JobHandle[Any]]:
    """In small batches from many callers, so that many calls meet the fault."""
    free = asyncio.Semaphore(CALLERS)

    async def some() -> list[JobHandle[Any]]:
        async with free:
            specs = [job_pb2.JobSpec(task="work") for _ in range(AT_ONCE)]
            return await client.submit_many(specs)

    batches = await asyncio.gather(*(some() for _ in range(JOBS // AT_ONCE)))
    return [handle for batch in batches for handle in batch]
