"""What attempts report while they run: progress, log lines, checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, delete, select, tuple_, update

from longshore_store.committer import Transaction, Write, rows_of
from longshore_store.dialects import Dialect, Kind, Row, Rowset, upsert
from longshore_store.edges import (
    EMPTY_TEXT,
    EVENT_COLUMNS,
    NO_NUMBER,
    NOW,
    STAMP,
    number,
    state_in,
)
from longshore_store.model import EventKind
from longshore_store.states import ACTIVE
from longshore_store.tables import events, job_checkpoints, job_progress, jobs

RETAINED_EVENTS = 1000
_ATTEMPT: dict[str, Kind] = {"id": "text", "fence": "int"}
_LINE: dict[str, Kind] = {"id": "text", "fence": "int", "before": "int", "body": "text"}


class ReportWrites:
    """Progress, logs and checkpoints: kept only while the attempt holds its lease."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._progress = self._newest(
            job_progress, "body_json", {"count": job_progress.c.count + 1}
        )
        self._checkpoints = self._newest(job_checkpoints, "value_json", {})

    def _newest(self, table: Any, body: str, changes: dict[str, Any]) -> Any:
        r = self._dialect.rowset("r", {"id": "text", "fence": "int", "body": "text"})
        first = [number(1)] if changes else []
        query = select(r.c.id, r.c.fence, r.c.body, NOW, *first).select_from(
            r.table.join(jobs, and_(jobs.c.id == r.c.id, jobs.c.fence == r.c.fence))
        )
        names = ["job_id", "fence", body, "time_us", *changes]
        insert = self._dialect.insert(table).from_select(names, query.where(state_in(ACTIVE)))
        kept = {"fence": "fence", body: body, "time_us": "time_us", **changes}
        return self._dialect.fix(upsert(insert, ["job_id"], kept)), r

    async def apply(self, tx: Transaction, writes: list[Write]) -> None:
        """Dispatches on the kind, which all the writes share."""
        rows = rows_of(writes)
        if writes[0].kind == "record_logs":
            await self._append_logs(tx, rows)
        else:
            is_progress = writes[0].kind == "record_progress"
            statement, rowset = self._progress if is_progress else self._checkpoints
            # Two of one job in a statement would meet in its ON CONFLICT; the last one wins.
            newest = list({(row[0], row[1]): row for row in rows}.values())
            await tx.connection.execute(statement, {**rowset.params(newest), "p_now": tx.now_us})
        tx.changed.extend(row[0] for row in rows)

    async def _append_logs(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """Appends what is new: an update may come again after an answer that was lost, and from
        the next leader, which does not know what this one has stored."""
        logged = await self._logged(tx, rows)
        grouped: defaultdict[tuple[str, int], dict[int, str]] = defaultdict(dict)
        for job_id, fence, line, body in rows:
            if line > logged.get((job_id, fence), line):
                grouped[job_id, fence].setdefault(line, body)
        if not grouped:
            return
        totals = [(*attempt, len(lines), max(lines)) for attempt, lines in grouped.items()]
        stamp = {"p_stamp": tx.stamp()}
        r = self._dialect.rowset("r", {**_ATTEMPT, "total": "int", "last": "int"})
        count = self._dialect.fixed("reports.count", lambda: _count(r))
        await tx.connection.execute(count, {**r.params(totals), **stamp})
        lines = [
            (*attempt, len(numbered) - i, body)
            for attempt, numbered in grouped.items()
            for i, (_, body) in enumerate(sorted(numbered.items()), start=1)
        ]
        e = self._dialect.rowset("e", _LINE)
        append = self._dialect.fixed("reports.append", lambda: self._append(e))
        await tx.connection.execute(append, {**e.params(lines), **stamp, "p_now": tx.now_us})
        await self._trim(tx, [(job_id,) for job_id in {row[0] for row in totals}])

    async def _logged(self, tx: Transaction, rows: Sequence[Row]) -> dict[tuple[str, int], int]:
        """The number of the newest update that is stored of each attempt; none of stale ones."""
        r = self._dialect.rowset("r", _ATTEMPT)
        query = self._dialect.fixed("reports.logged", lambda: _logged(r))
        attempts = list({(row[0], row[1]) for row in rows})
        found = await self._dialect.rows(tx.connection, query, r.params(attempts))
        return {(job_id, fence): last for job_id, fence, last in found}

    def _append(self, e: Rowset) -> Any:
        same = and_(jobs.c.id == e.c.id, jobs.c.fence == e.c.fence)
        query = (
            select(
                jobs.c.id, jobs.c.sequence - e.c.before, NOW, jobs.c.number,
                number(EventKind.LOG), number(0), number(0), EMPTY_TEXT, NO_NUMBER, e.c.body,
            )
            .select_from(e.table.join(jobs, same))
            .where(jobs.c.stamp == STAMP)
        )  # fmt: skip
        return self._dialect.insert(events).from_select(list(EVENT_COLUMNS), query)

    async def _trim(self, tx: Transaction, ids: Sequence[Row]) -> None:
        """Keeps a bounded tail of events of jobs that log."""
        r = self._dialect.rowset("r", {"id": "text"})
        query = self._dialect.fixed("reports.surplus", lambda: _surplus(r))
        surplus = await self._dialect.rows(tx.connection, query, r.params(ids))
        if not surplus:
            return
        d = self._dialect.rowset("d", {"id": "text", "sequence": "int"})
        doomed = select(d.c.id, d.c.sequence)
        await tx.connection.execute(
            delete(events).where(tuple_(events.c.job_id, events.c.sequence).in_(doomed)),
            d.params(surplus),
        )


def _logged(r: Rowset) -> Select[Any]:
    same = and_(jobs.c.id == r.c.id, jobs.c.fence == r.c.fence)
    return select(r.c.id, r.c.fence, jobs.c.logged).select_from(r.table.join(jobs, same))


def _count(r: Rowset) -> Any:
    """Makes room in the sequence of each job for its new lines."""
    return (
        update(jobs)
        .where(jobs.c.id == r.c.id, jobs.c.fence == r.c.fence, state_in(ACTIVE))
        .values(sequence=jobs.c.sequence + r.c.total, logged=r.c.last, stamp=STAMP)
    )


def _surplus(r: Rowset) -> Select[Any]:
    old = and_(events.c.job_id == r.c.id, events.c.sequence <= jobs.c.sequence - RETAINED_EVENTS)
    source = r.table.join(jobs, jobs.c.id == r.c.id).join(events, old)
    return select(events.c.job_id, events.c.sequence).select_from(source)
