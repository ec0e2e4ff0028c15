"""What people and the clock do to whole jobs: cancel, expire, promote, run again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Text,
    and_,
    bindparam,
    delete,
    false,
    or_,
    select,
    update,
)

from longshore.sdk.failures import CODES, FailureClass
from longshore_store import states
from longshore_store.accepted_keys import AcceptedKeys
from longshore_store.attempts import ATTEMPT_COLUMNS, ended_attempt
from longshore_store.committer import Transaction, Write, rows_of
from longshore_store.dialects import Dialect, Kind, Row
from longshore_store.edges import NO_NUMBER, NO_TEXT, NOW, Edge, number
from longshore_store.failure import FailureRecord
from longshore_store.model import IdempotencyConflict, UniquenessConflict
from longshore_store.reclaiming import Reclaims, is_free
from longshore_store.states import JobState
from longshore_store.tables import (
    attempts,
    job_checkpoints,
    job_progress,
    job_results,
    jobs,
)

_ENDED: dict[str, Kind] = {"id": "text", "failure_json": "text"}


class CancelWrites:
    """cancel_jobs: waiting jobs end here, held ones wait for their worker."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        ended = {"ended_us": NOW}
        self._waiting = Edge(dialect, states.CANCEL_WAITING, _ENDED, ended, fenced=False)
        held = {"cancel_force": bindparam("p_force", type_=Boolean)}
        self._held = Edge(dialect, states.CANCEL_ACTIVE, _ENDED, held, fenced=False)
        self._harden = _harden(self._held)
        self._keep = [
            (edge, edge.keep_result("failure_json")) for edge in (self._waiting, self._held)
        ]

    async def cancel_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with its stale ids. Those that say the same share the statements."""
        alike: defaultdict[tuple[str, bool], list[Write]] = defaultdict(list)
        for write in writes:
            alike[write.options["reason"], write.options["force"]].append(write)
        for (reason, force), group in alike.items():
            ids = list(dict.fromkeys(rows_of(group)))
            stale = set(await self.cancel(tx, ids, reason, force=force))
            for write in group:
                write.answer = [job_id for job_id in write.rows if job_id in stale]

    async def cancel(
        self, tx: Transaction, job_ids: Sequence[str], reason: str, *, force: bool
    ) -> list[str]:
        """Cancels, and returns the ids that nothing was done to."""
        failure = FailureRecord(
            FailureClass.CANCELLED, CODES["CANCELLED"], "CANCELLED", reason or "cancelled"
        ).to_json()
        rows = [(job_id, failure) for job_id in job_ids]
        await self._lock(tx, rows)
        touched: set[str] = set()
        for edge, keep in self._keep:
            options = {} if edge is self._waiting else {"p_force": force}
            changed, marks = await edge.apply(tx, rows, options)
            if changed:
                await tx.connection.execute(keep, marks)
                touched.update(row[0] for row in await edge.marked(tx, marks, jobs.c.id))
        if force:
            await tx.connection.execute(self._harden, self._held.rows.params(rows))
        return [job_id for job_id in job_ids if job_id not in touched]

    async def _lock(self, tx: Transaction, rows: Sequence[Row]) -> None:
        # A job that another process released between the two edges would escape both.
        r = self._held.rows
        query = select(jobs.c.id).where(jobs.c.id == r.c.id).order_by(jobs.c.id)
        await self._dialect.rows(tx.connection, query.with_for_update(of=jobs), r.params(rows))


def _harden(edge: Edge) -> Any:
    """A second Cancel may force what the first one asked for nicely."""
    cancelling = jobs.c.state == number(JobState.CANCELLING)
    return update(jobs).where(jobs.c.id == edge.rows.c.id, cancelling).values(cancel_force=True)


class ClockWrites:
    """promote_jobs and expire_jobs: what the passing of time does."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._promote = Edge(
            dialect, states.PROMOTE, {"id": "text"}, {"ready_us": NOW, "due_us": NO_NUMBER},
            fenced=False, guard=jobs.c.due_us <= NOW,
        )  # fmt: skip
        self._expire = Edge(
            dialect, states.EXPIRE_WAITING, _ENDED, {"ended_us": NOW},
            fenced=False, guard=jobs.c.expire_us <= NOW,
        )  # fmt: skip
        self._keep_expiry = self._expire.keep_result("failure_json")

    async def promote_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers with how many became due."""
        due = and_(jobs.c.state.in_([number(1), number(6)]), jobs.c.due_us <= NOW)
        rows = await self._first(tx, writes, select(jobs.c.id).where(due).order_by(jobs.c.due_us))
        changed = (await self._promote.apply(tx, rows))[0] if rows else 0
        for write in writes:
            write.answer = changed

    async def expire_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers with how many ended."""
        late = and_(
            jobs.c.expire_us.is_not(None),
            jobs.c.state.in_([number(s) for s in (1, 2, 3, 6)]),
            jobs.c.expire_us <= NOW,
        )
        query = select(jobs.c.id, jobs.c.first_started_us).where(late).order_by(jobs.c.expire_us)
        found = await self._first(tx, writes, query)
        rows = [(job_id, _expiry(started_us is None)) for job_id, started_us in found]
        changed = 0
        if rows:
            changed, marks = await self._expire.apply(tx, rows)
            await tx.connection.execute(self._keep_expiry, marks)
        for write in writes:
            write.answer = changed

    async def _first(self, tx: Transaction, writes: list[Write], query: Any) -> Sequence[Row]:
        limit = max(w.options["limit"] for w in writes)
        return await self._dialect.rows(tx.connection, query.limit(limit), {"p_now": tx.now_us})


