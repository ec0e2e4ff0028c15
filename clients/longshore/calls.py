"""One channel, and calls over it that are repeated where that is safe."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from longshore import error_mapping
from longshore.errors import LongshoreError
from longshore.targets import full_target, is_loopback
from longshore.v1 import (
    job_service_pb2_grpc,
    pool_service_pb2_grpc,
    queue_service_pb2_grpc,
    task_service_pb2_grpc,
)

if TYPE_CHECKING:
    Request = TypeVar("Request")
    Response = TypeVar("Response")
    Method = grpc.aio.UnaryUnaryMultiCallable[Request, Response]

SHORTEST_TRY = 10.0
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0
LONGEST_HINT = 3600.0
# What is longer for grpc, such as infinity, is over at once.
LONGEST_CALL = 365 * 86400.0
# Calls go round all addresses of the target whose server says that it serves: one that stops or
# has lost its store gets none. One without the service of health counts as serving.
_ROUND_SERVING = """{
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""}
}"""
# Health is asked for without the metadata of the client. Who demands it would refuse to say that
# the server serves, and no call would ever be made.
_ROUND_ALL = """{"loadBalancingConfig": [{"round_robin": {}}]}"""
OPTIONS: list[tuple[str, int | str]] = [
    # Servers permit one ping each 30 s; a client that pings more often is sent away.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A watch sends nothing for hours: without this grpc stops pinging after two.
    ("grpc.http2.max_pings_without_data", 0),
    # The answer to a batch repeats its jobs and is larger than the 4 MiB grpc allows by default.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A server that restarts is back within seconds; grpc's own cap is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
]


class Repeat(Enum):
    """When a call that failed is made again, before its deadline."""

    NEVER = auto()
    """The call is not idempotent."""
    WHEN_CUT = auto()
    """The transport broke: for calls that may be made twice."""
    WHEN_FULL = auto()
    """Also when the service refused for now and said for how long."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time as the client sees it; tests pass their own.

    Attributes:
        sleep: waits for seconds.
        clock: monotonic seconds.
        random: 0 to 1, for jitter.
    """

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random

    def backoff(self, failures: int, hint: float | None = None) -> float:
        """Seconds to wait after so many failures in a row, from 1.

        A hint of the server is waited out in full, plus up to a fifth, so that those who were
        refused together do not come back together. Without one: exponential, half of it jitter.
        """
        if hint is not None:
            return min(hint, LONGEST_HINT) * (1 + 0.2 * self.random())
        ceiling = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 16))
        return ceiling * (0.5 + 0.5 * self.random())


def is_asked_to_end() -> bool:
    """True where a cancellation is meant for this task, and not only for the call it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_cut(error: grpc.aio.AioRpcError) -> bool:
    """True where the call was cut off and may be answered when it is made again."""
    code = error.code()
    if code is grpc.StatusCode.INTERNAL:
        return "RST_STREAM" in (error.details() or "")
    return code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    )


_first_used_in: int | None = None
"""The process in which a client has first opened a channel."""


def _refuse_fork() -> None:
    """gRPC's threads and locks do not outlive a fork: the child would hang or crash."""
    global _first_used_in  # noqa: PLW0603  # a fact about the process
    if _first_used_in is None:
        _first_used_in = os.getpid()
    elif _first_used_in != os.getpid():
        raise LongshoreError(
            "this process was forked from one that had used a client, and gRPC does not work here:"
            ' start processes with multiprocessing.get_context("spawn"), or make the first client'
            " after the fork (with gunicorn, without --preload)"
        )


