"""Reading what waits and what is held: the scheduler's view of the store."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, union_all

from longshore_store.dialects import Connection, Dialect, Row
from longshore_store.edges import number, state_in
from longshore_store.model import (
    ActiveAttempt,
    CancelOrder,
    Head,
    Lane,
    PoolRecord,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)
from longshore_store.states import RUNNABLE, JobState
from longshore_store.tables import job_specs, jobs, pools, queue_counts, queues, tasks, workers

_LANES_A_QUERY = 50


class DispatchReads:
    """Queries whose cost does not grow with the number of waiting jobs."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def lanes(self, connection: Connection) -> list[Lane]:
        """Unpaused lanes with waiting jobs, by name."""
        waiting = func.sum(queue_counts.c.waiting)
        query = (
            select(queue_counts.c.queue, queue_counts.c.tenant, waiting)
            .select_from(queue_counts.join(queues, queues.c.name == queue_counts.c.queue))
            .where(queues.c.paused.is_(False))
            .group_by(queue_counts.c.queue, queue_counts.c.tenant)
            .having(waiting > 0)
            .order_by(queue_counts.c.queue, queue_counts.c.tenant)
        )
        rows = await self._dialect.rows(connection, query, {})
        return [Lane(queue, tenant, int(n)) for queue, tenant, n in rows]

    async def heads(self, connection: Connection, lanes: Sequence[tuple[Lane, int]]) -> list[Head]:
        """The first jobs of each lane."""
        found: list[Row] = []
        for start in range(0, len(lanes), _LANES_A_QUERY):
            parts = [_head(lane, limit) for lane, limit in lanes[start : start + _LANES_A_QUERY]]
            query: Any = parts[0] if len(parts) == 1 else select(union_all(*parts).subquery())
            found.extend(await self._dialect.rows(connection, query, {}))
        return [Head(*row) for row in found]

    async def active(self, connection: Connection) -> list[ActiveAttempt]:
        """LEASED and RUNNING jobs, and CANCELLING ones."""
        c = jobs.c
        query = (
            select(c.id, c.fence, c.number, c.state, c.tenant, c.task, c.queue, c.worker_id,
                   c.needs_json, c.attempts, c.crashes, c.ooms, c.interruptions,
                   c.total_deadline_us, c.started_us, job_specs.c.spec)
            .select_from(jobs.join(job_specs, job_specs.c.job_id == c.id))
            .where(state_in(frozenset({*RUNNABLE, JobState.CANCELLING})))
        )  # fmt: skip
        return [_active(row) for row in await self._dialect.rows(connection, query, {})]

    async def cancels(self, connection: Connection) -> list[CancelOrder]:
        """CANCELLING jobs."""
        c = jobs.c
        # All three states, so that the index of held jobs serves it.
        query = select(c.id, c.fence, c.worker_id, c.cancel_force, c.state).where(
            c.state.in_([number(s) for s in (4, 5, 7)]), c.state == number(JobState.CANCELLING)
        )
        rows = await self._dialect.rows(connection, query, {})
        return [
            CancelOrder(i, fence, worker or "", bool(force)) for i, fence, worker, force, _ in rows
        ]

    async def next_due_us(self, connection: Connection) -> int | None:
        """The earliest of what promote_jobs and expire_jobs wait for."""
        due = select(func.min(jobs.c.due_us)).where(jobs.c.state.in_([number(1), number(6)]))
        expire = select(func.min(jobs.c.expire_us)).where(
            jobs.c.expire_us.is_not(None),
            jobs.c.state.in_([number(s) for s in (1, 2, 3, 6)]),
        )
        row = (
            await connection.execute(select(due.scalar_subquery(), expire.scalar_subquery()))
        ).one()
        return min((t for t in row if t is not None), default=None)

    async def queues(self, connection: Connection) -> list[QueueRecord]:
        """Every queue with its counters summed."""
        q, n = queues.c, queue_counts.c
        sums = [func.coalesce(func.sum(column), 0) for column in (n.waiting, n.active, n.drained)]
        query = (
            select(q.name, q.paused, q.pause_reason, q.paused_us, q.maximum_waiting,
                   q.attempt_timeout_us, q.overflow_to, *sums)
            .select_from(queues.outerjoin(queue_counts, n.queue == q.name))
            .group_by(q.name)
            .order_by(q.name)
        )  # fmt: skip
        rows = await self._dialect.rows(connection, query, {})
        return [_queue(row) for row in rows]

    async def tasks(self, connection: Connection) -> list[TaskRecord]:
        """The catalogue."""
        query = select(tasks.c.name, tasks.c.document_json).order_by(tasks.c.name)
        return [TaskRecord(*row) for row in await self._dialect.rows(connection, query, {})]

    async def pools(self, connection: Connection) -> list[PoolRecord]:
        """The pools."""
        query = select(*pools.c).order_by(pools.c.name)
        rows = await self._dialect.rows(connection, query, {})
        return [PoolRecord._make((*row[:-1], bool(row[-1]))) for row in rows]

    async def workers(self, connection: Connection) -> list[WorkerRecord]:
        """The workers."""
        query = select(*workers.c).order_by(workers.c.id)
        return [WorkerRecord(*row) for row in await self._dialect.rows(connection, query, {})]


def _head(lane: Lane, limit: int) -> Any:
    c = jobs.c
    ordered = (
        select(c.id, c.fence, c.queue, c.tenant, c.task, c.priority, c.needs_json, c.ready_us)
        .where(c.state == number(JobState.QUEUED), c.queue == lane.queue, c.tenant == lane.tenant)
        .order_by(c.priority.desc(), c.ready_us, c.id)
        .limit(limit)
    )
    return select(ordered.subquery())


def _active(row: Row) -> ActiveAttempt:
    job_id, fence, num, state, tenant, task, queue, worker, *counts, spec = row
    spec = base64.b64decode(spec)
    return ActiveAttempt._make(
        (job_id, fence, num, JobState(state), tenant, task, queue, worker or "", *counts, spec)
    )


def _queue(row: Row) -> QueueRecord:
    name, paused, *facts, waiting, active, drained = row
    return QueueRecord._make((name, bool(paused), *facts, int(waiting), int(active), int(drained)))
