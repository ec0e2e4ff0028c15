"""Row 3: 100 parallel Submits with one key, half with another payload."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, close_books, recovered
from tests.faults.serving import Serving
from tests.server.harness import Refused

if TYPE_CHECKING:
    from longshore.v1.job_service_pb2_grpc import JobServiceAsyncStub

SUBMITS = 100
BOUND = 60.0


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def servers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Serving, ...]]:
    """One over SQLite; two, of which one leads, over Postgres."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    names = ("a", "b") if url else ("a",)
    async with AsyncExitStack() as stack:
        yield tuple(
            [await stack.enter_async_context(Serving(tmp_path, url, name=name)) for name in names]
        )


async def submit(stub: JobServiceAsyncStub, key: str, payload: str) -> pb.SubmitResponse | Refused:
    spec = job_pb2.JobSpec(task="work", payload=payload)
    try:
        return await stub.Submit(pb.SubmitRequest(idempotency_key=key, spec=spec), timeout=BOUND)
    except grpc.aio.AioRpcError as error:
        return Refused(error)


async def test_one_key_is_one_job(servers: tuple[Serving, ...], seed: int) -> None:
    told = Told(3, seed)
    payloads = ["{}", '{"chunks": 1}'] * (SUBMITS // 2)
    random.Random(seed).shuffle(payloads)
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    servers[n % len(servers)].target,
                    options=[("grpc.use_local_subchannel_pool", 1)],
                )
            )
            for n in range(10)
        ]
        answers = await asyncio.gather(
            *(
                submit(JobServiceStub(channels[n % len(channels)]), "one", payload)
                for n, payload in enumerate(payloads)
            )
        )
    job_id = check_answers(payloads, answers)
    told.accepted.add(job_id)
    async with AsyncClient(servers[0].target) as client:
        seconds = await recovered(lambda: _ended(client, job_id), BOUND)
    for server in servers:
        await server.stop()
    books = await close_books(servers[0].url, told, servers[0].marks)
    print(told.heal_line(seconds, submits=SUBMITS, extra_executions=books.extra))


def check_answers(payloads: list[str], answers: list[pb.SubmitResponse | Refused]) -> str:
    """One job; the same payload gets it, the other is told of it. Returns its id."""
    [(job_id, first)] = [
        (answer.job.job_id, payload)
        for payload, answer in zip(payloads, answers, strict=True)
        if isinstance(answer, pb.SubmitResponse) and answer.created
    ]
    for payload, answer in zip(payloads, answers, strict=True):
        if payload == first:
            assert isinstance(answer, pb.SubmitResponse)
            assert answer.job.job_id == job_id
        else:
            assert isinstance(answer, Refused)
            assert answer.code is grpc.StatusCode.ALREADY_EXISTS
            assert answer.resource == ("longshore.v1.Job", job_id)
    return job_id


async def _ended(client: AsyncClient, job_id: str) -> bool:
    return (await client.status(job_id)).job.state == job_pb2.JOB_STATE_SUCCEEDED
