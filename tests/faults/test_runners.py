"""Rows 10, 11 and 14: runners that die, runners that are killed for memory, deaf children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from google.rpc import error_details_pb2 as rpc
from sqlalchemy import select

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore_store.dialects.beside import read_beside
from longshore_store.tables import jobs
from tests.e2e.service import gone, until
from tests.faults.whole import BOUND, LEASE, Whole, history, serving, workers_up

QUICK = 200
MIB = 1024**2
CRASH = job_pb2.FAILURE_CLASS_CRASH
OUT_OF_MEMORY = job_pb2.FAILURE_CLASS_OUT_OF_MEMORY
DEAD = job_pb2.JOB_STATE_DEAD_LETTERED
CANCELLED = job_pb2.JOB_STATE_CANCELLED
GRACE, USUAL_GRACE = 0.5, 10.0
CGROUP = Path("/sys/fs/cgroup/memory")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with serving(tmp_path_factory.mktemp("runners"), workers=1) as whole:
        yield whole


async def quick_jobs(whole: Whole, client: AsyncClient) -> float:
    """Runs many small jobs, each of which must succeed at once. Returns the seconds."""
    begin = time.monotonic()
    payload = json.dumps({"marks": str(whole.marks)})
    specs = [job_pb2.JobSpec(task="quick", payload=payload) for _ in range(QUICK)]
    handles = await client.submit_many(specs)
    whole.told.accepted |= {handle.id for handle in handles}
    for handle in handles:
        assert await handle.result(BOUND) == 1, "another job's crash is not its own"
    return time.monotonic() - begin


@pytest.mark.parametrize("how", ["SIGSEGV", "exit", "SIGKILL"])
async def test_a_poison_job_is_dead_lettered_and_harms_nobody(whole: Whole, how: str) -> None:
    async with whole.client() as client:
        await workers_up(client, 1)
        [worker] = await client.workers()
        calm = await quick_jobs(whole, client)
        begin = time.monotonic()
        handle = await whole.submit(client, "poison", how=how)
        busy = await quick_jobs(whole, client)
        job = await whole.ended(handle)
        seconds = time.monotonic() - begin
        assert job.state == DEAD
        assert [a.failure_class for a in job.attempts] == [CRASH] * 3
        late = [
            attempt.end_time.ToDatetime().timestamp() - float(mark[-1])
            for attempt, mark in zip(job.attempts, whole.executions(handle.id), strict=True)
        ]
        await history(client, handle.id)
        assert [w.pid for w in await client.workers()] == [worker.pid], "the actor lives"
        assert len(whole.executions(handle.id)) == 3
    rates = f"{QUICK / calm:.0f} and {QUICK / busy:.0f} jobs/s"
    whole.report(10, seconds, by=how, noticed_in=f"{max(late):.2f} s", calm_and_poisoned=rates)
    assert max(late) < LEASE / 2, "the class is known at once, by no lease that has run out"


async def test_a_job_without_memory_asks_for_more_each_time(whole: Whole) -> None:
    async with whole.client() as client:
        await workers_up(client, 1)
        begin = time.monotonic()
        handle = await whole.submit(client, "hungry", mebibytes=512, limit=128)
        job = await whole.ended(handle)
        seconds = time.monotonic() - begin
        assert job.state == DEAD
        assert [a.failure_class for a in job.attempts] == [OUT_OF_MEMORY] * 3
        await history(client, handle.id)
        asked = [64 * MIB]
        for attempt in job.attempts[:-1]:
            asked.append(int(max(asked[-1], peak_of(attempt)) * 1.5))
        last = await memory_asked(whole, handle.id)
        assert last == asked[-1], "half as much again as it had, twice, and no third time"
        [worker] = await client.workers()
        enough = await whole.submit(client, "hungry", mebibytes=16, limit=128)
        assert await enough.result(BOUND) == 16 * MIB, "the limit was that attempt's alone"
        assert [w.pid for w in await client.workers()] == [worker.pid]
    whole.report(11, seconds, attempts=3, mebibytes=[size // MIB for size in asked])


def peak_of(attempt: job_pb2.Attempt) -> int:
    """The most memory that its process had, in bytes."""
    info = rpc.ErrorInfo()
    assert any(detail.Unpack(info) for detail in attempt.error.details)
    return int(info.metadata["peak_bytes"])


async def memory_asked(whole: Whole, job_id: str) -> int:
    """What the next attempt of a job would ask for, in bytes."""
    source = read_beside(whole.url)
    [[needs]] = await source.rows(select(jobs.c.needs_json).where(jobs.c.id == job_id), {})
    await source.close()
    return int(json.loads(needs)["memory_bytes"])


async def test_a_child_that_ignores_term_dies_with_its_group(whole: Whole) -> None:
    async with whole.client() as client:
        await workers_up(client, 1)
        handle = await whole.submit(client, "deaf")
        _, runner, program, grandchild, quoted = await whole.running(handle)
        film = Path(os.fsdecode(unquote_to_bytes(quoted)))
        assert film.read_text() == "half a film"
        begin = time.monotonic()
        await handle.cancel("enough")
        gone([int(runner), int(program), int(grandchild)], BOUND)
        seconds = time.monotonic() - begin
        job = await whole.ended(handle)
        assert job.state == CANCELLED
        await history(client, handle.id)
        while film.parent.exists():
            assert time.monotonic() - begin < BOUND, "its files are left"
    assert seconds < USUAL_GRACE, "its own grace is kept to"
    whole.report(14, seconds, grace=f"{GRACE:g} s", left=0)


def _may_limit_memory() -> bool:
    """True for root of a machine whose memory groups (version 1) can be made."""
    return os.geteuid() == 0 and os.access(CGROUP / "memory.limit_in_bytes", os.W_OK)


# Elsewhere the kernel is not asked; the words of a worker whose kernel killed are tested with it.
if _may_limit_memory():

    @pytest.fixture
    def group() -> Iterator[Path]:
        """A memory group of 256 MiB."""
        made = CGROUP / f"longshore-{os.getpid()}"
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(str(256 * MIB))
        yield made
        until(lambda: not (made / "cgroup.procs").read_text())
        made.rmdir()

    def test_the_kernel_kills_for_memory_and_the_worker_says_so(
        group: Path, tmp_path: Path
    ) -> None:
        """A real worker in a real group; its runner is the largest in it."""
        command = [sys.executable, str(HERE / "starved.py"), str(group), str(tmp_path)]
        path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["class"] == OUT_OF_MEMORY
        assert told["signal"] == "SIGKILL"
        assert told["after"] == 16 * MIB, "the worker lives and goes on"
        print(f"fault row 11: recovered in {told['seconds']:.2f} s (killed by the kernel)")
