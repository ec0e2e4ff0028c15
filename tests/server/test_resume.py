"""A watch that is cut anywhere and resumed, while the job runs: no loss, no repeat, one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.harness import DEADLINE, Event, Harness, kind_of, make_settings, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """One for all examples, with a mailbox so small that it often overflows."""
    async with opened(tmp_path_factory.mktemp("resume"), make_settings(watch_buffer=8)) as harness:
        yield harness


async def play(harness: Harness, job_id: str, reports: list[str]) -> None:
    """A job's life: its start, the reports, its end."""
    fence = await harness.start(job_id)
    for done, report in enumerate(reports, 1):
        if report == "progress":
            await harness.progress(job_id, fence, done / (len(reports) + 1))
        else:
            await asyncio.gather(*(harness.log(job_id, fence, line) for line in report))
    await harness.complete(job_id, fence)


async def read_some(harness: Harness, job_id: str, cursor: int, count: int) -> list[Event]:
    """The next events of a new watch, which is then cut off."""
    watch = harness.watch(job_id, after_sequence=cursor, include_logs=True)
    events: list[Event] = []
    while len(events) < count:
        event = await watch.read()
        if event is grpc.aio.EOF:
            break
        events.append(event)
    watch.cancel()
    return events


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    reports=st.lists(st.sampled_from(["progress", "a", "abcdefghijklmnop"]), max_size=6),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
async def test_cut_anywhere_and_resume(
    harness: Harness, reports: list[str], cuts: list[int]
) -> None:
    job = await harness.submit()
    playing = asyncio.ensure_future(play(harness, job.job_id, reports))
    seen: list[Event] = []
    cursor, turn = 0, 0
    async with asyncio.timeout(3 * DEADLINE):
        while not seen or kind_of(seen[-1]) != "terminal":
            events = await read_some(harness, job.job_id, cursor, cuts[turn % len(cuts)])
            turn += 1
            seen += events
            cursor = max((event.sequence for event in seen), default=0)
        await playing
    durable = [e.sequence for e in seen if kind_of(e) in ("state_change", "log_chunk")]
    record = await harness.store.read_job(job.job_id)
    assert record is not None
    assert durable == list(range(1, record.sequence + 1))
    assert [kind_of(event) for event in seen].count("terminal") == 1
    told = [event.progress.fraction for event in seen if kind_of(event) == "progress"]
    assert told == sorted(told)
