"""The task of the fault tests, and fake workers that do it: each execution leaves a mark."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from longshore import Context, Resources, Timeouts, task
from longshore_cpu_workers.wire import Assignment, Logged, Started, Succeeded
from tests.scheduler.fake_cluster import FakeWorker

_LOOK = 0.02


class Work(BaseModel):
    """What one job does: log chunks of `size` characters, wait for a file, take its time.

    pause, seconds: seconds. gate: a file that is waited for and ends the chunks, "" for none.
    filler: only takes room in the store.
    """

    chunks: int = 0
    size: int = 0
    pause: float = 0.0
    gate: str = ""
    seconds: float = 0.0
    filler: str = ""


@task(resources=Resources(cpu=0.01), timeouts=Timeouts(cancel_grace=1.0))
def work(ctx: Context, params: Work) -> None:
    """Declared here, done by the fake workers."""


class Workers:
    """The behaviour of fake workers.

    Args:
        marks: a file; gets a line "job fence" for each execution, which outlives a SIGKILL.
    """

    def __init__(self, marks: Path) -> None:
        self._marks = os.open(marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, worker: FakeWorker, job: Assignment) -> None:
        """A `Behaviour`."""
        os.write(self._marks, f"{job.job_id} {job.fence}\n".encode())
        worker.report(Started(job.job_id, job.fence, worker.clock()))
        params = Work.model_validate_json(job.payload)
        if params == Work():
            _succeed(worker, job)
            return
        running = asyncio.create_task(_do(worker, job, params))
        self._running.add(running)
        running.add_done_callback(self._running.discard)


async def _do(worker: FakeWorker, job: Assignment, params: Work) -> None:
    began = worker.clock()
    line = "x" * params.size
    for _ in range(params.chunks):
        await asyncio.sleep(params.pause)
        if not _holds(worker, job):
            return
        if params.gate and Path(params.gate).exists():
            break
        worker.report(Logged(job.job_id, job.fence, worker.clock(), (line,)))
    while params.gate and not Path(params.gate).exists():
        await asyncio.sleep(_LOOK)
    await asyncio.sleep(params.seconds)
    if _holds(worker, job):
        _succeed(worker, job, worker.clock() - began)


def _holds(worker: FakeWorker, job: Assignment) -> bool:
    held = worker.jobs.get(job.job_id)
    return held is not None and held.fence == job.fence


def _succeed(worker: FakeWorker, job: Assignment, seconds: float = 1e-5) -> None:
    worker.report(Succeeded(job.job_id, job.fence, worker.clock(), seconds, "null"))
