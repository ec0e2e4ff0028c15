"""Each kind of drift is found, by the name of its check, and mended where the doctor says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from sqlalchemy import Select, insert, text

from longshore.sdk.failures import FailureClass
from longshore_store.dialects import Connection, StoreLocked, make_dialect
from longshore_store.dialects.beside import Beside, read_beside
from longshore_store.doctor.examination import (
    CHECKS,
    RECORDED,
    NotExaminable,
    examine,
    require_schema,
    scheduler_leads,
)
from longshore_store.doctor.findings import MOST_FINDINGS, Finding
from longshore_store.doctor.repair import repair
from longshore_store.model import OnConflict, StoreUnavailable, UniqueClaim
from longshore_store.sql import SqlStore
from longshore_store.tables import jobs
from longshore_store.topology_records import WorkerRecord
from tests.store.factory import HOUR, START_US, FakeClock, Yard, new_job
from tests.store.places import Kept, Place
from tests.store.recount import Opened, Rows, findings

ROUNDS = 5
ALL = {check.name: (check,) for check in CHECKS}


class Damage(NamedTuple):
    """SQL that spoils one thing, and what the doctor says of it."""

    check: str
    says: str
    sql: str
    repairable: bool = False
    hint: bool = False


def _stray(table: str, columns: str, values: str) -> Damage:
    says = f"job ghost 1 rows in {table} and no such job"
    sql = f"INSERT INTO {table} (job_id, {columns}) VALUES ('ghost', {values})"
    return Damage("bodies", says, sql, repairable=True)


SUCCEEDED = "(SELECT max(id) FROM jobs WHERE state = 8)"
RUNNING = "(SELECT max(id) FROM jobs WHERE state = 5)"
RETRYING = "(SELECT max(id) FROM jobs WHERE state = 6)"
DEAD = "(SELECT max(id) FROM jobs WHERE state = 12)"
LAST = f"(SELECT sequence FROM jobs WHERE id = {SUCCEEDED})"
LOG = (
    "INSERT INTO events (job_id, sequence, time_us, number, kind, from_state, to_state, reason)"
    f" VALUES ({SUCCEEDED}, {LAST} + 1, 1, 1, 2, 0, 0, '');"
    f" UPDATE jobs SET sequence = sequence + 1 WHERE id = {SUCCEEDED}"
)
REDRIVE = "INSERT INTO redrive_jobs (redrive_id, job_id, run) VALUES "
DAMAGES = {
    "a counter": Damage(
        "counters",
        "queue=fast tenant=acme waiting 9, should be 2",
        "UPDATE queue_counts SET waiting = 9 WHERE waiting = 2",
        repairable=True,
    ),
    "a counter of nothing": Damage(
        "counters",
        "queue=q tenant=t active -3, should be 0",
        "INSERT INTO queue_counts VALUES ('q', 't', 'w', 0, -3, 0)",
        repairable=True,
    ),
    "drained": Damage("counters", "drained 0", "UPDATE queue_counts SET drained = 0"),
    "a gap": Damage(
        "sequences",
        "3 events from 1 to 4, should be 4, without a gap",
        f"DELETE FROM events WHERE job_id = {SUCCEEDED} AND sequence = 2",
    ),
    "a newest event": Damage(
        "sequences",
        "newest event 3, should be 4",
        f"DELETE FROM events WHERE job_id = {SUCCEEDED} AND sequence = 4",
    ),
    "no events": Damage(
        "sequences", "has no events", f"DELETE FROM events WHERE job_id = {SUCCEEDED}"
    ),
    "an edge that is none": Damage(
        "sequences",
        "event 3 does not follow",
        f"UPDATE events SET from_state = 3 WHERE job_id = {SUCCEEDED} AND sequence = 3",
    ),
    "a start out of nothing": Damage(
        "sequences",
        "event 1 does not follow",
        f"UPDATE events SET from_state = 6 WHERE job_id = {SUCCEEDED} AND sequence = 1",
    ),
    "another end": Damage(
        "sequences",
        "events end in SUCCEEDED, should be FAILED",
        f"UPDATE jobs SET state = 9 WHERE id = {SUCCEEDED}",
    ),
    "a line after the end": Damage("sequences", "SUCCEEDED is not its last event", LOG),
    "one end too few": Damage(
        "sequences",
        "1 terminal events, should be 2",
        f"UPDATE jobs SET run = run + 1 WHERE id = {SUCCEEDED}",
    ),
    "a count of crashes": Damage(
        "attempts",
        "crashes 1, should be 0 by its attempts",
        f"UPDATE jobs SET crashes = crashes + 1 WHERE id = {RETRYING}",
    ),
    "an attempt that is gone": Damage(
        "attempts", "attempts 1, should be 0", f"DELETE FROM attempts WHERE job_id = {RETRYING}"
    ),
    "a fence": Damage(
        "attempts",
        "an attempt with fence 8, should be at most 1",
        f"UPDATE attempts SET fence = 8 WHERE job_id = {RETRYING}",
    ),
    "a number": Damage(
        "attempts",
        "an attempt with number 8, should be at most 1",
        f"UPDATE attempts SET number = 8 WHERE job_id = {RETRYING}",
    ),
    "a run": Damage(
        "attempts",
        "an attempt with run 8, should be at most 1",
        f"UPDATE attempts SET run = 8 WHERE job_id = {RETRYING}",
    ),
    "no specification": Damage(
        "bodies", "without a specification", f"DELETE FROM job_specs WHERE job_id = {RUNNING}"
    ),
    "no result": Damage(
        "bodies", "without a result", f"DELETE FROM job_results WHERE job_id = {SUCCEEDED}"
    ),
    "no cause": Damage(
        "bodies",
        "without a cause",
        f"UPDATE job_results SET failure_json = NULL WHERE job_id = {DEAD}",
    ),
    "a stray specification": _stray("job_specs", "spec, payload", "'', ''"),
    "a stray result": _stray("job_results", "value_json", "'1'"),
    "a stray progress": _stray("job_progress", "fence, count, time_us", "1, 1, 1"),
    "a stray checkpoint": _stray("job_checkpoints", "fence, value_json, time_us", "1, '1', 1"),
    "a stray label": _stray("job_labels", "name, value", "'a', 'b'"),
    "a stray attempt": _stray("attempts", "fence, number, run, failure_class", "1, 1, 1, 1"),
    "a stray event": _stray(
        "events",
        "sequence, time_us, number, kind, from_state, to_state, reason",
        "1, 1, 0, 1, 0, 3, 'SUBMITTED'",
    ),
    "a key without a fingerprint": Damage(
        "keys",
        "idempotency key 'k' without a fingerprint",
        "UPDATE jobs SET fingerprint = '' WHERE idempotency_key = 'k'",
    ),
    "a claim of nobody": Damage(
        "keys",
        "key='u' claimed by job ghost, which does not exist",
        "UPDATE unique_claims SET job_id = 'ghost'",
        repairable=True,
    ),
    "a redrive of nobody": Damage(
        "redrives", "no such redrive", f"{REDRIVE} ('none', {SUCCEEDED}, 1)", repairable=True
    ),
    "a redriven job that is none": Damage(
        "redrives",
        "no such job",
        "INSERT INTO redrives (id, tenant, selection_json, rate_milli, maximum_failures_milli,"
        " reason, actor, state, created_us, after_id, total)"
        f" VALUES ('r', 'acme', '', 1, 1, '', '', 1, 1, '', 1); {REDRIVE} ('r', 'ghost', 1)",
        repairable=True,
    ),
    "a redriven run that is none": Damage(
        "redrives",
        "gave it run 7, should be at most 1",
        "INSERT INTO redrives (id, tenant, selection_json, rate_milli, maximum_failures_milli,"
        " reason, actor, state, created_us, after_id, total)"
        f" VALUES ('r', 'acme', '', 1, 1, '', '', 1, 1, '', 1); {REDRIVE} ('r', {SUCCEEDED}, 7)",
    ),
    "a lease of an unknown worker": Damage(
        "leases",
        "RUNNING on w1, which the store does not know",
        "UPDATE workers SET id = 'w2'",
    ),
    "a silent worker": Damage(
        "leases",
        "worker w1 silent for 3,600 s",
        f"UPDATE workers SET heartbeat_us = heartbeat_us - {HOUR}",
    ),
    "slots": Damage(
        "slots",
        "7 active attempts, should be 1",
        "UPDATE workers SET active_attempts = 7",
        hint=True,
    ),
}


async def spoil(store: SqlStore, sql: str) -> None:
    async def work(connection: Connection) -> None:
        for statement in sql.split(";"):
            await connection.execute(text(statement))

    await store._dialect.transact(work)


async def populate(yard: Yard) -> None:
    """One job of each kind that a check looks at, and the worker that holds one."""
    claim = UniqueClaim("u", None, OnConflict.REJECT)
    await yard.submit(idempotency_key="k", unique=claim, labels={"a": "b"})
    await yard.completed()
    await yard.running()
    due_us = yard.clock() + HOUR
    await yard.ended(yard.store.retry_attempts, due_us=due_us)
    crash = FailureClass.CRASH
    await yard.ended(yard.store.dead_letter_attempts, failure_class=crash)
    await yard.store.record_workers(yard.term, [worker("w1", active=1)])


def worker(worker_id: str, active: int) -> WorkerRecord:
    return WorkerRecord(worker_id, "cpu", 2, "n1", 1, "{}", "[]", active, START_US, START_US)


@pytest_asyncio.fixture(loop_scope="session")
async def sick(kept: Kept, clock: FakeClock) -> Yard:
    """A store that nobody recounts when the test is over."""
    await kept.empty()
    yard = await Yard.make(kept.store, clock)
    await populate(yard)
    return yard


@pytest_asyncio.fixture(loop_scope="session")
async def closed(place: Place, clock: FakeClock) -> Place:
    """A populated database that no store has open."""
    store = await place.open(clock)
    await populate(await Yard.make(store, clock))
    await place.close(store)
    return place


@pytest_asyncio.fixture(loop_scope="session")
async def beside(closed: Place) -> AsyncIterator[Beside]:
    source = read_beside(closed.url)
    yield source
    await source.close()


async def test_a_healthy_database_is_clean(sick: Yard) -> None:
    assert [str(f) for f in await findings(sick.store, CHECKS)] == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_found(sick: Yard, damage: Damage) -> None:
    await spoil(sick.store, damage.sql)
    found = await findings(sick.store, ALL[damage.check])
    assert any(damage.says in str(f) for f in found), found
    assert {(f.check, f.repairable, f.hint) for f in found} == {
        (damage.check, damage.repairable, damage.hint)
    }


def test_every_check_is_tried() -> None:
    assert {damage.check for damage in DAMAGES.values()} == set(ALL)


async def test_what_is_repairable_is_mended_and_nothing_else(closed: Place, beside: Beside) -> None:
    store = await closed.open()
    await spoil(store, ";".join(d.sql for d in DAMAGES.values() if d.repairable))
    await spoil(store, DAMAGES["a count of crashes"].sql)
    await closed.close(store)
    before = await everything(beside)
    assert {f.check for f in before if f.repairable} == {"counters", "bodies", "keys", "redrives"}
    mended = await repair(make_dialect(closed.url))
    assert mended == {"counters": 2, "bodies": 7, "keys": 1, "redrives": 2}
    after = await everything(beside)
    assert [str(f) for f in after] == [str(f) for f in before if not f.repairable]
    assert len(after) == 1
    assert await repair(make_dialect(closed.url)) == {}


async def everything(source: Beside) -> list[Finding]:
    examined = await examine(source, RECORDED, now_us=START_US, page=5)
    return [finding for check in examined for finding in check.findings]


async def test_a_database_in_use_is_read_but_not_repaired(place: Place, clock: FakeClock) -> None:
    if place.name != "sqlite":  # Postgres has no one owner: see the next test
        return
    store = await place.open(clock)
    await populate(await Yard.make(store, clock))
    source = read_beside(place.url)
    assert await everything(source) == []
    with pytest.raises(StoreLocked):
        await repair(make_dialect(place.url))
    await source.close()


async def test_counters_are_repaired_exactly_while_others_write(
    postgres_place: Place, clock: FakeClock
) -> None:
    store = await postgres_place.open(clock)
    await spoil(store, "INSERT INTO queue_counts VALUES ('fast', 'acme', 'x', 500, -20, 0)")
    began, enough = asyncio.Event(), asyncio.Event()

    async def submit() -> None:
        while not enough.is_set():
            await store.submit_jobs([new_job(), new_job(queue="slow")])
            began.set()

    writing = asyncio.create_task(submit())
    await began.wait()
    done = await asyncio.gather(*(repair(make_dialect(postgres_place.url)) for _ in range(3)))
    enough.set()
    await writing
    assert sorted(done, key=len) == [{}, {}, {"counters": 1}]
    assert await findings(store) == []


async def test_a_live_database_does_not_look_drifted(place: Place, clock: FakeClock) -> None:
    store = await place.open(clock)
    yard = await Yard.make(store, clock)
    source = read_beside(place.url)
    enough = asyncio.Event()
    moving = asyncio.gather(*(_move(yard, enough) for _ in range(4)))
    for _ in range(ROUNDS):
        assert await everything(source) == []
        assert not moving.done()
    enough.set()
    await moving
    await source.close()


async def _move(yard: Yard, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await yard.completed()
        await yard.cancelled()
        await yard.ended(yard.store.release_attempts, failure_class=FailureClass.WORKER_LOST)


class Late(Opened):
    """The worker of a lease becomes known between two looks."""

    def __init__(self, store: SqlStore, term: int) -> None:
        super().__init__(store)
        self.store = store
        self.term = term
        self.known = False

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Rows:
        found = await super().rows(query, params)
        if found and not self.known and "p_lease" in params:
            self.known = True
            await self.store.record_workers(self.term, [worker("w2", active=1)])
        return found


async def test_what_a_snapshot_cannot_tell_is_looked_at_twice(sick: Yard) -> None:
    await sick.lease(await sick.submit(), worker="w2")
    now_us = sick.clock()
    checks = ALL["leases"]
    [first] = await examine(Opened(sick.store), checks, now_us=now_us, live=True, second_look=0.0)
    assert first.drift == 1
    source = Late(sick.store, sick.term)
    [second] = await examine(source, checks, now_us=now_us, live=True, second_look=0.0)
    assert source.known
    assert second.findings == []


async def test_pages_do_not_change_what_is_found(sick: Yard) -> None:
    for damage in ("a gap", "no specification", "a stray label", "a fence"):
        await spoil(sick.store, DAMAGES[damage].sql)
    source = Opened(sick.store)
    small, large = [
        {f for c in await examine(source, RECORDED, now_us=0, page=n) for f in c.findings}
        for n in (1, 1000)
    ]
    assert small == large
    assert len(small) == 5, "a gap is also an event that does not follow"


async def test_many_findings_are_counted_not_kept(sick: Yard) -> None:
    await sick.store.submit_jobs([new_job() for _ in range(MOST_FINDINGS + 50)])
    await spoil(sick.store, "DELETE FROM job_specs")
    [examined] = await examine(Opened(sick.store), ALL["bodies"], now_us=0, page=40)
    assert len(examined.findings) == MOST_FINDINGS
    assert examined.drift == MOST_FINDINGS + 50 + 5
    assert examined.lines()[-1] == "DRIFT bodies and 55 more"


async def test_reading_beside_cannot_write(closed: Place, beside: Beside) -> None:
    assert await beside.rows(Select(jobs.c.id), {})
    with pytest.raises(StoreUnavailable, match=r"read-?only"):
        await beside.rows(insert(jobs).values(id="x"), {})  # type: ignore[arg-type]  # the point


async def test_another_schema_is_not_examined(closed: Place, beside: Beside) -> None:
    await require_schema(beside)
    store = await closed.open()
    await spoil(store, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NotExaminable, match=r"9999.*: upgrade this program"):
        await require_schema(beside)
    await spoil(store, "UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(NotExaminable, match=r"0001.*: run `longshore migrate` once"):
        await require_schema(beside)
    await spoil(store, f"UPDATE alembic_version SET version_num = '{_head()}'")


def _head() -> str:
    from longshore_store.migrations import HEAD

    return HEAD


async def test_no_database_is_said(tmp_path: Path) -> None:
    source = read_beside(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(StoreUnavailable, match=r"none\.db"):
        await require_schema(source)
    assert list(tmp_path.iterdir()) == [], "it made one"
    await source.close()
    with pytest.raises(ValueError, match="mysql"):
        read_beside("mysql://host/db")


async def test_who_leads_is_known(sick: Yard) -> None:
    source = Opened(sick.store)
    assert await scheduler_leads(source, sick.clock())
    assert not await scheduler_leads(source, sick.clock() + 2000 * HOUR)


async def test_a_small_database_takes_milliseconds(
    sick: Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed, not asserted: machines differ. Every store test pays it."""
    await findings(sick.store)
    began = asyncio.get_running_loop().time()
    for _ in range(10):
        await findings(sick.store)
    seconds = (asyncio.get_running_loop().time() - began) / 10
    with capsys.disabled():
        print(f"\nrecount: {seconds * 1e3:.1f} ms")
