"""A writer over SQLite, killed at random points of its life, again and again.

    python -m tests.faults.writers DATABASE ACKNOWLEDGED KILLS SEED

Each life is a fork of this process, which has imported everything already. It submits, leases and
completes until it is killed, and appends to ACKNOWLEDGED what its store has answered: "+ID" for a
job that was accepted, "=ID" for one whose completion was. The next life opens what it finds.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from longshore_store.model import Completion, Lease
from longshore_store.sql import SqlStore
from tests.scheduler.harness import make_job

LONGEST_LIFE = 0.7
BIRTHS, LONGEST_OF_ALL = 2, 3.0
"""On a slow machine a life lasts longer: times that the first one took to its first answer."""
SIDE_BY_SIDE = 4
CHECK_EVERY = 10
PATIENCE = 60.0


async def work(store: SqlStore, term: int, numbers: itertools.count[int], said: int) -> None:
    """Batches from submission to completion, for ever."""
    filler = '{"filler": "%s"}' % ("x" * 400)
    while True:
        batch = [
            make_job("work", id=str(uuid.UUID(int=next(numbers))), payload=filler) for _ in range(5)
        ]
        await store.submit_jobs(batch)
        os.write(said, "".join(f"+{job.id}\n" for job in batch).encode())
        granted = await store.lease_jobs(term, [Lease(job.id, 0, "w1") for job in batch])
        now = store.now_us()
        done = [Completion(one.id, one.fence, now, "null") for one in granted]
        assert await store.complete_attempts(term, done) == []
        os.write(said, "".join(f"={one.id}\n" for one in granted).encode())


async def live(path: str, life: int, said: int) -> None:
    """One life: opens the store and writes until the end."""
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    term = await store.lead(f"writer-{life}", 10**12)
    assert term is not None
    numbers = itertools.count((life + 1) << 64)
    await asyncio.gather(*(work(store, term, numbers, said) for _ in range(SIDE_BY_SIDE)))


def die(path: str, life: int, said: int, ripe: Callable[[], object]) -> None:
    """Forks a life and kills it when `ripe` returns. Raises where it ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(live(path, life, said))
        finally:
            os._exit(1)
    ripe()
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.write(said, b"\n")  # a kill may cut a write short, at the border of a page
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"life {life} ended by itself with status {status}")


def until_written(acknowledged: Path) -> None:
    """The first life has had an answer. Raises where none comes."""
    end = time.monotonic() + PATIENCE
    while not acknowledged.stat().st_size:
        if time.monotonic() > end:
            raise RuntimeError(f"nothing was written in {PATIENCE:g} s")
        time.sleep(0.001)


def check(path: str) -> None:
    """Raises where the file is damaged."""
    connection = sqlite3.connect(path)
    try:
        [answer] = connection.execute("PRAGMA integrity_check").fetchone()
    finally:
        connection.close()
    if answer != "ok":
        raise RuntimeError(f"{path}: {answer}")


def main(path: str, acknowledged: str, kills: str, seed: str) -> None:
    """All lives."""
    seeded = random.Random(seed)
    said = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    began = time.monotonic()
    die(path, 0, said, partial(until_written, Path(acknowledged)))
    longest = max(LONGEST_LIFE, min(BIRTHS * (time.monotonic() - began), LONGEST_OF_ALL))
    for life in range(1, int(kills)):
        die(path, life, said, partial(time.sleep, seeded.uniform(0, longest)))
        if life % CHECK_EVERY == CHECK_EVERY - 1:
            check(path)
    check(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
