"""Rows 12 and 13 on one machine: a local Ray that loses its head or its node is started anew."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from longshore import AsyncClient
from tests.e2e.ports import reserved_port
from tests.e2e.service import Service, until

_BOUND = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with its pools up."""
    made = Service(tmp_path)
    with reserved_port() as port:  # the same one after the restart
        made.start(f"127.0.0.1:{port}")
        yield made
        assert made.stop() == 0


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
async def test_a_broken_local_ray_is_replaced(service: Service, part: str) -> None:
    async with AsyncClient(service.target, timeout=_BOUND) as client:
        before = await (await client.submit("steps", {"count": 1})).result(timeout=_BOUND)
        (pid,) = [p for p in service.processes() if _name(p) == part]
        held = await client.submit("steps", {"count": 20, "pause": 0.1})
        await _running(client, held.id)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(until, service.restarted, _BOUND)
        restarted = time.monotonic() - began
        # Accepted while Ray boots; run once it has.
        accepted = await client.submit("steps", {"count": 1}, timeout=_BOUND)
        assert await accepted.result(timeout=_BOUND) == before == 1
        assert await held.result(timeout=_BOUND) == 20
        print(
            f"fault row {13 if part == 'gcs_server' else 12} ({part}, one machine): recovered in"
            f" {time.monotonic() - began:.1f} s, listening again after {restarted:.1f} s"
        )


def _name(pid: int) -> str:
    with suppress(psutil.NoSuchProcess):  # some live for a moment only
        return psutil.Process(pid).name()
    return ""


async def _running(client: AsyncClient, job_id: str) -> None:
    async with asyncio.timeout(_BOUND):
        while not (await client.status(job_id)).job.HasField("start_time"):
            await asyncio.sleep(0.05)
