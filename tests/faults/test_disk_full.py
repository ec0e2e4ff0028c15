"""Row 18: the disk of a SQLite store is full, by a limit of the kernel and by one of the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.serving import Serving
from tests.server.harness import Refused

if TYPE_CHECKING:
    from longshore.v1.job_service_pb2_grpc import JobServiceAsyncStub

ROOM = 2 * 1024 * 1024
SUBMITS = 1000
REFUSALS = 20
RUNNING = 10
BOUND = 60.0
REQUEST = pb.SubmitRequest(
    spec=job_pb2.JobSpec(task="work", payload='{"filler": "%s"}' % ("x" * 20_000))
)


@pytest.mark.parametrize("limit", ["quota", "pages"])
async def test_a_full_disk_is_said_and_passes(limit: str, tmp_path: Path, seed: int) -> None:
    told, gate = Told(18, seed), tmp_path / "open"
    server = Serving(tmp_path)
    async with (
        server,
        AsyncClient(server.target, timeout=BOUND) as client,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub = JobServiceStub(channel)
        running = [await client.submit("work", {"gate": str(gate)}) for _ in range(RUNNING)]
        told.accepted |= {handle.id for handle in running}
        await recovered(lambda: _run(client, RUNNING), BOUND)
        await server.ask(limit, ROOM)
        refusals = await submit_until_refused(stub, told)
        check_refusals(refusals)
        for job_id in told.accepted:  # what is accepted is read, and nothing is lost
            await stub.Status(pb.StatusRequest(job_id=job_id))
        gate.touch()
        await recovered(lambda: _met_the_limit(server, client), BOUND)
        await server.ask(limit, None)
        seconds = await recovered(lambda: all_ended(client), BOUND)
        told.accepted.add((await client.submit("work")).id)
        await recovered(lambda: all_ended(client), BOUND)
        await server.stop()
    books = await close_books(server.url, told, server.marks)
    assert books.extra == 0, "what had run when there was no room is not run again"
    counts = {"accepted": len(told.accepted), "refused": len(refusals)}
    print(told.heal_line(seconds, limit=limit, **counts, extra_executions=books.extra))


async def submit_until_refused(stub: JobServiceAsyncStub, told: Told) -> list[Refused]:
    """Submits until the store has refused some."""
    refusals: list[Refused] = []
    for _ in range(SUBMITS):
        try:
            told.accepted.add((await stub.Submit(REQUEST, timeout=BOUND)).job.job_id)
        except grpc.aio.AioRpcError as error:
            refusals.append(Refused(error))
            if len(refusals) == REFUSALS:
                return refusals
    raise AssertionError(f"only {len(refusals)} of {SUBMITS} were refused")


def check_refusals(refusals: list[Refused]) -> None:
    """Each says that the disk is full, what to do, and when to come back."""
    for refusal in refusals:
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "STORE_FULL"
        assert "full" in refusal.message
        assert "make room" in refusal.message
        assert refusal.delay > 0


async def _run(client: AsyncClient, count: int) -> bool:
    return len([job async for job in client.list("state = RUNNING")]) == count


async def _met_the_limit(server: Serving, client: AsyncClient) -> bool:
    """Outcomes found the last room that there was, or the scheduler keeps them until there is."""
    return "the store is away" in server.log.read_text() or await all_ended(client)
