"""A job that runs again takes its uniqueness key back; while another job holds that, it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, not_, or_, select

from longshore_store.committer import Transaction
from longshore_store.dialects import Dialect, Row, upsert
from longshore_store.edges import NO_NUMBER, NOW, number
from longshore_store.states import TERMINAL
from longshore_store.tables import jobs, unique_claims

_KEY = ("tenant", "task", "key")
_COLUMNS = (*_KEY, "job_id", "until_us")


class Reclaims:
    """What a new run does with the claims of its jobs, inside its transaction."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        r = self._rows = dialect.rowset("q", {"id": "text"})
        keyed = r.table.join(jobs, and_(jobs.c.id == r.c.id, jobs.c.unique_key.is_not(None)))
        values = (jobs.c.tenant, jobs.c.task, jobs.c.unique_key, jobs.c.id, NO_NUMBER)
        # SQLite reads the ON of ON CONFLICT as a join's without a WHERE before it.
        whose = (
            select(*values)
            .select_from(keyed)
            .where(jobs.c.id == r.c.id)
            .order_by(jobs.c.unique_key, jobs.c.id)
        )
        insert = dialect.insert(unique_claims).from_select(list(_COLUMNS), whose)
        self._lock = dialect.fix(upsert(insert, _KEY, {"key": "key"}))
        again = (
            select(*values)
            .select_from(keyed)
            .where(not_(exists(select(unique_claims.c.key).where(_holds(jobs.c.id)))))
        )
        take = dialect.insert(unique_claims).from_select(list(_COLUMNS), again)
        self._take = dialect.fix(upsert(take, _KEY, {"job_id": "job_id", "until_us": "until_us"}))
        self._keys = dialect.fix(
            select(jobs.c.id, jobs.c.tenant, jobs.c.task, jobs.c.unique_key).select_from(keyed)
        )

    async def lock(self, tx: Transaction, job_ids: Sequence[str]) -> list[str]:
        """Makes submissions wait that want one of the keys, or waits for them.

        Returns:
            The jobs without those that share their key with an earlier one of them: only one of
            these may run.
        """
        rows = [(job_id,) for job_id in job_ids]
        found = await self._dialect.rows(tx.connection, self._keys, self._rows.params(rows))
        if not found:
            return list(job_ids)
        keys = {row[0]: tuple(row[1:]) for row in found}
        first: dict[tuple[Any, ...], str] = {}
        for job_id in job_ids:
            if job_id in keys:
                first.setdefault(keys[job_id], job_id)
        chosen = set(first.values())
        await tx.connection.execute(self._lock, self._rows.params([(i,) for i in sorted(chosen)]))
        return [job_id for job_id in job_ids if job_id not in keys or job_id in chosen]

    async def take(self, tx: Transaction, rows: Sequence[Row]) -> None:
        """The claims name these jobs, which have just been queued again: until the end of their
        window if it lasts, else while they are active."""
        params = {**self._rows.params(rows), "p_now": tx.now_us}
        await tx.connection.execute(self._take, params)

    async def holder(self, tx: Transaction, job_id: str) -> tuple[str, str] | None:
        """The key of a job, and who holds it, if that is another one."""
        query = self._dialect.fixed("reclaiming.holder", self._holder)
        found = await self._dialect.rows(tx.connection, query, self._one(tx, job_id))
        return (found[0][0], found[0][1]) if found else None

    def _one(self, tx: Transaction, job_id: str) -> dict[str, Any]:
        return {**self._rows.params([(job_id,)]), "p_now": tx.now_us}

    def _holder(self) -> Any:
        r = self._rows
        source = r.table.join(jobs, jobs.c.id == r.c.id).join(unique_claims, _key_of(jobs))
        held = _held_by_another(jobs)
        return select(unique_claims.c.key, unique_claims.c.job_id).select_from(source).where(held)


def is_free() -> ColumnElement[bool]:
    """True of a row of jobs that has no uniqueness key, or whose key no other job holds."""
    held = select(unique_claims.c.key).where(_key_of(jobs), _held_by_another(jobs))
    return or_(jobs.c.unique_key.is_(None), not_(exists(held.correlate(jobs))))


def _key_of(job: Any) -> ColumnElement[bool]:
    claim = unique_claims.c
    return and_(
        claim.tenant == job.c.tenant, claim.task == job.c.task, claim.key == job.c.unique_key
    )


def _held_by_another(job: Any) -> ColumnElement[bool]:
    claim, other = unique_claims.c, jobs.alias("holder")
    ended = [number(state) for state in sorted(TERMINAL)]
    active = exists(
        select(other.c.id).where(other.c.id == claim.job_id, other.c.state.not_in(ended))
    )
    holds = or_(claim.until_us > NOW, and_(claim.until_us.is_(None), active))
    return and_(claim.job_id != job.c.id, holds)


def _holds(job_id: ColumnElement[str]) -> ColumnElement[bool]:
    """The claim names this job, and its window lasts, or it has none."""
    claim = unique_claims.c
    lasts = or_(claim.until_us.is_(None), claim.until_us > NOW)
    return and_(_key_of(jobs), claim.job_id == job_id, lasts)
