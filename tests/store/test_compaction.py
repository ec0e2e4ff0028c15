"""Counters that earlier processes left become one row for each lane, and no sum changes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
from sqlalchemy import func, select, update

from longshore_store.dialects import Connection
from longshore_store.sql import SqlStore
from longshore_store.tables import queue_counts
from tests.store.factory import FakeClock, Yard
from tests.store.patience import LONG
from tests.store.places import Place
from tests.store.recount import fetch, recount

ALL = 1000
Sums = dict[tuple[str, str], tuple[int, ...]]


async def sums(store: SqlStore) -> Sums:
    q = queue_counts.c
    numbers = [func.sum(q[name]) for name in ("waiting", "active", "drained")]
    rows = await fetch(store, select(q.queue, q.tenant, *numbers).group_by(q.queue, q.tenant))
    return {(row[0], row[1]): tuple(map(int, row[2:])) for row in rows}


async def shards(store: SqlStore) -> Sequence[Any]:
    q = queue_counts.c
    return await fetch(store, select(q.queue, q.tenant, q.writer))


async def end_process(store: SqlStore, name: str) -> None:
    """What this process has counted so far, an earlier one has."""

    async def work(connection: Connection) -> None:
        mine = queue_counts.c.writer.not_like("earlier%")
        await connection.execute(update(queue_counts).where(mine).values(writer=f"earlier{name}"))

    await store._dialect.transact(work)


async def test_shards_become_one_a_lane(yard: Yard) -> None:
    lanes = [("fast", "a"), ("fast", "b"), ("slow", "a")]
    for process in range(4):
        for queue, tenant in lanes:
            await yard.submit(queue=queue, tenant=tenant)
            await yard.leased(queue=queue, tenant=tenant)
        await end_process(yard.store, str(process))
    await yard.submit(queue="fast", tenant="a")
    before = await sums(yard.store)
    assert before["fast", "a"] == (5, 4, 4)
    assert await yard.store.compact_counts(yard.term, ALL) == 12
    assert await sums(yard.store) == before
    assert sorted(tuple(row[:2]) for row in await shards(yard.store)) == lanes
    assert await yard.store.compact_counts(yard.term, ALL) == 0


async def test_a_transaction_takes_so_many(yard: Yard) -> None:
    for process in range(5):
        await yard.submit()
        await end_process(yard.store, str(process))
    before = await sums(yard.store)
    assert [await yard.store.compact_counts(yard.term, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert await sums(yard.store) == before


async def test_counting_goes_on_in_the_same_transaction(yard: Yard) -> None:
    """Both meet in one row."""
    await yard.submit()
    await end_process(yard.store, "1")
    store = yard.store
    await asyncio.gather(*(yard.submit() for _ in range(5)), store.compact_counts(yard.term, ALL))
    assert (await sums(store))["fast", "acme"] == (6, 0, 0)


WRITER = """
import asyncio, sys
from longshore_store.sql import SqlStore
from tests.store.factory import new_job
from tests.store.patience import be_patient

async def main():
    be_patient()
    store = SqlStore(sys.argv[1])
    await store.open()
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    number = 0
    while number < 60 or not told.done():
        # Each process goes through the lanes in another order, several to a transaction.
        lanes = [(f"q{i % 2}", f"t{i}") for i in range(8)]
        if sys.argv[2] == "down":
            lanes.reverse()
        jobs = [
            new_job(id=f"{sys.argv[2]}-{number}-{i}", queue=queue, tenant=tenant)
            for i, (queue, tenant) in enumerate(lanes)
        ]
        await asyncio.gather(*(store.submit_jobs([job]) for job in jobs))
        await store.cancel_jobs([job.id for job in jobs[::2]], "", False)
        number += 1
    await store.close()
    print(number)

asyncio.run(main())
"""


async def test_writers_in_other_processes_count_on(postgres_place: Place, clock: FakeClock) -> None:
    """Sums stay exact, every writer gets through, and nobody waits for one another in a ring."""
    rings = await _deadlocks(postgres_place.url)
    store = await postgres_place.open(clock)
    yard = await Yard.make(store, clock)
    async with AsyncExitStack() as stack:
        children = [await _writer(stack, postgres_place.url, n) for n in ("up", "down", "again")]
        merged = 0
        async with asyncio.timeout(LONG):
            while merged <= len(children) * 8:  # so they do not end before it ran beside them
                merged += await store.compact_counts(yard.term, ALL)
        ended = asyncio.gather(*(child.communicate(b"\n") for child in children))
        while not ended.done():
            await store.compact_counts(yard.term, ALL)
        outcomes = await ended
    assert [child.returncode for child in children] == [0, 0, 0], outcomes
    rounds = sum(int(out) for out, _ in outcomes)
    await store.compact_counts(yard.term, ALL)
    assert len(await shards(store)) == 8
    assert sum(waiting for waiting, _, _ in (await sums(store)).values()) == rounds * 4
    await recount(store)
    await postgres_place.close(store)
    assert await _deadlocks(postgres_place.url) == rings


async def _writer(stack: AsyncExitStack, url: str, name: str) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, name, stdin=-1, stdout=-1, stderr=-1
    )
    stack.callback(_end, child)
    return child


def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()


async def _deadlocks(url: str) -> int:
    """Of all who have gone: a backend tells its count now and then, and at its end."""
    connection = await asyncpg.connect(url)
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    try:
        async with asyncio.timeout(LONG):
            while await connection.fetchval(others):
                await asyncio.sleep(0.01)
        found: int = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return found
    finally:
        await connection.close()
