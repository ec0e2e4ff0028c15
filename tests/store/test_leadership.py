from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from longshore_store import committer
from longshore_store.dialects import Connection, sqlite
from longshore_store.model import (
    Attempted,
    CheckpointUpdate,
    Fenced,
    Lease,
    LogUpdate,
    ProgressUpdate,
    Start,
)
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.topology_records import PoolRecord, QueueDeclaration, TaskRecord
from tests.store.factory import (
    HOUR,
    SECOND,
    Attempt,
    FakeClock,
    Yard,
    completion,
    new_job,
    next_line,
    setback,
)
from tests.store.patience import LONG
from tests.store.places import Files, Place

TTL = 10 * SECOND


async def test_one_leads(store: SqlStore, clock: FakeClock) -> None:
    assert await store.lead("a", TTL) == 1
    assert await store.lead("b", TTL) is None
    clock.advance(TTL - 1)
    assert await store.lead("b", TTL) is None
    assert await store.lead("a", TTL) == 1, "renewed"
    clock.advance(TTL - 1)
    assert await store.lead("b", TTL) is None
    clock.advance(1)
    assert await store.lead("b", TTL) == 2
    assert await store.lead("a", TTL) is None


async def test_a_late_renewal_keeps_the_term(store: SqlStore, clock: FakeClock) -> None:
    """Nobody led in between, so nothing was written under a newer term."""
    await store.lead("a", TTL)
    clock.advance(5 * TTL)
    assert await store.lead("a", TTL) == 1


