"""An acknowledged submission survives the death of its process, at any moment."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from sqlalchemy import select

from longshore_store.tables import jobs
from tests.store.places import Files, Place
from tests.store.recount import fetch

ROOT = Path(__file__).resolve().parents[2]
KILLS = 15
FILES = 3
SUBMIT = """
import asyncio, itertools, sys
from longshore_store.model import Lease
from longshore_store.sql import SqlStore
from tests.store.factory import Attempt, completion, new_job

numbers = itertools.count()

async def work(store, term, prefix):
    while True:
        batch = [new_job(id=f"{prefix}-{next(numbers)}", payload="x" * 500) for _ in range(5)]
        await store.submit_jobs(batch)
        sys.stdout.write("".join(job.id + "\\n" for job in batch))
        sys.stdout.flush()
        granted = await store.lease_jobs(term, [Lease(job.id, 0, "w1") for job in batch])
        await store.complete_attempts(term, [completion(Attempt(g.id, g.fence)) for g in granted])

async def main():
    store = SqlStore(sys.argv[1])
    await store.open()
    term = await store.lead("writer", 10**12)
    await asyncio.gather(*(work(store, term, sys.argv[2]) for _ in range(4)))

asyncio.run(main())
"""


def run_until_killed(url: str, name: str, lines: int) -> list[str]:
    """Kills the writer after so many acknowledgements; returns all that it had printed."""
    command = [sys.executable, "-c", SUBMIT, url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline().strip() for _ in range(lines)]
        child.kill()
        rest = child.stdout.read()
    whole = rest[: rest.rfind("\n") + 1]
    return [*seen, *whole.split()]


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        answer: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        return answer
    finally:
        connection.close()


async def kill_writers(place: Place, path: Path, seed: int) -> None:
    seeded = random.Random(seed)
    acknowledged: set[str] = set()
    for i in range(KILLS // FILES):
        lines = seeded.randrange(1, 400)
        # The next writer opens what this one left behind, with its log.
        acknowledged |= set(await asyncio.to_thread(run_until_killed, place.url, f"s{i}", lines))
    assert "" not in acknowledged, "a writer ended by itself"
    async with place:
        store = await place.open()
        assert {row[0] for row in await fetch(store, select(jobs.c.id))} >= acknowledged
    assert integrity(path) == "ok"


async def test_acknowledged_jobs_survive_kills(tmp_path: Path, files: Files) -> None:
    paths = [tmp_path / f"{i}.db" for i in range(FILES)]
    await asyncio.gather(
        *(kill_writers(files.make(path), path, seed) for seed, path in enumerate(paths))
    )
