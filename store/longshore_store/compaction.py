"""The counters of queues: what earlier processes counted becomes one row for each lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, Select, bindparam, delete, func, select, tuple_

from longshore_store.committer import Transaction, Write
from longshore_store.dialects import Dialect, Row
from longshore_store.edges import add_counts, writer
from longshore_store.tables import queue_counts

_SHARD = ("queue", "tenant", "writer")


class CompactionWrites:
    """The handler of the committer that merges shards; their sums stay as they are."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._find = dialect.fix(_others())
        gone = self._gone = dialect.rowset("g", dict.fromkeys(_SHARD, "text"))
        q = queue_counts.c
        self._drop = dialect.fix(
            delete(queue_counts).where(
                tuple_(q.queue, q.tenant, q.writer).in_(select(*(gone.c[name] for name in _SHARD)))
            )
        )
        n = self._counts = dialect.rowset(
            "n",
            {
                "queue": "text",
                "tenant": "text",
                "waiting": "int",
                "active": "int",
                "drained": "int",
            },
        )
        sums = [func.sum(n.c[name]) for name in ("waiting", "active", "drained")]
        mine = select(n.c.queue, n.c.tenant, writer(), *sums).group_by(n.c.queue, n.c.tenant)
        self._add = dialect.fix(add_counts(dialect, mine))

    async def compact_counts(self, tx: Transaction, writes: list[Write]) -> None:
        """Moves the rows of others into this process's own; answers with how many they were.

        A row that its writer holds locked is passed over, so that this waits for nobody; a writer
        that waits for its row finds it gone and makes a new one. Last of the handlers of a
        transaction: what it has locked, nobody waits for long.
        """
        limit = max(w.options["limit"] for w in writes)
        rows = await self._dialect.rows(tx.connection, self._find, {"p_limit": limit})
        if rows:
            await self._move(tx, rows)
        for write in writes:
            write.answer = len(rows)

    async def _move(self, tx: Transaction, rows: Sequence[Row]) -> None:
        gone = [row[: len(_SHARD)] for row in rows]
        await tx.connection.execute(self._drop, self._gone.params(gone))
        counts = [(queue, tenant, *numbers) for queue, tenant, _, *numbers in rows]
        await tx.connection.execute(self._add, self._counts.params(counts))


def _others() -> Select[Any]:
    q = queue_counts.c
    return (
        select(q.queue, q.tenant, q.writer, q.waiting, q.active, q.drained)
        .where(q.writer != writer())
        .order_by(q.queue, q.tenant, q.writer)
        .limit(bindparam("p_limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )
