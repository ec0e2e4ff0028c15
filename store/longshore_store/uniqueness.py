"""Business deduplication: who holds a uniqueness key, and what the next one gets."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Insert, Text, bindparam, case, delete, literal_column, or_, select, update

from longshore_store.acceptance import deadlines, first_state, needs_gpu
from longshore_store.committer import Transaction
from longshore_store.dialects import Dialect, Row, upsert_row
from longshore_store.edges import (
    EVENT_COLUMNS,
    NO_NUMBER,
    NO_TEXT,
    NOW,
    add_counts,
    number,
    state_in,
    writer,
)
from longshore_store.lifecycle import CancelWrites
from longshore_store.model import (
    Accepted,
    EventKind,
    NewJob,
    OnConflict,
    UniquenessConflict,
)
from longshore_store.states import TERMINAL, WAITING, JobState
from longshore_store.tables import events, job_labels, job_specs, jobs, unique_claims

RequireRoom = Callable[[Transaction, Sequence[tuple[int, NewJob]]], Awaitable[None]]


class UniqueClaims:
    """Finds the holder of a key and does what on_conflict asks for.

    Args:
        require_room: raises QueueFull where a queue has no room for new jobs, given with their
            places in the call.
    """

    def __init__(self, dialect: Dialect, require_room: RequireRoom) -> None:
        self._dialect = dialect
        self._require_room = require_room
        self._cancel = CancelWrites(dialect)

    async def resolve(self, tx: Transaction, index: int, job: NewJob) -> Accepted | None:
        """The existing job to answer with, or None where the new one is to be inserted.

        Raises:
            UniquenessConflict: the key is held and on_conflict is REJECT.
            QueueFull: the job that is there would move into a full queue.
        """
        assert job.unique is not None
        holder = await self._holder(tx, job)
        if holder is None:
            await self._claim(tx, job)
            return None
        job_id, state, created_us, first_started_us = holder
        match job.unique.on_conflict:
            case OnConflict.REJECT:
                raise UniquenessConflict(index, job.unique.key, job_id)
            case OnConflict.CANCEL_EXISTING:
                await self._cancel.cancel(tx, [job_id], "replaced by a newer job", force=False)
                await self._claim(tx, job)
                return None
            # One that has started may have a checkpoint, which is of its own spec alone.
            case OnConflict.REPLACE_QUEUED if state in WAITING and first_started_us is None:
                state = await self._replace(tx, index, job, job_id)
        return Accepted(job_id, False, JobState(state), created_us)

    async def _holder(self, tx: Transaction, job: NewJob) -> Row | None:
        assert job.unique is not None
        claim = unique_claims.c
        await self._lock(tx, job)
        active = jobs.c.state.not_in([number(s) for s in sorted(TERMINAL)])
        query = (
            select(jobs.c.id, jobs.c.state, jobs.c.created_us, jobs.c.first_started_us)
            .select_from(unique_claims.join(jobs, jobs.c.id == claim.job_id))
            .where(claim.tenant == job.tenant, claim.task == job.task)
            .where(claim.key == job.unique.key)
            .where(or_(claim.until_us > tx.now_us, claim.until_us.is_(None) & active))
            .with_for_update(of=jobs)
        )
        found = (await tx.connection.execute(query)).first()
        return tuple(found) if found else None

    async def _lock(self, tx: Transaction, job: NewJob) -> None:
        """Makes another process that wants this key wait, whether somebody has it or nobody."""
        lock = self._dialect.fixed("uniqueness.lock", lambda: self._upsert({"key": "key"}))
        await tx.connection.execute(lock, _row_of(job, "", None))

    async def _claim(self, tx: Transaction, job: NewJob) -> None:
        assert job.unique is not None
        window = job.unique.window_us
        until_us = None if window is None else tx.now_us + window
        changes = {"job_id": "job_id", "until_us": "until_us"}
        claim = self._dialect.fixed("uniqueness.claim", lambda: self._upsert(changes))
        await tx.connection.execute(claim, _row_of(job, job.id, until_us))

    def _upsert(self, changes: Mapping[str, str]) -> Insert:
        key = ("tenant", "task", "key")
        names = (*key, "job_id", "until_us")
        return upsert_row(self._dialect, unique_claims, names, key, changes)

    async def _replace(self, tx: Transaction, index: int, job: NewJob, job_id: str) -> JobState:
        """A waiting job takes the new spec. Only its own queue counts it, before and after."""
        expire_us, total_us = deadlines(job, tx.now_us)
        state = first_state(job, tx.now_us)
        before = (
            await tx.connection.execute(select(jobs.c.queue).where(jobs.c.id == job_id))
        ).scalar_one()
        if before != job.queue:
            await self._require_room(tx, [(index, job)])
        values: dict[str, Any] = {
            "prior_state": jobs.c.state,
            "state": int(state),
            "sequence": jobs.c.sequence + 1,
            "queue": job.queue,
            "priority": job.priority,
            "due_us": job.due_us,
            "expire_us": expire_us,
            "total_deadline_us": total_us,
            "total_timeout_us": job.total_timeout_us,
            "needs_json": job.needs_json,
            "gpu": needs_gpu(job),
            # One that was scheduled has waited for its time, not for a worker: it joins the end.
            "ready_us": case(
                (jobs.c.state == number(JobState.SCHEDULED), number(tx.now_us)),
                else_=jobs.c.ready_us,
            ),
        }  # not the fingerprint: it goes with the idempotency key of the first call
        await tx.connection.execute(
            update(jobs).where(jobs.c.id == job_id, state_in(WAITING)).values(values)
        )
        await tx.connection.execute(
            update(job_specs)
            .where(job_specs.c.job_id == job_id)
            .values(spec=base64.b64encode(job.spec).decode(), payload=job.payload)
        )
        await self._relabel(tx, job_id, job)
        await self._tell(tx, job_id)
        if before != job.queue:
            await self._move_count(tx, before, job)
        tx.changed.append(job_id)
        return state

    async def _relabel(self, tx: Transaction, job_id: str, job: NewJob) -> None:
        await tx.connection.execute(delete(job_labels).where(job_labels.c.job_id == job_id))
        labels = [{"name": n, "value": v, "job_id": job_id} for n, v in job.labels.items()]
        if labels:
            await tx.connection.execute(self._dialect.insert(job_labels).values(labels))

    async def _tell(self, tx: Transaction, job_id: str) -> None:
        query = select(
            jobs.c.id, jobs.c.sequence, NOW, jobs.c.number, number(EventKind.STATE),
            jobs.c.prior_state, jobs.c.state, literal_column("'REPLACED'", Text), NO_NUMBER,
            NO_TEXT,
        ).where(jobs.c.id == job_id)  # fmt: skip
        insert = self._dialect.insert(events).from_select(list(EVENT_COLUMNS), query)
        await tx.connection.execute(insert, {"p_now": tx.now_us})

    async def _move_count(self, tx: Transaction, before: str, job: NewJob) -> None:
        r = self._dialect.rowset("m", {"queue": "text", "n": "int"})
        query = select(
            r.c.queue, bindparam("p_tenant", job.tenant, Text), writer(),
            r.c.n, number(0), number(0),
        ).where(r.c.n != 0)  # fmt: skip
        rows = [(before, -1), (job.queue, 1)]
        await tx.connection.execute(add_counts(self._dialect, query), r.params(rows))


def _row_of(job: NewJob, job_id: str, until_us: int | None) -> dict[str, Any]:
    assert job.unique is not None
    return {
        "p_tenant": job.tenant,
        "p_task": job.task,
        "p_key": job.unique.key,
        "p_job_id": job_id,
        "p_until_us": until_us,
    }
