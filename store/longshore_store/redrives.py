"""Redrives: dead letters queued again at a rate, a step at a time, each step one transaction.

A step takes the next jobs in the order of their ids, queues them, notes their runs and moves on,
all or nothing. So a step that is lost is done again and one that is repeated finds the rest: no
job is taken twice by a redrive, whoever leads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, Text, bindparam, func, select, update

from longshore_store import states
from longshore_store.accepted_keys import AcceptedKeys
from longshore_store.committer import Transaction, Write
from longshore_store.dead_letters import DeadLetterWalk
from longshore_store.dialects import Connection, Dialect, Row
from longshore_store.edges import number
from longshore_store.lifecycle import RerunWrites
from longshore_store.model import IdempotencyConflict
from longshore_store.redrive_records import Advanced, DeadLetters, RedriveRecord, RedriveState
from longshore_store.tables import jobs, redrive_jobs, redrives

MOST_AT_ONCE = 64
"""Redrives that advance side by side; those beyond wait for an end."""

_COLUMNS = (
    redrives.c.id, redrives.c.selection_json, redrives.c.rate_milli,
    redrives.c.maximum_failures_milli, redrives.c.reason, redrives.c.actor, redrives.c.created_us,
    redrives.c.total, redrives.c.state, redrives.c.stop_reason, redrives.c.ended_us,
    redrives.c.after_id, redrives.c.redriven, redrives.c.failed,
)  # fmt: skip


class RedriveReads:
    """Queries about redrives."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def page(
        self, connection: Connection, tenant: str, after_id: str | None, limit: int
    ) -> list[RedriveRecord]:
        """A tenant's, the newest first."""
        query = select(*_COLUMNS).where(redrives.c.tenant == tenant)
        if after_id is not None:
            query = query.where(redrives.c.id < after_id)
        ordered = query.order_by(redrives.c.id.desc()).limit(limit)
        return [_record(row) for row in await self._dialect.rows(connection, ordered, {})]

    async def running(self, connection: Connection) -> list[RedriveRecord]:
        """Those that have not ended, the oldest of each tenant first."""
        query = self._dialect.fixed("redrives.running", _running)
        return [_record(row) for row in await self._dialect.rows(connection, query, {})]


