"""Reading what waits and what is held: the scheduler's view of the store."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Integer, Select, Text, and_, bindparam, func, select, union_all

from longshore_store.dialects import Connection, Dialect, Row, Rowset
from longshore_store.edges import number, state_in
from longshore_store.model import ActiveAttempt, Head, Lane
from longshore_store.orders import CancelOrder
from longshore_store.states import RUNNABLE, JobState
from longshore_store.tables import job_specs, jobs, queue_counts, queues

_LANES_A_QUERY = 50
# Devices are few and their jobs long: reading more of them each cycle would serve nobody.
_GPU_HEADS = 256


class DispatchReads:
    """Queries whose cost does not grow with the number of waiting jobs."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def _rows(self, connection: Connection, make: Callable[[], Select[Any]]) -> Sequence[Row]:
        query = self._dialect.fixed(make, make)
        return await self._dialect.rows(connection, query, {})

    async def lanes(self, connection: Connection) -> list[Lane]:
        """Unpaused lanes with waiting jobs, by name. Those of a queue that is not declared any
        more are among them: it may have gone while a job was on its way there."""
        rows = await self._rows(connection, _lanes)
        return [Lane(queue, tenant, int(n)) for queue, tenant, n in rows]

    async def heads(
        self,
        connection: Connection,
        lanes: Sequence[tuple[Lane, int]],
        without: Sequence[str] = (),
    ) -> list[Head]:
        """The first jobs of each lane: so many that need no GPU, and some that do; those of the
        tasks `without` are passed over."""
        found: list[Row] = []
        passed = self._dialect.rowset("x", {"task": "text"}) if without else None
        for start in range(0, len(lanes), _LANES_A_QUERY):
            part = lanes[start : start + _LANES_A_QUERY]
            query = self._dialect.fixed(
                ("heads", len(part), bool(without)), partial(_heads, len(part), passed)
            )
            params: dict[str, Any] = {
                f"{name}{i}": value
                for i, (lane, limit) in enumerate(part)
                for name, value in (
                    ("q", lane.queue),
                    ("t", lane.tenant),
                    ("n", limit),
                    ("g", min(limit, _GPU_HEADS)),
                )
            }
            if passed is not None:
                params |= passed.params([(task,) for task in without])
            found.extend(await self._dialect.rows(connection, query, params))
        place = {(lane.queue, lane.tenant): i for i, (lane, _) in enumerate(lanes)}
        heads = [Head(*row) for row in found]
        heads.sort(key=lambda h: (place[h.queue, h.tenant], -h.priority, h.ready_us, h.id))
        return heads

    async def active(self, connection: Connection) -> list[ActiveAttempt]:
        """LEASED and RUNNING jobs, and CANCELLING ones."""
        return [_active(row) for row in await self._rows(connection, _held)]

    async def cancels(self, connection: Connection) -> list[CancelOrder]:
        """CANCELLING jobs."""
        rows = await self._rows(connection, _cancelling)
        return [
            CancelOrder(i, fence, worker or "", bool(force)) for i, fence, worker, force, _ in rows
        ]

    async def next_due_us(self, connection: Connection) -> int | None:
        """The earliest of what promote_jobs and expire_jobs wait for."""
        ((due, expire),) = await self._rows(connection, _next_due)
        return min((t for t in (due, expire) if t is not None), default=None)


def _lanes() -> Select[Any]:
    waiting = func.sum(queue_counts.c.waiting)
    return (
        select(queue_counts.c.queue, queue_counts.c.tenant, waiting)
        .select_from(queue_counts.outerjoin(queues, queues.c.name == queue_counts.c.queue))
        .where(queues.c.paused.is_not(True))
        .group_by(queue_counts.c.queue, queue_counts.c.tenant)
        .having(waiting > 0)
        .order_by(queue_counts.c.queue, queue_counts.c.tenant)
    )


def _heads(lanes: int, passed: Rowset | None) -> Select[Any]:
    parts = [select(_head(i, gpu, passed).subquery()) for i in range(lanes) for gpu in (0, 1)]
    return select(union_all(*parts).subquery())


def _head(i: int, gpu: int, passed: Rowset | None) -> Select[Any]:
    c = jobs.c
    in_lane = and_(
        c.state == number(JobState.QUEUED),
        c.queue == bindparam(f"q{i}", type_=Text),
        c.tenant == bindparam(f"t{i}", type_=Text),
        c.gpu == number(gpu),
    )
    if passed is not None:
        in_lane = and_(in_lane, c.task.not_in(select(passed.c.task)))
    return (
        select(c.id, c.fence, c.queue, c.tenant, c.task, c.priority, c.needs_json, c.ready_us,
               c.interruptions)
        .where(in_lane)
        .order_by(c.priority.desc(), c.ready_us, c.id)
        .limit(bindparam(f"{'g' if gpu else 'n'}{i}", type_=Integer))
    )  # fmt: skip


def _held() -> Select[Any]:
    c = jobs.c
    return (
        select(c.id, c.fence, c.number, c.state, c.tenant, c.task, c.queue, c.worker_id,
               c.needs_json, c.attempts, c.crashes, c.ooms, c.interruptions,
               c.total_deadline_us, c.started_us, job_specs.c.spec)
        .select_from(jobs.join(job_specs, job_specs.c.job_id == c.id))
        .where(state_in(frozenset({*RUNNABLE, JobState.CANCELLING})))
    )  # fmt: skip


def _cancelling() -> Select[Any]:
    c = jobs.c
    # All three states, so that the index of held jobs serves it.
    return select(c.id, c.fence, c.worker_id, c.cancel_force, c.state).where(
        c.state.in_([number(s) for s in (4, 5, 7)]), c.state == number(JobState.CANCELLING)
    )


def _next_due() -> Select[Any]:
    c = jobs.c
    due = select(func.min(c.due_us)).where(c.state.in_([number(1), number(6)]))
    expire = select(func.min(c.expire_us)).where(
        c.expire_us.is_not(None), c.state.in_([number(s) for s in (1, 2, 3, 6)])
    )
    return select(due.scalar_subquery().label("due"), expire.scalar_subquery().label("expire"))


def _active(row: Row) -> ActiveAttempt:
    job_id, fence, num, state, tenant, task, queue, worker, *counts, spec = row
    spec = base64.b64decode(spec)
    return ActiveAttempt._make(
        (job_id, fence, num, JobState(state), tenant, task, queue, worker or "", *counts, spec)
    )
