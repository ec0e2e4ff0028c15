"""Postgres, through asyncpg: any number of processes."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
from sqlalchemy import (
    URL,
    BigInteger,
    Insert,
    Select,
    Table,
    Text,
    bindparam,
    column,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from longshore_store.dialects import Built, Connection, Kind, Row, Rowset, T, Work
from longshore_store.model import StoreRefused, StoreUnavailable
from longshore_store.ticks import ticks_us

# All kept open: one beyond a smaller number would connect anew each time.
READERS = 8
CONNECT_DEADLINE = 5.0
STALLED_MS = 5000
"""How long a process may be silent in the middle of a transaction. One that is paused there, or
whose machine is gone, holds the leader's row, and nobody could take over."""

APPLICATION = "longshore"
"""What the database shows of sessions of ours."""

# The database's own limit covers a session that is idle between two statements. It does not cover
# one that waits for the rest of a message, or for the statement that belongs to a plan it has made:
# that session counts as active. So whoever waits for its locks ends it, if it is one of ours: a
# backup that is slow to read is silent too.
_END_STALLED = text(
    "SELECT count(*) FILTER (WHERE pg_terminate_backend(holder.pid))"
    " FROM unnest(pg_blocking_pids(:waiting)) AS blocking(pid)"
    " JOIN pg_stat_activity AS holder USING (pid)"
    " WHERE holder.wait_event_type = 'Client' AND holder.application_name = :ours"
    " AND holder.state_change < clock_timestamp() - :stalled_ms * interval '1 millisecond'"
)

_log = logging.getLogger(__name__)
_TURN = 7_260_331  # any number, the same in every process
# A prepared statement would keep the plan it got for a few rows, or while the tables were empty;
# planned each time, a batch of leases takes 35 us a job instead of 350, and one alone no longer.
_PLANNING = {"plan_cache_mode": "force_custom_plan"}

_Kinds = tuple[type[BaseException], ...]

_REFUSED: tuple[tuple[_Kinds, str], ...] = (
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        "the user or the password is refused; see the URL of the store, and pg_hba.conf",
    ),
    (
        (asyncpg.InvalidCatalogNameError,),
        "there is no such database; make it with CREATE DATABASE, or correct the URL of the store",
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "the user may not do that; let it make tables there: GRANT CREATE ON SCHEMA public",
    ),
    (
        (asyncpg.UndefinedTableError,),
        "it has no tables of Longshore; correct the URL of the store, or start a server on it",
    ),
)
"""What waiting does not mend, and what to do."""

# First match first: a TimeoutError is an OSError.
_AWAY: tuple[tuple[_Kinds, str], ...] = (
    ((asyncpg.CannotConnectNowError,), "the database starts or stops; try again in a moment"),
    ((asyncpg.TooManyConnectionsError,), "the database has no connection left; raise its limit"),
    ((asyncpg.DiskFullError,), "its disk is full; make room"),
    (
        (TimeoutError,),
        "no answer in time; see that the address is right, and whether a migration is under way",
    ),
    ((socket.gaierror,), "the host is not known; correct the URL of the store"),
    ((OSError,), "no connection; see that the database runs there"),
)


def obstacle(url: URL, error: Exception) -> StoreUnavailable | None:
    """What keeps the database of a URL from being used; see Dialect."""
    wrapped = getattr(error, "orig", None)
    cause = (wrapped and wrapped.__cause__) or wrapped or error
    reason = str(cause).partition("\n")[0][:200]
    for obstacles, kind in ((_REFUSED, StoreRefused), (_AWAY, StoreUnavailable)):
        for causes, remedy in obstacles:
            if isinstance(cause, causes):
                why = f"{remedy} ({type(cause).__name__}{reason and f': {reason}'})"
                return kind(f"{where(url)}: {why}")
    return None


