"""Row 25: the clock of one process jumps by an hour, forth and back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longshore import AsyncClient, JobHandle, Timeouts
from longshore.v1 import job_pb2
from longshore_store.states import JobState
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.serving import Serving

HOUR = 3600
JUMPS = (HOUR, -2 * HOUR, HOUR)
OF_EACH = 10
SWEEPS = 15
BOUND = 60.0
QUEUES: dict[str, Any] = {"default": {}, "held": {}}
# All below an hour, and longer than a machine pauses.
CLOCKS = {"lease": 60.0, "abandon": 120.0, "term": 60.0}


@pytest.fixture(params=["sqlite", "postgres"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> list[Serving]:
    """One over SQLite; a leader and a standby over Postgres. Not started."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    settings = {"queues": QUEUES, "scheduler": CLOCKS}
    return [Serving(tmp_path, url, name=name, settings=settings) for name in ("ab" if url else "a")]


async def test_a_clock_that_jumps_expires_nothing(
    servers: list[Serving], tmp_path: Path, seed: int
) -> None:
    told, gate = Told(25, seed), tmp_path / "open"
    async with AsyncExitStack() as stack:
        for server in servers:  # the first leads
            await stack.enter_async_context(server)
            await recovered(lambda: _ready(servers[0]), BOUND)
        client = await stack.enter_async_context(AsyncClient(servers[0].target))
        handles = await make_jobs(client, gate)
        told.accepted |= {handle.id for handle in handles}
        before = await facts(client)
        term = (await servers[0].ask("stats"))["term"]
        for server in servers:
            for jump in JUMPS:
                await server.ask("jump", jump)
                await sweep(servers[0])
                assert await facts(client) == before, f"after a jump of {jump} s"
                asked = [await one.ask("lead") for one in reversed(servers)]
                assert asked == [None] * (len(servers) - 1) + [term], "leadership was lost"
        gate.touch()
        await client.resume_queue("held")
        for handle in handles[:OF_EACH]:
            await handle.cancel("it is due in half an hour")
        seconds = await recovered(lambda: all_ended(client), BOUND)
        for server in reversed(servers):
            await server.stop()
    books = await close_books(servers[0].url, told, servers[0].marks)
    assert books.states == {JobState.CANCELLED: OF_EACH, JobState.SUCCEEDED: 2 * OF_EACH}
    assert books.extra == 0
    jumps = len(servers) * len(JUMPS)
    print(told.heal_line(seconds, jumps=jumps, jobs=len(handles), extra_executions=books.extra))


async def make_jobs(client: AsyncClient, gate: Path) -> list[JobHandle[Any]]:
    """Jobs that are due later, that wait under a deadline, and that run under one."""
    due = datetime.now(UTC) + timedelta(minutes=30)
    minutes = Timeouts(queue=600, total=1200)
    await client.pause_queue("held")
    scheduled = [await client.submit("work", schedule_time=due) for _ in range(OF_EACH)]
    held = [await client.submit("work", queue="held", timeouts=minutes) for _ in range(OF_EACH)]
    payload = {"gate": str(gate)}
    running = [await client.submit("work", payload, timeouts=minutes) for _ in range(OF_EACH)]
    await recovered(lambda: _run(client, OF_EACH), BOUND)
    return [*scheduled, *held, *running]


async def facts(client: AsyncClient) -> dict[str, tuple[int, int]]:
    """The state of each job, and how often anything has happened to it."""
    return {job.job_id: (job.state, job.latest_sequence) async for job in client.list()}


async def sweep(server: Serving) -> None:
    """The leader has swept often: each time it judges deadlines and the leases of workers."""
    done = (await server.ask("stats"))["sweeps"]
    await recovered(lambda: _swept(server, done + SWEEPS), BOUND)


async def _swept(server: Serving, rounds: int) -> bool:
    return bool((await server.ask("stats"))["sweeps"] >= rounds)


async def _ready(server: Serving) -> bool:
    return bool((await server.ask("stats"))["ready"])


async def _run(client: AsyncClient, count: int) -> bool:
    running = [job.state async for job in client.list("state = RUNNING")]
    return running == [job_pb2.JOB_STATE_RUNNING] * count
