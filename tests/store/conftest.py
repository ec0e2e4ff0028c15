"""Every test that takes `store` runs on SQLite and on a real Postgres."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from pytest_asyncio import is_async_test

from longshore_embedded.dev_data import prepare_postgres
from longshore_embedded.member import tethered
from longshore_store.sql import SqlStore
from tests.store.factory import START_US, FakeClock, Yard
from tests.store.patience import LONG, be_patient
from tests.store.places import Files, Kept, Place, Postgres
from tests.store.recount import recount

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for these tests: stores that are kept open live on it."""
    for item in items:
        if Path(__file__).parent in item.path.parents and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def apart(work: Coroutine[None, None, T]) -> T:
    """Runs on a loop of its own, also where the loop of a test is running already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Not one of these tests is of a deadline that it does not set."""
    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch.setattr)
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    path = tmp_path_factory.mktemp("store") / "migrated.db"
    apart(_migrate(f"sqlite:///{path}"))
    return Files(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Its folder holds the socket, whose path has a limit of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # whom it runs as must get there
        files = apart(prepare_postgres(folder / "data"))
        made = Postgres(str(files.data))
        # A change of user in subprocess would fork this process, which has run gRPC by now; the
        # tether changes it after the exec.
        with subprocess.Popen(
            [
                *tethered(files.user),
                *(str(files.programs / "postgres"), "-D", str(files.data), "-h", ""),
                *("-k", str(files.data), "-F"),  # what a power cut would do is not tested here
            ],
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                apart(_prepare(made))
                yield made
            finally:
                server.send_signal(signal.SIGINT)  # at once, whoever is connected
                server.wait(LONG)


async def _prepare(postgres: Postgres) -> None:
    await postgres.until_ready()
    await postgres.create("shared")
    await _migrate(postgres.url("shared"))
    await postgres.keep_unanalyzed("shared")


async def _migrate(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()


@pytest.fixture(scope="session")
def time() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(time: FakeClock) -> FakeClock:
    time.us = START_US
    return time


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def kept_sqlite(
    files: Files, tmp_path_factory: pytest.TempPathFactory, time: FakeClock
) -> AsyncIterator[Kept]:
    place = files.make(tmp_path_factory.mktemp("kept") / "store.db")
    async with place:
        yield Kept(place, await place.open(time))


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def kept_postgres(postgres: Postgres, time: FakeClock) -> AsyncIterator[Kept]:
    async with await postgres.create("kept") as place:
        store = await place.open(time)
        await postgres.keep_unanalyzed("kept")
        yield Kept(place, store)


@pytest.fixture(params=["sqlite", "postgres"])
def kept(request: pytest.FixtureRequest) -> Kept:
    found: Kept = request.getfixturevalue(f"kept_{request.param}")
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def store(kept: Kept, clock: FakeClock) -> AsyncIterator[SqlStore]:
    """An empty store, recounted at the end. The same one is emptied for each test: to build and
    compile all statements again takes longer than most tests."""
    await kept.empty()
    yield kept.store
    await recount(kept.store)


@pytest_asyncio.fixture(loop_scope="session")
async def yard(store: SqlStore, clock: FakeClock) -> Yard:
    """Jobs in any state, made by legal calls alone."""
    return await Yard.make(store, clock)


@pytest.fixture(params=["sqlite", "postgres"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.url("shared")


@pytest_asyncio.fixture(loop_scope="session")
async def place(
    bare_url: str, request: pytest.FixtureRequest, tmp_path: Path, files: Files
) -> AsyncIterator[Place]:
    """A database for tests that open and close stores themselves."""
    if bare_url.startswith("sqlite"):
        made = files.make(tmp_path / "store.db")
    else:
        made = await request.getfixturevalue("postgres").empty("shared")
    async with made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def postgres_place(postgres: Postgres) -> AsyncIterator[Place]:
    """For what needs two processes on one database."""
    async with await postgres.empty("shared") as made:
        yield made
