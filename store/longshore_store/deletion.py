"""Deleting jobs for good: the one place that does, and only what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Select, delete, select

from longshore_store.committer import Transaction
from longshore_store.dialects import Dialect, Row, Rowset
from longshore_store.edges import state_in
from longshore_store.states import TERMINAL
from longshore_store.tables import (
    accepted_keys,
    attempts,
    events,
    job_checkpoints,
    job_labels,
    job_progress,
    job_results,
    job_specs,
    jobs,
    redrive_jobs,
    unique_claims,
)

# What belongs to a job, by the column that names it; the job itself goes last.
_NAMED_BY: tuple[Column[Any], ...] = (
    job_specs.c.job_id,
    job_results.c.job_id,
    job_progress.c.job_id,
    job_checkpoints.c.job_id,
    job_labels.c.job_id,
    attempts.c.job_id,
    events.c.job_id,
    unique_claims.c.job_id,
    redrive_jobs.c.job_id,
    accepted_keys.c.made_id,
    jobs.c.id,
)


class Deletion:
    """Deletes all rows of jobs. A job that has not ended is left as it is, whoever asks.

    A batch is one transaction: give it at most a few hundred ids, so that other writers wait no
    longer than for a batch of theirs.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._rows = dialect.rowset("d", {"id": "text"})
        self._ended = dialect.fix(_ended(self._rows))
        ids = select(self._rows.c.id)
        self._deletes = [
            dialect.fix(delete(column.table).where(column.in_(ids))) for column in _NAMED_BY
        ]

    async def delete(self, tx: Transaction, rows_of_ids: Sequence[Row]) -> int:
        """Deletes those of the jobs that exist and have ended; rows are (id,).

        Returns:
            How many jobs are gone by this call. Listeners are told their ids.
        """
        # Locked first: a retry that is under way in another process is waited for, and a later
        # one finds nothing. The guard is looked at again once the lock is held.
        found = await self._dialect.rows(
            tx.connection, self._ended, self._rows.params(list(rows_of_ids))
        )
        if found:
            params = self._rows.params(found)
            for statement in self._deletes:
                await tx.connection.execute(statement, params)
            tx.changed.extend(row[0] for row in found)
        return len(found)


def _ended(r: Rowset) -> Select[Any]:
    return (
        select(jobs.c.id)
        .where(jobs.c.id.in_(select(r.c.id)), state_in(TERMINAL))
        .order_by(jobs.c.id)
        .with_for_update(of=jobs)
    )
