"""Mending what is safe to mend: counters, rows of jobs that are gone, claims that nobody holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, Text, delete, exists, literal_column, or_, select

from longshore_store.committer import unavailable
from longshore_store.dialects import Connection, Dialect, Row
from longshore_store.doctor.counters import deviations
from longshore_store.doctor.probes import Page, next_page, within_bounded, within_open
from longshore_store.doctor.rows import BELONGINGS
from longshore_store.edges import add_counts, number
from longshore_store.tables import jobs, redrive_jobs, redrives, unique_claims

_LANE = {"queue": "text", "tenant": "text", "waiting": "int", "active": "int"}


class _Reader:
    """A Source in the transaction of a repair."""

    def __init__(self, dialect: Dialect, connection: Connection) -> None:
        self._dialect = dialect
        self._connection = connection

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Sequence[Row]:
        return await self._dialect.rows(self._connection, query, params)


async def repair(dialect: Dialect) -> Counter[str]:
    """Mends what `examine` calls repairable. Other writers may go on meanwhile.

    Returns:
        How many rows were mended, by check; checks without any are left out.

    Raises:
        StoreLocked: a running service holds this embedded database.
        StoreUnavailable: the database is away.
    """
    dialect.lock()
    try:
        mended: Counter[str] = Counter()
        mended["counters"] = await dialect.transact(lambda c: _correct_counters(dialect, c))
        mended["keys"] = await dialect.transact(_delete_claims)
        mended["redrives"] = await dialect.transact(_delete_redriven)
        mended["bodies"] = await _delete_left_over(dialect)
    except Exception as error:
        raise unavailable(error) from error
    else:
        return +mended
    finally:
        await dialect.close()
        dialect.unlock()


async def _correct_counters(dialect: Dialect, connection: Connection) -> int:
    """Adds what is missing, in a shard of its own.

    A commit moves jobs and counters alike, so the deviation is the same before and after it: what
    one statement reads of it is exact, whatever is written until the correction is. Only another
    doctor would correct it too, and waits.
    """
    await dialect.take_turns(connection)
    found = await dialect.rows(connection, deviations(), {})
    if not found:
        return 0
    rows = [
        (queue, tenant, int(waiting) - int(stored_waiting), int(active) - int(stored_active))
        for queue, tenant, waiting, active, stored_waiting, stored_active in found
    ]
    r = dialect.rowset("c", _LANE)  # type: ignore[arg-type]  # the kinds are literals
    shard = literal_column("'doctor'", Text)
    query = select(r.c.queue, r.c.tenant, shard, r.c.waiting, r.c.active, number(0))
    # SQLite reads the ON of ON CONFLICT as a join's without a WHERE before it.
    query = query.where(or_(r.c.waiting != 0, r.c.active != 0))
    await connection.execute(add_counts(dialect, query), r.params(rows))
    return len(rows)


async def _delete_claims(connection: Connection) -> int:
    held = exists().where(jobs.c.id == unique_claims.c.job_id)
    done = await connection.execute(delete(unique_claims).where(~held))
    return int(done.rowcount)


async def _delete_redriven(connection: Connection) -> int:
    r = redrive_jobs.c
    job, redrive = (
        exists().where(jobs.c.id == r.job_id),
        exists().where(redrives.c.id == r.redrive_id),
    )
    done = await connection.execute(delete(redrive_jobs).where(or_(~job, ~redrive)))
    return int(done.rowcount)


async def _delete_left_over(dialect: Dialect) -> int:
    """Page by page, each in a transaction of its own, so that no writer waits for long."""
    total, after = 0, ""
    while True:

        async def work(connection: Connection, after: str = after) -> tuple[Page, int]:
            page = await next_page(_Reader(dialect, connection), after)
            return page, await _delete_in(connection, page)

        page, count = await dialect.transact(work)
        total += count
        if page.upto is None:
            return total
        after = page.upto


async def _delete_in(connection: Connection, page: Page) -> int:
    within = within_open if page.upto is None else within_bounded
    count = 0
    for table in BELONGINGS:
        owned = exists().where(jobs.c.id == table.c.job_id)
        doomed = delete(table).where(within(table.c.job_id), ~owned)
        count += int((await connection.execute(doomed, page.params)).rowcount)
    return count
