"""Dispatch while a backlog of old jobs is deleted, against dispatch beside the same jobs kept."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks import latency, throughput
from benchmarks.service import running
from longshore_store.model import Completion, Lease, NewJob
from longshore_store.retention_records import DAY
from longshore_store.sql import SqlStore
from longshore_store.topology_records import QueueDeclaration

AGE = 20 * DAY
IDLE_JOBS = 200
_CALL = 1000
_SETTINGS = "[retention]\n{states}logs = {days}\n"
_STATES = ("succeeded", "failed", "cancelled", "expired", "dead_lettered")
_DEADLINE = 900.0
_POLL = 0.2


class Measured(NamedTuple):
    """Of one service: jobs per second, milliseconds, how many old jobs went in the meantime, and
    how many seconds it took until all were gone, where they were to go."""

    rate: float
    idle: latency.Latency
    gone: int
    emptied: float | None


class Compared(NamedTuple):
    """Rounds on services that keep the old jobs, and on services that delete them, by turns."""

    backlog: int
    kept: list[Measured]
    deleted: list[Measured]

    def __str__(self) -> str:
        rows = [self._row("kept", self.kept), self._row("being deleted", self.deleted)]
        ratio = _middle(self.deleted) / _middle(self.kept)
        return "\n".join([*rows, f"retention: ratio of the rates {ratio:.2f}"])

    def _row(self, what: str, found: list[Measured]) -> str:
        def middle(values: list[float]) -> float:
            return statistics.median(values)

        row = (
            f"retention: {self.backlog:,} old jobs {what}: echo jobs"
            f" {_middle(found):,.0f}/s ({', '.join(f'{m.rate:,.0f}' for m in found)});"
            f" idle Submit to running p50 {middle([m.idle.p50 for m in found]):.1f} ms,"
            f" p99 {middle([m.idle.p99 for m in found]):.1f} ms;"
            f" {middle([m.gone for m in found]):,.0f} deleted in the meantime"
        )
        emptied = [m.emptied for m in found if m.emptied is not None]
        return row + (f", all after {middle(emptied):.0f} s" if emptied else "")


def _middle(found: list[Measured]) -> float:
    return statistics.median(m.rate for m in found)


async def compare(backlog: int, jobs: int, rounds: int) -> Compared:
    """Each service gets a copy of one database with a backlog of old jobs that succeeded."""
    kept, deleted = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        old = Path(folder, "old.db")
        await _fill(old, backlog)
        for number in range(rounds):
            last = number == rounds - 1
            kept.append(await _measure(old, 10_000, jobs, to_the_end=False))
            deleted.append(await _measure(old, 7, jobs, to_the_end=last))
    return Compared(backlog, kept, deleted)


async def _measure(old: Path, days: int, jobs: int, *, to_the_end: bool) -> Measured:
    copy, settings = old.with_name(f"{days}.db"), old.with_name("settings.toml")
    shutil.copyfile(old, copy)
    states = "".join(f"{state} = {days}\n" for state in _STATES)
    settings.write_text(_SETTINGS.format(states=states, days=days))
    began = time.perf_counter()
    async with running(f"sqlite:///{copy}", "--config", str(settings)) as (client, _):
        before = _left(copy)
        rate = await throughput.one_round(client, jobs)
        idle = await latency.one_round(client, IDLE_JOBS)
        gone = before - _left(copy)
        emptied = None
        if to_the_end:
            await _emptied(copy)
            emptied = time.perf_counter() - began
    copy.unlink()
    return Measured(rate.succeeded, idle, gone, emptied)


async def _emptied(path: Path) -> None:
    async with asyncio.timeout(_DEADLINE):
        while _left(path):
            await asyncio.sleep(_POLL)


def _left(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found: int = connection.execute("SELECT count(*) FROM jobs WHERE id < '01'").fetchone()[0]
        return found


async def _fill(path: Path, backlog: int) -> None:
    """Jobs that were accepted, run and completed `AGE` ago; ids as they would have been."""
    long_ago = time.time_ns() // 1000 - AGE
    store = SqlStore(f"sqlite:///{path}", clock=lambda: long_ago)
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    term = await store.lead("bench", DAY)
    if term is None:
        raise SystemExit("another one leads a new database")
    for first in range(0, backlog, _CALL):
        ids = [f"00000000-{n >> 16:04x}-7000-8000-{n:012x}" for n in range(first, first + _CALL)]
        await store.submit_jobs([_job(job_id) for job_id in ids])
        leased = await store.lease_jobs(term, [Lease(job_id, 0, "w") for job_id in ids])
        await store.complete_attempts(
            term, [Completion(job.id, job.fence, long_ago, '{"n":1}') for job in leased]
        )
    await store.resign("bench")
    await store.close()


def _job(job_id: str) -> NewJob:
    return NewJob(job_id, "default", "echo", "default", b"", '{"n":1}', '{"cpu_millis":1000}', "f")
