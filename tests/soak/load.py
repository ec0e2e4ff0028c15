"""The load: submits under keys of its own, cancels some, watches some; notes what it is told."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from longshore import AsyncClient, JobNotFound, LongshoreError
from longshore.v1 import job_pb2

IN_FLIGHT = 64
SUBMIT_TIMEOUT = 120.0
WATCH_SHARE = 0.01
DUPLICATE_SHARE = 0.02
CANCEL_SHARE = 0.01
DEEP = 3000

# (share, steps, shortest and longest pause of a step, what the first attempt does)
MIX = (
    (0.70, 1, 0.0, 0.03, ""),
    (0.14, 1, 0.1, 1.0, ""),
    (0.06, 8, 0.1, 0.4, ""),
    (0.01, 20, 0.8, 1.2, ""),
    (0.04, 1, 0.0, 0.05, "error"),
    (0.02, 1, 0.0, 0.05, "crash"),
    (0.03, 1, 0.0, 0.05, "permanent"),
)


@dataclass
class Told:
    """What the service said: jobs it accepted, and terminal states that were seen.

    faults: sentences about anything that must not happen.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    permanent: set[str] = field(default_factory=set)
    watched: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_submit: float = 0.0
    failed_submits: int = 0

    def saw(self, job_id: str, state: int) -> None:
        """Notes a terminal state; another one of the same job is a fault."""
        known = self.ended.setdefault(job_id, state)
        if known != state:
            self.faults.append(f"job {job_id} ended as {known}, and later as {state}")


class Load:
    """Submits at `rate` jobs a second until told to stop."""

    def __init__(self, client: AsyncClient, ledger: Path, seed: int, rate: float) -> None:
        self.told = Told()
        self._client = client
        self._ledger = str(ledger)
        self._random = random.Random(seed)
        self._seed = seed
        self._rate = rate
        self._number = 0
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deep = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then waits for what is on its way."""
        depth = asyncio.create_task(self._look_at_depth(stop))
        due = time.monotonic()
        while not stop.is_set():
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self._deep:
                await self._room.acquire()
                self._spawn(self._one(self._choose()))
        depth.cancel()
        await self.settle()

    async def settle(self) -> None:
        """Waits for what is on its way, watches included."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_at_depth(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(LongshoreError):
                self._deep = sum(q.waiting for q in await self._client.queues()) > DEEP
            await asyncio.sleep(1.0)

    def _choose(self) -> dict[str, object]:
        chosen = self._random.choices(MIX, weights=[row[0] for row in MIX])[0]
        _, steps, low, high, first = chosen
        pause = round(self._random.uniform(low, high), 3)
        return {"ledger": self._ledger, "steps": steps, "pause": pause, "first": first}

    async def _one(self, payload: dict[str, object]) -> None:
        self._number += 1
        key = f"soak-{self._seed}-{self._number}"
        try:
            began = time.monotonic()
            job_id = await self._submit(key, payload)
            self.told.slowest_submit = max(self.told.slowest_submit, time.monotonic() - began)
        except LongshoreError as error:
            self.told.failed_submits += 1
            if self.told.failed_submits <= 20:
                self.told.faults.append(f"submit {key} failed: {type(error).__name__}: {error}")
            return
        finally:
            self._room.release()
        await self._follow(job_id, key, payload)

    async def _submit(self, key: str, payload: dict[str, object]) -> str:
        handle = await self._client.submit(
            "work", payload, idempotency_key=key, timeout=SUBMIT_TIMEOUT
        )
        known = self.told.accepted.setdefault(handle.id, key)
        if known != key:
            self.told.faults.append(f"job {handle.id} was given to {known} and to {key}")
        return handle.id

    async def _follow(self, job_id: str, key: str, payload: dict[str, object]) -> None:
        if payload["first"] == "permanent":
            self.told.permanent.add(job_id)
        dice = self._random.random()
        if dice < DUPLICATE_SHARE:
            again = await self._submit(key, payload)
            if again != job_id:
                self.told.faults.append(f"key {key} gave {job_id} and {again}")
        elif dice < DUPLICATE_SHARE + CANCEL_SHARE:
            self.told.cancelled.add(job_id)
            with suppress(LongshoreError):
                await self._client.cancel(job_id, reason="the soak", timeout=SUBMIT_TIMEOUT)
        elif dice < DUPLICATE_SHARE + CANCEL_SHARE + WATCH_SHARE:
            self._spawn(self._watch(job_id))

    async def _watch(self, job_id: str) -> None:
        """A watch must see a dense sequence from its snapshot on, and one terminal event."""
        sequence, terminals = None, 0
        try:
            async for event in self._client.handle(job_id).watch():
                kind = event.WhichOneof("event")
                if kind in ("state_change", "log_chunk"):
                    if sequence is not None and event.sequence != sequence + 1:
                        text = f"watch of {job_id}: {event.sequence} after {sequence}"
                        self.told.faults.append(text)
                    sequence = event.sequence
                elif kind == "snapshot":
                    sequence = event.sequence
                elif kind == "terminal":
                    terminals += 1
                    self.told.saw(job_id, event.terminal.job.state)
        except JobNotFound:
            self.told.faults.append(f"watch of {job_id}: the job is not found")
        except LongshoreError as error:
            self.told.faults.append(f"watch of {job_id} ended with {error}")
            return
        self.told.watched["ended"] += 1
        if terminals != 1:
            self.told.faults.append(f"watch of {job_id}: {terminals} terminal events")


def name_of(state: int) -> str:
    """SUCCEEDED for JOB_STATE_SUCCEEDED."""
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_")