def where(url: URL) -> str:
    """The database as people know it, without its password."""
    host = url.host or url.query.get("host") or "its default host"
    return (
        f"database {url.database or 'by default'!r} at {host}, port {url.port or 5432},"
        f" as user {url.username or url.query.get('user') or 'by default'!r}"
    )


class PostgresDialect(Built):
    """Any number of processes; the time is the database's."""

    name = "postgresql"
    exclusive = False

    def __init__(self, url: URL, deadline: float | None) -> None:
        super().__init__()
        self.where = where(url)
        self._url = url
        # A hung server must not hang a caller: each statement has a deadline, and a dead
        # connection is noticed when it is taken from the pool.
        options: dict[str, Any] = {
            "connect_args": {
                "command_timeout": deadline,
                "timeout": CONNECT_DEADLINE,
                "server_settings": {
                    **_PLANNING,
                    "application_name": APPLICATION,
                    "idle_in_transaction_session_timeout": str(STALLED_MS),
                },
            },
            "pool_pre_ping": True,
            "pool_timeout": 5,
            "hide_parameters": True,  # they are callers' data, and errors go to logs
        }
        self._writer = create_async_engine(url, pool_size=1, max_overflow=0, **options)
        self._writer_pid = 0
        event.listen(self._writer.sync_engine, "connect", self._note_writer)
        self._reader = create_async_engine(
            url, pool_size=READERS, max_overflow=0, isolation_level="AUTOCOMMIT", **options
        )

    def obstacle(self, error: Exception) -> StoreUnavailable | None:
        return obstacle(self._url, error)

    def _note_writer(self, connection: Any, _: object) -> None:
        self._writer_pid = connection.driver_connection.get_server_pid()

    async def transact(self, work: Work[T]) -> T:
        async with self._unblocking(), self._writer.begin() as connection:
            return await work(connection)

    @asynccontextmanager
    async def _unblocking(self) -> AsyncIterator[None]:
        """While a transaction takes long, ends the stalled sessions whose locks it waits for."""
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        timer = loop.call_later(
            STALLED_MS / 1000, lambda: tasks.add(loop.create_task(self._end_stalled()))
        )
        try:
            yield
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()

    async def _end_stalled(self) -> None:
        """Until it is cancelled: looks again and again, as one stalled session may hide another."""
        while True:
            try:
                ended = await self.read(self._terminate_stalled)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                _log.warning("cannot see who blocks the writer: %s", type(error).__name__)
            else:
                if ended:
                    _log.warning(
                        "ended %d sessions of the database: they held locks that this process"
                        " waits for, and their clients were silent for %g s",
                        *(ended, STALLED_MS / 1000),
                    )
            await asyncio.sleep(STALLED_MS / 5000)

    async def _terminate_stalled(self, connection: Connection) -> int:
        given = {"waiting": self._writer_pid, "stalled_ms": STALLED_MS, "ours": APPLICATION}
        return int(await connection.scalar(_END_STALLED, given) or 0)

    async def read(self, work: Work[T]) -> T:
        # A connection that hangs takes seconds to close: who gives up does not wait for that.
        reading = asyncio.ensure_future(self._read(work))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            reading.add_done_callback(_forget)
            reading.cancel()
            raise

    async def _read(self, work: Work[T]) -> T:
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

    def _make_rowset(self, name: str, columns: Mapping[str, Kind]) -> Rowset:
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

    def insert_new(self, table: Table, columns: Sequence[str], query: Select[Any]) -> Insert:
        return postgresql.insert(table).from_select(list(columns), query).on_conflict_do_nothing()

    def insert(self, table: Table) -> Insert:
        return postgresql.insert(table)

    async def clock_offset_us(self, connection: Connection) -> int:
        before = ticks_us()
        seconds = await connection.scalar(select(func.extract("epoch", func.clock_timestamp())))
        after = ticks_us()
        return int(seconds * 1_000_000) - (before + after) // 2


def _forget(task: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; its error is not one that was never retrieved."""
    if not task.cancelled():
        task.exception()
