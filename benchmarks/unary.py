"""Unary Submit beside a handler that does nothing: how much of gRPC's own rate is left."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import grpc

from benchmarks.service import running
from longshore.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

IN_FLIGHT = 64


class Unary(NamedTuple):
    """Calls per second with 64 in flight; `own`: each job has an input of its own."""

    empty: float
    submit: float
    own: float


async def measure(calls: int) -> Unary:
    """Both in the same run, each server in a process of its own; idempotency keys as clients
    send them."""
    empty = await _empty(calls)
    async with running() as (_, target), grpc.aio.insecure_channel(target) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        spec = job_pb2.JobSpec(task="echo", payload="{}")

        async def submit(n: int) -> object:
            request = job_service_pb2.SubmitRequest(idempotency_key=f"bench-{n:08d}", spec=spec)
            return await stub.Submit(request, timeout=30)

        async def submit_own(folder: Path, n: int) -> object:
            own = job_pb2.JobSpec(task="echo", payload="{}")
            own.inputs["video"].uri = (folder / str(n)).as_uri()
            request = job_service_pb2.SubmitRequest(idempotency_key=f"own-{n:08d}", spec=own)
            return await stub.Submit(request, timeout=30)

        same = await _rate(submit, calls)
        with TemporaryDirectory(prefix="bench-") as folder:
            for n in range(calls + 1):  # the worker looks for the inputs of a job
                (Path(folder) / str(n)).touch()
            own = await _rate(partial(submit_own, Path(folder)), calls)
        return Unary(empty, same, own)


async def _empty(calls: int) -> float:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.empty_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            request = job_service_pb2.SubmitRequest(idempotency_key="bench")
            return await _rate(lambda _: stub.Submit(request, timeout=30), calls)
    finally:
        process.terminate()
        process.wait(10)


async def _rate(call: Callable[[int], Awaitable[object]], calls: int) -> float:
    numbers = iter(range(calls))

    async def worker() -> None:
        for n in numbers:
            await call(n)

    await call(calls)  # the connection is up before the clock runs
    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return calls / (time.perf_counter() - began)
