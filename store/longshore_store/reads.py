"""Reading jobs, one, many, a page, or what changed."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select

from longshore_store.dialects import Connection, Dialect, Row, Rowset
from longshore_store.edges import number
from longshore_store.failure import Counted
from longshore_store.model import (
    AttemptRecord,
    EventRecord,
    JobChanges,
    JobQuery,
    JobRecord,
)
from longshore_store.states import ACTIVE, JobState
from longshore_store.tables import (
    attempts,
    events,
    job_labels,
    job_progress,
    job_results,
    job_specs,
    jobs,
    workers,
)

EVENTS_A_READ = 256
NEWEST_ATTEMPTS = 20
"""As many come with a job; `attempts_of` pages through all."""
_BASIC: tuple[ColumnElement[Any], ...] = (
    jobs.c.id, jobs.c.tenant, jobs.c.task, jobs.c.queue, jobs.c.priority, jobs.c.state, jobs.c.run,
    jobs.c.number, jobs.c.fence, jobs.c.sequence, func.coalesce(job_progress.c.count, 0),
    jobs.c.worker_id, jobs.c.created_us, jobs.c.ready_us, jobs.c.due_us, jobs.c.first_started_us,
    jobs.c.ended_us, jobs.c.needs_json, job_specs.c.spec, job_progress.c.body_json,
    job_results.c.failure_json, jobs.c.attempts, jobs.c.crashes, jobs.c.ooms, jobs.c.interruptions,
)  # fmt: skip
_FULL: tuple[ColumnElement[Any], ...] = (
    job_specs.c.payload, job_results.c.value_json, job_results.c.artifacts_json,
    jobs.c.leased_us, jobs.c.started_us, jobs.c.devices_json, jobs.c.build,
)  # fmt: skip
_ATTEMPT: tuple[ColumnElement[Any], ...] = (
    attempts.c.job_id, attempts.c.fence, attempts.c.number, attempts.c.run, attempts.c.worker_id,
    attempts.c.queued_us, attempts.c.leased_us, attempts.c.started_us, attempts.c.ended_us,
    attempts.c.failure_class, attempts.c.failure_json, attempts.c.devices_json,
    attempts.c.build,
)  # fmt: skip
_SOURCE = (
    jobs.join(job_specs, job_specs.c.job_id == jobs.c.id)
    .outerjoin(job_progress, job_progress.c.job_id == jobs.c.id)
    .outerjoin(job_results, job_results.c.job_id == jobs.c.id)
)


class JobReads:
    """Queries of the server; each runs on a reader's connection."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def by_id(
        self, connection: Connection, job_ids: Sequence[str], full: bool
    ) -> list[JobRecord]:
        """Those that exist."""
        r = self._dialect.rowset("r", {"id": "text"})
        query = self._dialect.fixed(("reads.by_id", full), lambda: _by_id(r, full))
        params = r.params([(job_id,) for job_id in dict.fromkeys(job_ids)])
        rows = await self._dialect.rows(connection, query, params)
        return await self._records(connection, rows, full)

    async def page(self, connection: Connection, wanted: JobQuery, full: bool) -> list[JobRecord]:
        """One page, in order."""
        order = jobs.c.id.desc() if wanted.descending else jobs.c.id
        return await self.chosen(connection, _conditions(wanted), order, wanted.limit, full)

    async def chosen(
        self, connection: Connection, conditions: Sequence[ColumnElement[bool]],
        order: ColumnElement[Any], limit: int, full: bool,
    ) -> list[JobRecord]:  # fmt: skip
        """The first jobs, in order, that meet the conditions on `jobs`."""
        query = select(*_columns(full)).select_from(_SOURCE).where(*conditions)
        rows = await self._dialect.rows(connection, query.order_by(order).limit(limit), {})
        return await self._records(connection, rows, full)

    async def _records(
        self, connection: Connection, rows: Sequence[Row], full: bool
    ) -> list[JobRecord]:
        if not full:
            return [_record(row) for row in rows]
        ended = await self._attempts(connection, [row[0] for row in rows])
        return [_full_record(row, ended[row[0]]) for row in rows]

    async def _attempts(
        self, connection: Connection, job_ids: Sequence[str]
    ) -> defaultdict[str, list[AttemptRecord]]:
        r = self._dialect.rowset("r", {"id": "text"})
        query = self._dialect.fixed("reads.attempts", lambda: _attempts(r))
        found: defaultdict[str, list[AttemptRecord]] = defaultdict(list)
        params = r.params([(i,) for i in job_ids])
        for job_id, *facts in await self._dialect.rows(connection, query, params):
            found[job_id].append(_attempt(facts))
        return found

    async def attempts_of(
        self, connection: Connection, job_id: str, before: int | None, limit: int
    ) -> list[AttemptRecord]:
        """Attempts with a smaller fence, the newest first; the one that runs now included."""
        found = await self.by_id(connection, [job_id], full=True)
        conditions = [attempts.c.job_id == job_id]
        if before is not None:
            conditions.append(attempts.c.fence < before)
        query = select(*_ATTEMPT).where(*conditions).order_by(attempts.c.fence.desc())
        rows = await self._dialect.rows(connection, query.limit(limit), {})
        known = {a.fence: a for job in found for a in job.attempts}
        known.update((a.fence, a) for _, *facts in rows for a in [_attempt(facts)])
        fences = sorted((f for f in known if before is None or f < before), reverse=True)
        return [known[fence] for fence in fences[:limit]]

    async def changes(self, connection: Connection, cursors: Mapping[str, int]) -> list[JobChanges]:
        """State, progress and the next events of watched jobs."""
        r = self._dialect.rowset("r", {"id": "text", "after": "int"})
        params = r.params(list(cursors.items()))
        query = self._dialect.fixed("reads.changes", lambda: _heads_of_changes(r.table))
        heads = await self._dialect.rows(connection, query, params)
        events_of = await self._events(connection, r, params)
        return [_changes(head, cursors[head[0]], events_of[head[0]]) for head in heads]

    async def _events(
        self, connection: Connection, r: Rowset, params: Mapping[str, Any]
    ) -> defaultdict[str, list[EventRecord]]:
        query = self._dialect.fixed("reads.events", lambda: _events(r))
        found: defaultdict[str, list[EventRecord]] = defaultdict(list)
        for row in await self._dialect.rows(connection, query, params):
            found[row[0]].append(EventRecord(*row))
        return found


