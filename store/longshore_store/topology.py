"""Queues, tasks, pools and workers: what is declared, and what is up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, Table, delete, func, select, update

from longshore_store.committer import Transaction, Write
from longshore_store.dialects import Connection, Dialect, Row, upsert_row
from longshore_store.edges import number
from longshore_store.orders import DRAINING, WorkerOrder
from longshore_store.tables import jobs, leaders, pools, queue_counts, queues, tasks, workers
from longshore_store.topology_records import (
    LeaderRecord,
    PoolRecord,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)

NOT_DUE = 10_000
"""Jobs that wait for a time, counted at most."""


class TopologyReads:
    """Queries about few rows."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def _rows(self, connection: Connection, make: Callable[[], Select[Any]]) -> Sequence[Row]:
        query = self._dialect.fixed(make, make)
        return await self._dialect.rows(connection, query, {})

    async def queues(self, connection: Connection) -> list[QueueRecord]:
        """Every queue with its counters summed."""
        not_due = {queue: int(n) for queue, n in await self._rows(connection, _not_due)}
        queues = [_queue(row) for row in await self._rows(connection, _queues)]
        return [queue._replace(not_due=not_due.get(queue.name, 0)) for queue in queues]

    async def leader(self, connection: Connection) -> LeaderRecord | None:
        """Who leads or led last; None before the first one."""
        rows = await self._rows(connection, _leader)
        return LeaderRecord(*rows[0]) if rows else None

    async def tasks(self, connection: Connection) -> list[TaskRecord]:
        """The catalogue."""
        return [TaskRecord(*row) for row in await self._rows(connection, _tasks)]

    async def pools(self, connection: Connection) -> list[PoolRecord]:
        """The pools."""
        rows = await self._rows(connection, _pools)
        found = [PoolRecord(*row) for row in rows]
        return [pool._replace(simulated=bool(pool.simulated)) for pool in found]

    async def workers(self, connection: Connection) -> list[WorkerRecord]:
        """The workers."""
        return [WorkerRecord(*row) for row in await self._rows(connection, _workers)]

    async def worker_orders(self, connection: Connection) -> list[WorkerOrder]:
        """Workers of which something was ordered."""
        return [WorkerOrder(*row) for row in await self._rows(connection, _orders)]


