"""The edges of the state machine as statements: guard, change, event and counters.

An edge is one UPDATE whose WHERE holds the guard and which marks the rows it changed with a
stamp; everything that follows (events, attempts, counters, the answer) reads the marked rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    update,
)

from longshore_store.committer import Transaction
from longshore_store.dialects import Dialect, Kind, Row, Rowset, upsert
from longshore_store.model import EventKind
from longshore_store.states import ACTIVE, WAITING, JobState, Transition
from longshore_store.tables import events, job_results, jobs, queue_counts

EVENT_COLUMNS = (
    "job_id",
    "sequence",
    "time_us",
    "number",
    "kind",
    "from_state",
    "to_state",
    "reason",
    "due_us",
    "body_json",
)
_STATE_EVENT = literal_column(str(int(EventKind.STATE)), Integer)
_WRITER = uuid4().hex[:12]
NOW = bindparam("p_now", type_=BigInteger)
STAMP = bindparam("p_stamp", type_=BigInteger)
NO_TEXT = cast(null(), Text)
NO_NUMBER = cast(null(), BigInteger)
EMPTY_TEXT = literal_column("''", Text)


def number(value: int) -> ColumnElement[int]:
    """An integer written into the text: partial indexes serve only what they can see."""
    return literal_column(str(int(value)), Integer)


def writer() -> ColumnElement[str]:
    """The shard of the counters that this process adds to."""
    return literal_column(f"'{_WRITER}'", Text)


def state_in(states: frozenset[JobState]) -> ColumnElement[bool]:
    """jobs.state is one of these."""
    return jobs.c.state.in_([number(s) for s in sorted(states)])


class Edge:
    """One transition, ready to run on many rows.

    Args:
        columns: of the rows; must have `id`, and `fence` where `fenced`. A `started_us` lets a
            start arrive together with the outcome: both events are written. A `reason` and a
            `failure_json` are kept with the event and the result.
        values: what else the UPDATE sets, given the rowset's columns.
        guard: what else must be true of the job.
        counted: False where the caller moves the counters of the queues itself.
        body: of the event; by default the `failure_json` of a row that has one.
    """

    def __init__(
        self,
        dialect: Dialect,
        transition: Transition,
        columns: Mapping[str, Kind],
        values: Mapping[str, ColumnElement[Any]] | None = None,
        *,
        rows: Rowset | None = None,
        fenced: bool = True,
        guard: ColumnElement[bool] | None = None,
        counted: bool = True,
        body: ColumnElement[str] | None = None,
    ) -> None:
        self.transition = transition
        self._dialect = dialect
        self.rows = rows or dialect.rowset("r", columns)
        self._columns = columns
        self._body = body
        self._ends = "started_us" in columns and transition.target != JobState.RUNNING
        self._moves = counted and not _same_kind(transition)
        self._fenced = fenced
        found = and_(jobs.c.id == self.rows.c.id, state_in(transition.sources))
        if fenced:
            found = and_(found, jobs.c.fence == self.rows.c.fence)
        if guard is not None:
            found = and_(found, guard)
        self._update = self._dialect.fix(
            update(jobs).where(found).values(**self._sets(values or {}))
        )
        self._event = self._dialect.fix(self._insert_event())
        self._start_event = self._dialect.fix(self._insert_start_event()) if self._ends else None
        joined = self.rows.table.join(jobs, self._same())
        self._counters = self._dialect.fix(count_marked(dialect, joined))

    def _sets(self, values: Mapping[str, ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
        r = self.rows.c
        sets: dict[str, ColumnElement[Any]] = {
            "prior_state": jobs.c.state,
            "state": number(self.transition.target),
            "stamp": STAMP,
            "sequence": jobs.c.sequence + 1,
        }
        if self._ends:
            began = and_(jobs.c.state == number(JobState.LEASED), r.started_us.is_not(None))
            sets["sequence"] = jobs.c.sequence + case((began, 2), else_=1)
            sets["started_us"] = func.coalesce(jobs.c.started_us, r.started_us)
            sets["first_started_us"] = func.coalesce(jobs.c.first_started_us, r.started_us)
            sets["expire_us"] = case(
                (r.started_us.is_not(None), jobs.c.total_deadline_us), else_=jobs.c.expire_us
            )
        return {**sets, **values}

    def _same(self) -> ColumnElement[bool]:
        """A row and the job it changed; a stale row of the same job must not meet it."""
        same = jobs.c.id == self.rows.c.id
        if not self._fenced:
            return same
        fence = self.rows.c.fence
        granted = self.transition.target == JobState.LEASED
        return and_(same, jobs.c.fence == (fence + 1 if granted else fence))

    def _marked(self, *columns: ColumnElement[Any]) -> Select[Any]:
        source = self.rows.table.join(jobs, self._same())
        return select(*columns).select_from(source).where(jobs.c.stamp == STAMP)

    def _insert_event(self) -> Any:
        r = self.rows.c
        from_state: ColumnElement[Any] = jobs.c.prior_state
        if self._ends:
            from_state = case(
                (_started_late(r), number(JobState.RUNNING)), else_=jobs.c.prior_state
            )
        reason = r.reason if "reason" in self._columns else bindparam("p_reason", type_=Text)
        due = jobs.c.due_us if self.transition.target == JobState.RETRYING else NO_NUMBER
        body = self._body
        if body is None:
            body = r.failure_json if "failure_json" in self._columns else NO_TEXT
        query = self._marked(
            jobs.c.id, jobs.c.sequence, NOW, jobs.c.number, _STATE_EVENT, from_state,
            jobs.c.state, reason, due, body,
        )  # fmt: skip
        return self._dialect.insert(events).from_select(list(EVENT_COLUMNS), query)

    def _insert_start_event(self) -> Any:
        r = self.rows.c
        query = self._marked(
            jobs.c.id, jobs.c.sequence - 1, r.started_us, jobs.c.number, _STATE_EVENT,
            number(JobState.LEASED), number(JobState.RUNNING), literal_column("'STARTED'", Text),
            NO_NUMBER, NO_TEXT,
        ).where(_started_late(r))  # fmt: skip
        return self._dialect.insert(events).from_select(list(EVENT_COLUMNS), query)

    async def apply(
        self, tx: Transaction, rows: Sequence[Row], options: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Applies the edge where its guard holds. Of rows that say the same the first counts.

        Returns:
            How many rows changed, and parameters under which `marked()` finds them.
        """
        rows = self._distinct(rows)
        marks = {**self.rows.params(rows), "p_stamp": tx.stamp()}
        params = {**marks, "p_now": tx.now_us, **(options or {})}
        changed: int = (await tx.connection.execute(self._update, params)).rowcount
        if changed:
            params.setdefault("p_reason", self.transition.reason)
            if self._start_event is not None:
                await tx.connection.execute(self._start_event, marks)
            await tx.connection.execute(self._event, params)
            if self._moves:
                await tx.connection.execute(self._counters, marks)
            tx.changed.extend(row[0] for row in rows)
        return changed, marks

    def _distinct(self, rows: Sequence[Row]) -> Sequence[Row]:
        # A report may come twice: it is one change, and one event.
        if len(rows) == 1:
            return rows
        width = 2 if self._fenced else 1
        first = {tuple(row[:width]): row for row in reversed(rows)}
        return rows if len(first) == len(rows) else list(first.values())

    async def marked(
        self, tx: Transaction, marks: Mapping[str, Any], *columns: ColumnElement[Any]
    ) -> Sequence[Row]:
        """Columns of the rows that `apply` changed."""
        names = tuple(map(str, columns))
        query = self._dialect.fixed((id(self), names), lambda: self._marked(*columns))
        return await self._dialect.rows(tx.connection, query, marks)

    def insert_marked(
        self,
        table: Any,
        names: Sequence[str],
        columns: Sequence[ColumnElement[Any]],
        *where: ColumnElement[bool],
    ) -> Any:
        """INSERT INTO table SELECT columns of the rows that `apply` changed."""
        query = self._marked(*columns).where(*where)
        return self._dialect.fix(self._dialect.insert(table).from_select(list(names), query))

    def keep_result(self, *columns: str) -> Any:
        """An upsert of these result columns, taken from the rows that `apply` changed."""
        query = self._marked(jobs.c.id, *(self.rows.c[c] for c in columns))
        insert = self._dialect.insert(job_results).from_select(["job_id", *columns], query)
        return self._dialect.fix(upsert(insert, ["job_id"], {c: c for c in columns}))


