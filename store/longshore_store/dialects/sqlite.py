"""SQLite: one file, one process."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import orjson
from sqlalchemy import (
    ClauseElement,
    Insert,
    Select,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import sqlite

from longshore_store.dialects import (
    Built,
    Connection,
    Kind,
    Row,
    Rowset,
    S,
    StoreLocked,
    T,
    UnusableUrl,
    Work,
)
from longshore_store.dialects.threads import Fixed, Threads
from longshore_store.model import StoreRefused, StoreUnavailable
from longshore_store.ticks import ticks_us

READERS = 4
_BOTH = ("busy_timeout = 5000", "temp_store = MEMORY")
WRITER = (
    *_BOTH,
    "journal_mode = WAL",
    "synchronous = FULL",
    "wal_autocheckpoint = 4000",
    "cache_size = -65536",
)
READER = (*_BOTH, "query_only = ON", "wal_autocheckpoint = 0", "cache_size = -16384")


class SqliteDialect(Built):
    """One file, one process, one writer connection; only the writer checkpoints the WAL, since
    releases up to 3.51.2 can corrupt it when two connections reset it at once."""

    name = "sqlite"
    exclusive = True

    def __init__(self, path: str, deadline: float | None) -> None:
        super().__init__()
        if path in ("", ":memory:"):
            raise UnusableUrl("the SQLite store needs a file: sqlite:///PATH")
        self._path = Path(path)
        self.where = f"file {path}"
        self._lock_fd: int | None = None
        self._fixed: Fixed = weakref.WeakKeyDictionary()
        self._packs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._writer = Threads(self._path, self._fixed, 1, "store-writer", WRITER)
        self._readers = Threads(self._path, self._fixed, READERS, "store-reader", READER, deadline)

    def obstacle(self, error: Exception) -> StoreUnavailable | None:
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, (sqlite3.DatabaseError, OSError)):
            why = f"cannot be used as a database ({type(cause).__name__}: {cause})"
            return StoreRefused(f"{self.where}: {why}")
        return None

    async def transact(self, work: Work[T]) -> T:
        return await self._writer.run(work, transaction=True)

    async def read(self, work: Work[T]) -> T:
        return await self._readers.run(work, transaction=False)

    async def close(self) -> None:
        await self._readers.close()
        await self._writer.close()

    def lock(self) -> None:
        # Payloads are private: others than the owner read neither the folder nor the file.
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{self._path}.lock"
        fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise StoreLocked(
                f"{self._path} is in use by another Longshore process; stop it, or give this one"
                " a data directory of its own"
            ) from error
        self._lock_fd = fd
        # SQLite gives the mode of the file to its WAL too.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def take_turns(self, connection: Connection) -> None:
        """Nothing: there is one process."""

    def _make_rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        source = func.json_each(bindparam(f"{name}_rows", type_=Text)).table_valued("value")
        cells: list[Any] = [
            literal_column(f"value ->> {i}").label(c) for i, c in enumerate(columns)
        ]
        table = select(*cells).select_from(source).subquery(name)

        def bind(rows: Sequence[Row]) -> dict[str, Any]:
            # `default` is for named tuples, which orjson does not take for tuples.
            return {f"{name}_rows": orjson.dumps(rows, default=tuple).decode()}

        return Rowset(table, bind)

    def fix(self, statement: S) -> S:
        self._fixed[cast(ClauseElement, statement)] = None
        return statement

    async def rows(
        self, connection: Connection, query: Select[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        text = (await connection.execute(self._packed(query), params)).scalar_one()
        return cast("list[Row]", orjson.loads(text))

    def _packed(self, query: Select[Any]) -> Any:
        """The query with all its rows in one JSON value."""
        known = self._packs.get(query)
        if known is None:
            inner = query.subquery()
            known = select(func.json_group_array(func.json_array(*inner.c)))
            if query in self._fixed:
                self._packs[query] = self.fix(known)
        return known

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        # SQLite reads the ON of ON CONFLICT as a join's without a WHERE before it.
        chosen = sqlite.insert(table).from_select(list(columns), query.where(true()))
        return chosen.on_conflict_do_nothing()

    def insert(self, table: Table) -> Insert:
        return sqlite.insert(table)

    async def clock_offset_us(self, connection: Connection) -> int:
        # One process: it is asked once, so that the wall clock may jump without harm.
        return time.time_ns() // 1000 - ticks_us()
