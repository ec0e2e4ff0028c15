"""The only package that knows SQLite from Postgres.

Rows travel as a *rowset*: many rows in a fixed number of parameters, read in SQL like a table.
So a statement has one text for any number of rows and runs in one call into the driver. On
SQLite that is what makes it fast beside a busy event loop: its module gives up the GIL at every
row of an `executemany` and of a fetch and waits up to a switch interval to get it back
(measured: 270 rows/s that way, 33,000 as one JSON parameter, beside one thread that spins).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import URL, FromClause, Insert, Select, Table, bindparam, make_url
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import ArgumentError

from longshore_store.model import StoreUnavailable

_FILES = ("sqlite", "sqlite+aiosqlite")
_REMEDY = (
    "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE,"
    " with %XX for special characters of USER and PASSWORD"
)

Kind = Literal["text", "int"]
Row = Sequence[Any]
T = TypeVar("T")
S = TypeVar("S")


class StoreLocked(Exception):
    """Another process has this embedded database open; the message names the file."""


class UnusableUrl(ValueError):
    """The URL of the store is none, or none for this command; the message holds no password."""


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
    exclusive: bool
    """True where no other process can have the database open."""

    where: str
    """The database as people know it, without its password: for messages."""

    def obstacle(self, error: Exception) -> StoreUnavailable | None:
        """What keeps the database from being opened, and what to do: StoreRefused where waiting
        mends nothing; None where the error says nothing about that."""

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

    def fix(self, statement: S) -> S:
        """Marks a statement that is kept and run often, and returns it."""

    def fixed(self, key: Hashable, make: Callable[[], S]) -> S:
        """The fixed statement of a key, made the first time it is asked for."""

    def rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        """A rowset with these columns; `name` is its alias and the prefix of its parameters."""

    async def rows(
        self, connection: Connection, query: Select[Any], params: Mapping[str, Any]
    ) -> Sequence[Row]:
        """Every row of a query, in one call into the driver."""

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        """INSERT ... SELECT ... ON CONFLICT DO NOTHING; the row count tells what was new."""

    def insert(self, table: Table) -> Insert:
        """An insert that `upsert` takes."""

    async def clock_offset_us(self, connection: Connection) -> int:
        """What to add to `ticks_us` to get the store's time."""


class Built:
    """What a dialect builds once: statements and rowsets, by key."""

    def __init__(self) -> None:
        self._statements: dict[Hashable, Any] = {}
        self._rowsets: dict[Hashable, Rowset] = {}

    def fixed(self, key: Hashable, make: Callable[[], S]) -> S:
        """See Dialect."""
        known: S | None = self._statements.get(key)
        if known is None:
            known = self._statements[key] = self.fix(make())
        return known

    def fix(self, statement: S) -> S:
        """See Dialect. By default a statement is as good as it was."""
        return statement

    def rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        """See Dialect."""
        key = (name, *columns.items())
        if key not in self._rowsets:
            self._rowsets[key] = self._make_rowset(name, columns)
        return self._rowsets[key]

    def _make_rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
        raise NotImplementedError


def make_dialect(url: str, *, deadline: float | None = 15.0) -> Dialect:
    """The dialect of a database URL: sqlite:///PATH or postgresql://...

    deadline: seconds for one statement of a server, which could hang, or for one read of a file;
        None is as long as it takes.

    Raises:
        UnusableUrl: it is neither.
    """
    parsed = parse_url(url)
    # Imported where it is chosen: the other driver would cost a fifth of a second at every start.
    if parsed.drivername == "sqlite":
        from longshore_store.dialects.sqlite import SqliteDialect  # noqa: PLC0415

        return SqliteDialect(parsed.database or "", deadline)
    from longshore_store.dialects.postgres import PostgresDialect  # noqa: PLC0415

    return PostgresDialect(parsed, deadline)


def parse_url(url: str) -> URL:
    """A URL of a store, taken apart; its `drivername` is "sqlite" or "postgresql+asyncpg".

    Raises:
        UnusableUrl: it is neither.
    """
    scheme, separator, path = url.partition(":///")
    if separator and scheme in _FILES:  # a path may hold any character, also ? and %
        return URL.create("sqlite", database=path)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # which may quote a password
        raise UnusableUrl(f"the URL of the store cannot be read: {_REMEDY}") from None
    if parsed.drivername in _FILES:
        return parsed.set(drivername="sqlite")
    if parsed.drivername in ("postgresql", "postgres", "postgresql+asyncpg"):
        return parsed.set(drivername="postgresql+asyncpg")
    raise UnusableUrl(f"store {parsed.drivername!r} is neither sqlite nor postgresql: {_REMEDY}")


def require_shared(url: str) -> None:
    """Refuses a store that one process has to itself, for a command that is one of several.

    Raises:
        UnusableUrl: it is SQLite, or no URL of a store.
    """
    if parse_url(url).drivername == "sqlite":
        raise UnusableUrl(
            "SQLite is for one process, and this is one of several: give the URL of a Postgres,"
            " postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or run `longshore up`"
        )


def upsert_row(
    dialect: Dialect, table: Table, names: Sequence[str], key: Sequence[str],
    changes: Mapping[str, Any] | None = None,
) -> Insert:  # fmt: skip
    """An upsert of one row, of the parameters p_NAME; by default all that is not key changes."""
    binds: dict[str, Any] = {name: bindparam(f"p_{name}") for name in names}
    if changes is None:
        changes = {name: name for name in names if name not in key}
    return upsert(dialect.insert(table).values(binds), key, changes)


def upsert(insert: Any, key: Sequence[str], changes: Mapping[str, Any]) -> Insert:
    """ON CONFLICT (key) DO UPDATE. A change given as a string takes the new row's column."""
    values = {
        name: insert.excluded[change] if isinstance(change, str) else change
        for name, change in changes.items()
    }
    upserting: Insert = insert.on_conflict_do_update(index_elements=list(key), set_=values)
    return upserting
