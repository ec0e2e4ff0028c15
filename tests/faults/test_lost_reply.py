"""Row 1: the server dies after it committed a job and before it replied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore import AsyncClient
from longshore.seams import VARIABLE
from longshore.v1 import job_pb2
from tests.e2e.ports import reserved_port
from tests.e2e.service import Service
from tests.faults.closing import Told, close_books

SUBMITS = 7
DIES_AT = 5
BOUND = 60.0


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The whole service; each life of it dies at its fifth commit of a Submit."""
    monkeypatch.setenv(VARIABLE, f"submit.committed=kill@{DIES_AT}")
    service = Service(tmp_path)
    with reserved_port() as port:
        service.start(f"127.0.0.1:{port}")
        yield service
        if service.process is not None and service.process.poll() is None:
            service.stop()


async def test_the_retry_of_a_lost_reply_gets_the_same_job(
    service: Service, tmp_path: Path, seed: int
) -> None:
    told, marks = Told(1, seed), tmp_path / "marks"
    payload = {"path": str(marks)}
    async with AsyncClient(service.target, timeout=BOUND) as client:
        keys, slowest = {}, 0.0
        for n in range(SUBMITS):
            begin = time.monotonic()
            handle = await client.submit("marked", payload, idempotency_key=f"key-{n}")
            keys[f"key-{n}"] = handle.id
            slowest = max(slowest, time.monotonic() - begin)
        told.accepted |= set(keys.values())
        assert len(told.accepted) == SUBMITS
        again = await client.submit("marked", payload, idempotency_key=f"key-{DIES_AT - 1}")
        assert again.id == keys[f"key-{DIES_AT - 1}"], "the job whose reply was lost"
        async with asyncio.timeout(BOUND):
            ended = [await client.handle(job_id).wait() for job_id in told.accepted]
        assert {job.state for job in ended} == {job_pb2.JOB_STATE_SUCCEEDED}
        told.ended.update({job.job_id: job.state for job in ended})
    deaths = service.log.read_text().count("the service died (SIGKILL)")
    assert deaths == 1
    assert service.stop() == 0
    books = await close_books(f"sqlite:///{service.data / 'longshore.db'}", told, marks)
    print(told.heal_line(slowest, deaths=deaths, extra_executions=books.extra))
