"""How the databases reach the rows: by an index or a key, never by reading all the jobs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from longshore.sdk.failures import FailureClass
from longshore_store.dialects import Connection
from longshore_store.dialects.threads import ThreadConnection
from longshore_store.model import (
    Attempted,
    CheckpointUpdate,
    Lane,
    LogUpdate,
    OnConflict,
    ProgressUpdate,
    UniqueClaim,
)
from longshore_store.redrive_records import DeadLetters, RedriveRecord, RedriveState
from longshore_store.retention_records import Ages
from longshore_store.sql import SqlStore
from longshore_store.states import TERMINAL
from tests.store.factory import (
    HOUR,
    Attempt,
    FakeClock,
    Yard,
    completion,
    new_job,
    next_line,
    setback,
)
from tests.store.places import Files, Place, Postgres

Seen = list[tuple[str, Any]]
BIG = (
    "jobs", "events", "attempts", "job_specs", "job_results", "job_progress", "job_labels",
    "unique_claims", "redrive_jobs", "accepted_keys",
)  # fmt: skip
# A full read of one of the tables that grow; of json_each, queues or counters it is what is meant.
SCAN = re.compile(rf"^SCAN ({'|'.join(BIG)})\b(?! USING INDEX ix_)(?! USING COVERING INDEX ix_)")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Statements with their parameters, as SQLite gets them, from both ways there are to it."""
    seen: Seen = []
    command = ThreadConnection.command

    def recording(self: ThreadConnection, text: str, values: Sequence[Any] = ()) -> Any:
        note(seen, text, values)
        return command(self, text, values)

    def plain(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        note(seen, statement, parameters)

    def prepared(self: ThreadConnection, *arguments: Any) -> None:
        make(self, *arguments)
        event.listen(self._engine, "before_cursor_execute", plain)

    make: Any = ThreadConnection.__init__
    monkeypatch.setattr(ThreadConnection, "command", recording)
    monkeypatch.setattr(ThreadConnection, "__init__", prepared)
    return seen


def note(seen: Seen, statement: str, parameters: Any) -> None:
    """Keeps what has a plan."""
    if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
        seen.append((statement, parameters))


@contextmanager
def recorded(store: SqlStore) -> Iterator[Seen]:
    """Statements with their parameters, as asyncpg gets them."""
    seen: Seen = []

    def before(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        note(seen, statement, parameters)

    dialect: Any = store._dialect
    engines = [e.sync_engine for e in (dialect._writer, dialect._reader)]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", before)
    yield seen
    for engine in engines:
        event.remove(engine, "before_cursor_execute", before)


async def exercise(yard: Yard) -> None:
    """Every call of the hot paths, at least once."""
    store, term = yard.store, yard.term
    attempt = await yard.leased(idempotency_key="a", labels={"x": "1"}, total_timeout_us=HOUR)
    await store.submit_jobs([new_job(idempotency_key="a")])
    await yard.start(attempt)
    await store.record_progress(term, [ProgressUpdate(*attempt, "1")])
    await store.record_logs(term, [LogUpdate(*attempt, next_line(), "1")])
    await store.save_checkpoints(term, [CheckpointUpdate(*attempt, "1")])
    await store.complete_attempts(term, [completion(attempt)])
    await store.retry_jobs([attempt.job_id], "")
    for method in (store.release_attempts, store.retry_attempts, store.fail_attempts):
        again = await yard.running()
        await method(term, [setback(again, due_us=yard.clock())])
        await method(term, [setback(Attempt(again.job_id, 9))])
    await store.promote_jobs(term, 10)
    for policy in (OnConflict.REJECT, OnConflict.REPLACE_QUEUED, OnConflict.CANCEL_EXISTING):
        claim = UniqueClaim("order", None, policy)
        await store.submit_jobs([new_job(unique=claim, labels={"x": policy.name})])
    cancelling = await yard.cancelling()
    await store.cancel_orders()
    await store.confirm_cancels(term, [Attempted(*cancelling)])
    await yard.submit(queue_timeout_us=0)
    await store.expire_jobs(term, 10)
    await store.active_attempts()
    await store.next_due_us()
    await store.queue_heads([(Lane("fast", "acme", 1), 5), (Lane("slow", "acme", 1), 5)])
    await store.read_jobs([attempt.job_id], full=True)
    await store.read_changes({attempt.job_id: 0})
    await keep_house(yard)
    await bury(yard)


async def bury(yard: Yard) -> None:
    """Everything about dead letters: two of four are redriven, and fail; two are purged."""
    store, term = yard.store, yard.term
    attempts = [await yard.running(labels={"x": "1"}) for _ in range(4)]
    await store.dead_letter_attempts(term, [setback(attempt) for attempt in attempts])
    letters = DeadLetters("acme", task="resize", failure_class=FailureClass.TASK_ERROR)
    last = attempts[-1].job_id
    assert len(await store.list_dead_letters(letters, last, 2, full=True)) == 2
    assert sum((await store.count_dead_letters(letters)).values()) == 4
    redrive_id = f"redrive-{last}"
    redrive = RedriveRecord(redrive_id, letters, 1000, 1, "why", "who", yard.clock(), 4)
    await store.create_redrive(redrive)
    assert await store.advance_redrive(term, redrive_id, 2) == (2, RedriveState.RUNNING)
    again = [await yard.lease(attempt.job_id) for attempt in attempts[:2]]
    await store.dead_letter_attempts(term, [setback(attempt) for attempt in again])
    await store.running_redrives()
    assert len(await store.list_redrives("acme", None, 1)) == 1
    assert await store.stop_redrive(redrive_id, "acme", "") is not None
    assert await store.purge_dead_letters(letters, "", 3) == (3, attempts[2].job_id)


async def keep_house(yard: Yard) -> None:
    """The chores of a leader, on jobs that it finds."""
    store, term = yard.store, yard.term
    attempts = [await yard.running() for _ in range(2)]
    await store.record_logs(term, [LogUpdate(*attempt, next_line(), "1") for attempt in attempts])
    await store.save_checkpoints(term, [CheckpointUpdate(*attempt, "1") for attempt in attempts])
    await store.complete_attempts(term, [completion(attempt) for attempt in attempts])
    spent = await store.spent_checkpoints("", 1000)
    assert await store.prune_checkpoints(term, spent.jobs) == []
    # It finds jobs by their ids, and the logs of those that it does not delete.
    for ages in (Ages(dict.fromkeys(TERMINAL, HOUR), 0), Ages(dict.fromkeys(TERMINAL, 0), 0)):
        found = await store.prunable_jobs(ages, attempts[0].job_id[:-1], 100)
        assert found.jobs or found.logs
        assert await store.prune_jobs(term, found.jobs) == []
        assert await store.prune_logs(term, found.logs) == []
    await store.compact_counts(term, 100)
    await store.prune_redrives(term, yard.clock(), 100)


def sqlite_plan(path: Path, statement: str, parameters: Any) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    return [row[3] for row in rows]


async def test_sqlite_never_reads_all_the_jobs(
    files: Files, tmp_path: Path, clock: FakeClock, seen: Seen
) -> None:
    async with files.make(tmp_path / "store.db") as place:
        yard = await Yard.make(await place.open(clock), clock)
        seen.clear()
        await exercise(yard)
        scans = {
            (statement, line)
            for statement, parameters in seen
            for line in sqlite_plan(tmp_path / "store.db", statement, parameters)
            if SCAN.match(line) and not ANY_ROW.search(statement)
        }
        assert len(seen) > 40
        assert scans == set()


ANY_ROW = re.compile(r"FROM accepted_keys\s+LIMIT")
"""Whether there is any key: a scan that ends with its first row."""

LETTERS = DeadLetters("acme")
INDEXES = {
    "list_dead_letters": "ix_jobs_failed",
    "count_dead_letters": "ix_jobs_failed",
    "purge_dead_letters": "ix_jobs_failed",
    "queue_heads": "ix_jobs_ready",
    "promote_jobs": "ix_jobs_due",
    "expire_jobs": "ix_jobs_expire",
    "cancel_orders": "ix_jobs_held",
    "active_attempts": "ix_jobs_held",
    "next_due_us": "ix_jobs_due",
    "key": "ix_jobs_key",
}


async def call(yard: Yard, name: str) -> None:
    store = yard.store
    if name.endswith("_dead_letters"):
        more = {"list": (None, 5), "purge": ("", 5)}.get(name.partition("_")[0], ())
        await getattr(store, name)(LETTERS, *more)
    elif name == "queue_heads":
        await store.queue_heads([(Lane("fast", "acme", 1), 5)])
        await store.queue_heads([(Lane("fast", "acme", 1), 5)], ["lost"])
    elif name in ("promote_jobs", "expire_jobs"):
        await getattr(store, name)(yard.term, 10)
    elif name == "key":
        await store.submit_jobs([new_job(idempotency_key="k")])
    else:
        await getattr(store, name)()


@pytest.mark.parametrize("name", INDEXES)
async def test_sqlite_uses_the_index_made_for_it(
    files: Files, tmp_path: Path, clock: FakeClock, seen: Seen, name: str
) -> None:
    async with files.make(tmp_path / "store.db") as place:
        yard = await Yard.make(await place.open(clock), clock)
        await yard.submit(idempotency_key="k")
        seen.clear()
        await call(yard, name)
        lines = [line for s, p in seen for line in sqlite_plan(tmp_path / "store.db", s, p)]
        assert any(INDEXES[name] in line for line in lines), lines
        assert not any("TEMP B-TREE FOR ORDER BY" in line for line in lines), lines


async def test_postgres_never_reads_all_the_jobs(postgres: Postgres, clock: FakeClock) -> None:
    async with await postgres.create("plans") as place:
        yard = await Yard.make(await place.open(clock), clock)
        for _ in range(4):
            batch = [new_job(tenant=f"t{i % 7}", priority=i % 100) for i in range(5_000)]
            await yard.store.submit_jobs(batch)
        await postgres.execute("ANALYZE", "plans")
        store: Any = yard.store
        with recorded(store) as seen:
            await exercise(yard)
            await store.queue_heads([(Lane("fast", f"t{i}", 1), 64) for i in range(7)])
            await store.queue_heads([(Lane("fast", "t1", 1), 64)], ["lost"])
        plans = await postgres.explain(seen, "plans")
        read = re.compile(r"Seq Scan on (jobs|events|job_specs)\b")
        assert [plan for plan in plans if read.search(plan)] == []
        heads = [plan for plan in plans if "Limit" in plan and "ix_jobs_ready" in plan]
        assert heads
        assert not any("Sort" in plan for plan in heads)
        assert any("ix_jobs_failed" in plan for plan in plans)
    await postgres.drop("plans")


async def test_postgres_keeps_no_plan_from_when_it_was_empty(
    postgres_place: Place, clock: FakeClock
) -> None:
    """For few rows a plan that reads the table is right; for the next thousand it is ruin."""
    yard = await Yard.make(await postgres_place.open(clock), clock)
    for _ in range(8):
        await yard.completed()
    # A statement without parameters has no other plan.
    query = text(
        "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements"
        " WHERE cardinality(parameter_types) > 0"
    )

    async def work(connection: Connection) -> tuple[int, int]:
        row = (await connection.execute(query)).one()
        return int(row[0]), int(row[1])

    generic, custom = await yard.store._dialect.transact(work)
    assert generic == 0
    assert custom > 0