async def test_a_renewal_passes_all_other_writes(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A healthy leader must not lose its term behind a backlog of its own process."""
    await store.lead("a", TTL)
    monkeypatch.setattr(committer, "MAX_PENDING_ROWS", 20)
    order: list[str] = []

    async def noting(name: str, call: Awaitable[Any]) -> None:
        await call
        order.append(name)

    jobs = [new_job() for _ in range(20)]
    monkeypatch.setattr(committer, "MAX_ROWS", 1)
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(noting("submit", store.submit_jobs([job])))
        await asyncio.sleep(0)  # all of them wait to be written, and there is room for no more
        group.create_task(noting("lead", store.lead("a", TTL)))
    assert order.index("lead") <= 1, "only what was on its way already is before it"


async def test_resignation_is_at_once(store: SqlStore) -> None:
    await store.lead("a", TTL)
    await store.resign("b")
    assert await store.lead("b", TTL) is None
    await store.resign("a")
    assert await store.lead("b", TTL) == 2
    await store.resign("b")
    assert await store.lead("b", TTL) == 3, "what it wrote before it resigned stays fenced off"


def every_write(store: SqlStore, term: int, attempt: Attempt) -> dict[str, Awaitable[Any]]:
    setbacks = [setback(attempt, due_us=0)]
    return {
        "promote_jobs": store.promote_jobs(term, 10),
        "expire_jobs": store.expire_jobs(term, 10),
        "lease_jobs": store.lease_jobs(term, [Lease(*attempt, "w9")]),
        "start_attempts": store.start_attempts(term, [Start(*attempt, 1)]),
        "complete_attempts": store.complete_attempts(term, [completion(attempt)]),
        "fail_attempts": store.fail_attempts(term, setbacks),
        "retry_attempts": store.retry_attempts(term, setbacks),
        "dead_letter_attempts": store.dead_letter_attempts(term, setbacks),
        "release_attempts": store.release_attempts(term, setbacks),
        "expire_attempts": store.expire_attempts(term, setbacks),
        "confirm_cancels": store.confirm_cancels(term, [Attempted(*attempt)]),
        "record_progress": store.record_progress(term, [ProgressUpdate(*attempt, "1")]),
        "record_logs": store.record_logs(term, [LogUpdate(*attempt, next_line(), "1")]),
        "save_checkpoints": store.save_checkpoints(term, [CheckpointUpdate(*attempt, "1")]),
    }


async def test_an_old_term_writes_nothing(yard: Yard) -> None:
    jobs = [await yard.job_in(s) for s in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)]
    before = [await yard.read(job.job_id) for job in jobs]
    await yard.store.resign("yard")
    newer = await yard.store.lead("new", TTL)
    assert newer == yard.term + 1
    for term in (yard.term, newer + 1, 0):
        for job in jobs:
            names = every_write(yard.store, term, job)
            answers = await asyncio.gather(*names.values(), return_exceptions=True)
            fenced = [isinstance(answer, Fenced) for answer in answers]
            assert all(fenced), dict(zip(names, answers, strict=True))
    assert [await yard.read(job.job_id) for job in jobs] == before


async def test_a_fenced_write_beside_a_good_one(yard: Yard) -> None:
    one, two = await yard.running(), await yard.running()
    answers = await asyncio.gather(
        yard.store.complete_attempts(yard.term - 1, [completion(one)]),
        yard.store.complete_attempts(yard.term, [completion(two)]),
        return_exceptions=True,
    )
    assert isinstance(answers[0], Fenced)
    assert answers[1] == []
    assert await yard.state(one.job_id) == JobState.RUNNING


async def test_schedulers_start_at_once(postgres_place: Place, clock: FakeClock) -> None:
    """On an empty database there is no row to lock yet."""
    stores = [await postgres_place.open(clock) for _ in range(2)]
    names = [f"s{i}" for i in range(2)]
    terms = await asyncio.gather(*(s.lead(n, TTL) for s, n in zip(stores, names, strict=True)))
    assert sorted(terms, key=str) == [1, None]
    for round_ in range(2, 12):
        clock.advance(TTL)
        contenders = [f"r{round_}-{n}" for n in names]
        calls = (s.lead(n, TTL) for s, n in zip(stores, contenders, strict=True))
        assert sorted(await asyncio.gather(*calls), key=str) == [round_, None]


async def test_a_takeover_fences_the_other_process(postgres_place: Place, clock: FakeClock) -> None:
    old, new = await postgres_place.open(clock), await postgres_place.open(clock)
    yard = await Yard.make(old, clock)
    attempt = await yard.running()
    await old.resign("yard")
    assert await new.lead("new", TTL) == yard.term + 1
    with pytest.raises(Fenced):
        await old.complete_attempts(yard.term, [completion(attempt)])
    assert await new.complete_attempts(yard.term + 1, [completion(attempt)]) == []


async def test_a_leader_does_not_queue_behind_readers(
    files: Files, tmp_path: Path, clock: FakeClock
) -> None:
    """Slow lists of callers must not cost an embedded service its term."""
    may_end = threading.Event()

    async def long(_: Connection) -> bool:
        return may_end.wait(LONG)

    async with files.make(tmp_path / "store.db") as place:
        store = await place.open(clock)
        reading = [asyncio.create_task(store._dialect.read(long)) for _ in range(sqlite.READERS)]
        try:
            async with asyncio.timeout(LONG / 2):
                assert await store.lead("busy", TTL) == 1
        finally:
            may_end.set()
        assert await asyncio.gather(*reading) == [True] * sqlite.READERS


async def test_what_a_replaced_leader_declares_is_refused(yard: Yard) -> None:
    """Paused between its election and what it declares, it would take a newer release back."""
    store = yard.store
    await store.declare_queues([QueueDeclaration("new", 0, None, "")], yard.term)
    await store.publish_tasks([TaskRecord("new", "{}")], yard.term)
    await store.publish_pools([PoolRecord("new", "{}", 0, 1, 0, 0, 0, False)], yard.term)
    for late in (
        store.declare_queues([], yard.term - 1),
        store.publish_tasks([], yard.term - 1),
        store.publish_pools([], yard.term - 1),
    ):
        with pytest.raises(Fenced):
            await late
    for declared in (store.list_queues, store.list_tasks, store.list_pools):
        assert [record[0] for record in await declared()] == ["new"]


async def test_a_database_of_one_process_is_led_anew_at_once_after_a_death(
    files: Files, tmp_path: Path, clock: FakeClock
) -> None:
    async with files.make(tmp_path / "store.db") as place:
        dead = await place.open(clock)
        assert await dead.lead("dead", HOUR) == 1
        await place.close(dead)  # it did not resign
        assert await (await place.open(clock)).lead("heir", HOUR) == 2
