"""One scheduler leads: a row with a term, and the term fences what a replaced one writes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Insert, Select, select, update

from longshore_store.committer import Transaction, Write
from longshore_store.dialects import Connection, Dialect, upsert
from longshore_store.model import Fenced
from longshore_store.tables import leaders

_NAME = "scheduler"


class LeadershipWrites:
    """lead and resign, and the check of a term before anything is written under it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def lead(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with a term, or None while another one leads."""
        for write in writes:
            write.answer = await self._lead(tx, write.options["leader_id"], write.options["ttl_us"])

    async def _lead(self, tx: Transaction, leader_id: str, ttl_us: int) -> int | None:
        term, leader, until_us = await self._locked(tx)
        if leader != leader_id:
            if until_us > tx.now_us:
                return None
            term += 1
        values = {"term": term, "leader_id": leader_id, "until_us": tx.now_us + ttl_us}
        await tx.connection.execute(update(leaders).where(leaders.c.name == _NAME).values(values))
        return term

    async def _locked(self, tx: Transaction) -> tuple[int, str, int]:
        """Term, leader and end. An upsert that changes nothing locks the row, and makes the
        first one: two schedulers that start on an empty database must not both get term 1."""
        fixed = self._dialect.fixed
        await tx.connection.execute(fixed("leadership.lock", self._lock))
        term, leader_id, until_us = (
            await tx.connection.execute(fixed("leadership.row", _row))
        ).one()
        return term, leader_id, until_us

    def _lock(self) -> Insert:
        insert = self._dialect.insert(leaders).values(name=_NAME, term=0, leader_id="", until_us=0)
        return upsert(insert, ["name"], {"name": "name"})

    async def resign(self, tx: Transaction, writes: list[Write]) -> None:
        """Ends the leadership of the callers. The term stays: the next one's is larger."""
        names = [w.options["leader_id"] for w in writes]
        await tx.connection.execute(
            update(leaders)
            .where(leaders.c.name == _NAME, leaders.c.leader_id.in_(names))
            .values(until_us=0, leader_id="")
        )

    async def vacate(self, connection: Connection) -> None:
        """Ends whatever leadership there is: its process is gone for certain."""
        await connection.execute(update(leaders).values(until_us=0, leader_id=""))

    async def fence(self, tx: Transaction, writes: list[Write]) -> None:
        """Sets Fenced on writes whose term is not the newest."""
        if all(w.term is None for w in writes):
            return
        # The share lock holds a takeover back until this transaction is over.
        query = self._dialect.fixed("leadership.term", _newest_term)
        newest = await tx.connection.scalar(query)
        for write in writes:
            if write.term is not None and write.term != newest:
                write.error = Fenced(f"term {write.term} is over; the newest is {newest}")


def _row() -> Select[Any]:
    return select(leaders.c.term, leaders.c.leader_id, leaders.c.until_us).where(
        leaders.c.name == _NAME
    )


def _newest_term() -> Select[Any]:
    return select(leaders.c.term).where(leaders.c.name == _NAME).with_for_update(read=True)
