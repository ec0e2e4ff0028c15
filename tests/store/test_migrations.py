from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import longshore_store.migrations as package
from longshore_store.migrations import HEAD, migrate, upgrade
from longshore_store.sql import SqlStore
from longshore_store.tables import metadata
from tests.store.places import Place, Postgres


@pytest.fixture(params=["sqlite", "postgres"])
async def bare(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A database without tables."""
    if request.param == "sqlite":
        yield Place("sqlite", f"sqlite:///{tmp_path}/new.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    yield await postgres.create("bare")
    await postgres.drop("bare")


async def in_database(store: SqlStore, work: Any) -> Any:
    return await store._dialect.transact(lambda connection: connection.run_sync(work))


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection)
    found: list[Any] = compare_metadata(context, metadata)
    return found


def indexes(connection: Connection) -> dict[str, str]:
    """Their definitions, which a comparison of metadata looks at in part only."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type = 'index'"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'ix%'"
    return {row[0]: row[1] for row in connection.execute(text(query))}


def migrate_from_nothing(connection: Connection) -> None:
    metadata.drop_all(connection)
    connection.execute(text("DROP TABLE alembic_version"))
    upgrade(connection, "head")


async def test_migrations_make_the_tables(bare: Place) -> None:
    async with bare:
        store = await bare.open()
        made = await in_database(store, indexes)
        await in_database(store, migrate_from_nothing)
        assert await in_database(store, differences) == []
        assert await in_database(store, indexes) == made


async def test_migrating_twice_changes_nothing(bare: Place) -> None:
    async with bare:
        store = await bare.open()
        await in_database(store, migrate)
        assert await in_database(store, differences) == []
        found = await in_database(
            store, lambda c: c.execute(text("SELECT version_num FROM alembic_version")).all()
        )
        assert [tuple(row) for row in found] == [(HEAD,)]


def test_the_head_is_the_newest_script() -> None:
    scripts = ScriptDirectory(str(Path(package.__file__).parent))
    assert scripts.get_heads() == [HEAD]


OPEN = """
import asyncio, sys
from longshore_store.sql import SqlStore
from tests.store.patience import be_patient

async def main():
    be_patient()
    store = SqlStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    await store.close()

asyncio.run(main())
"""


async def test_processes_migrate_at_once(postgres: Postgres) -> None:
    place = await postgres.create("together")
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN, place.url, stdin=-1, stdout=-1, stderr=-1
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        await child.stdout.readline()
    outcomes = await asyncio.gather(*(child.communicate(b"\n") for child in children))
    assert [child.returncode for child in children] == [0, 0, 0], outcomes
    async with place:
        store = await place.open()
        assert await in_database(store, differences) == []
    await postgres.drop("together")