class TopologyWrites:
    """Handlers of the committer for what changes rarely and in few rows."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def declare_queues(self, tx: Transaction, writes: list[Write]) -> None:
        """Queues become as declared; an undeclared one goes unless jobs are counted in it, or may
        be moved there from where they are."""
        for write in writes:
            for queue in write.rows:
                await self._put(tx, queues, queue._asdict())
            busy = select(queue_counts.c.queue).where(
                (queue_counts.c.waiting != 0) | (queue_counts.c.active != 0)
            )
            next_ones = select(queues.c.overflow_to).where(queues.c.name.in_(busy))
            names = [queue.name for queue in write.rows]
            kept = (queues.c.name.not_in(some) for some in (names, busy, next_ones))
            await tx.connection.execute(delete(queues).where(*kept))

    async def steer_queue(self, tx: Transaction, writes: list[Write]) -> None:
        """Pauses or resumes; answers whether there is such a queue."""
        for write in writes:
            paused, reason = write.options["paused"], write.options["reason"]
            values: dict[str, Any] = {
                "paused": paused,
                "pause_reason": reason,
                "paused_us": tx.now_us if paused else None,
            }
            statement = update(queues).where(queues.c.name == write.options["name"])
            result = await tx.connection.execute(statement.values(values))
            write.answer = result.rowcount > 0
            # A resumed queue has work for schedulers that wait for a hint.
            tx.changed.append("")

    async def publish_tasks(self, tx: Transaction, writes: list[Write]) -> None:
        """The last catalogue wins."""
        await self._replace(tx, tasks, writes[-1])

    async def publish_pools(self, tx: Transaction, writes: list[Write]) -> None:
        """The last set of pools wins."""
        await self._replace(tx, pools, writes[-1])

    async def _replace(self, tx: Transaction, table: Table, write: Write) -> None:
        for record in write.rows:
            await self._put(tx, table, record._asdict())
        names = [record.name for record in write.rows]
        await tx.connection.execute(delete(table).where(table.c.name.not_in(names)))

    async def record_workers(self, tx: Transaction, writes: list[Write]) -> None:
        """Inserts or replaces what a scheduler says; what people ordered stays."""
        for write in writes:
            for worker in write.rows:
                await self._put(tx, workers, worker._asdict(), key="id")

    async def order_workers(self, tx: Transaction, writes: list[Write]) -> None:
        """Orders a state. A drain stands, whatever is ordered after it: it has gone too far."""
        for write in writes:
            ordered = update(workers).where(
                workers.c.id.in_(write.rows), workers.c.ordered != DRAINING
            )
            await tx.connection.execute(
                ordered.values(
                    ordered=write.options["state"],
                    drain_until_us=write.options["drain_until_us"],
                    drain_finished=0,
                    drain_released=0,
                )
            )
            # A scheduler that waits for a hint has something to carry out.
            tx.changed.append("")

    async def record_drains(self, tx: Transaction, writes: list[Write]) -> None:
        """Adds to the counts of drains; an idle worker shows as one in the same moment."""
        for write in writes:
            for drain in write.rows:
                values: dict[str, Any] = {
                    "drain_finished": workers.c.drain_finished + drain.finished,
                    "drain_released": workers.c.drain_released + drain.released,
                }
                if drain.idle:
                    values |= {"state": DRAINING, "active_attempts": 0, "drain_until_us": None}
                drained = update(workers).where(
                    workers.c.id == drain.worker_id, workers.c.ordered == DRAINING
                )
                await tx.connection.execute(drained.values(**values))

    async def remove_workers(self, tx: Transaction, writes: list[Write]) -> None:
        """Forgets workers."""
        ids = [worker_id for write in writes for worker_id in write.rows]
        await tx.connection.execute(delete(workers).where(workers.c.id.in_(ids)))

    async def _put(
        self, tx: Transaction, table: Table, values: Mapping[str, Any], key: str = "name"
    ) -> None:
        dialect, names = self._dialect, tuple(values)
        put = dialect.fixed(
            ("topology.put", table.name, names), lambda: upsert_row(dialect, table, names, [key])
        )
        await tx.connection.execute(put, {f"p_{name}": value for name, value in values.items()})


def _queues() -> Select[Any]:
    q, n = queues.c, queue_counts.c
    sums = [func.coalesce(func.sum(column), 0) for column in (n.waiting, n.active, n.drained)]
    return (
        select(q.name, q.paused, q.pause_reason, q.paused_us, q.maximum_waiting,
               q.attempt_timeout_us, q.overflow_to, *sums)
        .select_from(queues.outerjoin(queue_counts, n.queue == q.name))
        .group_by(q.name)
        .order_by(q.name)
    )  # fmt: skip


def _not_due() -> Select[Any]:
    c = jobs.c
    some = select(c.queue).where(c.state.in_([number(1), number(6)])).limit(NOT_DUE).subquery()
    return select(some.c.queue, func.count()).group_by(some.c.queue)


def _leader() -> Select[Any]:
    return select(leaders.c.leader_id, leaders.c.term, leaders.c.until_us)


def _tasks() -> Select[Any]:
    return select(tasks.c.name, tasks.c.document_json).order_by(tasks.c.name)


def _pools() -> Select[Any]:
    return select(*(pools.c[name] for name in PoolRecord._fields)).order_by(pools.c.name)


def _workers() -> Select[Any]:
    return select(*(workers.c[name] for name in WorkerRecord._fields)).order_by(workers.c.id)


def _orders() -> Select[Any]:
    c = workers.c
    return (
        select(c.id, c.ordered, c.drain_until_us, c.drain_finished, c.drain_released)
        .where(c.ordered != number(0))
        .order_by(c.id)
    )


def _queue(row: Row) -> QueueRecord:
    name, paused, *facts, waiting, active, drained = row
    counts = (int(waiting), int(active), int(drained))
    return QueueRecord._make((name, bool(paused), *facts, *counts, 0))