def _started_late(r: Any) -> ColumnElement[bool]:
    """The start of the attempt was not stored before its outcome."""
    return and_(jobs.c.prior_state == number(JobState.LEASED), r.started_us.is_not(None))


def _same_kind(transition: Transition) -> bool:
    """True where no counter of a queue moves."""
    everywhere = transition.sources | {transition.target}
    return everywhere <= WAITING or everywhere <= ACTIVE


def count_marked(dialect: Dialect, source: FromClause) -> Any:
    """Adds to this writer's counters what the marked jobs in `source` changed of them."""

    def moved(kind: frozenset[JobState]) -> ColumnElement[int]:
        states = [number(s) for s in sorted(kind)]
        now = case((jobs.c.state.in_(states), 1), else_=0)
        before = case((jobs.c.prior_state.in_(states), 1), else_=0)
        return func.sum(now - before)

    drained = func.sum(case((jobs.c.state == number(JobState.LEASED), 1), else_=0))
    query = (
        select(
            jobs.c.queue,
            jobs.c.tenant,
            writer(),
            moved(WAITING),
            moved(ACTIVE),
            drained,
        )
        .select_from(source)
        .where(jobs.c.stamp == STAMP)
        .group_by(jobs.c.queue, jobs.c.tenant)
    )
    return add_counts(dialect, query)


def add_counts(dialect: Dialect, query: Select[Any]) -> Any:
    """An upsert that adds rows of (queue, tenant, writer, waiting, active, drained)."""
    names = ["queue", "tenant", "writer", "waiting", "active", "drained"]
    insert: Any = dialect.insert(queue_counts).from_select(names, query)
    changes = {n: queue_counts.c[n] + insert.excluded[n] for n in names[3:]}
    return upsert(insert, names[:3], changes)