def _expiry(unstarted: bool) -> str:
    what = "was not started in time" if unstarted else "did not end in time"
    return FailureRecord(
        FailureClass.TIMEOUT, CODES["DEADLINE_EXCEEDED"], "DEADLINE_EXCEEDED", f"the job {what}"
    ).to_json()


class RerunWrites:
    """retry_jobs, and the jobs of a redrive: a new run begins, with the history kept.

    A job that has a uniqueness key runs again only if no other job holds that, and holds it then.

    Args:
        transition: which edge it is.
        guard: what else must be true of the job.
    """

    def __init__(
        self,
        dialect: Dialect,
        transition: states.Transition = states.RERUN,
        guard: ColumnElement[bool] | None = None,
    ) -> None:
        self._dialect = dialect
        self._keys = AcceptedKeys(dialect)
        self._claims = Reclaims(dialect)
        c, r = jobs.c, dialect.rowset("r", {"id": "text", "run": "int"})
        in_run = and_(or_(r.c.run.is_(None), r.c.run == c.run), is_free())
        nothing = {name: number(0) for name in ("attempts", "crashes", "ooms", "interruptions")}
        self.edge = Edge(
            dialect, transition, {"id": "text", "run": "int"},
            {
                **nothing,
                "run": c.run + 1,
                "ready_us": NOW,
                "due_us": NO_NUMBER,
                "total_deadline_us": NOW + c.total_timeout_us,
                "expire_us": NOW + c.total_timeout_us,
                "ended_us": NO_NUMBER,
                "cancel_force": false(),
            },
            rows=r, fenced=False, guard=in_run if guard is None else and_(in_run, guard),
            body=bindparam("p_body", type_=Text),
        )  # fmt: skip

    async def retry_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with its stale ids."""
        for write in writes:
            body = json.dumps({"actor": write.options["actor"], "reason": write.options["reason"]})
            run, key = write.options["run"], write.options["key"]
            if key is not None and (known := await self._keys.take(tx, key, write.rows[0])):
                write.answer = []
                if known != (write.rows[0], True):
                    write.error = IdempotencyConflict(0, key.key, known[0])
                continue
            done, _ = await self.rerun(tx, list(dict.fromkeys(write.rows)), body, run=run)
            write.answer = [job_id for job_id in write.rows if job_id not in done]
            if key is not None and write.answer:
                await self._keys.give_back(tx, key)
            if len(write.rows) == 1 and write.answer:
                held = await self._claims.holder(tx, write.rows[0])
                write.error = UniquenessConflict(0, *held) if held else None

    async def rerun(
        self, tx: Transaction, job_ids: Sequence[str], body: str,
        options: Mapping[str, Any] | None = None, *, run: int | None = None,
    ) -> tuple[set[str], dict[str, Any]]:  # fmt: skip
        """Queues those that the guard holds for; `body` goes with their events.

        run: only those that are in this run; None takes them in any.

        Returns:
            The ids of those, and parameters under which `edge.marked()` finds them.
        """
        job_ids = await self._claims.lock(tx, job_ids)
        ids = [(job_id,) for job_id in job_ids]
        await self._lock(tx, ids)
        if JobState.SUCCEEDED in self.edge.transition.sources:
            await self._save_successes(tx, ids)
        rows = [(job_id, run) for job_id in job_ids]
        changed, marks = await self.edge.apply(tx, rows, {**(options or {}), "p_body": body})
        if not changed:
            return set(), marks
        done = {row[0] for row in await self.edge.marked(tx, marks, jobs.c.id)}
        queued = [(job_id,) for job_id in done]
        await self._claims.take(tx, queued)
        await self._forget(tx, queued)
        return done, marks

    async def _lock(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """Keeps a deletion from the jobs while their last attempt is saved."""
        if self._dialect.exclusive:
            return
        r = self._dialect.rowset("l", {"id": "text"})
        ids, params = select(r.c.id), r.params(rows)
        found = select(jobs.c.id).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
        await self._dialect.rows(tx.connection, found.with_for_update(of=jobs), params)

    async def _save_successes(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """The last attempt of a succeeded job is on its row alone, which the new run reuses."""
        r = self._dialect.rowset("r", {"id": "text"})
        query = (
            select(*ended_attempt(ended_us=jobs.c.ended_us, failure_class=number(0),
                                  failure_json=NO_TEXT))
            .select_from(r.table.join(jobs, jobs.c.id == r.c.id))
            .where(jobs.c.state == number(JobState.SUCCEEDED))
        )  # fmt: skip
        # It may be there: another process may run the job again at the same time.
        insert = self._dialect.insert_new(attempts, ATTEMPT_COLUMNS, query)
        await tx.connection.execute(insert, r.params(rows))

    async def _forget(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """Drops what the last run left, but not the count of progress: a revision never falls.
        Its checkpoint stays where there is something left to resume."""
        if not rows:
            return
        r = self._dialect.rowset("f", {"id": "text"})
        ids = select(r.c.id)
        finished = select(jobs.c.id).where(
            jobs.c.id == r.c.id, jobs.c.prior_state == number(JobState.SUCCEEDED)
        )
        await tx.connection.execute(
            delete(job_results).where(job_results.c.job_id.in_(ids)), r.params(rows)
        )
        await tx.connection.execute(
            delete(job_checkpoints).where(job_checkpoints.c.job_id.in_(finished)), r.params(rows)
        )
        await tx.connection.execute(
            update(job_progress).where(job_progress.c.job_id.in_(ids)).values(body_json=None),
            r.params(rows),
        )
