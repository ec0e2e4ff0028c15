from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from longshore_store.model import CheckpointUpdate, EventKind, LogUpdate, ProgressUpdate
from longshore_store.reads import EVENTS_A_READ
from longshore_store.reports import RETAINED_EVENTS
from longshore_store.states import ACTIVE, JobState
from longshore_store.tables import job_checkpoints
from tests.store.factory import REACHABLE, SECOND, Attempt, Yard, completion, next_line, setback
from tests.store.recount import fetch


async def checkpoint(yard: Yard, job_id: str) -> str | None:
    query = select(job_checkpoints.c.value_json).where(job_checkpoints.c.job_id == job_id)
    found = await fetch(yard.store, query)
    return found[0][0] if found else None


async def report_all(yard: Yard, attempt: Attempt, body: str) -> None:
    await yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, body)])
    await yard.store.record_logs(yard.term, [LogUpdate(*attempt, next_line(), body)])
    await yard.store.save_checkpoints(yard.term, [CheckpointUpdate(*attempt, body)])


async def test_reports_in_each_state(yard: Yard) -> None:
    for state in REACHABLE:
        job = await yard.job_in(state)
        before = await yard.read(job.job_id)
        for fence in (job.fence - 1, job.fence + 1):
            await report_all(yard, Attempt(job.job_id, fence), '"stale"')
        assert await yard.read(job.job_id) == before
        assert await checkpoint(yard, job.job_id) is None
        await report_all(yard, job, '"fresh"')
        if state not in ACTIVE:
            assert await yard.read(job.job_id) == before
            assert await checkpoint(yard, job.job_id) is None
            continue
        after = await yard.read(job.job_id)
        assert (after.progress_json, after.progress_count) == ('"fresh"', 1)
        assert after.sequence == before.sequence + 1
        assert after.revision == before.revision + 2
        assert await checkpoint(yard, job.job_id) == '"fresh"'


async def test_progress_is_the_newest(yard: Yard) -> None:
    attempt, other = await yard.running(), await yard.running()
    now = yard.clock.advance(SECOND)
    updates = [ProgressUpdate(*attempt, f"{i}") for i in range(3)]
    await yard.store.record_progress(yard.term, [*updates, ProgressUpdate(*other, "9")])
    found = {
        c.job_id: c for c in await yard.store.read_changes({attempt.job_id: 9, other.job_id: 9})
    }
    assert found[attempt.job_id].progress_json == "2"
    assert found[attempt.job_id].progress_us == now
    assert found[other.job_id].progress_json == "9"
    await yard.store.record_progress(yard.term, updates[:1])
    assert (await yard.read(attempt.job_id)).progress_count == 2


def log_update(job_id: str, fence: int, body: str) -> LogUpdate:
    return LogUpdate(job_id, fence, next_line(), body)


@pytest.mark.parametrize("stale_first", [True, False])
async def test_an_old_attempt_reports_beside_the_new_one(yard: Yard, stale_first: bool) -> None:
    old = await yard.running()
    await yard.store.release_attempts(yard.term, [setback(old)])
    new = await yard.lease(old.job_id)
    pair = [(old, '"old"'), (new, '"new"')] if stale_first else [(new, '"new"'), (old, '"old"')]
    before = await yard.read(new.job_id)
    for method, make in (
        (yard.store.record_progress, ProgressUpdate),
        (yard.store.record_logs, log_update),
        (yard.store.save_checkpoints, CheckpointUpdate),
    ):
        updates: list[Any] = [make(*attempt, body) for attempt, body in pair]
        await method(yard.term, updates)
    after = await yard.read(new.job_id)
    assert after.progress_json == '"new"'
    assert await checkpoint(yard, new.job_id) == '"new"'
    [changes] = await yard.store.read_changes({new.job_id: before.sequence})
    assert [e.body_json for e in changes.events] == ['"new"']


