"""Row 19: Redis killed, FLUSHALL, STOPped: only latency changes; the event loop never blocks."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore_store.sql import SqlStore
from longshore_store.topology_records import QueueDeclaration, TaskRecord
from tests.faults.apart import Apart, Part
from tests.faults.closing import Told, close_books, recovered
from tests.faults.scale import times
from tests.faults.work import Work, work
from tests.store.bus.redis_server import RedisServer

FAULTS = times(60, 6)
CALLERS = 6
USUAL = 20
BOUND = 60.0
LARGEST_LAG = 0.25
"""Seconds of `Running.stats`. A loop that waited for a stopped Redis would be held up for one."""


@dataclass
class Deployment:
    """Two servers, a scheduler and a standby, one Redis."""

    redis: RedisServer
    parts: list[Apart]
    clients: list[AsyncClient]
    took: list[float] = field(default_factory=list)

    async def one(self, told: Told, number: int) -> float:
        """Submits a job at one server and watches it at the other. Returns the seconds it took."""
        here, there = self.clients[number % 2], self.clients[1 - number % 2]
        begin = time.monotonic()
        handle = await here.submit(
            "work", Work(seconds=0.01).model_dump(), idempotency_key=f"{told.seed}-{number}"
        )
        told.accepted.add(handle.id)
        sequences, terminal = [], []
        async with asyncio.timeout(BOUND):
            async for event in there.watch(handle.id, after_sequence=0):
                if event.HasField("state_change"):
                    sequences.append(event.sequence)
                if event.HasField("terminal"):
                    terminal.append(event.terminal.job)
        [job] = terminal
        assert sequences == list(range(1, job.latest_sequence + 1))
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
        told.ended[job.job_id] = job.state
        return time.monotonic() - begin

    async def many(self, told: Told, first: int, over: asyncio.Event) -> None:
        """One caller: job after job until the faults are over."""
        number = first
        while not over.is_set():
            self.took.append(await self.one(told, number))
            number += CALLERS

    async def connected(self) -> bool:
        """True once every process exchanges hints."""
        return all([(await part.stats())["connected"] for part in self.parts])

    async def lag(self) -> float:
        """The largest of any process since this was last asked."""
        return max([float((await part.stats())["lag"]) for part in self.parts])


@asynccontextmanager
async def deployed(folder: Path, url: str, marks: Path) -> AsyncIterator[Deployment]:
    store = SqlStore(url)
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    await store.publish_tasks([TaskRecord(work.name, json.dumps(work.describe()))])
    await store.close()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer(folder))
        parts = []
        for number, role in enumerate(("scheduler", "scheduler", "server", "server")):
            part = Apart(folder, Part(role, url, redis.url, str(marks)), f"{role}-{number}")
            parts.append(await stack.enter_async_context(part))
        clients = [
            await stack.enter_async_context(AsyncClient(f"127.0.0.1:{part.port}", timeout=BOUND))
            for part in parts[2:]
        ]
        yield Deployment(redis, parts, clients)


async def break_redis(redis: RedisServer, chance: random.Random, fault: str) -> None:
    """One fault, and its end."""
    if fault == "FLUSHALL":
        await redis.ask(fault)
    elif fault == "STOP":
        redis.signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.2, 4.0))
        redis.signal(signal.SIGCONT)
    else:
        await redis.kill()
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        await redis.start()
    await asyncio.sleep(chance.uniform(0.0, 1.0))


async def test_only_latency_changes(tmp_path: Path, postgres_url: str, seed: int) -> None:
    chance, told, marks = random.Random(seed), Told(19, seed), tmp_path / "marks"
    marks.touch()
    async with deployed(tmp_path, postgres_url, marks) as deployment:
        await recovered(deployment.connected, BOUND)
        usual = [await deployment.one(told, number) for number in range(USUAL)]
        before = await deployment.lag()
        over = asyncio.Event()
        callers = [
            asyncio.create_task(deployment.many(told, USUAL + n, over)) for n in range(CALLERS)
        ]
        faults = [("STOP", "KILL", "FLUSHALL")[n % 3] for n in range(FAULTS)]
        chance.shuffle(faults)
        for fault in faults:
            await break_redis(deployment.redis, chance, fault)
        lag = await deployment.lag()
        healed = await recovered(deployment.connected, BOUND)
        over.set()
        await asyncio.gather(*callers)
        again = [
            await deployment.one(told, USUAL + CALLERS * len(told.accepted) + number)
            for number in range(USUAL)
        ]
    books = await close_books(postgres_url, told, marks)
    print(f"submit to the end, watched at the other server: {line(usual)}")
    print(f"during {faults}: {line(deployment.took)}; afterwards {line(again)}")
    print(f"largest lag of an event loop {lag * 1e3:.0f} ms, {before * 1e3:.0f} ms before")
    print(told.heal_line(healed, faults=FAULTS, jobs=len(told.accepted)))
    assert books.extra == 0, "no job was executed twice"
    assert lag < max(LARGEST_LAG, 3 * before)


def line(took: list[float]) -> str:
    """Milliseconds."""
    return f"median {statistics.median(took) * 1e3:.0f} ms, slowest {max(took) * 1e3:.0f} ms"