class RedriveWrites:
    """Handlers of the committer: a redrive begins, is stopped, advances."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._walk = DeadLetterWalk(dialect)
        self._keys = AcceptedKeys(dialect)
        earlier = jobs.c.ended_us <= bindparam("p_created", type_=BigInteger)
        self._rerun = RerunWrites(dialect, states.REDRIVE, guard=earlier)
        self._note = self._rerun.edge.insert_marked(
            redrive_jobs,
            ("redrive_id", "job_id", "run"),
            (bindparam("p_redrive", type_=Text), jobs.c.id, jobs.c.run),
        )

    async def create_redrive(self, tx: Transaction, writes: list[Write]) -> None:
        """Stores the redrives; the leader finds them. A known key answers with what it made."""
        for write in writes:
            [write.answer], key = write.rows, write.options["key"]
            known = await self._keys.take(tx, key, write.answer.id) if key is not None else None
            if known is None:
                values = _values(write.answer)
                await tx.connection.execute(self._dialect.insert(redrives).values(values))
                continue
            made_id, is_same = known
            found = await self._read(tx, select(*_COLUMNS), made_id)
            if is_same and found is not None:
                write.answer = found
            else:
                write.error = IdempotencyConflict(0, key.key, made_id)

    async def stop_redrive(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with the redrive, or None where the tenant has none of that id."""
        for write in writes:
            redrive_id, reason = write.options["redrive_id"], write.options["reason"]
            owned = redrives.c.tenant == write.options["tenant"]
            await self._end(tx, redrive_id, RedriveState.STOPPED, reason, owned)
            write.answer = await self._read(tx, select(*_COLUMNS).where(owned), redrive_id)

    async def advance_redrive(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with its Advanced, or None where the redrive is over."""
        for write in writes:
            write.answer = None
            going = redrives.c.state == number(RedriveState.RUNNING)
            # Locked, so that a stop in another process comes before this step or after it.
            query = select(*_COLUMNS).where(going).with_for_update()
            redrive = await self._read(tx, query, write.options["redrive_id"])
            if redrive is not None:
                write.answer = await self._advance(tx, redrive, write.options["limit"])

    async def _advance(self, tx: Transaction, redrive: RedriveRecord, limit: int) -> Advanced:
        if redrive.is_tripped:
            await self._end(tx, redrive.id, RedriveState.TRIPPED, redrive.trip_reason)
            return Advanced(0, RedriveState.TRIPPED)
        earlier = jobs.c.ended_us <= redrive.created_us
        stretch = await self._walk.go(tx, redrive.letters, redrive.after_id, limit, earlier)
        redriven = await self._queue(tx, redrive, stretch.ids) if stretch.ids else 0
        going = update(redrives).where(redrives.c.id == redrive.id)
        values = {
            "after_id": stretch.after_id or (stretch.ids or [redrive.after_id])[-1],
            "redriven": redrives.c.redriven + redriven,
        }
        await tx.connection.execute(going.values(values))
        if stretch.after_id is None:
            await self._end(tx, redrive.id, RedriveState.COMPLETED, "")
            return Advanced(redriven, RedriveState.COMPLETED)
        return Advanced(redriven, RedriveState.RUNNING)

    async def _queue(self, tx: Transaction, redrive: RedriveRecord, ids: Sequence[str]) -> int:
        body = {"actor": redrive.actor, "reason": redrive.reason, "redrive_id": redrive.id}
        options = {"p_created": redrive.created_us}
        done, marks = await self._rerun.rerun(tx, ids, json.dumps(body), options)
        if done:
            await tx.connection.execute(self._note, {**marks, "p_redrive": redrive.id})
        return len(done)

    async def _end(
        self, tx: Transaction, redrive_id: str, state: RedriveState, reason: str,
        *where: ColumnElement[bool],
    ) -> None:  # fmt: skip
        going = redrives.c.state == number(RedriveState.RUNNING)
        values = {"state": int(state), "stop_reason": reason, "ended_us": tx.now_us}
        await tx.connection.execute(
            update(redrives).where(redrives.c.id == redrive_id, going, *where).values(values)
        )

    async def _read(
        self, tx: Transaction, query: Select[Any], redrive_id: str
    ) -> RedriveRecord | None:
        rows = await self._dialect.rows(tx.connection, query.where(redrives.c.id == redrive_id), {})
        return _record(rows[0]) if rows else None


def _running() -> Select[Any]:
    """By turns: slow ones of one tenant must not keep others waiting."""
    going = redrives.c.state == number(RedriveState.RUNNING)
    turn = func.row_number().over(partition_by=redrives.c.tenant, order_by=redrives.c.id)
    r = select(*_COLUMNS, turn.label("turn")).where(going).subquery("r")
    columns = [r.c[column.name] for column in _COLUMNS]
    return select(*columns).order_by(r.c.turn, r.c.id).limit(MOST_AT_ONCE)


def _record(row: Row) -> RedriveRecord:
    redrive_id, letters, *facts = row
    record = RedriveRecord(redrive_id, DeadLetters.from_json(letters), *facts)
    return replace(record, state=RedriveState(record.state))


def _values(redrive: RedriveRecord) -> dict[str, Any]:
    return {
        "id": redrive.id,
        "tenant": redrive.letters.tenant,
        "selection_json": redrive.letters.to_json(),
        "rate_milli": redrive.rate_milli,
        "maximum_failures_milli": redrive.maximum_failures_milli,
        "reason": redrive.reason,
        "actor": redrive.actor,
        "state": int(redrive.state),
        "created_us": redrive.created_us,
        "after_id": redrive.after_id,
        "total": redrive.total,
    }
