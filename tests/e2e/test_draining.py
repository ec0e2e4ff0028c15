"""The only worker is taken out of service: its work is saved, and its pool comes back. So the
shared service is as it was."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

from longshore import AsyncClient
from longshore.v1 import job_pb2
from tests.e2e.service import LONGSHORE, Service
from tests.e2e.waiting import until_started, worker_of

DRAINED = job_pb2.FAILURE_CLASS_DRAINED


async def longshore(service: Service, *words: str) -> Any:
    """What a command prints, as from a preStop hook."""
    command = [str(LONGSHORE), "--target", service.target, "--json", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_work_goes_on_from_its_checkpoint_and_the_pool_comes_back(
    shared: Service, client: AsyncClient
) -> None:
    handle = await client.submit("patient")
    await until_started(handle)
    worker = await worker_of(client, handle)
    done = await longshore(shared, "drain", worker.worker_id, "--grace", "500ms")
    (idle,) = done["workers"]
    assert (idle["worker_id"], idle["state"]) == (worker.worker_id, "WORKER_STATE_DRAINING")
    assert (done.get("finished_attempts", 0), done["released_attempts"]) == (0, 1)
    assert await handle.result(timeout=60) == [2, 1, 2], "what it saved at its end"
    job = (await handle.status()).job
    assert [attempt.failure_class for attempt in job.attempts] == [DRAINED, 0]
    other = await worker_of(client, handle)
    assert other.worker_id == job.attempts[1].worker_id != worker.worker_id
    again = await longshore(shared, "cordon", other.worker_id)
    assert again["state"] == "WORKER_STATE_CORDONED"
    waiting = await client.submit("echo")
    assert (await longshore(shared, "uncordon", again["worker_id"]))["worker_id"]
    await waiting.result(timeout=60)
