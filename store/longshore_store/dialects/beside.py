"""Reading a database beside the processes that own it: nothing is locked, migrated or written."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import URL, Select, StaticPool, create_engine, func, select
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from longshore_store.dialects import Row, parse_url
from longshore_store.model import StoreUnavailable

STATEMENT_DEADLINE = 600.0
"""Seconds: a sum over all jobs is one statement, because a statement is one snapshot."""

T = TypeVar("T")


class Beside(Protocol):
    """One read-only connection. Each statement sees one moment of the database."""

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Sequence[Row]:
        """Every row of a query. Raises StoreUnavailable."""

    async def now_us(self) -> int:
        """The time of the database, microseconds since the epoch. Raises StoreUnavailable."""

    async def close(self) -> None:
        """Disconnects."""


def read_beside(url: str) -> Beside:
    """Reads sqlite:///PATH or postgresql://..., which is connected to by the first query.

    Raises:
        UnusableUrl: it is neither.
    """
    parsed = parse_url(url)
    if parsed.drivername == "sqlite":
        return FileBeside(Path(parsed.database or ""))
    return ServerBeside(parsed)


class FileBeside:
    """A SQLite file. Of the WAL it only reads: `mode=ro` neither checkpoints nor resets it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "store-beside")
        self._connection: SyncConnection | None = None

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Sequence[Row]:
        """See Beside."""
        return await self._run(lambda c: cast("list[Row]", c.execute(query, params).all()))

    async def now_us(self) -> int:
        """One machine: its clock."""
        return time.time_ns() // 1000

    async def close(self) -> None:
        """See Beside."""
        if self._connection is not None:
            await self._run(_close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[SyncConnection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: work(self._connected()))
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreUnavailable(f"{self._path}: {_reason(error)}") from error

    def _connected(self) -> SyncConnection:
        if self._connection is None:
            engine = create_engine(
                "sqlite://", creator=self._open, poolclass=StaticPool, hide_parameters=True
            )
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        address = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        for pragma in ("busy_timeout = 5000", "query_only = ON", "wal_autocheckpoint = 0"):
            connection.execute(f"PRAGMA {pragma}")
        return connection


def _close(connection: SyncConnection) -> None:
    """The file too, which the pool would keep open until it is collected."""
    connection.close()
    connection.engine.dispose()


class ServerBeside:
    """A database of a Postgres server, in a session that cannot write."""

    def __init__(self, url: URL) -> None:
        self._url = url
        settings = {"default_transaction_read_only": "on", "plan_cache_mode": "force_custom_plan"}
        self._engine = create_async_engine(
            url,
            pool_size=1,
            max_overflow=0,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={
                "command_timeout": STATEMENT_DEADLINE,
                "timeout": 5,
                "server_settings": settings,
            },
        )

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Sequence[Row]:
        """See Beside."""
        try:
            async with self._engine.connect() as connection:
                return cast("Sequence[Row]", (await connection.execute(query, params)).all())
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._obstacle(error) from error

    async def now_us(self) -> int:
        """See Beside."""
        now = select(func.extract("epoch", func.clock_timestamp()))
        return int((await self.rows(now, {}))[0][0] * 1_000_000)

    async def close(self) -> None:
        """See Beside."""
        await self._engine.dispose()

    def _obstacle(self, error: Exception) -> StoreUnavailable:
        # Imported here: a file needs no driver of Postgres.
        from longshore_store.dialects.postgres import obstacle, where  # noqa: PLC0415

        return obstacle(self._url, error) or StoreUnavailable(
            f"{where(self._url)}: {_reason(error)}"
        )


def _reason(error: BaseException) -> str:
    """What the driver said, without the statement."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
