"""The closing check of every fault test: what callers were told is found again in the store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from longshore import AsyncClient
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import jobs
from tests.store.recount import fetch, recount


async def check_rows(store: SqlStore) -> None:
    """Counters, dense sequences, one terminal event for each run, the last. Raises AssertionError.

    The one place that says by what a store is recounted.
    """
    await recount(store)


@dataclass
class Told:
    """What callers were told while faults happened.

    accepted: jobs whose Submit was answered. ended: how jobs had ended when somebody looked.
    """

    row: int
    seed: int
    accepted: set[str] = field(default_factory=set)
    ended: dict[str, int] = field(default_factory=dict)

    def heal_line(self, seconds: float, **counts: object) -> str:
        """What is collected into the documentation."""
        more = "".join(f", {name.replace('_', ' ')} {value}" for name, value in counts.items())
        return f"fault row {self.row}: recovered in {seconds:.2f} s (seed {self.seed}{more})"


@dataclass(frozen=True)
class Books:
    """How all jobs ended, and how many executions there were beyond one each."""

    states: Counter[JobState]
    extra: int


async def close_books(
    url: str, told: Told, marks: Path | None = None, *, unanswered: int = 0
) -> Books:
    """Checks a store whose service has stopped; every job must have ended.

    unanswered: how many jobs at most may be there whose Submit was never answered.
    """
    store = SqlStore(url)
    await store.open()
    try:
        await check_rows(store)
        rows = await fetch(store, select(jobs.c.id, jobs.c.state))
    finally:
        await store.close()
    states = {job_id: JobState(state) for job_id, state in rows}
    assert len(rows) == len(states)
    assert told.accepted <= states.keys(), "an accepted job is lost"
    assert len(states) <= len(told.accepted) + unanswered, "a job was made twice"
    assert not {i: s for i, s in states.items() if s not in TERMINAL}, "not all have ended"
    assert {i: states[i] for i in told.ended} == told.ended, "a terminal state changed"
    return Books(Counter(states.values()), _extra(states, marks))


def _extra(states: dict[str, JobState], marks: Path | None) -> int:
    """Executions beyond the first of each job; a success that nobody executed is an error."""
    if marks is None:
        return 0
    executed = Counter(line.split()[0] for line in marks.read_text().splitlines())
    succeeded = {job_id for job_id, state in states.items() if state is JobState.SUCCEEDED}
    assert succeeded <= executed.keys(), "a job succeeded and was never executed"
    return executed.total() - len(executed)


async def all_ended(client: AsyncClient) -> bool:
    """True once no queue holds a job that waits or runs."""
    return not sum(queue.waiting + queue.active for queue in await client.queues())


async def recovered(
    healed: Callable[[], Awaitable[object]], bound: float, since: float | None = None
) -> float:
    """Waits until `healed()` is true, by itself. Returns the seconds, at most `bound`.

    since: the monotonic time from which to count; now by default.
    """
    begin = time.monotonic() if since is None else since
    while not (seen := await healed()):
        assert time.monotonic() - begin < bound, f"still {seen!r} after {bound} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - begin
