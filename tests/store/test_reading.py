from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from longshore_store.committer import unavailable
from longshore_store.dialects import Connection, make_dialect
from longshore_store.dialects.beside import read_beside
from longshore_store.model import JobQuery, ProgressUpdate, StoreUnavailable
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import jobs
from longshore_store.topology_records import WorkerRecord
from tests.store.factory import REACHABLE, SECOND, START_US, Yard, new_job
from tests.store.places import Files


async def listed(store: SqlStore, **changes: Any) -> list[str]:
    return [record.id for record in await store.list_jobs(JobQuery(**changes))]


async def test_unknown_ids(store: SqlStore) -> None:
    job = new_job()
    await store.submit_jobs([job])
    assert await store.read_job("no-such-job") is None
    assert await store.read_jobs([]) == []
    assert [r.id for r in await store.read_jobs(["no-such-job", job.id])] == [job.id]
    assert [c.job_id for c in await store.read_changes({"no-such-job": 0, job.id: 0})] == [job.id]
    assert await store.read_changes({}) == []


async def test_what_full_adds(yard: Yard) -> None:
    job_id = await yard.completed()
    basic = await yard.store.read_job(job_id)
    assert basic is not None
    assert (basic.payload, basic.value_json, basic.artifacts_json, basic.attempts) == (
        None,
        None,
        None,
        (),
    )
    assert basic.spec == b"spec\x00\xff"
    assert (await yard.read(job_id)).value_json == '"done"'


async def test_an_id_asked_for_twice_is_one_job(yard: Yard) -> None:
    job_id = (await yard.job_in(JobState.RETRYING)).job_id
    [record] = await yard.store.read_jobs([job_id, job_id], full=True)
    assert len(record.attempts) == 1


async def test_every_state_shows_its_attempts_once(yard: Yard) -> None:
    for state in REACHABLE:
        record = await yard.read((await yard.job_in(state)).job_id)
        unstarted = state in (JobState.SCHEDULED, JobState.QUEUED)
        assert [a.fence for a in record.attempts] == ([] if unstarted else [1]), state.name
        assert (record.ended_us is None) == (state not in TERMINAL), state.name


async def test_pages_have_an_order(store: SqlStore) -> None:
    ids = [new_job().id for _ in range(25)]
    await store.submit_jobs([new_job(id=job_id) for job_id in ids])
    for descending in (True, False):
        wanted, seen, after = sorted(ids, reverse=descending), list[str](), None
        while page := await listed(store, descending=descending, limit=10, after_id=after):
            assert len(page) <= 10
            seen += page
            after = page[-1]
        assert seen == wanted


async def test_every_filter(yard: Yard) -> None:
    store = yard.store
    a = await yard.submit(tenant="a", task="t1", queue="q1", labels={"x": "1", "y": "1"})
    yard.clock.advance(SECOND)
    b = (await yard.running(tenant="b", task="t2", queue="q2", labels={"x": "1"})).job_id
    yard.clock.advance(SECOND)
    c = await yard.submit(tenant="c", task="t3", queue="q3")
    yard.clock.advance(SECOND)
    await store.cancel_jobs([c], "", False)
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {a, b, c}),
        ({"states": (3,)}, {a}),
        ({"states": (3, 5)}, {a, b}),
        ({"not_states": (3,)}, {b, c}),
        ({"tasks": ("t1", "t2", "t9")}, {a, b}),
        ({"not_tasks": ("t1",)}, {b, c}),
        ({"queues": ("q3",)}, {c}),
        ({"not_queues": ("q1", "q2")}, {c}),
        ({"tenants": ("b",)}, {b}),
        ({"not_tenants": ("b",)}, {a, c}),
        ({"labels": (("x", "1"),)}, {a, b}),
        ({"labels": (("x", "1"), ("y", "1"))}, {a}),
        ({"labels": (("x", "2"),)}, set()),
        ({"created_from_us": START_US + SECOND}, {b, c}),
        ({"created_before_us": START_US + SECOND}, {a}),
        ({"created_from_us": START_US + 1, "created_before_us": START_US + SECOND + 1}, {b}),
        ({"ended_from_us": START_US + 3 * SECOND}, {c}),
        ({"ended_from_us": START_US + 3 * SECOND + 1}, set()),
        ({"ended_before_us": START_US + 3 * SECOND}, set()),
        ({"ended_before_us": START_US + 3 * SECOND + 1}, {c}),
        ({"tenants": ("a", "b"), "states": (5,), "labels": (("x", "1"),)}, {b}),
        ({"after_id": b}, {a}),
        ({"after_id": b, "descending": False}, {c}),
    ]
    for conditions, expected in cases:
        assert set(await listed(store, **conditions)) == expected, conditions


async def test_failed_and_dead_letters(yard: Yard) -> None:
    """The list that people look at when something is wrong."""
    failed = [(await yard.job_in(s)).job_id for s in (JobState.FAILED, JobState.DEAD_LETTERED)]
    await yard.completed()
    records = await yard.store.list_jobs(JobQuery(states=(9, 12), descending=False), full=True)
    assert [r.id for r in records] == failed
    assert all(r.failure_json and len(r.attempts) == 1 for r in records)


async def test_what_a_watcher_sees(yard: Yard) -> None:
    attempt = await yard.running()
    now = yard.clock.advance(SECOND)
    worker = WorkerRecord("w1", "cpu", 1, "node", 7, "{}", "[]", 1, START_US, now)
    await yard.store.record_workers(yard.term, [worker])
    await yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, '{"fraction":0.5}')])
    [seen] = await yard.store.read_changes({attempt.job_id: 1})
    assert (seen.state, seen.sequence, seen.number) == (JobState.RUNNING, 3, 1)
    assert (seen.progress_json, seen.progress_us) == ('{"fraction":0.5}', now)
    assert (seen.progress_count, seen.first_sequence) == (1, 1)
    assert seen.worker_heartbeat_us == now
    assert [(e.sequence, e.from_state, e.to_state, e.reason) for e in seen.events] == [
        (2, 3, 4, "LEASED"),
        (3, 4, 5, "STARTED"),
    ]
    [beyond] = await yard.store.read_changes({attempt.job_id: 99})
    assert (beyond.events, beyond.sequence) == ((), 3)


async def test_a_read_of_a_file_is_interrupted_in_the_end(tmp_path: Path) -> None:
    """Readers are few: one that works for a caller who has given up keeps the others waiting."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    async def read_on(connection: Connection) -> Any:
        return await connection.scalar(text(endless))

    async def read(connection: Connection) -> Any:
        return await connection.scalar(select(1))

    dialect = make_dialect(f"sqlite:///{tmp_path}/store.db", deadline=0.1)
    async with asyncio.timeout(30):
        with pytest.raises(DBAPIError, match="interrupted") as ended:
            await dialect.read(read_on)
        assert isinstance(unavailable(ended.value), StoreUnavailable)
        assert await dialect.read(read) == 1
    await dialect.close()


async def test_who_reads_beside_lets_go_of_the_file(files: Files, tmp_path: Path) -> None:
    """Not when it is collected: a Python warns of that then, in the middle of anything."""
    path = tmp_path / "store.db"
    source = read_beside(files.make(path).url)
    await source.rows(select(jobs.c.id), {})
    assert is_open(path)
    await source.close()
    assert not is_open(path)


def is_open(path: Path) -> bool:
    return str(path) in {file.path for file in psutil.Process().open_files()}
