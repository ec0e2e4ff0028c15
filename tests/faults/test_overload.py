"""Row 26: ten times as many Submits as the workers can do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.scale import times
from tests.faults.serving import Serving
from tests.server.harness import Refused

if TYPE_CHECKING:
    from longshore.v1.job_service_pb2_grpc import JobServiceAsyncStub

RUNNERS, RUN_TIME = 4, 0.1  # 40 jobs a second
OFFERED = 400
SECONDS = times(30, 3)
MAXIMUM_WAITING = 100
CALM = 20
NORMAL = 60.0
DEADLINE = 60.0
SLOWEST = 20.0  # also where the machine pauses; who waited for room would wait for up to 27 s
SETTINGS = {
    "queues": {"default": {"maximum_waiting": MAXIMUM_WAITING}},
    "pools": {"cpu": {"cpu": 4, "memory": 2**33, "maximum_runners": RUNNERS}},
}
SPEC = job_pb2.JobSpec(task="work", payload=f'{{"seconds": {RUN_TIME}}}')


@dataclass
class Load:
    """What became of many Submits: ids, seconds to each answer, refusals."""

    stub: JobServiceAsyncStub
    ids: set[str] = field(default_factory=set)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    async def submit(self) -> None:
        """One call, with a key of its own, that is not repeated."""
        begin = time.monotonic()
        try:
            answer = await self.stub.Submit(pb.SubmitRequest(spec=SPEC), timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            self.refused.append(time.monotonic() - begin)
            self.refusals.append(Refused(error))
        else:
            self.accepted.append(time.monotonic() - begin)
            self.ids.add(answer.job.job_id)

    async def offer(self, rate: float, count: int) -> None:
        """Calls at an even rate, whether or not earlier ones were answered."""
        begin, calls = time.monotonic(), []
        for n in range(count):
            await asyncio.sleep(begin + n / rate - time.monotonic())
            calls.append(asyncio.create_task(self.submit()))
        await asyncio.gather(*calls)


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]


async def test_an_overload_is_refused_early_and_passes(tmp_path: Path, seed: int) -> None:
    told = Told(26, seed)
    server = Serving(tmp_path, settings=SETTINGS)
    async with (
        server,
        AsyncClient(server.target) as client,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        before, during, after = (Load(JobServiceStub(channel)) for _ in range(3))
        await before.offer(CALM / 2, CALM)
        assert not before.refused
        await during.offer(OFFERED, OFFERED * SECONDS)
        begun = len(server.marks.read_text().splitlines())
        seconds = await recovered(lambda: _has_room(client), NORMAL)
        await after.offer(CALM / 2, CALM)
        assert not after.refused
        await recovered(lambda: all_ended(client), NORMAL)
        await server.stop()
    assert len(during.accepted) <= MAXIMUM_WAITING + begun + RUNNERS, "no more than there was room"
    check_refusals(during)
    assert max(p99(load.accepted) for load in (before, during, after)) < SLOWEST
    told.accepted |= before.ids | during.ids | after.ids
    books = await close_books(server.url, told, server.marks)
    slow = {name: f"{p99(s) * 1e3:.0f} ms" for name, s in latencies(before, during, after).items()}
    counts = {"offered": len(during.accepted) + len(during.refused), "refused": len(during.refused)}
    print(told.heal_line(seconds, **counts, **slow, extra_executions=books.extra))


def latencies(before: Load, during: Load, after: Load) -> dict[str, list[float]]:
    """By what they are called in the line that is printed."""
    return {
        "p99_before": before.accepted,
        "p99_accepted": during.accepted,
        "p99_refused": during.refused,
        "p99_after": after.accepted,
    }


def check_refusals(load: Load) -> None:
    """Who is refused is so soon, and told when to come back."""
    assert p99(load.refused) < SLOWEST
    for refusal in load.refusals:
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "QUEUE_FULL"
        assert refusal.delay >= 1


async def _has_room(client: AsyncClient) -> bool:
    [queue] = await client.queues()
    return queue.waiting < MAXIMUM_WAITING // 2
