"""Which databases a store takes, which it refuses, and what it says then."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, literal, select, text

from longshore_store import opening
from longshore_store.dialects import make_dialect, postgres
from longshore_store.dialects.beside import read_beside
from longshore_store.migrations import HEAD, upgrade
from longshore_store.model import StoreMismatch, StoreUnavailable
from longshore_store.sql import SqlStore
from tests.store.patience import LONG
from tests.store.places import Place, Postgres

LONGSHORE = Path(sys.executable).with_name("longshore")
NEWER = "0999"
IN_USE = (postgres.CONNECT_DEADLINE, opening.OPEN_DEADLINE)  # before these tests change them


@pytest.fixture
async def postgres_bare(postgres: Postgres) -> AsyncIterator[Place]:
    """A Postgres database without tables."""
    yield await postgres.create("bare")
    await postgres.drop("bare")


@pytest.fixture(params=["sqlite", "postgres"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite:///{tmp_path}/new.db")
    place: Place = request.getfixturevalue("postgres_bare")
    return place


async def prepare(url: str, work: Any) -> Any:
    """Runs on the plain connection, in a transaction."""
    dialect = make_dialect(url)
    try:
        return await dialect.transact(lambda connection: connection.run_sync(work))
    finally:
        await dialect.close()


def contents(connection: Connection) -> dict[str, list[Any]]:
    """All tables with all their rows."""
    return {
        name: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}"))]
        for name in inspect(connection).get_table_names()
    }


def make_first(connection: Connection) -> None:
    """The schema of the first revision."""
    connection.execute(text("SELECT 1"))  # begins: Alembic commits what it has begun itself
    upgrade(connection, "0001")


def set_version(version: str) -> Any:
    def work(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})

    return work


async def refused(url: str, **options: Any) -> str:
    """What an attempt to open says; it must leave the database as it was."""
    before = await prepare(url, contents)
    with pytest.raises(StoreMismatch) as caught:
        await SqlStore(url, **options).open()
    assert await prepare(url, contents) == before
    return str(caught.value)


async def opened(url: str, **options: Any) -> None:
    store = SqlStore(url, **options)
    await store.open()
    await store.close()


async def test_a_newer_schema_is_refused(bare: Place) -> None:
    await opened(bare.url)
    await prepare(bare.url, set_version(NEWER))
    said = await refused(bare.url)
    assert f"this release knows schemas up to {HEAD}" in said
    assert f"is at {NEWER}: upgrade this process" in said


async def test_an_older_schema_of_a_shared_database_is_refused(postgres_bare: Place) -> None:
    await prepare(postgres_bare.url, make_first)
    said = await refused(postgres_bare.url)
    assert f"is at schema 0001 and this release needs {HEAD}" in said
    assert "longshore migrate --store URL" in said


async def test_an_older_schema_of_an_own_database_is_migrated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    await prepare(url, make_first)
    await opened(url)
    assert (await prepare(url, contents))["alembic_version"] == [(HEAD,)]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE jobs (id TEXT)", "'jobs'"),
        ("CREATE TABLE alembic_version (version_num VARCHAR(32))", "'alembic_version' with None"),
    ],
)
async def test_tables_of_somebody_else_are_refused(bare: Place, statement: str, named: str) -> None:
    await prepare(bare.url, lambda c: c.execute(text(statement)) and None)
    said = await refused(bare.url)
    assert named in said
    assert "give Longshore a database of its own" in said


async def test_other_tables_are_let_be(bare: Place) -> None:
    await prepare(bare.url, lambda c: c.execute(text("CREATE TABLE unrelated (id TEXT)")) and None)
    await opened(bare.url)


async def test_a_database_belongs_to_one_cluster(bare: Place) -> None:
    await opened(bare.url)
    await opened(bare.url, cluster="a")
    await opened(bare.url, cluster="a")
    await opened(bare.url)
    said = await refused(bare.url, cluster="b")
    assert "belongs to cluster 'a', and this process is configured as 'b'" in said


async def test_two_clusters_open_a_new_database_at_once(postgres_bare: Place) -> None:
    names = ("a", "b", "a", "b")
    outcomes = await asyncio.gather(
        *(opened(postgres_bare.url, cluster=name) for name in names), return_exceptions=True
    )
    [(_, owner)] = (await prepare(postgres_bare.url, contents))["deployment"]
    for name, outcome in zip(names, outcomes, strict=True):
        assert (outcome is None) == (name == owner), outcome


# -- longshore migrate


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LONGSHORE), "migrate", "--store", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_command_migrates(bare: Place) -> None:
    await prepare(bare.url, make_first)
    done = await asyncio.to_thread(migrate, bare.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"the schema was 0001 and is {HEAD}" in done.stdout
    await opened(bare.url)
    again = await asyncio.to_thread(migrate, bare.url)
    assert f"the schema is {HEAD} already" in again.stdout


LOADED = """
import asyncio, sys
from longshore_store import opening

