"""Keys of calls that were accepted: who repeats a call gets what the first one made.

The key of a Submit that made a job is in the row of the job. The table `accepted_keys` has the
others: of a Submit that was answered with a job that was there, of a Retry, of a Redrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    delete,
    exists,
    literal,
    not_,
    select,
    union_all,
)

from longshore_store.committer import KeyTaken, Transaction
from longshore_store.dialects import Connection, Dialect, Row, Rowset
from longshore_store.edges import NOW
from longshore_store.model import Accepted, CallKey
from longshore_store.states import JobState
from longshore_store.tables import accepted_keys, jobs

_C = accepted_keys.c
_COLUMNS = ("tenant", "key", "fingerprint", "made_id", "created_us")


class AcceptedKeys:
    """The keys, inside the transactions of what is accepted under them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def keep(self, tx: Transaction, keys: Sequence[tuple[CallKey, str]]) -> None:
        """Keeps keys of calls that were answered with these jobs. Raises KeyTaken."""
        if not keys:
            return
        r = self._dialect.rowset("a", dict.fromkeys(_COLUMNS[:-1], "text"))
        insert = self._dialect.fixed(
            "accepted_keys.keep",
            lambda: self._dialect.insert_new(
                accepted_keys, _COLUMNS, select(*r.table.c, NOW).select_from(r.table)
            ),
        )
        rows = [(*key, made_id) for key, made_id in keys]
        params = {**r.params(rows), "p_now": tx.now_us}
        if (await tx.connection.execute(insert, params)).rowcount != len(rows):
            raise KeyTaken

    async def are_none(self, connection: Connection) -> bool:
        """True if no key is kept now."""
        query = self._dialect.fixed("accepted_keys.any", lambda: select(_C.created_us).limit(1))
        return await connection.scalar(query) is None

    async def find(
        self, connection: Connection, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Row]:
        """By tenant and key: the job that a Submit got, the fingerprint of the call, and of the job
        its state and when it was made. The last two are None of a key of another method."""
        r = self._dialect.rowset("k", {"tenant": "text", "key": "text"})
        query = self._dialect.fixed("accepted_keys.find", lambda: _find(r))
        found = await self._dialect.rows(connection, query, r.params(keys))
        return {(row[0], row[1]): row[2:] for row in found}

    async def accepted(
        self, connection: Connection, keys: Sequence[CallKey]
    ) -> list[Accepted | None]:
        """What each Submit got that was accepted under such a key, if it was the same call."""
        found = await self.find(connection, [(key.tenant, key.key) for key in keys])
        answers: list[Accepted | None] = []
        for key in keys:
            job_id, fingerprint, state, created_us = found.get((key.tenant, key.key), (None,) * 4)
            same = fingerprint == key.fingerprint and state is not None
            answers.append(Accepted(job_id, False, JobState(state), created_us) if same else None)
        return answers

    async def take(self, tx: Transaction, key: CallKey, made_id: str) -> tuple[str, bool] | None:
        """Keeps a key that is free, and returns None.

        Of one that is taken it returns what was made under it, and whether by the same call. A
        process that is about to take it is waited for.

        Raises:
            KeyTaken: it was taken, and is free by now.
        """
        texts: list[ColumnElement[Any]] = [literal(text, Text) for text in (*key, made_id)]
        submitted = select(jobs.c.id).where(
            jobs.c.tenant == key.tenant, jobs.c.idempotency_key == key.key
        )
        row = select(*texts, literal(tx.now_us, BigInteger)).where(not_(exists(submitted)))
        insert = self._dialect.insert_new(accepted_keys, _COLUMNS, row)
        if (await tx.connection.execute(insert)).rowcount:
            return None
        found = await self.find(tx.connection, [(key.tenant, key.key)])
        if not found:  # what was made under it was deleted just now
            raise KeyTaken
        [(made, fingerprint, *_)] = found.values()
        return made, fingerprint == key.fingerprint

    async def give_back(self, tx: Transaction, key: CallKey) -> None:
        """Frees a key that was just taken: nothing was made under it."""
        await tx.connection.execute(delete(accepted_keys).where(_same(key)))


def _same(key: CallKey) -> ColumnElement[bool]:
    return and_(_C.tenant == key.tenant, _C.key == key.key)


def is_free(r: Rowset) -> ColumnElement[bool]:
    """True of a job to be inserted whose key no other call has."""
    taken = select(_C.key).where(_C.tenant == r.c.tenant, _C.key == r.c.idempotency_key)
    return not_(exists(taken))


def _find(r: Rowset) -> Select[Any]:
    c = jobs.c
    made = and_(
        c.tenant == r.c.tenant, c.idempotency_key == r.c.key, c.idempotency_key.is_not(None)
    )
    of_jobs = select(
        c.tenant, c.idempotency_key.label("key"), c.id, c.fingerprint, c.state, c.created_us
    ).select_from(r.table.join(jobs, made))
    same = and_(_C.tenant == r.c.tenant, _C.key == r.c.key)
    of_others = select(
        _C.tenant, _C.key, _C.made_id, _C.fingerprint, c.state, c.created_us
    ).select_from(r.table.join(accepted_keys, same).outerjoin(jobs, c.id == _C.made_id))
    both = union_all(of_others, of_jobs).subquery()
    return select(*both.c)