def _by_id(r: Rowset, full: bool) -> Select[Any]:
    source = r.table.join(_SOURCE, jobs.c.id == r.c.id)
    return select(*_columns(full)).select_from(source)


def _attempts(r: Rowset) -> Select[Any]:
    """The newest ended ones of each job, in order."""
    age = func.row_number().over(partition_by=attempts.c.job_id, order_by=attempts.c.fence.desc())
    source = r.table.join(attempts, attempts.c.job_id == r.c.id)
    aged = select(*_ATTEMPT, age.label("age")).select_from(source).subquery()
    columns = [aged.c[column.name] for column in _ATTEMPT]
    newest = aged.c.age <= number(NEWEST_ATTEMPTS)
    return select(*columns).where(newest).order_by(aged.c.job_id, aged.c.fence)


def _events(r: Rowset) -> Select[Any]:
    e = events.c
    next_ones = and_(
        e.job_id == r.c.id, e.sequence > r.c.after, e.sequence <= r.c.after + EVENTS_A_READ
    )
    return (
        select(e.job_id, e.sequence, e.time_us, e.number, e.kind, e.from_state, e.to_state,
               e.reason, e.due_us, e.body_json)
        .select_from(r.table.join(events, next_ones))
        .order_by(e.job_id, e.sequence)
    )  # fmt: skip


def _heads_of_changes(r: Any) -> Select[Any]:
    oldest = (
        select(func.coalesce(func.min(events.c.sequence), 0))
        .where(events.c.job_id == jobs.c.id)
        .scalar_subquery()
    )
    source = (
        r.join(jobs, jobs.c.id == r.c.id)
        .outerjoin(job_progress, job_progress.c.job_id == jobs.c.id)
        .outerjoin(workers, workers.c.id == jobs.c.worker_id)
    )
    return select(
        jobs.c.id, jobs.c.state, jobs.c.sequence, func.coalesce(job_progress.c.count, 0), oldest,
        jobs.c.number, job_progress.c.body_json, job_progress.c.time_us, workers.c.heartbeat_us,
    ).select_from(source)  # fmt: skip


