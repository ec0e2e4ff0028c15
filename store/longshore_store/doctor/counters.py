"""Counters of queues against jobs; leases and slots against the workers that the store knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    bindparam,
    case,
    func,
    or_,
    select,
    union_all,
)

from longshore_store.dialects import Row
from longshore_store.doctor.findings import Finding
from longshore_store.doctor.probes import Probe
from longshore_store.edges import number, state_in
from longshore_store.states import ACTIVE, WAITING, JobState
from longshore_store.tables import jobs, queue_counts, workers

# -- counters


def deviations() -> Select[Any]:
    """(queue, tenant, waiting, active as counted, waiting, active as stored) where they differ."""
    nothing = number(0)

    def one(states: frozenset[JobState]) -> ColumnElement[int]:
        return case((state_in(states), 1), else_=0)

    # Names of their own, so that both halves of the union agree on them.
    counted = select(
        jobs.c.queue, jobs.c.tenant, one(WAITING).label("waiting"), one(ACTIVE).label("active"),
        nothing.label("stored_waiting"), nothing.label("stored_active"),
    ).where(state_in(WAITING | ACTIVE))  # fmt: skip
    q = queue_counts.c
    stored = select(q.queue, q.tenant, nothing, nothing, q.waiting, q.active)
    both = union_all(counted, stored).subquery()
    b = both.c
    sums = [func.sum(c) for c in (b.waiting, b.active, b.stored_waiting, b.stored_active)]
    return (
        select(b.queue, b.tenant, *sums)
        .group_by(b.queue, b.tenant)
        .having(or_(sums[0] != sums[2], sums[1] != sums[3]))
    )


def _read_deviation(row: Row) -> Iterator[Finding]:
    queue, tenant, waiting, active, stored_waiting, stored_active = row
    subject = f"queue={queue} tenant={tenant}"
    for name, is_, should in (
        ("waiting", stored_waiting, waiting),
        ("active", stored_active, active),
    ):
        if is_ != should:
            yield Finding("counters", subject, f"{name} {is_}", f"{should}", repairable=True)


def _drained() -> Select[Any]:
    """Every lease is one fence and one drained job; a deleted job takes its fences along."""
    drained = select(func.coalesce(func.sum(queue_counts.c.drained), 0)).scalar_subquery()
    fences = select(func.coalesce(func.sum(jobs.c.fence), 0)).scalar_subquery()
    return select(drained, fences).where(drained < fences)


def _read_drained(row: Row) -> Iterator[Finding]:
    drained, fences = row
    yield Finding("counters", "all queues", f"drained {drained}", f"{fences} or more")


# -- leases


def _unowned() -> Select[Any]:
    c = jobs.c
    joined = jobs.outerjoin(workers, workers.c.id == c.worker_id)
    return (
        select(c.id, c.fence, c.state, c.worker_id)
        .select_from(joined)
        .where(state_in(ACTIVE), workers.c.id.is_(None))
    )


def _read_unowned(row: Row) -> Iterator[Finding]:
    job_id, fence, state, worker_id = row
    found = f"{JobState(state).name} on {worker_id or 'no worker'}, which the store does not know"
    yield Finding("leases", f"job {job_id} fence {fence}", found, "released by the scheduler")


def _silent() -> Select[Any]:
    silence = bindparam("p_now", type_=BigInteger) - workers.c.heartbeat_us
    return select(workers.c.id, silence).where(silence > bindparam("p_lease", type_=BigInteger))


def _read_silent(row: Row) -> Iterator[Finding]:
    worker_id, silence_us = row
    found = f"silent for {silence_us / 1e6:,.0f} s"
    yield Finding("leases", f"worker {worker_id}", found, "heard, or forgotten by the scheduler")


# -- slots


def _slots() -> Select[Any]:
    held = (
        select(jobs.c.worker_id, func.count().label("n"))
        .where(state_in(ACTIVE))
        .group_by(jobs.c.worker_id)
        .subquery()
    )
    leases = func.coalesce(held.c.n, 0)
    return (
        select(workers.c.id, workers.c.active_attempts, leases)
        .select_from(workers.outerjoin(held, held.c.worker_id == workers.c.id))
        .where(workers.c.active_attempts != leases)
    )


def _read_slots(row: Row) -> Iterator[Finding]:
    worker_id, published, leases = row
    found, expected = f"{published} active attempts", f"{leases}, its leases"
    yield Finding("slots", f"worker {worker_id}", found, expected, hint=True)


DEVIATIONS = Probe(deviations, _read_deviation)
DRAINED = Probe(_drained, _read_drained)
UNOWNED = Probe(_unowned, _read_unowned)
SILENT = Probe(_silent, _read_silent)
SLOTS = Probe(_slots, _read_slots)
