"""Retention: what is too old is found by the key of the jobs, in bounded steps, and deleted.

Ids rise with time, so the key is in the order of acceptance, and no index has to be kept for
this while jobs complete. Who scans keeps the cursor: what is kept for longer is then read once in
a pass and not once in a step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    tuple_,
)

from longshore_store.committer import Transaction, Write
from longshore_store.deletion import Deletion
from longshore_store.dialects import Connection, Dialect, Row, Rowset
from longshore_store.edges import NOW, number, state_in
from longshore_store.model import EventKind
from longshore_store.reports import RETAINED_EVENTS
from longshore_store.retention_records import Ages, Ended, Prunable, Spent
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import (
    accepted_keys,
    events,
    job_checkpoints,
    jobs,
    redrive_jobs,
    redrives,
    unique_claims,
)

SCANNED = 4
"""How many jobs a step reads for each that it may choose."""

EVENTS_A_JOB = 8
"""What a job usually has, and half as much again: a batch of jobs with more events has fewer."""


class _Seen(NamedTuple):
    id: str
    state: int
    ended_us: int | None
    created_us: int
    sequence: int


class RetentionReads:
    """Finds what is too old. Reads only, on the connections of readers."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def prunable(
        self, connection: Connection, now_us: int, ages: Ages, after_id: str, limit: int
    ) -> Prunable:
        """The first of the next jobs by id that are too old, or whose log lines are."""
        query = self._dialect.fixed("retention.window", _window)
        params = {"p_after": after_id, "p_limit": SCANNED * limit}
        rows = await self._dialect.rows(connection, query, params)
        seen = [_Seen(*row) for row in rows]
        if all(job.created_us > now_us - ages.shortest for job in seen):
            return Prunable([], [], "")  # all that follow are younger still
        doomed = {job.id for job in seen if _older(job, now_us, _age(job, ages))}
        doomed -= await self._claiming(connection, doomed, now_us)
        told = [j for j in seen if j.id not in doomed and _older(j, now_us, ages.logs)]
        logging = await self._with_logs(connection, told)
        upto = _fitting(seen, doomed | logging, limit)
        return Prunable(
            _ended(job for job in seen[:upto] if job.id in doomed),
            _ended(job for job in seen[:upto] if job.id in logging),
            seen[upto - 1].id if upto < len(seen) or len(seen) == SCANNED * limit else "",
        )

    async def _with_logs(self, connection: Connection, among: Sequence[_Seen]) -> set[str]:
        if not among:
            return set()
        r = self._dialect.rowset("r", {"id": "text"})
        query = self._dialect.fixed("retention.logging", lambda: _logging(r))
        params = r.params([(job.id,) for job in among])
        return {row[0] for row in await self._dialect.rows(connection, query, params)}

    async def _claiming(
        self, connection: Connection, among: Collection[str], now_us: int
    ) -> set[str]:
        """Those whose uniqueness window lasts: until its end they are the answer to who asks."""
        if not among:
            return set()
        r = self._dialect.rowset("r", {"id": "text"})
        query = self._dialect.fixed("retention.claiming", lambda: _claiming(r))
        params = {**r.params([(job_id,) for job_id in sorted(among)]), "p_now": now_us}
        return {row[0] for row in await self._dialect.rows(connection, query, params)}

    async def spent_checkpoints(self, connection: Connection, after_id: str, limit: int) -> Spent:
        """Of the next checkpoints, those of jobs that have succeeded."""
        query = self._dialect.fixed("retention.checkpoints", _checkpoints)
        params = {"p_after": after_id, "p_limit": limit}
        rows = await self._dialect.rows(connection, query, params)
        spent = [Ended(i, ended) for i, state, ended in rows if state == JobState.SUCCEEDED]
        return Spent(spent, rows[-1][0] if len(rows) == limit else "")


def _age(job: _Seen, ages: Ages) -> int:
    return ages.jobs[JobState(job.state)] if job.state in TERMINAL else 0


def _older(job: _Seen, now_us: int, age: int) -> bool:
    return job.state in TERMINAL and job.ended_us is not None and job.ended_us <= now_us - age


def _ended(found: Iterable[_Seen]) -> list[Ended]:
    return [Ended(job.id, job.ended_us) for job in found if job.ended_us is not None]


def _fitting(seen: Sequence[_Seen], chosen: set[str], limit: int) -> int:
    """How many of the jobs, in order, one batch takes: at most `limit` of the chosen ones, fewer
    where they have many events, at least one."""
    count = rows = 0
    for index, job in enumerate(seen):
        if job.id in chosen:
            count += 1
            rows += min(job.sequence, RETAINED_EVENTS)
            if count > 1 and (count > limit or rows > limit * EVENTS_A_JOB):
                return index
    return len(seen)


def _window() -> Select[Any]:
    c = jobs.c
    return (
        select(c.id, c.state, c.ended_us, c.created_us, c.sequence)
        .where(c.id > bindparam("p_after", type_=Text))
        .order_by(c.id)
        .limit(bindparam("p_limit", type_=Integer))
    )


