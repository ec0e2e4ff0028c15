"""Rows 7, 8 and 9: the worker is killed, stopped, or only seems to be."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from longshore.v1 import job_pb2
from tests.e2e.service import alive, gone
from tests.faults.whole import BOUND, Whole, history, serving, worker_of, workers_up

WORKERS = 2
LEASE = 5.0
HELD = 6
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
LOST = job_pb2.FAILURE_CLASS_WORKER_LOST


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with serving(tmp_path_factory.mktemp("workers"), WORKERS, LEASE) as whole:
        yield whole


async def test_what_a_killed_worker_ran_goes_on_elsewhere(whole: Whole, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    async with whole.client() as client:
        await workers_up(client, WORKERS)
        handle = await whole.submit(client, "gated", path=str(gate))
        _, runner = await whole.running(handle)
        worker = await worker_of(client, handle)
        begin = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        await whole.executed(handle.id, 2)
        seconds = time.monotonic() - begin
        gone([int(runner)], BOUND)
        gate.touch()
        job = await whole.ended(handle)
        assert job.state == SUCCEEDED
        assert [a.failure_class for a in job.attempts] == [LOST, 0]
        assert job.attempts[0].worker_id != job.attempts[1].worker_id
        events = await history(client, handle.id)
        assert [e.state_change.reason for e in events].count("STARTED") == 2
        await workers_up(client, WORKERS, without=worker)
        pool = time.monotonic() - begin
    whole.report(7, seconds, pool_whole_in=f"{pool:.2f} s", extra_executions=1)


async def test_a_stopped_worker_loses_its_lease_and_what_it_says_later(
    whole: Whole, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    async with whole.client() as client:
        await workers_up(client, WORKERS)
        handle = await whole.submit(client, "gated", path=str(gate))
        _, runner = await whole.running(handle)
        worker = await worker_of(client, handle)
        begin = time.monotonic()
        os.kill(worker, signal.SIGSTOP)
        try:
            await whole.executed(handle.id, 2)
            seconds = time.monotonic() - begin
            gate.touch()  # the first execution ends too, if it is still there
            job = await whole.ended(handle)
        finally:
            late = "went on" if alive(worker) else "was ended"
            with suppress(ProcessLookupError):  # it may have been ended meanwhile
                os.kill(worker, signal.SIGCONT)
        assert seconds > LEASE / 2, "its silence counts from its last word"
        assert job.state == SUCCEEDED
        assert job.result.value == "2", "the result is that of the newer fence"
        assert [a.failure_class for a in job.attempts] == [LOST, 0]
        await history(client, handle.id)
        await workers_up(client, WORKERS, without=worker)
        gone([worker, int(runner)], BOUND)
        later = (await handle.status()).job
        assert later == job, "what the stopped worker said changed nothing"
    whole.report(8, seconds, extra_executions=1, the_stopped_worker=late)


async def test_a_task_that_holds_the_interpreter_keeps_its_lease(whole: Whole) -> None:
    async with whole.client() as client:
        await workers_up(client, WORKERS)
        handle = await whole.submit(client, "hold_gil", seconds=HELD)
        _, runner = await whole.running(handle)
        worker = await worker_of(client, handle)
        job = await whole.ended(handle)
        assert job.state == SUCCEEDED
        assert len(job.attempts) == len(whole.executions(handle.id)) == 1
        assert alive(worker), "it was not given up"
        assert alive(int(runner))
        [attempt] = job.attempts
        took = attempt.end_time.ToDatetime() - attempt.start_time.ToDatetime()
        seconds = max(took.total_seconds() - HELD, 0.0)
        await history(client, handle.id)
    whole.report(9, seconds, held=f"{HELD} s", extra_executions=0)


async def test_after_all_that_workers_hold_what_is_leased(whole: Whole, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    async with whole.client() as client:
        await workers_up(client, WORKERS)
        handle = await whole.submit(client, "gated", path=str(gate))
        await whole.running(handle)
        assert await asyncio.to_thread(whole.ask_workers) == []
        looked_at = whole.summary["checks"]["workers"]["looked_at"]
        gate.touch()
        assert (await whole.ended(handle)).state == SUCCEEDED
    assert looked_at == f"{WORKERS} workers, 1 attempts"
