"""Handles, and what else a client reads."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import grpc
import pytest

from longshore import errors
from longshore.aio import AsyncClient
from longshore.v1 import job_pb2, job_service_pb2
from tests.client.fake import DEADLINE, Cut, FakeService, serving

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


async def test_result_is_parsed_json(service: FakeService, client: AsyncClient) -> None:
    service.add().end(SUCCEEDED, '{"width": 3}')
    assert await client.handle("job-1").result(timeout=DEADLINE) == {"width": 3}


async def test_a_result_that_is_known_needs_no_call(
    service: FakeService, client: AsyncClient
) -> None:
    service.add().end(SUCCEEDED, "null")
    handle = await client.get("job-1")
    assert await handle.result() is None
    assert service.requests["WatchProgress"] == []


async def test_a_failure_that_was_redriven_is_not_the_result(
    service: FakeService, client: AsyncClient
) -> None:
    history = service.add().end(job_pb2.JOB_STATE_DEAD_LETTERED, "")
    handle = await client.get("job-1")
    with pytest.raises(errors.JobDeadLettered):
        await handle.result()
    history.events.pop()
    history.state(job_pb2.JOB_STATE_QUEUED, "REDRIVEN").end(SUCCEEDED, "5")
    assert await handle.result() == 5


async def test_a_success_in_basic_view_still_fetches_its_result(
    service: FakeService, client: AsyncClient
) -> None:
    service.add().end(SUCCEEDED, "5")
    handle = client.handle("job-1")
    handle.job.state = SUCCEEDED
    assert await handle.result() == 5


async def test_result_survives_cuts(service: FakeService, client: AsyncClient) -> None:
    service.add().state(job_pb2.JOB_STATE_RUNNING).end(SUCCEEDED, "1")
    service.cuts.extend([Cut(0), Cut(1, grpc.StatusCode.RESOURCE_EXHAUSTED), Cut(2, "eof")])
    assert await client.handle("job-1").result() == 1


@pytest.fixture
def held_port() -> Iterator[str]:
    """An address of which nobody takes the port between two servers of this process."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as grpc does
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


async def test_result_survives_a_restart_of_the_server(
    service: FakeService, held_port: str
) -> None:
    service.add().state(job_pb2.JOB_STATE_RUNNING).end(SUCCEEDED, "1")
    service.cuts.append(Cut(1, "eof"))
    async with contextlib.AsyncExitStack() as servers:
        target = await servers.enter_async_context(serving(service, held_port))
        async with AsyncClient(target, reconnect_timeout=60) as client:
            watch = client.watch("job-1")
            first = await anext(watch)
            await servers.aclose()
            await servers.enter_async_context(serving(service, target))
            rest = [event.WhichOneof("event") async for event in watch]
    assert first.HasField("snapshot")
    assert rest == ["state_change", "state_change", "terminal"]


async def test_result_has_a_deadline(service: FakeService, client: AsyncClient) -> None:
    service.add()
    service.holds = True
    handle = await client.get("job-1")
    with pytest.raises(errors.DeadlineExceeded, match=r"job-1 is QUEUED after 0\.05 s"):
        await handle.result(timeout=0.05)


async def test_artifacts_by_name(service: FakeService, client: AsyncClient) -> None:
    history = service.add().end(SUCCEEDED, "1")
    history.ended.result.artifacts["thumb.png"].uri = "file:///thumb.png"
    artifacts = await client.handle("job-1").artifacts()
    assert artifacts["thumb.png"].uri == "file:///thumb.png"


async def test_cancel_and_retry_refresh_the_handle(
    service: FakeService, client: AsyncClient
) -> None:
    service.add()
    handle = await client.get("job-1")
    await handle.cancel("no longer needed", force=True)
    assert handle.job.state == job_pb2.JOB_STATE_CANCELLING
    assert repr(handle) == "<JobHandle job-1 CANCELLING>"
    (request,) = service.requests["Cancel"]
    assert (request.reason, request.force) == ("no longer needed", True)
    assert (await handle.retry("again")).job_id == "job-1"
    assert (await handle.status()).job.job_id == "job-1"


async def test_a_long_poll_asks_for_a_newer_revision(
    service: FakeService, client: AsyncClient
) -> None:
    service.add()
    await client.status("job-1", job_service_pb2.JOB_VIEW_BASIC, after_revision=4, wait=20)
    (request,) = service.requests["Status"]
    assert (request.after_revision, request.wait.seconds) == (4, 20)


async def test_a_list_goes_over_its_pages(service: FakeService, client: AsyncClient) -> None:
    for number in range(5):
        service.add(f"job-{number}")
    found = [job.job_id async for job in client.list("state = QUEUED", page_size=2)]
    assert found == [f"job-{number}" for number in range(5)]
    assert [request.page_token for request in service.requests["ListJobs"]] == ["", "2", "4"]


async def test_queues_pools_workers_and_tasks(service: FakeService, client: AsyncClient) -> None:
    assert [queue.name for queue in await client.queues()] == ["fast", "slow"]
    assert (await client.pause_queue("fast", "deploy")).pause_reason == "deploy"
    assert not (await client.resume_queue("fast")).paused
    assert [pool.name for pool in await client.pools()] == ["cpu"]
    assert [worker.pool for worker in await client.workers("gpu")] == ["gpu"]
    assert [task.name for task in await client.tasks()] == ["resize"]
    assert (await client.task("resize")).input_schema == '{"type": "object"}'


async def test_metadata_travels_with_every_call(service: FakeService) -> None:
    seen: list[str] = []
    service.on_enter = lambda context: seen.append(
        dict(context.invocation_metadata()).get("authorization", "")
    )
    service.add().end(SUCCEEDED, "1")
    metadata = [("authorization", "Bearer x")]
    async with serving(service) as target, AsyncClient(target, metadata=metadata) as client:
        await client.submit("resize")
        await client.handle("job-1").result()
    assert seen == ["Bearer x"] * 2


async def test_a_state_change_counts_also_after_progress(
    service: FakeService, client: AsyncClient
) -> None:
    """Its revision is a lower bound: the server knows no count of progress for the past."""
    history = service.add().state(job_pb2.JOB_STATE_RUNNING)
    for step in range(5):
        history.progress(step / 10)
    history.state(job_pb2.JOB_STATE_CANCELLING).end(job_pb2.JOB_STATE_CANCELLED)
    for event in history.events:
        if event.HasField("state_change"):
            event.revision = event.sequence
    handle = client.handle("job-1")
    seen = [handle.job.state async for event in handle.watch() if event.HasField("state_change")]
    assert seen[-2:] == [job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_CANCELLED]
    assert handle.job.state == job_pb2.JOB_STATE_CANCELLED
