"""What happens to attempts: leased, started, ended; and what they leave while they run."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, func, or_, select, update

from longshore.sdk.failures import FailureClass
from longshore_store import states
from longshore_store.committer import Transaction, Write, rows_of
from longshore_store.dead_letters import count_failures
from longshore_store.dialects import Dialect, Kind, Row, Rowset
from longshore_store.edges import (
    NO_NUMBER,
    NO_TEXT,
    NOW,
    STAMP,
    Edge,
    add_counts,
    number,
    writer,
)
from longshore_store.model import Leased, Setback
from longshore_store.reports import ReportWrites
from longshore_store.states import JobState
from longshore_store.tables import (
    attempts,
    job_checkpoints,
    job_specs,
    jobs,
)

ATTEMPT_COLUMNS = (
    "job_id",
    "fence",
    "number",
    "run",
    "worker_id",
    "queued_us",
    "leased_us",
    "started_us",
    "ended_us",
    "failure_class",
    "failure_json",
    "devices_json",
    "build",
)
_SETBACK: dict[str, Kind] = {
    "id": "text",
    "fence": "int",
    "started_us": "int",
    "failure_class": "int",
    "reason": "text",
    "failure_json": "text",
    "due_us": "int",
    "needs_json": "text",
    "attempts": "int",
    "crashes": "int",
    "ooms": "int",
    "interruptions": "int",
    "unstarted": "int",
}
_COUNTED = {
    FailureClass.TASK_ERROR: (1, 0, 0, 0),
    FailureClass.PERMANENT: (1, 0, 0, 0),
    FailureClass.TIMEOUT: (1, 0, 0, 0),
    FailureClass.CRASH: (0, 1, 0, 0),
    FailureClass.OUT_OF_MEMORY: (0, 0, 1, 0),
    FailureClass.WORKER_LOST: (0, 0, 0, 1),
    FailureClass.DEVICE_FAULT: (0, 0, 0, 1),
}
_REFUNDED = (0, 0, 0, 0)


def ended_attempt(
    *, ended_us: Any, failure_class: Any, failure_json: Any
) -> tuple[ColumnElement[Any], ...]:
    """The columns of `attempts`, read off the row of a job whose attempt has ended."""
    c = jobs.c
    return (
        c.id, c.fence, c.number, c.run, c.worker_id, c.ready_us, c.leased_us, c.started_us,
        ended_us, failure_class, failure_json, c.devices_json, c.build,
    )  # fmt: skip


class AttemptWrites:
    """Handlers of the committer for everything a scheduler writes about attempts."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lease = _lease_edge(dialect)
        n = self._lanes = dialect.rowset("n", {"queue": "text", "tenant": "text", "n": "int"})
        leaving = select(n.c.queue, n.c.tenant, writer(), -n.c.n, n.c.n, n.c.n).where(n.c.n > 0)
        self._leave = dialect.fix(add_counts(dialect, leaving))
        self._start = _start_edge(dialect)
        self._complete = _complete_edge(dialect)
        self._keep_success = self._complete.keep_result("value_json", "artifacts_json")
        self._endings = {
            edge.name: Ending(dialect, edge)
            for edge in (
                states.FAIL,
                states.RETRY,
                states.DEAD_LETTER,
                states.RELEASE,
                states.EXPIRE_ATTEMPT,
            )
        }
        self._endings[states.DEMOTE.name] = Demotion(dialect)
        self._confirm = Edge(
            dialect, states.CONFIRM_CANCEL, {"id": "text", "fence": "int"},
            {"ended_us": NOW},
        )  # fmt: skip
        self._keep_cancelled = self._confirm.insert_marked(
            attempts,
            ATTEMPT_COLUMNS,
            ended_attempt(
                ended_us=jobs.c.ended_us,
                failure_class=number(FailureClass.CANCELLED),
                failure_json=NO_TEXT,
            ),
        )
        self._reports = ReportWrites(dialect)

    async def lease_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with the Leased it was granted."""
        rows = rows_of(writes)
        changed, marks = await self._lease.apply(tx, rows)
        granted = await self._lease.marked(tx, marks, *_leased_columns()) if changed else ()
        found = [_leased(row) for row in await self._with_specs(tx, granted)]
        await self._count(tx, found)
        # Taken out once answered: a lease asked for twice is granted once.
        ours = {(lease.id, lease.fence - 1, lease.worker_id): lease for lease in found}
        for write in writes:
            mine = (ours.pop(tuple(row[:3]), None) for row in write.rows)
            write.answer = [lease for lease in mine if lease is not None]

    async def _count(self, tx: Transaction, found: Sequence[Leased]) -> None:
        """The lanes of what was leased are at hand here, so SQL need not look for them again."""
        lanes = Counter((lease.queue, lease.tenant) for lease in found)
        if lanes:
            rows = [(queue, tenant, n) for (queue, tenant), n in sorted(lanes.items())]
            await tx.connection.execute(self._leave, self._lanes.params(rows))

    async def _with_specs(self, tx: Transaction, granted: Sequence[Row]) -> list[Row]:
        if not granted:
            return []
        ids = self._dialect.rowset("s", {"id": "text"})
        query = self._dialect.fixed("attempts.specs", lambda: _specs(ids))
        params = ids.params([(row[0],) for row in granted])
        specs = {row[0]: row[1:] for row in await self._dialect.rows(tx.connection, query, params)}
        return [(*row, *specs[row[0]]) for row in granted]

    async def start_attempts(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers with the stale."""
        await settle(tx, self._start, writes, rows_of(writes))

    async def complete_attempts(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers with the stale."""
        marks = await settle(tx, self._complete, writes, rows_of(writes))
        await tx.connection.execute(self._keep_success, marks)

    async def end_attempts(self, tx: Transaction, writes: list[Write]) -> None:
        """Applies the ending that the writes are named for; answers with the stale."""
        ending = self._endings[writes[0].kind]
        await ending.apply(tx, writes)

    async def confirm_cancels(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers with the stale."""
        marks = await settle(tx, self._confirm, writes, rows_of(writes))
        await tx.connection.execute(self._keep_cancelled, marks)

    async def record(self, tx: Transaction, writes: list[Write]) -> None:
        """Progress, logs and checkpoints."""
        await self._reports.apply(tx, writes)


class Ending:
    """An attempt ends without a result: the edge, the attempt's record, the job's failure."""

    def __init__(
        self, dialect: Dialect, transition: states.Transition, rows: Rowset | None = None
    ) -> None:
        r = rows or dialect.rowset("r", _SETBACK)
        c = jobs.c
        values: dict[str, ColumnElement[Any]] = {
            name: c[name] + r.c[name] for name in ("attempts", "crashes", "ooms", "interruptions")
        }
        # What a report calls unstarted may have been stored as started, under an earlier leader.
        recalled = and_(c.state == number(JobState.LEASED), r.c.unstarted == 1)
        values["number"] = c.number - case((recalled, 1), else_=0)
        values["needs_json"] = func.coalesce(r.c.needs_json, c.needs_json)
        if transition.target in states.TERMINAL:
            values["ended_us"] = NOW
        if transition.target == JobState.RETRYING:
            values["due_us"] = r.c.due_us
        self._edge = Edge(dialect, transition, _SETBACK, values, rows=r)
        self._keep_attempt = self._edge.insert_marked(
            attempts,
            ATTEMPT_COLUMNS,
            ended_attempt(
                ended_us=NOW,
                failure_class=r.c.failure_class,
                failure_json=r.c.failure_json,
            ),
            or_(r.c.unstarted == 0, c.prior_state != number(JobState.LEASED)),
        )
        self._keep_failure = (
            self._edge.keep_result("failure_json") if transition.target in states.TERMINAL else None
        )
        fails = transition in (states.FAIL, states.DEAD_LETTER)
        self._count_failures = count_failures(dialect, r) if fails else None

    async def apply(self, tx: Transaction, writes: list[Write]) -> dict[str, Any]:
        """Answers each write with its stale ids; returns what marks the jobs that changed."""
        rows = [self._row(s) for w in writes for s in w.rows]
        marks = await settle(tx, self._edge, writes, rows)
        await tx.connection.execute(self._keep_attempt, {**marks, "p_now": tx.now_us})
        if self._keep_failure is not None:
            await tx.connection.execute(self._keep_failure, marks)
        if self._count_failures is not None:
            await tx.connection.execute(self._count_failures, marks)
        return marks

    def _row(self, setback: Setback) -> Row:
        return _setback_row(setback)


class Demotion(Ending):
    """Back to QUEUED, and from there to another queue, counters and all."""

    def __init__(self, dialect: Dialect) -> None:
        r = dialect.rowset("r", {**_SETBACK, "queue": "text"})
        super().__init__(dialect, states.DEMOTE, r)
        same = and_(jobs.c.id == r.c.id, jobs.c.fence == r.c.fence)
        marked = r.table.join(jobs, same)
        self._leave = dialect.fix(add_counts(dialect, _waiting(marked, func.count() * -1)))
        self._move = dialect.fix(
            update(jobs).where(same, jobs.c.stamp == STAMP).values(queue=r.c.queue)
        )
        self._enter = dialect.fix(add_counts(dialect, _waiting(marked, func.count())))

    async def apply(self, tx: Transaction, writes: list[Write]) -> dict[str, Any]:
        """Answers each write with its stale ids; returns what marks the jobs that changed."""
        marks = await super().apply(tx, writes)
        for statement in (self._leave, self._move, self._enter):
            await tx.connection.execute(statement, marks)
        return marks

    def _row(self, setback: Setback) -> Row:
        return (*_setback_row(setback), setback.queue)


def _waiting(marked: FromClause, count: ColumnElement[int]) -> Select[Any]:
    """Rows for `add_counts`: so many more of the marked jobs wait in their queue."""
    return (
        select(jobs.c.queue, jobs.c.tenant, writer(), count, number(0), number(0))
        .select_from(marked)
        .where(jobs.c.stamp == STAMP)
        .group_by(jobs.c.queue, jobs.c.tenant)
    )


async def settle(
    tx: Transaction, edge: Edge, writes: list[Write], rows: Sequence[Row]
) -> dict[str, Any]:
    """Applies an edge to the rows of all writes and answers each with its stale ids."""
    changed, marks = await edge.apply(tx, rows)
    applied: set[tuple[str, int]] | None = None
    if changed < len(rows):
        applied = {(i, f) for i, f in await edge.marked(tx, marks, jobs.c.id, jobs.c.fence)}
    for write in writes:
        write.answer = (
            [] if applied is None else [r[0] for r in write.rows if (r[0], r[1]) not in applied]
        )
    return marks


def _setback_row(s: Setback) -> Row:
    recalled = s.started_us is None and s.failure_class in (
        FailureClass.DRAINED,
        FailureClass.PREEMPTED,
    )
    return (
        s.job_id, s.fence, s.started_us, int(s.failure_class), s.reason, s.failure_json, s.due_us,
        s.needs_json, *_COUNTED.get(s.failure_class, _REFUNDED), int(recalled),
    )  # fmt: skip


def _lease_edge(dialect: Dialect) -> Edge:
    columns: dict[str, Kind] = {"id": "text", "fence": "int", "worker_id": "text", "build": "text"}
    r = dialect.rowset("r", columns)
    values = {
        "fence": jobs.c.fence + 1,
        "number": jobs.c.number + 1,
        "worker_id": r.c.worker_id,
        "build": r.c.build,
        "leased_us": NOW,
        "started_us": NO_NUMBER,
        "devices_json": NO_TEXT,
        "logged": number(0),
    }
    return Edge(dialect, states.LEASE, columns, values, rows=r, counted=False)


def _start_edge(dialect: Dialect) -> Edge:
    columns: dict[str, Kind] = {
        "id": "text",
        "fence": "int",
        "started_us": "int",
        "devices_json": "text",
    }
    r = dialect.rowset("r", columns)
    values = {
        "started_us": r.c.started_us,
        "first_started_us": func.coalesce(jobs.c.first_started_us, r.c.started_us),
        "expire_us": jobs.c.total_deadline_us,
        "devices_json": r.c.devices_json,
    }
    return Edge(dialect, states.START, columns, values, rows=r)


def _complete_edge(dialect: Dialect) -> Edge:
    columns: dict[str, Kind] = {
        "id": "text",
        "fence": "int",
        "started_us": "int",
        "value_json": "text",
        "artifacts_json": "text",
    }
    return Edge(dialect, states.COMPLETE, columns, {"ended_us": NOW})


def _leased_columns() -> tuple[ColumnElement[Any], ...]:
    c = jobs.c
    return (
        c.id, c.fence, c.number, c.tenant, c.task, c.queue, c.worker_id, c.needs_json, c.attempts,
        c.crashes, c.ooms, c.interruptions, c.total_deadline_us,
    )  # fmt: skip


def _specs(ids: Rowset) -> Select[Any]:
    source = ids.table.join(job_specs, job_specs.c.job_id == ids.c.id).outerjoin(
        job_checkpoints, job_checkpoints.c.job_id == ids.c.id
    )
    return select(
        job_specs.c.job_id, job_specs.c.spec, job_specs.c.payload, job_checkpoints.c.value_json
    ).select_from(source)


def _leased(row: Row) -> Leased:
    *facts, spec, payload, checkpoint = row
    return Leased._make((*facts, base64.b64decode(spec), payload, checkpoint))
