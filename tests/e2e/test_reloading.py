"""`longshore up --reload`: edits of a task module, with jobs of the old code under way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from longshore import AsyncClient, JobHandle
from longshore.v1 import pool_service_pb2
from tests.e2e.service import Service, until
from tests.e2e.waiting import DEADLINE, until_started

SETTINGS = """
tasks = ["changing"]
[pools.cpu]
cpu = 2
[scheduler]
sweep_interval = 0.2
"""
TASKS = """
import pathlib, time
from longshore import Context, Resources, task

SMALL = Resources(cpu=0.1)

@task(resources=SMALL)
def version(ctx: Context, params: dict[str, int]) -> str:
    return "v1"

@task(resources=SMALL)
def gate(ctx: Context, params: str) -> str:
    while not pathlib.Path(params).exists():
        time.sleep(0.02)
    return "v1"
"""
BRANDNEW = """
@task(resources=SMALL)
def brandnew(ctx: Context, params: dict[str, int]) -> str:
    return "v2"
"""


@pytest.fixture
def module(own: Service, tmp_path: Path) -> Path:
    own.modules = tmp_path / "code"
    own.modules.mkdir()
    own.config.write_text(SETTINGS)
    own.options = ["--reload"]
    module = own.modules / "changing.py"
    module.write_text(TASKS)
    return module


async def test_an_edit_replaces_workers_and_a_broken_one_does_not(
    own: Service, module: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    async with AsyncClient(own.start()) as client:
        gate = await client.submit("gate", json.dumps(str(flag)))
        await until_started(gate)
        first = await _build(gate)
        assert await _version(client) == ("v1", first)

        module.write_text(TASKS.replace("v1", "v2") + BRANDNEW)
        second = await _only_ready(client, lambda builds: first not in builds)
        assert await _version(client) == ("v2", second)
        assert "+brandnew" in own.log.read_text()
        new = await client.submit("brandnew", {})
        assert await new.result(timeout=DEADLINE) == "v2"
        assert await _build(new) == second
        flag.touch()
        assert await gate.result(timeout=DEADLINE) == "v1", "it ended on the code it began with"
        (attempt,) = (await gate.status()).job.attempts
        assert (attempt.build, attempt.failure_class) == (first, 0)
        await _until(lambda: _has(client, 1))

        module.write_text(TASKS.replace("v1", "v2") + "def broken(:\n")
        line = len(TASKS.splitlines()) + 1
        until(lambda: f"{module}:{line}" in own.log.read_text())
        assert f"build {second} goes on" in own.log.read_text()
        assert await _version(client) == ("v2", second)

        module.write_text(TASKS.replace("v1", "v3"))
        third = await _only_ready(client, lambda builds: second not in builds)
        assert await _version(client) == ("v3", third)
        assert "-brandnew" in own.log.read_text()


async def _version(client: AsyncClient) -> tuple[object, str]:
    handle = await client.submit("version", {})
    return await handle.result(timeout=DEADLINE), await _build(handle)


async def _build(handle: JobHandle[Any]) -> str:
    return (await handle.status()).job.attempts[-1].build


async def _only_ready(client: AsyncClient, wanted: Callable[[set[str]], bool]) -> str:
    """Waits until the workers that take work have one build, such as is wanted; returns it."""
    async with asyncio.timeout(DEADLINE):
        while True:
            ready = pool_service_pb2.WORKER_STATE_READY
            builds = {w.build for w in await client.workers() if w.state == ready}
            if len(builds) == 1 and wanted(builds):
                return builds.pop()
            await asyncio.sleep(0.05)


async def _has(client: AsyncClient, workers: int) -> bool:
    return len(await client.workers()) == workers


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.05)