class Dialect:
    def lock(self):
        print("alembic.command" in sys.modules, flush=True)
        raise SystemExit

opening.make_dialect = lambda *_, **__: Dialect()
asyncio.run(opening.migrate_database(""))
"""


async def test_the_command_imports_nothing_long_in_its_transaction() -> None:
    """A server ends one that idles, as it seems to on a machine that takes 5 s for an import."""
    command = [sys.executable, "-c", LOADED]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    assert done.stdout == b"True\n", done.stderr


async def test_the_command_makes_a_new_database(bare: Place) -> None:
    done = await asyncio.to_thread(migrate, bare.url)
    assert f"the schema was none and is {HEAD}" in done.stdout
    await opened(bare.url)


async def test_the_command_refuses_a_newer_schema(bare: Place) -> None:
    await opened(bare.url)
    await prepare(bare.url, set_version(NEWER))
    done = await asyncio.to_thread(migrate, bare.url)
    assert done.returncode == 2
    assert done.stderr.startswith("longshore migrate: ")
    assert "upgrade this process" in done.stderr
    assert "Traceback" not in done.stderr


# -- what cannot be reached

SECRET = "hunter2secret"


async def obstacle(url: str) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        async with asyncio.timeout(LONG / 2):
            await SqlStore(url).open()
    said = str(caught.value)
    assert SECRET not in said
    assert "\n" not in said
    return said


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # so nobody else can, either
        port = taken.getsockname()[1]
        said = await obstacle(f"postgresql://me:{SECRET}@127.0.0.1:{port}/mine")
    assert f"database 'mine' at 127.0.0.1, port {port}, as user 'me': " in said
    assert "see that the database runs there" in said


async def test_the_host_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:  # a machine without a network may take its time
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = await obstacle(f"postgresql://me:{SECRET}@no-such-host.invalid/mine")
    assert "no-such-host.invalid, port 5432" in said
    assert "the host is not known" in said


@pytest.mark.parametrize(
    ("module", "deadline"), [(postgres, "CONNECT_DEADLINE"), (opening, "OPEN_DEADLINE")]
)
async def test_an_address_that_never_answers(
    module: ModuleType, deadline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two ends it, the other one being long here."""
    connecting, opened_within = IN_USE
    assert connecting < opened_within <= 10
    monkeypatch.setattr(module, deadline, 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and that is all
        port = silent.getsockname()[1]
        said = await obstacle(f"postgresql://me:{SECRET}@127.0.0.1:{port}/mine")
    assert f"at 127.0.0.1, port {port}, as user 'me': no answer in time" in said


async def test_there_is_no_such_database(postgres: Postgres) -> None:
    said = await obstacle(postgres.url("missing"))
    assert "database 'missing'" in said
    assert "CREATE DATABASE" in said


async def test_the_password_is_wrong(postgres: Postgres) -> None:
    await postgres.ask_for_password("locked", SECRET)
    url = postgres.url("shared").replace("postgres@", f"locked:{SECRET}%s@")
    said = await obstacle(url % "-wrong")
    assert "as user 'locked': the user or the password is refused" in said
    await opened(url % "")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database" * 100)
    said = await obstacle(f"sqlite:///{tmp_path}/text.db")
    assert f"file {tmp_path}/text.db: cannot be used as a database" in said


async def test_a_file_may_lie_at_any_path_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"da ta #1 100%25 ?x=1 \xc3\xa9 \xff")
    store = SqlStore(f"sqlite:///{folder}/store.db")
    await store.open()
    try:
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        beside = read_beside(f"sqlite:///{folder}/store.db")
        assert await beside.now_us() > 0
        assert list(await beside.rows(select(literal(1)), {})) == [(1,)]
        await beside.close()
    finally:
        await store.close()
    assert modes.keys() >= {"store.db", "store.db-wal"}
    assert set(modes.values()) == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="postgresql://USER:PASSWORD@HOST") as caught:
        SqlStore(f"postgresql:{SECRET}@host")
    assert SECRET not in str(caught.value)
