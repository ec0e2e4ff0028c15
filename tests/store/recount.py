"""What must be true of every database at any time, counted again from its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Select, func, select

from longshore.sdk.failures import FailureClass
from longshore_store.model import EventKind
from longshore_store.reports import RETAINED_EVENTS
from longshore_store.sql import SqlStore
from longshore_store.states import ACTIVE, TERMINAL, TRANSITIONS, WAITING, JobState
from longshore_store.tables import attempts, events, jobs, queue_counts

Rows = Sequence[Sequence[Any]]
_EDGES = {(source, edge.target) for edge in TRANSITIONS for source in edge.sources}
COUNTER_OF = {
    FailureClass.TASK_ERROR: "attempts",
    FailureClass.PERMANENT: "attempts",
    FailureClass.TIMEOUT: "attempts",
    FailureClass.CRASH: "crashes",
    FailureClass.OUT_OF_MEMORY: "ooms",
    FailureClass.WORKER_LOST: "interruptions",
    FailureClass.DEVICE_FAULT: "interruptions",
}


async def fetch(store: SqlStore, query: Select[Any]) -> Rows:
    """Rows as they lie in the tables, beside what the store says."""
    dialect = store._dialect
    return await dialect.read(lambda connection: dialect.rows(connection, query, {}))


async def recount(store: SqlStore) -> None:
    """Raises AssertionError where a counter, an event or an attempt does not add up."""
    await _recount_queues(store)
    await _recount_events(store)
    await _recount_attempts(store)


async def _recount_queues(store: SqlStore) -> None:
    expected: Counter[tuple[str, str, str]] = Counter()
    for queue, tenant, state in await fetch(
        store, select(jobs.c.queue, jobs.c.tenant, jobs.c.state)
    ):
        for kind, states in (("waiting", WAITING), ("active", ACTIVE)):
            expected[queue, tenant, kind] += state in states
    q = queue_counts.c
    query = select(q.queue, q.tenant, func.sum(q.waiting), func.sum(q.active), func.sum(q.drained))
    stored: Counter[tuple[str, str, str]] = Counter()
    drained = 0
    for queue, tenant, waiting, active, leases in await fetch(
        store, query.group_by(q.queue, q.tenant)
    ):
        stored[queue, tenant, "waiting"] = int(waiting)
        stored[queue, tenant, "active"] = int(active)
        drained += int(leases)
    assert +stored == +expected
    assert min(stored.values(), default=0) >= 0
    fences = await fetch(store, select(func.coalesce(func.sum(jobs.c.fence), 0)))
    assert drained == int(fences[0][0]), "a lease is one fence and one drained job"


async def _recount_events(store: SqlStore) -> None:
    c = events.c
    query = select(c.job_id, c.sequence, c.kind, c.from_state, c.to_state, c.reason)
    found: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)
    for job_id, *event in await fetch(store, query.order_by(c.job_id, c.sequence)):
        found[job_id].append(event)
    heads = await fetch(store, select(jobs.c.id, jobs.c.state, jobs.c.sequence, jobs.c.run))
    assert {row[0] for row in heads} == set(found), "every job has events, every event a job"
    for job_id, state, sequence, run in heads:
        _check_events(found[job_id], JobState(state), sequence, run)


def _check_events(found: Rows, state: JobState, sequence: int, run: int) -> None:
    first = found[0][0]
    assert [e[0] for e in found] == list(range(first, sequence + 1)), "dense, up to the newest"
    changes = [e for e in found if e[1] == EventKind.STATE]
    if first > 1:
        assert len(found) >= RETAINED_EVENTS
    else:
        _check_story(changes, run, state)
    if state in TERMINAL:
        assert found[-1][1] == EventKind.STATE
        assert found[-1][3] == state


def _check_story(changes: Rows, run: int, state: JobState) -> None:
    assert changes[0][2] == 0
    for before, after in pairwise(changes):
        assert after[2] == before[3], "an event begins where the one before it ended"
        assert (after[2], after[3]) in _EDGES or after[4] == "REPLACED"
    assert changes[-1][3] == state
    ends = sum(e[3] in TERMINAL for e in changes)
    assert ends == run - (state not in TERMINAL), "one terminal event for each run"


async def _recount_attempts(store: SqlStore) -> None:
    a, j = attempts.c, jobs.c
    expected: Counter[tuple[str, str]] = Counter()
    query = select(a.job_id, a.failure_class, a.fence, j.fence, a.number, j.number).where(
        a.job_id == j.id, a.run == j.run
    )
    for job_id, failure_class, fence, newest, number, last in await fetch(store, query):
        assert fence <= newest
        assert number <= last
        if counter := COUNTER_OF.get(failure_class):
            expected[job_id, counter] += 1
    stored: Counter[tuple[str, str]] = Counter()
    names = ("attempts", "crashes", "ooms", "interruptions")
    for job_id, *counts in await fetch(store, select(j.id, *(j[name] for name in names))):
        stored.update({(job_id, name): n for name, n in zip(names, counts, strict=True)})
    assert +stored == +expected
