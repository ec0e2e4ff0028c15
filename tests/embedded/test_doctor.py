"""`longshore doctor` as a program: what it prints, and the status it ends with."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from sqlalchemy import text

from longshore_store.dialects import make_dialect
from longshore_store.model import NewJob
from longshore_store.sql import SqlStore

LONGSHORE = Path(sys.executable).with_name("longshore")
EXTRA = "INSERT INTO queue_counts VALUES ('default', 'default', 'x', 1, 0, 0)"
STRANGE = "UPDATE jobs SET crashes = 1"
OLD_WORKER = (
    "INSERT INTO workers (id, pool, state, node, pid, shape_json, devices_json, started_us,"
    " heartbeat_us) VALUES ('w1', 'cpu', 2, 'n', 1, '{}', '[]', 1, 1)"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one waiting job."""
    asyncio.run(_populate(tmp_path))
    return tmp_path


async def _populate(data: Path) -> None:
    async with opened(data) as store:
        job = NewJob("j1", "default", "echo", "default", b"", "{}", "{}", "f")
        await store.submit_jobs([job])


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite:///{data / 'longshore.db'}")
    await store.open()
    yield store
    await store.close()


def spoil(data: Path, sql: str) -> None:
    async def work() -> None:
        dialect = make_dialect(f"sqlite:///{data / 'longshore.db'}")
        await dialect.transact(lambda connection: connection.execute(text(sql)))
        await dialect.close()

    asyncio.run(work())


def doctor(data: Path, *options: str) -> tuple[int, str]:
    return run("--data", str(data), *options)


def run(*options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [LONGSHORE, "doctor", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_clean_database_says_so_check_by_check(data: Path) -> None:
    status, said = doctor(data)
    assert status == 0, said
    assert "ok    sequences 1 jobs\n" in said
    assert said.endswith("clean\n")


def test_drift_is_found_mended_and_gone(data: Path) -> None:
    spoil(data, EXTRA)
    status, said = doctor(data)
    assert status == 1
    assert "DRIFT counters queue=default tenant=default waiting 2, should be 1\n" in said
    assert said.endswith("--repair mends 1 of what is listed\n1 drifted\n")
    status, said = doctor(data, "--repair")
    assert status == 0, said
    assert said.startswith("mended counters 1 rows\n")
    assert doctor(data)[0] == 0


def test_a_copy_and_a_service_at_rest_are_clean(data: Path) -> None:
    """Their workers were last heard when the copy was made, which is no drift."""
    spoil(data, OLD_WORKER)
    copy = data / "copy"
    copy.mkdir()
    files = (data / "longshore.db", copy / "longshore.db")
    with closing(sqlite3.connect(files[0])) as source, closing(sqlite3.connect(files[1])) as target:
        source.backup(target)
    for folder in (data, copy):
        status, said = doctor(folder)
        assert (status, said.splitlines()[-1]) == (0, "clean")
        assert "hint  leases worker w1 silent" in said
        assert "no scheduler leads: this is a copy" in said
    spoil(copy, STRANGE)
    assert doctor(copy)[0] == 1, "a copy that drifted is still told from a good one"


def test_what_cannot_be_mended_is_left_and_told_to_programs(data: Path) -> None:
    spoil(data, STRANGE)
    status, said = doctor(data, "--repair", "--json")
    assert status == 1
    finding, summary = map(json.loads, said.splitlines())
    assert finding == {
        "check": "attempts",
        "subject": "job j1",
        "found": "crashes 1",
        "expected": "0 by its attempts",
        "repairable": False,
        "hint": False,
    }
    assert summary["checks"]["attempts"] == {"drift": 1, "looked_at": "1 jobs"}
    assert summary["drift"] == 1


def test_a_database_in_use_is_examined_but_not_mended(data: Path) -> None:
    async def beside() -> list[tuple[int, str]]:
        async with opened(data):
            return [
                await asyncio.to_thread(doctor, data, *options) for options in ((), ("--repair",))
            ]

    examined, mended = asyncio.run(beside())
    assert examined[0] == 0, examined
    assert mended[0] == 2
    assert "stop the service first" in mended[1]


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--store", "sqlite:///{data}/none.db"), 4, "none.db"),
        (("--store", "postgresql://127.0.0.1:1/x"), 4, "127.0.0.1"),
        (("--store", "mysql://h/x"), 2, "neither sqlite nor postgresql"),
        (("--store", "no url"), 2, "cannot be read"),
        (("--data", "{data}/none"), 4, "name the store by --store"),
        (("--data", "{data}", "--ray", "127.0.0.1:1"), 4, "127.0.0.1"),
        (("--data", "{data}", "--ray", "nonsense"), 2, "--ray 'nonsense' is no address"),
        (("--data", "{data}", "--store", "sqlite:///{data}/x"), 2, "--store or --data, not both"),
        (("--data", "{data}", "--cluster", "other"), 2, "give --ray too"),
    ],
)
def test_what_cannot_be_examined(
    data: Path, options: tuple[str, ...], status: int, says: str
) -> None:
    found, said = run(*(option.format(data=data) for option in options))
    assert (found, says in said) == (status, True), said
    assert "Traceback" not in said


def test_the_store_may_stand_in_the_environment(data: Path) -> None:
    url = f"sqlite:///{data}/longshore.db"
    status, said = run(LONGSHORE_STORE=url)
    assert status == 0, said
    assert "ok    sequences 1 jobs\n" in said
    status, said = run("--data", str(data), LONGSHORE_STORE=f"sqlite:///{data}/none.db")
    assert status == 0, "what is typed comes before it"
