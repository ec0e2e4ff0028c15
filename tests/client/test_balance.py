"""Several servers behind one target: calls go round those that serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from longshore import calls, errors
from longshore.aio import AsyncClient
from tests.client.fake import DEADLINE, FakeService, HealthServicer, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SEVERAL = 6


async def test_calls_go_round_the_servers_that_serve() -> None:
    one, other = FakeService(), FakeService()
    healths = [HealthServicer(), HealthServicer()]
    for servicer in healths:
        await servicer.set("", SERVING)
    async with (
        serving(one, health=healths[0]) as first,
        serving(other, health=healths[1]) as second,
        AsyncClient(f"ipv4:{first},{second}") as client,
    ):

        async def submit_until(condition: Callable[[list[int]], bool]) -> None:
            """Submits several at a time; the condition is told how many each server got."""
            async with asyncio.timeout(DEADLINE):
                while True:
                    before = [_count(one), _count(other)]
                    for _ in range(SEVERAL):
                        await client.submit("resize")
                    if condition([_count(one) - before[0], _count(other) - before[1]]):
                        return

        await submit_until(lambda got: got == [SEVERAL // 2, SEVERAL // 2])
        await healths[0].set("", NOT_SERVING)
        await submit_until(lambda got: got == [0, SEVERAL])
        await healths[0].set("", SERVING)
        await submit_until(lambda got: got == [SEVERAL // 2, SEVERAL // 2])


@contextmanager
def one_try() -> Iterator[None]:
    """No call is made again, however much time it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "FIRST_BACKOFF", 2 * DEADLINE)
        patch.setattr(calls, "LONGEST_BACKOFF", 2 * DEADLINE)
        yield


async def test_a_server_that_alone_does_not_serve_is_no_missing_server() -> None:
    health = HealthServicer()
    await health.set("", NOT_SERVING)
    async with serving(FakeService(), health=health) as target, AsyncClient(target) as client:
        says = pytest.raises(errors.Unavailable, match="says that it cannot serve now")
        with one_try(), says as caught:
            await client.submit("resize", timeout=DEADLINE)
        assert "longshore up" not in str(caught.value)
        waiting = asyncio.create_task(client.submit("resize", timeout=DEADLINE))
        await health.set("", SERVING)
        async with asyncio.timeout(DEADLINE):
            assert (await waiting).created


class Strict(grpc.aio.ServerInterceptor):
    """Lets nobody in without an authorization, as a proxy may."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if dict(details.invocation_metadata).get("authorization") == "Bearer x":
            return handler

        async def refuse(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        streams = handler is not None and handler.response_streaming
        make = grpc.unary_stream_rpc_method_handler if streams else None
        return (make or grpc.unary_unary_rpc_method_handler)(refuse)


async def test_who_must_say_who_he_is_gets_in() -> None:
    async with serving(FakeService(), interceptors=[Strict()]) as target:
        metadata = [("authorization", "Bearer x")]
        async with AsyncClient(target, metadata=metadata) as client:
            assert (await client.submit("resize", timeout=DEADLINE)).created
        async with AsyncClient(target, metadata=[("authorization", "Bearer y")]) as client:
            with pytest.raises(errors.Unauthenticated, match="who are you"):
                await client.submit("resize", timeout=DEADLINE)
        async with AsyncClient(target) as client:
            says = pytest.raises(errors.Unavailable, match="where it demands metadata")
            with one_try(), says:
                await client.submit("resize", timeout=DEADLINE)


class Hanging(FakeService):
    """Takes calls, and never answers them; notes the seconds that each would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[float] = []

    async def Submit(self, request: Any, context: Any) -> Any:  # noqa: N802 - of the contract
        self.requests["Submit"].append(request)
        self.left.append(context.time_remaining())
        await asyncio.Event().wait()


async def test_a_server_that_hangs_costs_a_try_and_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "SHORTEST_TRY", 0.1)
    # Its time stands still: a slow machine makes more tries, and all have half a second.
    monkeypatch.setattr(calls, "FIRST_BACKOFF", 0.0)
    timing = calls.Timing(clock=lambda: 0.0)
    hanging, service = Hanging(), FakeService()
    keys: list[str] = []
    async with (
        serving(hanging) as first,
        serving(service) as second,
        AsyncClient(f"ipv4:{first},{second}", timeout=1.0, timing=timing) as client,
    ):
        async with asyncio.timeout(DEADLINE):
            while not (hanging.requests["ListTasks"] and service.requests["ListTasks"]):
                await client.tasks()  # from now on it is connected to both
            while not hanging.left:
                keys.append(f"job {len(keys)}")
                await client.submit("resize", idempotency_key=keys[-1])
    asked = {request.idempotency_key for request in service.requests["Submit"]}
    assert asked == set(keys)
    assert {request.idempotency_key for request in hanging.requests["Submit"]} <= asked
    assert max(hanging.left) < 0.75


def _count(service: FakeService) -> int:
    return len(service.requests["Submit"])
