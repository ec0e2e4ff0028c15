"""Dead letters: which they are, how many, and deleting them.

All of it reads through the partial index of failed jobs, so that its cost grows with the dead
letters and not with the jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, exists, func, select, update

from longshore_store.committer import Transaction, Write
from longshore_store.deletion import Deletion
from longshore_store.dialects import Connection, Dialect, Row, Rowset
from longshore_store.edges import STAMP, number
from longshore_store.model import JobRecord
from longshore_store.reads import JobReads
from longshore_store.redrive_records import DeadLetters, Purged
from longshore_store.states import JobState
from longshore_store.tables import attempts, jobs, redrive_jobs, redrives

STRETCH = 5000
"""Failed jobs that a step of a redrive or a purge looks at."""

# In the words of the partial index.
_FAILED = jobs.c.state.in_([number(JobState.FAILED), number(JobState.DEAD_LETTERED)])


def chosen(letters: DeadLetters) -> list[ColumnElement[bool]]:
    """The conditions of a selection."""
    c = jobs.c
    found = [
        _FAILED,
        c.state == number(JobState.DEAD_LETTERED),
        c.tenant == letters.tenant,
    ]
    if letters.queue is not None:
        found.append(c.queue == letters.queue)
    if letters.task is not None:
        found.append(c.task == letters.task)
    if letters.failure_class is not None:
        found.append(_last_ended_with(letters.failure_class))
    if letters.ended_from_us is not None:
        found.append(c.ended_us >= letters.ended_from_us)
    if letters.ended_before_us is not None:
        found.append(c.ended_us < letters.ended_before_us)
    return found


def _last_ended_with(failure_class: int) -> ColumnElement[bool]:
    a = attempts.c
    return exists().where(
        a.job_id == jobs.c.id, a.fence == jobs.c.fence, a.failure_class == failure_class
    )


class DeadLetterReads:
    """Queries of the server about dead letters."""

    def __init__(self, dialect: Dialect, reads: JobReads) -> None:
        self._dialect = dialect
        self._reads = reads

    async def page(
        self, connection: Connection, letters: DeadLetters, after_id: str | None, limit: int,
        full: bool,
    ) -> list[JobRecord]:  # fmt: skip
        """One page, the newest job first."""
        conditions = chosen(letters)
        if after_id is not None:
            conditions.append(jobs.c.id < after_id)
        return await self._reads.chosen(connection, conditions, jobs.c.id.desc(), limit, full)

    async def count(
        self, connection: Connection, letters: DeadLetters
    ) -> dict[tuple[str, str], int]:
        """How many, by task and queue."""
        kinds = (jobs.c.task, jobs.c.queue)
        query = select(*kinds, func.count()).where(*chosen(letters)).group_by(*kinds)
        rows = await self._dialect.rows(connection, query, {})
        return {(task, queue): int(n) for task, queue, n in rows}


class Stretch(NamedTuple):
    """Dead letters that follow one another, and the id to go on from; None at the end."""

    ids: list[str]
    after_id: str | None


class DeadLetterWalk:
    """Walks over a selection in the order of its ids, a bounded stretch in each transaction.

    One that chooses few of many would else read all of them again in each of its steps, while
    every other writer waits.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def go(
        self, tx: Transaction, letters: DeadLetters, after_id: str, limit: int,
        *where: ColumnElement[bool],
    ) -> Stretch:  # fmt: skip
        """At most `limit` jobs of the next failed ones; `limit` is at least 1."""
        end = await self._end(tx, after_id)
        query = select(jobs.c.id).where(*chosen(letters), *where, jobs.c.id > after_id)
        if end is not None:
            query = query.where(jobs.c.id <= end)
        # Not locked: fewer than asked for must mean that there are no more.
        ordered = query.order_by(jobs.c.id).limit(limit + 1)
        found = [row[0] for row in await self._dialect.rows(tx.connection, ordered, {})]
        if len(found) > limit:
            return Stretch(found[:limit], found[limit - 1])
        return Stretch(found, end)

    async def _end(self, tx: Transaction, after_id: str) -> str | None:
        """The last id of the stretch; None where it reaches to the last failed job."""
        failed = select(jobs.c.id).where(_FAILED, jobs.c.id > after_id).order_by(jobs.c.id)
        query = failed.offset(STRETCH - 1).limit(1)
        rows = await self._dialect.rows(tx.connection, query, {})
        return rows[0][0] if rows else None


class DeadLetterWrites:
    """The handler of the committer that deletes dead letters."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._walk = DeadLetterWalk(dialect)
        self._deletion = Deletion(dialect)

    async def purge_dead_letters(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with its Purged."""
        for write in writes:
            letters, after_id = write.options["letters"], write.options["after_id"]
            stretch = await self._walk.go(tx, letters, after_id, write.options["limit"])
            rows = await self._lock(tx, letters, stretch.ids)
            write.answer = Purged(await self._deletion.delete(tx, rows), stretch.after_id)

    async def _lock(self, tx: Transaction, letters: DeadLetters, ids: list[str]) -> Sequence[Row]:
        """Those that still are: one that another process redrives at this moment stays."""
        r = self._dialect.rowset("r", {"id": "text"})
        query = select(jobs.c.id).where(*chosen(letters), jobs.c.id.in_(select(r.c.id)))
        locked = query.order_by(jobs.c.id).with_for_update(of=jobs)
        params = r.params([(job_id,) for job_id in ids])
        return await self._dialect.rows(tx.connection, locked, params) if ids else ()


def count_failures(dialect: Dialect, r: Rowset) -> Any:
    """Adds the marked jobs of a rowset, which have just failed, to the redrives they ran by.

    In the transaction of the failure, so that the count is exact and nobody recounts.
    """
    ran = and_(redrive_jobs.c.job_id == jobs.c.id, redrive_jobs.c.run == jobs.c.run)
    again = (
        select(redrive_jobs.c.redrive_id, func.count(jobs.c.id.distinct()).label("n"))
        .select_from(r.table.join(jobs, jobs.c.id == r.c.id).join(redrive_jobs, ran))
        .where(jobs.c.stamp == STAMP)
        .group_by(redrive_jobs.c.redrive_id)
        .subquery("again")
    )
    return dialect.fix(
        update(redrives)
        .where(redrives.c.id == again.c.redrive_id)
        .values(failed=redrives.c.failed + again.c.n)
    )
