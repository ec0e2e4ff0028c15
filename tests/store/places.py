"""Where a store under test lives: a file, or a database of a real Postgres."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy import delete

from longshore_store.dialects import Connection
from longshore_store.sql import SqlStore
from longshore_store.tables import metadata
from tests.store.patience import LONG
from tests.store.recount import recount

Clock = Callable[[], int]


class Place:
    """One empty database; the stores opened on it are recounted and closed with it."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._open: list[SqlStore] = []

    async def open(self, clock: Clock | None = None) -> SqlStore:
        """A store on this database, as a process of its own would have it."""
        store = SqlStore(self.url, clock=clock)
        self._open.append(store)
        await store.open()
        return store

    async def close(self, store: SqlStore) -> None:
        """Closes it before its time."""
        self._open.remove(store)
        await store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._open:
                await recount(self._open[0])
        finally:
            for store in self._open:
                await store.close()


class Kept:
    """A store that stays open, emptied for each test."""

    def __init__(self, place: Place, store: SqlStore) -> None:
        self.place = place
        self.store = store

    async def empty(self) -> None:
        async def work(connection: Connection) -> None:
            for table in metadata.sorted_tables:
                await connection.execute(delete(table))

        await self.store._dialect.transact(work)
        self.store._last_us = 0
        self.store._listeners.clear()


class Files:
    """Makes SQLite databases: copies of one that is migrated already."""

    def __init__(self, migrated: Path) -> None:
        self._migrated = migrated

    def make(self, path: Path) -> Place:
        shutil.copyfile(self._migrated, path)
        return Place("sqlite", f"sqlite:///{path}")


class Postgres:
    """A running server. `shared` is one database that is emptied, others are made to be kept."""

    def __init__(self, socket_folder: str) -> None:
        self._folder = socket_folder

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    async def until_ready(self) -> None:
        """Waits until it takes connections."""
        async with asyncio.timeout(LONG):
            while True:
                try:
                    return await self.execute("SELECT 1")
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.05)

    async def execute(self, sql: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def ask_for_password(self, user: str, password: str) -> None:
        """A new user who has to give a password, as against everybody else here."""
        await self.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
        access = Path(self._folder, "pg_hba.conf")
        access.write_text(f"local all {user} scram-sha-256\n{access.read_text()}")
        await self.execute("SELECT pg_reload_conf()")

    async def explain(self, statements: Sequence[tuple[str, Any]], database: str) -> list[str]:
        """Each statement with the plan that it would run by."""
        connection = await asyncpg.connect(self.url(database))
        try:
            plans = []
            for statement, parameters in statements:
                rows = await connection.fetch(f"EXPLAIN {statement}", *parameters)
                plans.append("\n".join([statement, *(row[0] for row in rows)]))
            return plans
        finally:
            await connection.close()

    async def create(self, database: str) -> Place:
        """A new database, without tables."""
        await self.execute(f"CREATE DATABASE {database}")
        return Place("postgres", self.url(database))

    async def keep_unanalyzed(self, database: str) -> None:
        """What one test has left behind decides no plan of another: a table that was analyzed
        while it was empty is read as empty, and joins of 8,000 rows took 40 s."""
        tables = (t.name for t in metadata.sorted_tables)
        statements = [f"ALTER TABLE {name} SET (autovacuum_enabled = off)" for name in tables]
        await self.execute(";".join(statements), database)

    async def drop(self, database: str) -> None:
        """Deletes it. Backends end some time after their connections; 5 s of that is an error."""
        async with asyncio.timeout(LONG):
            while True:
                try:
                    return await self.execute(f"DROP DATABASE {database}")
                except asyncpg.ObjectInUseError:
                    await asyncio.sleep(0.1)

    async def empty(self, database: str) -> Place:
        """A migrated database, its rows deleted: far cheaper than a copy of a template."""
        tables = [f"DELETE FROM {table.name}" for table in metadata.sorted_tables]
        await self.execute(";".join(tables), database)
        return Place("postgres", self.url(database))