class Calls:
    """A channel that opens at its first use, inside the loop that uses it."""

    def __init__(
        self,
        target: str,
        *,
        timeout: float,
        credentials: grpc.ChannelCredentials | None,
        metadata: Sequence[tuple[str, str]],
        timing: Timing,
    ) -> None:
        self.target = full_target(target)
        self.timeout = timeout
        self.timing = timing
        self.metadata = tuple(metadata)
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel.

        Raises:
            LongshoreError: the client was closed, belongs to another loop, or would be the first
                one of a process that was forked from one that has used gRPC.
        """
        if self._closed:
            raise LongshoreError(f"the client of {self.target} is closed: make a new one")
        if self._channel is None:
            _refuse_fork()
            self._loop = asyncio.get_running_loop()
            self._channel = self._open()
        elif self._loop is not asyncio.get_running_loop():
            raise LongshoreError(
                f"the client of {self.target} belongs to another event loop: make one client in"
                " each asyncio.run, or use the Client that needs no loop"
            )
        return self._channel

    def _open(self) -> grpc.aio.Channel:
        service_config = _ROUND_ALL if self.metadata else _ROUND_SERVING
        options = [*OPTIONS, ("grpc.service_config", service_config)]
        if is_loopback(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, self._credentials, options=options)

    async def close(self) -> None:
        """Closes the channel; calls under way end."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    @cached_property
    def jobs(self) -> job_service_pb2_grpc.JobServiceAsyncStub:
        """JobService."""
        return job_service_pb2_grpc.JobServiceStub(self.channel)

    @cached_property
    def queues(self) -> queue_service_pb2_grpc.QueueServiceAsyncStub:
        """QueueService."""
        return queue_service_pb2_grpc.QueueServiceStub(self.channel)

    @cached_property
    def pools(self) -> pool_service_pb2_grpc.PoolServiceAsyncStub:
        """PoolService."""
        return pool_service_pb2_grpc.PoolServiceStub(self.channel)

    @cached_property
    def tasks(self) -> task_service_pb2_grpc.TaskServiceAsyncStub:
        """TaskService."""
        return task_service_pb2_grpc.TaskServiceStub(self.channel)

    async def unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        repeat: Repeat = Repeat.WHEN_CUT,
        takes: float = 0.0,
    ) -> Response:
        """Makes a call, and makes it again where `repeat` allows it.

        A server may hang and keep its connections. So one try has half of the time that is left,
        or SHORTEST_TRY seconds, and the next one goes to another server, where there are several.

        Args:
            method: a method of one of the stubs.
            request: what it takes.
            timeout: seconds for all tries together; the client's where None.
            repeat: what may be tried again.
            takes: seconds that the answer rightly takes, where the call waits for something.

        Raises:
            LongshoreError: what `error_mapping` makes of the last failure.
        """
        self.channel  # noqa: B018 - raises where the client was closed
        clock = self.timing.clock
        deadline = clock() + min(LONGEST_CALL, self.timeout if timeout is None else timeout)
        failures = 0
        while True:
            remaining = max(0.0, deadline - clock())
            share = takes + max(SHORTEST_TRY, (remaining - takes) / 2)
            once = remaining if repeat is Repeat.NEVER else min(remaining, share)
            try:
                return await method(request, timeout=once, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                failures += 1
                if once < remaining and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    delay: float | None = self.timing.backoff(failures)
                else:
                    delay = self._delay(error, repeat, failures)
                if delay is None or clock() + delay >= deadline:
                    raise self.failure(error, request) from error
            except asyncio.CancelledError:
                if self._closed and not is_asked_to_end():
                    raise LongshoreError(
                        f"the client of {self.target} was closed while a call was under way: "
                        "whether it took effect is not known"
                    ) from None
                raise
            await self.timing.sleep(delay)

    async def pages(
        self, method: Method[Any, Response], request: Any, timeout: float | None
    ) -> AsyncIterator[Response]:
        """Every page of a list, each one when it is asked for; `timeout` is for each of them."""
        while True:
            page: Any = await self.unary(method, request, timeout=timeout)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def failure(self, error: grpc.aio.AioRpcError, request: object) -> LongshoreError:
        """The exception for a call that failed for good."""
        operation = type(request).__name__.removesuffix("Request")
        return error_mapping.from_call(error, operation, self.target)

    def _delay(self, error: grpc.aio.AioRpcError, repeat: Repeat, failures: int) -> float | None:
        hint = error_mapping.retry_after(error)
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            refused_for_now = repeat is Repeat.WHEN_FULL and hint is not None
            return self.timing.backoff(failures, hint) if refused_for_now else None
        if repeat is Repeat.NEVER or not is_cut(error):
            return None
        return self.timing.backoff(failures, hint)
