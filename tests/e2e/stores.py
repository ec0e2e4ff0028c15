"""A Postgres that asks for a password over TCP, as the one of a deployment does."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection

from longshore.sdk.task import Task
from longshore_embedded.dev_data import prepare_postgres
from longshore_embedded.member import tethered
from longshore_store.dialects import make_dialect
from longshore_store.migrations import upgrade
from longshore_store.sql import SqlStore
from longshore_store.topology_records import QueueDeclaration, TaskRecord
from tests.e2e.ports import reserved_port

T = TypeVar("T")
USER = "app"
PASSWORD = "right-password"
DEADLINE = 60.0


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs it on a loop of its own, also where one runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class LockedPostgres:
    """Databases of one user, who needs a password.

    Args:
        folder: short, and open to the user that Postgres runs as.
    """

    def __init__(self, folder: Path) -> None:
        self._reserved = ExitStack()
        self.port = self._reserved.enter_context(reserved_port())
        files = wait_for(prepare_postgres(folder / "postgres"))
        access = files.data / "pg_hba.conf"
        access.write_text(f"host all {USER} all scram-sha-256\n{access.read_text()}")
        self._process = subprocess.Popen(
            [
                *tethered(files.user),
                *(str(files.programs / "postgres"), "-D", str(files.data), "-k", "", "-F"),
                *("-h", "127.0.0.1", "-p", str(self.port)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._until_ready())
        self.run("postgres", f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)
        self._reserved.close()

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, owner: str = USER) -> str:
        """A new database without tables. Returns its URL."""
        self.run("postgres", f"CREATE DATABASE {database} OWNER {owner}")
        return self.url(database)

    def run(self, database: str, *statements: str) -> None:
        """Runs statements as the superuser."""

        async def work() -> None:
            async with self._connected(database) as connection:
                for statement in statements:
                    await connection.execute(statement)

        wait_for(work())

    def contents(self, database: str) -> dict[str, list[str]]:
        """Every table and its rows."""

        async def work() -> dict[str, list[str]]:
            async with self._connected(database) as connection:
                tables = await connection.fetch(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
                )
                return {
                    name: sorted(
                        row[0] for row in await connection.fetch(f"SELECT t::text FROM {name} t")
                    )
                    for (name,) in tables
                }

        return wait_for(work())

    async def _until_ready(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    async with self._connected("postgres"):
                        return
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _connected(self, database: str) -> AsyncIterator[Any]:
        url = f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()


async def make_store(
    url: str, cluster: str = "longshore", tasks: Sequence[Task[Any, Any]] = ()
) -> None:
    """The tables of this release, as a server of the cluster makes them; and what a leader
    declares."""
    store = SqlStore(url, cluster=cluster)
    await store.open()
    await store.declare_queues([QueueDeclaration("default", 0, None, "")])
    await store.publish_tasks([TaskRecord(t.name, json.dumps(t.describe())) for t in tasks])
    await store.close()


async def make_first_schema(url: str) -> None:
    """The tables of the first release."""

    def work(connection: Connection) -> None:
        upgrade(connection, "0001")

    dialect = make_dialect(url)
    await dialect.transact(lambda connection: connection.run_sync(work))
    await dialect.close()
