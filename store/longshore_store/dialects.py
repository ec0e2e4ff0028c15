"""The only module that knows SQLite from Postgres.

Rows travel as a *rowset*: many rows in a fixed number of parameters, read in SQL like a table.
So a statement has one text for any number of rows and runs in one call into the driver. On
SQLite that is what makes it fast beside a busy event loop: its module gives up the GIL at every
row of an `executemany` and of a fetch and waits up to a switch interval to get it back
(measured: 270 rows/s that way, 33,000 as one JSON parameter, beside one thread that spins).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Insert,
    Select,
    Table,
    Text,
    bindparam,
    column,
    create_engine,
    event,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.engine import Connection as SyncConnection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

Kind = Literal["text", "int"]
Row = Sequence[Any]
T = TypeVar("T")
READERS = 4
_TURN = 7_260_331  # any number, the same in every process
# A prepared statement would keep the plan it got for a few rows, or while the tables were empty;
# planned each time, a batch of leases takes 35 us a job instead of 350, and one alone no longer.
_PLANNING = {"plan_cache_mode": "force_custom_plan"}


class StoreLocked(Exception):
    """Another process has this embedded database open; the message names the file."""


class Rowset:
    """Many rows as parameters: `table` stands in a FROM, `params(rows)` goes with the call."""

    def __init__(self, table: FromClause, bind: Callable[[Sequence[Row]], dict[str, Any]]) -> None:
        self.table = table
        self.c = table.c
        self.params = bind


class Savepoint(Protocol):
    """A point inside a transaction to go back to."""

    async def commit(self) -> None:
        """Keeps what came after it."""

    async def rollback(self) -> None:
        """Undoes what came after it."""


class Connection(Protocol):
    """What statements run on, inside `Dialect.transact` or `Dialect.read`."""

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Runs a statement."""

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """The first cell of the first row, or None."""

    async def run_sync(self, work: Callable[[SyncConnection], T]) -> T:
        """Hands the plain connection to code that is not async."""

    def begin_nested(self) -> Awaitable[Savepoint]:
        """Sets a savepoint."""


Work = Callable[[Connection], Coroutine[Any, Any, T]]


