"""A worker with real runners, and a scheduler of a few lines that waits on reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from longshore_cpu_workers.attempt import Attempt
from longshore_cpu_workers.binding import Binding
from longshore_cpu_workers.reaping import read_stat
from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.wire import (
    Assignment,
    Checkpointed,
    Failed,
    InputRef,
    Logged,
    Needs,
    Progressed,
    Report,
    Returned,
    Started,
    Succeeded,
)
from longshore_cpu_workers.worker import Worker

R = TypeVar("R", Started, Succeeded, Failed, Returned, Progressed, Logged, Checkpointed)
PATIENCE = 60.0  # well below the LONG of tasks: what ends by itself ends too late


def job(  # the fields of an assignment, with what most tests do not care about filled in
    job_id: str,
    task: str,
    payload: Any = None,
    *,
    fence: int = 1,
    needs: Needs | None = None,
    timeout: float | None = 600.0,
    grace: float = 0.2,
    inputs: tuple[InputRef, ...] = (),
    checkpoint: str | None = None,
) -> Assignment:
    text = json.dumps({} if payload is None else payload)
    needs = needs or Needs(cpu_millis=1000)
    return Assignment(job_id, fence, 1, task, "t", text, inputs, needs, timeout, grace, checkpoint)


class Bench:
    """A worker, and every report it made so far."""

    def __init__(self, folder: Path, *, cpus: int = 1, binding: Binding | None = None, **more: Any):
        self.artifacts = folder / "artifacts"
        self.scratch = folder / "scratch"
        settings: dict[str, Any] = {
            "worker_id": "w1",
            "pool": "cpu",
            "capacity": Needs(cpu_millis=1000 * cpus, memory_bytes=1 << 30),
            "artifacts": self.artifacts,
            "scratch": self.scratch,
            "modules": ("tasks_plain",),
            "term_grace": 0.3,
        }
        self.worker = Worker(WorkerSettings(**{**settings, **more}), binding)
        self.reports: list[Report] = []
        self.ack = 0

    async def assign(self, *batch: Assignment) -> None:
        await self.worker.assign(list(batch))

    async def poll(self, wait: float = PATIENCE, *, acknowledge: bool = True) -> list[Report]:
        reply = await self.worker.poll(self.ack, wait)
        if acknowledge:
            self.ack = reply.last
            self.reports += reply.reports
        return list(reply.reports)

    async def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            left = end - time.monotonic()
            assert left > 0, f"not within {PATIENCE} s; reports so far: {self.reports[-20:]}"
            await self.poll(min(left, 1.0))

    def of(self, kind: type[R], job_id: str | None = None) -> list[R]:
        return [
            r for r in self.reports if isinstance(r, kind) and (not job_id or r.job_id == job_id)
        ]

    def outcomes(self) -> dict[str, Succeeded | Failed | Returned]:
        ends = [r for r in self.reports if isinstance(r, Succeeded | Failed | Returned)]
        assert len({r.job_id for r in ends}) == len(ends), "an attempt ended twice"
        return {r.job_id: r for r in ends}

    async def outcome(self, job_id: str) -> Succeeded | Failed | Returned:
        await self.until(lambda: job_id in self.outcomes())
        return self.outcomes()[job_id]

    async def run(self, assignment: Assignment) -> Succeeded | Failed | Returned:
        await self.assign(assignment)
        return await self.outcome(assignment.job_id)

    async def failed(self, job_id: str) -> Failed:
        outcome = await self.outcome(job_id)
        assert isinstance(outcome, Failed), outcome
        return outcome

    async def value(self, job_id: str) -> Any:
        outcome = await self.outcome(job_id)
        assert isinstance(outcome, Succeeded), outcome
        return json.loads(outcome.value)

    async def started(self, job_id: str) -> Started:
        await self.until(lambda: bool(self.of(Started, job_id)))
        return self.of(Started, job_id)[0]

    async def checkpoint(self, job_id: str) -> Any:
        await self.until(lambda: bool(self.of(Checkpointed, job_id)))
        return json.loads(self.of(Checkpointed, job_id)[-1].value)

    def tiny(self, *tasks: str) -> None:
        """Lets others be handed ahead behind these; a busy machine may measure too long a time."""
        assert self.worker._supervision is not None
        estimates = self.worker._supervision.dispatcher.estimates
        estimates._seconds |= dict.fromkeys(tasks, 0.001)

    def attempt(self, job_id: str) -> Attempt:
        """An attempt as the worker sees it, for its deadlines; it has not ended."""
        (found,) = (a for a in self.worker._register if a.assignment.job_id == job_id)
        return found

    def runner_pids(self) -> list[int]:
        supervision = self.worker._supervision
        return [] if supervision is None else [runner.pid for runner in supervision.fleet]


def alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


async def gone(*pids: int) -> None:
    """Waits until processes have ended."""
    end = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        assert time.monotonic() < end, [pid for pid in pids if alive(pid)]
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def bench(folder: Path, **more: Any) -> Any:
    """A worker that is stopped at the end, with a check that nothing of it is left."""
    made = Bench(folder, **more)
    made.worker.start()
    try:
        yield made
    finally:
        pids = made.runner_pids()
        await made.worker.stop(0.0)
        await made.worker.close()
        assert not [pid for pid in pids if alive(pid)]