async def test_logs_are_events_in_order(yard: Yard) -> None:
    one, two = await yard.running(), await yard.running()
    now = yard.clock.advance(SECOND)
    lines = [LogUpdate(*(one, two)[i % 2], next_line(), f"{i}") for i in range(10)]
    await asyncio.gather(
        yard.store.record_logs(yard.term, lines[:6]),
        yard.store.record_logs(yard.term, lines[6:]),
    )
    for start, attempt in enumerate((one, two)):
        [changes] = await yard.store.read_changes({attempt.job_id: 3})
        assert [e.body_json for e in changes.events] == [f"{i}" for i in range(start, 10, 2)]
        assert [e.sequence for e in changes.events] == [4, 5, 6, 7, 8]
        for event in changes.events:
            assert (event.kind, event.time_us, event.number) == (EventKind.LOG, now, 1)
            assert (event.from_state, event.to_state, event.reason) == (0, 0, "")


async def test_a_repeated_line_is_one_event(yard: Yard) -> None:
    """What was stored comes again with what follows it: from a leader that was not answered, or
    from the next one."""
    attempt = await yard.running()
    lines = [log_update(*attempt, f"{i}") for i in range(4)]
    await yard.store.record_logs(yard.term, lines[:2])
    await yard.store.record_logs(yard.term, [*lines[:3], *lines[:3]])
    await yard.store.record_logs(yard.term, lines)
    await yard.store.record_logs(yard.term, lines)
    [changes] = await yard.store.read_changes({attempt.job_id: 3})
    assert [e.body_json for e in changes.events] == ["0", "1", "2", "3"]
    assert (await yard.read(attempt.job_id)).sequence == 7


async def test_each_attempt_numbers_its_lines_anew(yard: Yard) -> None:
    first = await yard.running()
    await yard.store.record_logs(yard.term, [LogUpdate(*first, 9, "first")])
    await yard.store.release_attempts(yard.term, [setback(first)])
    second = await yard.lease(first.job_id)
    await yard.store.record_logs(yard.term, [LogUpdate(*second, 1, "second")])
    [changes] = await yard.store.read_changes({first.job_id: 0})
    logged = [e.body_json for e in changes.events if e.kind == EventKind.LOG]
    assert logged == ["first", "second"]


async def test_the_terminal_event_is_the_last(yard: Yard) -> None:
    """The last log lines and the result come in one transaction."""
    attempt = await yard.running()
    await asyncio.gather(
        yard.store.complete_attempts(yard.term, [completion(attempt)]),
        yard.store.record_logs(
            yard.term,
            [LogUpdate(*attempt, next_line(), "1"), LogUpdate(*attempt, next_line(), "2")],
        ),
        yard.store.record_progress(yard.term, [ProgressUpdate(*attempt, "1")]),
    )
    [changes] = await yard.store.read_changes({attempt.job_id: 3})
    assert [e.kind for e in changes.events] == [EventKind.LOG, EventKind.LOG, EventKind.STATE]
    assert changes.events[-1].to_state == JobState.SUCCEEDED
    assert changes.progress_json == "1"


async def test_logs_are_trimmed_to_a_tail(yard: Yard) -> None:
    attempt, other = await yard.running(), await yard.running()
    for first in range(0, 1200, 400):
        lines = [LogUpdate(*attempt, next_line(), f"{i}") for i in range(first, first + 400)]
        await yard.store.record_logs(yard.term, [*lines, LogUpdate(*other, next_line(), "x")])
    [changes] = await yard.store.read_changes({attempt.job_id: 0})
    newest = 3 + 1200
    assert (changes.sequence, changes.first_sequence) == (newest, newest - RETAINED_EVENTS + 1)
    assert changes.events[0].sequence == changes.first_sequence
    [changes] = await yard.store.read_changes({attempt.job_id: changes.first_sequence - 1})
    assert len(changes.events) == EVENTS_A_READ
    assert changes.events[0].sequence == changes.first_sequence
    [untouched] = await yard.store.read_changes({other.job_id: 0})
    assert (untouched.first_sequence, len(untouched.events)) == (1, 6)
    await yard.store.complete_attempts(yard.term, [completion(attempt)])


async def test_changes_come_in_pages(yard: Yard) -> None:
    attempt = await yard.running()
    await yard.store.record_logs(
        yard.term, [LogUpdate(*attempt, next_line(), f"{i}") for i in range(600)]
    )
    cursor, seen = 0, []
    while True:
        [changes] = await yard.store.read_changes({attempt.job_id: cursor})
        if not changes.events:
            break
        assert len(changes.events) <= EVENTS_A_READ
        seen += [e.sequence for e in changes.events]
        cursor = seen[-1]
    assert seen == list(range(1, 604))
    assert cursor == changes.sequence