def _logging(r: Rowset) -> Select[Any]:
    # A scalar, and not an EXISTS, which a planner may turn into a join with all the events.
    e = events.c
    line = (
        select(e.sequence)
        .where(e.job_id == r.c.id, e.kind == number(EventKind.LOG))
        .limit(number(1))
        .scalar_subquery()
    )
    return select(r.c.id).where(line.is_not(None))


def _claiming(r: Rowset) -> Select[Any]:
    claim = unique_claims.c
    return select(claim.job_id).where(claim.job_id.in_(select(r.c.id)), claim.until_us > NOW)


def _checkpoints() -> Select[Any]:
    c = job_checkpoints.c
    first = (
        select(c.job_id)
        .where(c.job_id > bindparam("p_after", type_=Text))
        .order_by(c.job_id)
        .limit(bindparam("p_limit", type_=Integer))
        .subquery()
    )
    return (
        select(first.c.job_id, jobs.c.state, jobs.c.ended_us)
        .select_from(first.outerjoin(jobs, jobs.c.id == first.c.job_id))
        .order_by(first.c.job_id)
    )


class RetentionWrites:
    """Handlers of the committer. Each deletes of jobs that are as they were when they were found,
    and answers with the ids of the others."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._deletion = Deletion(dialect)
        self._ended = dialect.rowset("r", {"id": "text", "ended_us": "int"})
        self._lock = dialect.fix(_still_ended(self._ended))
        ids = self._ids = dialect.rowset("d", {"id": "text"})
        self._drop_checkpoints = dialect.fix(
            delete(job_checkpoints).where(job_checkpoints.c.job_id.in_(select(ids.c.id)))
        )
        self._find_events = dialect.fix(_up_to_the_last_line(ids))
        self._drop_keys = dialect.fix(
            delete(accepted_keys).where(accepted_keys.c.made_id.in_(_spent_redrives()))
        )
        self._drop_redrives = dialect.fix(
            delete(redrives).where(redrives.c.id.in_(_spent_redrives()))
        )
        pairs = self._pairs = dialect.rowset("p", {"id": "text", "sequence": "int"})
        self._drop_events = dialect.fix(
            delete(events).where(
                tuple_(events.c.job_id, events.c.sequence).in_(select(pairs.c.id, pairs.c.sequence))
            )
        )

    async def prune_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """All there is of them."""
        for write in writes:
            found = await self._settle(tx, write)
            await self._deletion.delete(tx, found)

    async def prune_logs(self, tx: Transaction, writes: list[Write]) -> None:
        """Their events up to the last log line. With the lines go the state changes before it,
        so that what stays is dense; the terminal event comes after every line and stays."""
        for write in writes:
            found = await self._settle(tx, write)
            params = self._ids.params(found)
            gone = await self._dialect.rows(tx.connection, self._find_events, params)
            await tx.connection.execute(self._drop_events, self._pairs.params(gone))

    async def prune_checkpoints(self, tx: Transaction, writes: list[Write]) -> None:
        """Their checkpoints."""
        for write in writes:
            found = await self._settle(tx, write)
            await tx.connection.execute(self._drop_checkpoints, self._ids.params(found))

    async def prune_redrives(self, tx: Transaction, writes: list[Write]) -> None:
        """Those that ended long ago and of whose jobs none is left; answers with how many."""
        for write in writes:
            params = {"p_before": write.options["before_us"], "p_limit": write.options["limit"]}
            await tx.connection.execute(self._drop_keys, params)
            gone = await tx.connection.execute(self._drop_redrives, params)
            write.answer = gone.rowcount

    async def _settle(self, tx: Transaction, write: Write) -> list[Row]:
        """Locks the jobs that ended when they were seen to end, and answers with the others."""
        rows = await self._dialect.rows(
            tx.connection, self._lock, self._ended.params([tuple(row) for row in write.rows])
        )
        found = {row[0] for row in rows}
        write.answer = [row[0] for row in write.rows if row[0] not in found]
        return list(rows)


def _still_ended(r: Rowset) -> Select[Any]:
    same = and_(jobs.c.id == r.c.id, jobs.c.ended_us == r.c.ended_us, state_in(TERMINAL))
    # Whoever has one of them locked runs it again, or deletes it.
    return (
        select(jobs.c.id)
        .select_from(r.table.join(jobs, same))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs, skip_locked=True)
    )


def _spent_redrives() -> Select[Any]:
    r = redrives.c
    jobs_left = exists().where(redrive_jobs.c.redrive_id == r.id)
    ended = r.ended_us <= bindparam("p_before", type_=BigInteger)
    limit = bindparam("p_limit", type_=Integer)
    return select(r.id).where(ended, ~jobs_left).order_by(r.id).limit(limit)


def _up_to_the_last_line(ids: Rowset) -> Select[Any]:
    line, e = events.alias("line"), events.c
    last = (
        select(func.max(line.c.sequence))
        .where(line.c.job_id == ids.c.id, line.c.kind == number(EventKind.LOG))
        .scalar_subquery()
    )
    older = and_(e.job_id == ids.c.id, e.sequence <= last)
    return select(e.job_id, e.sequence).select_from(ids.table.join(events, older))