class Dialect(Protocol):
    """What differs between the two databases."""

    name: str

    async def transact(self, work: Work[T]) -> T:
        """Runs `work` in one transaction of the one writer and commits it."""

    async def read(self, work: Work[T]) -> T:
        """Runs `work`, which only reads, on a connection of its own."""

    async def close(self) -> None:
        """Disconnects: readers first, so that the writer is the one that checkpoints."""

    def lock(self) -> None:
        """Takes what keeps a second process out. Raises StoreLocked."""

    def unlock(self) -> None:
        """Gives it back."""

    async def take_turns(self, connection: Connection) -> None:
        """Holds other processes back until the transaction is over: one of them migrates."""

    def rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        """A rowset with these columns; `name` is its alias and the prefix of its parameters."""

    async def rows(
        self, connection: Connection, query: Select[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        """Every row of a query, in one call into the driver."""

    def upsert(
        self, insert: Insert, key: Sequence[str], changes: Mapping[str, ColumnElement[Any] | str]
    ) -> Insert:
        """ON CONFLICT (key) DO UPDATE. A change given as a string takes the new row's column."""

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        """INSERT ... SELECT ... ON CONFLICT DO NOTHING; the row count tells what was new."""

    def insert(self, table: Table) -> Insert:
        """An insert that upsert() takes."""

    async def clock_offset_us(self, connection: Connection, known: int | None) -> int:
        """What to add to this process's monotonic clock to get the store's time.

        `known` is what it was before, None at the start.
        """


def make_dialect(url: str) -> Dialect:
    """The dialect of a database URL: sqlite:///PATH or postgresql://...

    Raises:
        ValueError: it is neither.
    """
    parsed = make_url(url)
    if parsed.drivername in ("sqlite", "sqlite+aiosqlite"):
        return SqliteDialect(parsed.set(drivername="sqlite"))
    if parsed.drivername in ("postgresql", "postgres", "postgresql+asyncpg"):
        return PostgresDialect(parsed.set(drivername="postgresql+asyncpg"))
    raise ValueError(f"store {parsed.drivername!r} is neither sqlite nor postgresql")


class SqliteDialect:
    """One file, one process, one writer connection; only the writer checkpoints the WAL, since
    releases up to 3.51.2 can corrupt it when two connections reset it at once."""

    name = "sqlite"

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError("the SQLite store needs a file: sqlite:///PATH")
        self._path = Path(url.database)
        self._lock_fd: int | None = None

        # One thread for each connection: a whole transaction is one hop off the event loop.
        self._writer = _engine(url, _prepare_writer)
        event.listen(self._writer, "begin", _begin_immediate)
        self._writing = ThreadPoolExecutor(1, "store-writer")
        self._reader = _engine(url, _prepare_reader)
        self._reading = ThreadPoolExecutor(READERS, "store-reader")

    async def transact(self, work: Work[T]) -> T:
        return await _in_thread(self._writing, self._writer.begin, work)

    async def read(self, work: Work[T]) -> T:
        return await _in_thread(self._reading, self._reader.connect, work)

    async def close(self) -> None:
        for threads, engine in ((self._reading, self._reader), (self._writing, self._writer)):
            await asyncio.to_thread(threads.shutdown)
            engine.dispose()

    def lock(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
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

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def take_turns(self, connection: Connection) -> None:
        """Nothing: there is one process."""

    def rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        source = func.json_each(bindparam(f"{name}_rows", type_=Text)).table_valued("value")
        cells: list[Any] = [
            literal_column(f"value ->> {i}").label(c) for i, c in enumerate(columns)
        ]
        table = select(*cells).select_from(source).subquery(name)

        def bind(rows: Sequence[Row]) -> dict[str, Any]:
            # `default` is for named tuples, which orjson does not take for tuples.
            return {f"{name}_rows": orjson.dumps(rows, default=tuple).decode()}

        return Rowset(table, bind)

    async def rows(
        self, connection: Connection, query: Select[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        inner = query.subquery()
        packed = select(func.json_group_array(func.json_array(*inner.c)))
        text = (await connection.execute(packed, params)).scalar_one()
        return cast("list[Row]", orjson.loads(text))

    def upsert(
        self, insert: Insert, key: Sequence[str], changes: Mapping[str, ColumnElement[Any] | str]
    ) -> Insert:
        return _upsert(cast(sqlite.Insert, insert), key, changes)

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        # SQLite reads the ON of ON CONFLICT as a join's without a WHERE before it.
        chosen = sqlite.insert(table).from_select(list(columns), query.where(true()))
        return chosen.on_conflict_do_nothing()

    def insert(self, table: Table) -> Insert:
        return sqlite.insert(table)

    async def clock_offset_us(self, connection: Connection, known: int | None) -> int:
        # One process: the wall clock is read once, so that it may jump without harm.
        return time.time_ns() // 1000 - time.monotonic_ns() // 1000 if known is None else known


class PostgresDialect:
    """Any number of processes; the time is the database's."""

    name = "postgresql"

    def __init__(self, url: URL) -> None:

        # A hung server must not hang a caller: each statement has a deadline, and a dead
        # connection is noticed when it is taken from the pool.
        options: dict[str, Any] = {
            "connect_args": {"command_timeout": 15, "timeout": 5, "server_settings": _PLANNING},
            "pool_pre_ping": True,
            "pool_timeout": 5,
        }
        self._writer = create_async_engine(url, pool_size=1, max_overflow=0, **options)
        self._reader = create_async_engine(
            url, pool_size=READERS, max_overflow=READERS, isolation_level="AUTOCOMMIT", **options
        )

    async def transact(self, work: Work[T]) -> T:
        async with self._writer.begin() as connection:
            return await work(connection)

    async def read(self, work: Work[T]) -> T:
        async with self._reader.connect() as connection:
            return await work(connection)

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()

    def lock(self) -> None:
        """Nothing: writers are fenced by term and guarded by state."""

    def unlock(self) -> None:
        """Nothing."""

    async def take_turns(self, connection: Connection) -> None:
        await connection.execute(select(func.pg_advisory_xact_lock(_TURN)))

    def rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        types: dict[Kind, Any] = {
            "text": postgresql.ARRAY(Text),
            "int": postgresql.ARRAY(BigInteger),
        }
        keys = [f"{name}_{c}" for c in columns]
        binds: list[Any] = [
            bindparam(k, type_=types[t]) for k, t in zip(keys, columns.values(), strict=True)
        ]
        cells = [column(c, BigInteger if t == "int" else Text) for c, t in columns.items()]
        table = func.unnest(*binds).table_valued(*cells, name=name).render_derived()

        def bind(rows: Sequence[Row]) -> dict[str, Any]:
            if not rows:
                return {key: [] for key in keys}
            return dict(zip(keys, map(list, zip(*rows, strict=True)), strict=True))

        return Rowset(table, bind)

    async def rows(
        self, connection: Connection, query: Select[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        return cast("Sequence[Row]", (await connection.execute(query, params)).all())

    def upsert(
        self, insert: Insert, key: Sequence[str], changes: Mapping[str, ColumnElement[Any] | str]
    ) -> Insert:
        return _upsert(cast(postgresql.Insert, insert), key, changes)

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        return postgresql.insert(table).from_select(list(columns), query).on_conflict_do_nothing()

    def insert(self, table: Table) -> Insert:
        return postgresql.insert(table)

    async def clock_offset_us(self, connection: Connection, known: int | None) -> int:
        before = time.monotonic_ns() // 1000
        seconds = await connection.scalar(select(func.extract("epoch", func.clock_timestamp())))
        after = time.monotonic_ns() // 1000
        return int(seconds * 1_000_000) - (before + after) // 2


class _ThreadConnection:
    """A plain connection in the shape of `Connection`; nothing it awaits ever suspends."""

    def __init__(self, connection: SyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        return self._connection.scalar(statement, parameters)

    async def run_sync(self, work: Callable[[SyncConnection], T]) -> T:
        return work(self._connection)

    async def begin_nested(self) -> Savepoint:
        return _ThreadSavepoint(self._connection.begin_nested())


class _ThreadSavepoint:
    def __init__(self, savepoint: Any) -> None:
        self._savepoint = savepoint

    async def commit(self) -> None:
        self._savepoint.commit()

    async def rollback(self) -> None:
        self._savepoint.rollback()


async def _in_thread(
    threads: ThreadPoolExecutor,
    connect: Callable[[], AbstractContextManager[SyncConnection]],
    work: Work[T],
) -> T:
    def run() -> T:
        with connect() as connection:
            return _finish(work(_ThreadConnection(connection)))

    return await asyncio.get_running_loop().run_in_executor(threads, run)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends: on a thread's connection every await is done."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("a statement of a SQLite transaction waited for the event loop")


def _engine(url: URL, prepare: Callable[[Any, Any], None]) -> Engine:
    engine = create_engine(
        url, poolclass=QueuePool, pool_size=READERS, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", prepare)
    return engine


def _upsert(
    insert: sqlite.Insert | postgresql.Insert,
    key: Sequence[str],
    changes: Mapping[str, ColumnElement[Any] | str],
) -> Insert:
    values = {
        name: insert.excluded[change] if isinstance(change, str) else change
        for name, change in changes.items()
    }
    return insert.on_conflict_do_update(index_elements=list(key), set_=values)


def _prepare_writer(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_immediate alone
    _pragmas(
        connection,
        "journal_mode = WAL",
        "synchronous = FULL",
        "busy_timeout = 5000",
        "wal_autocheckpoint = 4000",
        "cache_size = -65536",
        "temp_store = MEMORY",
    )


def _prepare_reader(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    _pragmas(
        connection,
        "busy_timeout = 5000",
        "query_only = ON",
        "wal_autocheckpoint = 0",
        "cache_size = -16384",
        "temp_store = MEMORY",
    )


def _pragmas(connection: Any, *settings: str) -> None:
    cursor = connection.cursor()
    for setting in settings:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A deferred transaction that turns to writing fails at once, whatever busy_timeout says.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
