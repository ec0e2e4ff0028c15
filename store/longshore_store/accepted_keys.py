"""Keys of calls that were accepted: who repeats a call gets what the first one made."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Text, and_, delete, literal, select

from longshore_store.committer import Transaction
from longshore_store.dialects import Dialect
from longshore_store.model import CallKey
from longshore_store.tables import accepted_keys

_C = accepted_keys.c
_COLUMNS = ("tenant", "key", "fingerprint", "made_id", "created_us")


class AcceptedKeys:
    """The keys, inside the transactions of what is accepted under them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def take(self, tx: Transaction, key: CallKey, made_id: str) -> tuple[str, bool] | None:
        """Keeps a key that is free, and returns None.

        Of one that is taken it returns what was made under it, and whether by the same call. A
        process that is about to take it is waited for.
        """
        texts: list[ColumnElement[Any]] = [literal(text, Text) for text in (*key, made_id)]
        row = select(*texts, literal(tx.now_us, BigInteger))
        insert = self._dialect.insert_new(accepted_keys, _COLUMNS, row)
        if (await tx.connection.execute(insert)).rowcount:
            return None
        query = select(_C.made_id, _C.fingerprint).where(_same(key))
        [(found, fingerprint)] = await self._dialect.rows(tx.connection, query, {})
        return found, fingerprint == key.fingerprint

    async def give_back(self, tx: Transaction, key: CallKey) -> None:
        """Frees a key that was just taken: nothing was made under it."""
        await tx.connection.execute(delete(accepted_keys).where(_same(key)))


def _same(key: CallKey) -> ColumnElement[bool]:
    return and_(_C.tenant == key.tenant, _C.key == key.key)
