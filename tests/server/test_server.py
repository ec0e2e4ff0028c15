"""The server as a process sees it: its port, its health, its reflection, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1.job_service_pb2 import ListJobsRequest, WatchProgressRequest
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from longshore_server import ListenError, LongshoreServer, PortTaken, add_services, catalogue
from longshore_server import server as server_module
from longshore_server.mailbox import RevisionWaiter
from longshore_store.model import StoreUnavailable
from tests.server.harness import DEADLINE, Harness, Refused, make_settings, request

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_taken_port_is_one_clear_line(harness: Harness) -> None:
    listen = f"127.0.0.1:{harness.server.port}"
    second = LongshoreServer(harness.store, make_settings(), listen=listen)
    with pytest.raises(PortTaken) as caught:
        await second.start()
    assert str(caught.value).startswith(f"{listen} is taken")
    assert "\n" not in str(caught.value)


async def test_address_of_another_machine(harness: Harness) -> None:
    server = LongshoreServer(harness.store, make_settings(), listen="192.0.2.1:50051")
    with pytest.raises(ListenError, match="cannot listen on"):
        await server.start()


async def test_health_by_service(harness: Harness) -> None:
    stub: Any = health_pb2_grpc.HealthStub(harness.channel)
    for name in ("", "longshore.v1.JobService", "longshore.v1.QueueService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(harness: Harness, version: str) -> None:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    call: Any = harness.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([ask]))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"longshore.v1.JobService", "longshore.v1.PoolService", "grpc.health.v1.Health"} <= names


async def test_unary_calls_finish_before_the_end(harness: Harness) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    write = harness.store.submit_jobs

    async def slow(jobs: object) -> object:
        entered.set()
        async with asyncio.timeout(DEADLINE):
            await leave.wait()
        return await write(jobs)  # type: ignore[arg-type]

    harness.store.submit_jobs = slow  # type: ignore[method-assign,assignment]
    submit = asyncio.ensure_future(harness.jobs.Submit(request()))
    async with asyncio.timeout(DEADLINE):
        await entered.wait()
        stopping = asyncio.ensure_future(harness.server.stop())
        await asyncio.sleep(0)
        leave.set()
        assert (await submit).job.job_id
        await stopping


async def test_not_healthy_comes_first(harness: Harness) -> None:
    stub: Any = health_pb2_grpc.HealthStub(harness.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    stopping = asyncio.ensure_future(harness.server.stop(60))
    async with asyncio.timeout(DEADLINE):  # the watch of health does not hold up the stop
        assert (await watch.read()).status == NOT_SERVING
        await stopping


async def test_a_client_that_never_reads_keeps_health_from_nobody(harness: Harness) -> None:
    told, deaf = await asyncio.open_connection("127.0.0.1", harness.server.port)
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Watch"),
        (b":authority", b"deaf"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    headers = b"".join(
        b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields
    )
    deaf.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    deaf.write(_frame(4, 0, 0, b"\0\4" + bytes(4)))  # SETTINGS: a window of nothing
    deaf.write(_frame(1, 4, 1, headers) + _frame(0, 1, 1, bytes(5)))
    stub: Any = health_pb2_grpc.HealthStub(harness.channel)
    async with asyncio.timeout(DEADLINE):
        while True:  # until its handler writes: the headers of its answer are here
            head = await told.readexactly(9)
            await told.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 1:
                break
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == SERVING
        harness.server._health.report(serving=False)
        assert (await watch.read()).status == NOT_SERVING
        await harness.server.stop(0.5)
    deaf.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return b"%b%c%c%b%b" % (
        len(body).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), body
    )  # fmt: skip


async def test_a_server_that_has_lost_its_store_says_so_and_sends_watches_away(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LOST_AFTER", 0.0)
    monkeypatch.setattr(harness.server.services.catalogue, "_period", 0.02)
    monkeypatch.setattr(server_module, "_LOOK_PERIOD", 0.02)
    health: Any = health_pb2_grpc.HealthStub(harness.channel)
    said = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await said.read()).status == SERVING
    job = await harness.submit()
    await harness.start(job.job_id)  # only one that waits is shown with what the store offers
    request = WatchProgressRequest(job_id=job.job_id)
    watch: Any = harness.jobs.WatchProgress(request, timeout=DEADLINE)
    assert (await watch.read()).HasField("snapshot")

    async def lost() -> object:
        raise StoreUnavailable("it is cut off")

    monkeypatch.setattr(harness.store, "list_tasks", lost)
    async with asyncio.timeout(DEADLINE):
        assert (await said.read()).status == NOT_SERVING
        while not (event := await watch.read()).HasField("reconnect"):
            assert event.HasField("heartbeat")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert Refused(caught.value).reason == "STORE_UNAVAILABLE"
        late: Any = harness.jobs.WatchProgress(request, timeout=DEADLINE)
        while not (event := await late.read()).HasField("reconnect"):
            assert event.HasField("snapshot")
        monkeypatch.delattr(harness.store, "list_tasks")
        assert (await said.read()).status == SERVING
    with harness.server.services.hub.attached(job.job_id, box := RevisionWaiter(0, 99)):
        assert not box.done


async def test_services_on_a_given_server(harness: Harness, tmp_path: Path) -> None:
    server = grpc.aio.server()
    services = add_services(server, harness.store, make_settings())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    services.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert (await JobServiceStub(channel).ListJobs(ListJobsRequest())).jobs == []
    await server.stop(0)
    await services.stop()
