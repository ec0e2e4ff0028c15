"""SQLite connections, each in a thread of its own; a whole transaction is one hop off the loop.

Statements are built with SQLAlchemy. One that is marked as fixed is compiled once and then given
to the driver as text, which spares a lone Submit about a tenth of a millisecond a statement, in
Python, in a thread that competes with the event loop for the interpreter.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ClauseElement, StaticPool, create_engine
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError

from longshore_store.dialects import Savepoint, Work

T = TypeVar("T")


class Compiled(NamedTuple):
    """A statement as the driver takes it; `defaults` are the values it was built with."""

    text: str
    names: tuple[str, ...]
    defaults: dict[str, Any]


Fixed = weakref.WeakKeyDictionary[ClauseElement, Compiled | None]
_STEPS = 1_000_000  # of SQLite's machine between two looks at the clock: some 20 ms
_DIALECT = SQLiteDialect_pysqlite(paramstyle="qmark")


def compile_fixed(statement: ClauseElement) -> Compiled:
    """Text with question marks, and what to put in their places."""
    compiled: Any = statement.compile(dialect=_DIALECT)
    defaults = {
        name: bind.effective_value
        for bind, name in compiled.bind_names.items()
        if not bind.required
    }
    return Compiled(compiled.string, tuple(compiled.positiontup or ()), defaults)


class Threads:
    """Threads with a connection each.

    Args:
        path: the database.
        fixed: statements to compile once; shared by all threads of a database.
        size: how many.
        name: of the threads.
        pragmas: run on each new connection.
        deadline: seconds for work outside a transaction; None is as long as it takes.
    """

    def __init__(
        self,
        path: Path,
        fixed: Fixed,
        size: int,
        name: str,
        pragmas: Sequence[str],
        deadline: float | None = None,
    ) -> None:
        self._path = path
        self._fixed = fixed
        self._pragmas = pragmas
        self._deadline = deadline
        self._pool = ThreadPoolExecutor(size, name)
        self._own = threading.local()
        self._open: list[ThreadConnection] = []

    async def run(self, work: Work[T], *, transaction: bool) -> T:
        """Runs `work` on the connection of a thread, in a transaction or not."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._run, work, transaction)

    async def close(self) -> None:
        """Lets what runs end, then closes the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._open:
            connection.close()

    def _run(self, work: Work[T], transaction: bool) -> T:
        connection = self._connection()
        if not transaction:
            if self._deadline is not None:
                connection.end_after(self._deadline)
            return _finish(work(connection))
        # A deferred transaction that turns to writing fails at once, whatever busy_timeout says.
        connection.command("BEGIN IMMEDIATE")
        try:
            answer = _finish(work(connection))
            connection.command("COMMIT")
        except BaseException:
            connection.abandon()
            raise
        return answer

    def _connection(self) -> ThreadConnection:
        known: ThreadConnection | None = getattr(self._own, "connection", None)
        if known is None:
            # Closed by another thread, once this one has ended.
            try:
                raw = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            except sqlite3.Error as error:
                raise _outward("open", error) from error
            known = ThreadConnection(raw, self._fixed)
            for pragma in self._pragmas:
                known.command(f"PRAGMA {pragma}")
            self._own.connection = known
            self._open.append(known)
        return known


class ThreadConnection:
    """A `Connection` whose methods never suspend: everything is done when they return."""

    def __init__(self, raw: sqlite3.Connection, fixed: Fixed) -> None:
        self._raw = raw
        self._fixed = fixed
        self._savepoints = 0
        # For statements that are built for one call. Transactions are none of its business, and
        # it is made now, since SQLAlchemy's first connect must not fall into one.
        self._engine = create_engine(
            "sqlite://", creator=lambda: raw, poolclass=StaticPool, hide_parameters=True
        )
        self._plain = self._engine.connect()

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Runs a fixed statement as text, another one through SQLAlchemy."""
        compiled = self._fixed.get(statement, _UNKNOWN)
        if compiled is _UNKNOWN:
            return self._plain.execute(statement, parameters)
        if compiled is None:
            compiled = self._fixed[statement] = compile_fixed(statement)
        given = parameters or {}
        defaults = compiled.defaults
        values = [given[n] if n in given else defaults[n] for n in compiled.names]
        return Done(self.command(compiled.text, values))

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """The first cell, or None."""
        row = (await self.execute(statement, parameters)).first()
        return None if row is None else row[0]

    async def run_sync(self, work: Callable[[SyncConnection], T]) -> T:
        """Hands over the SQLAlchemy connection."""
        return work(self._plain)

    async def begin_nested(self) -> Savepoint:
        """SAVEPOINT."""
        self._savepoints += 1
        return ThreadSavepoint(self, f"s{self._savepoints}")

    def command(self, text: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Runs a text. Raises DBAPIError, as SQLAlchemy does."""
        try:
            return self._raw.execute(text, values)
        except sqlite3.Error as error:
            raise _outward(text, error) from error

    def end_after(self, seconds: float) -> None:
        """Interrupts what still runs then: whoever asked has given up, and a thread that works
        for nobody keeps others waiting."""
        until = time.monotonic() + seconds
        self._raw.set_progress_handler(lambda: time.monotonic() > until, _STEPS)

    def close(self) -> None:
        """Closes it, through the pool that knows of it."""
        self._plain.close()
        self._engine.dispose()

    def abandon(self) -> None:
        """ROLLBACK, unless SQLite has done so itself."""
        if self._raw.in_transaction:
            self.command("ROLLBACK")


def _outward(statement: str, error: sqlite3.Error) -> BaseException:
    """The error as SQLAlchemy would raise it."""
    return DBAPIError.instance(statement, None, error, sqlite3.Error, dialect=_DIALECT)


class ThreadSavepoint:
    """A savepoint by name."""

    def __init__(self, connection: ThreadConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        connection.command(f"SAVEPOINT {name}")

    async def commit(self) -> None:
        """RELEASE."""
        self._connection.command(f"RELEASE {self._name}")

    async def rollback(self) -> None:
        """ROLLBACK TO, then RELEASE."""
        self._connection.command(f"ROLLBACK TO {self._name}")
        self._connection.command(f"RELEASE {self._name}")


class Done:
    """The result of a fixed statement."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """Rows that were changed."""
        return self._cursor.rowcount

    def first(self) -> Any:
        """The first row as a tuple, or None."""
        return self._cursor.fetchone()

    def one(self) -> Any:
        """The first row of one that must have one."""
        return self._cursor.fetchone()

    def scalar_one(self) -> Any:
        """The first cell of a result that must have one."""
        return self._cursor.fetchone()[0]


_UNKNOWN: Any = object()


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("a statement of a SQLite transaction waited for the event loop")