def _changes(head: Row, after: int, found: list[EventRecord]) -> JobChanges:
    job_id, state, sequence, progress_count, oldest, *rest = head
    # Read by a later statement, events may be ahead of the row; those wait for the next read.
    seen = tuple(e for e in found if e.sequence <= sequence)
    # Or the oldest may have been trimmed by then: the gap has to show.
    if seen and seen[0].sequence != after + 1:
        oldest = max(oldest, seen[0].sequence)
    return JobChanges._make(
        (job_id, JobState(state), sequence, progress_count, oldest, *rest, seen)
    )


def _columns(full: bool) -> tuple[ColumnElement[Any], ...]:
    return _BASIC + _FULL if full else _BASIC


def _record(row: Row, **more: Any) -> JobRecord:
    (job_id, tenant, task, queue, priority, state, *numbers, spec, progress, failure) = row[:21]
    counted = Counted._make(row[21:25])
    facts = (job_id, tenant, task, queue, priority, JobState(state), *numbers)
    values: tuple[Any, ...] = (*facts, base64.b64decode(spec), progress, failure, counted)
    return JobRecord(*values, **more)


def _full_record(row: Row, ended: list[AttemptRecord]) -> JobRecord:
    payload, value, artifacts, leased_us, started_us, devices, build = row[25:]
    record = _record(row, payload=payload, value_json=value, artifacts_json=artifacts)
    if record.state not in ACTIVE and record.state != JobState.SUCCEEDED:
        return _with_attempts(record, ended)
    newest = AttemptRecord(
        record.fence, record.number, record.run, record.worker_id or "", record.ready_us,
        leased_us, started_us, record.ended_us, 0, None, devices or "[]",
        build or "",
    )  # fmt: skip
    # Read by a later statement, the ended ones may hold it already.
    return _with_attempts(record, [*(a for a in ended if a.fence < record.fence), newest])


def _with_attempts(record: JobRecord, found: list[AttemptRecord]) -> JobRecord:
    return replace(record, attempts=tuple(found[-NEWEST_ATTEMPTS:]))


def _attempt(facts: Sequence[Any]) -> AttemptRecord:
    fence, num, run, worker, *times, failure_class, failure, devices, build = facts
    return AttemptRecord._make(
        (
            fence,
            num,
            run,
            worker or "",
            *times,
            failure_class,
            failure,
            devices or "[]",
            build or "",
        )
    )


def _conditions(q: JobQuery) -> list[ColumnElement[bool]]:
    c = jobs.c
    found: list[ColumnElement[bool]] = []
    if q.states:
        found.append(c.state.in_([number(s) for s in q.states]))
    if q.not_states:
        found.append(c.state.not_in([number(s) for s in q.not_states]))
    for column, wanted, unwanted in (
        (c.task, q.tasks, q.not_tasks),
        (c.queue, q.queues, q.not_queues),
        (c.tenant, q.tenants, q.not_tenants),
    ):
        if wanted:
            found.append(column.in_(wanted))
        if unwanted:
            found.append(column.not_in(unwanted))
    for name, value in q.labels:
        labelled = select(job_labels.c.job_id).where(
            job_labels.c.name == name, job_labels.c.value == value
        )
        found.append(c.id.in_(labelled))
    return found + _ranges(q)


def _ranges(q: JobQuery) -> list[ColumnElement[bool]]:
    c = jobs.c
    bounds = (
        (q.created_from_us, c.created_us, True),
        (q.created_before_us, c.created_us, False),
        (q.ended_from_us, c.ended_us, True),
        (q.ended_before_us, c.ended_us, False),
    )
    found = [
        column >= bound if lower else column < bound
        for bound, column, lower in bounds
        if bound is not None
    ]
    if q.after_id is not None:
        found.append(c.id < q.after_id if q.descending else c.id > q.after_id)
    return found
