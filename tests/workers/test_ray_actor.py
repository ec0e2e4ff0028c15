"""The real Ray actor, once: what is thin needs few tests."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.wire import Assignment, Needs, Started, Succeeded
from tests.workers.harness import PATIENCE, gone


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    """A cluster in a process of its own: Ray starts its processes by fork, which this process,
    where gRPC has run, must not do."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    import ray

    options = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 1024**2}
    command = [sys.executable, "-m", "longshore_scheduler.ray_head", json.dumps(options)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        try:
            said = head.stdout.readline().decode().split()
            assert said[0] == "ready", said
            ray.init(
                said[1],
                log_to_driver=False,
                namespace="longshore-test",
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
            yield ray
            ray.shutdown()
        finally:
            head.stdin.close()  # then it ends, and the cluster with it


def settings_of(folder: Path, **more: Any) -> WorkerSettings:
    return WorkerSettings(
        pool="cpu",
        capacity=Needs(cpu_millis=1000),
        artifacts=folder / "artifacts",
        scratch=folder / "scratch",
        modules=("tasks_plain",),
        **more,
    )


async def test_a_detached_actor_is_assigned_and_polled(ray_here: Any, tmp_path: Path) -> None:
    from longshore_cpu_workers.actor import WorkerActor

    settings = settings_of(tmp_path, worker_id="w1")
    actor = WorkerActor.options(  # type: ignore[attr-defined]
        name="w1", lifetime="detached", num_cpus=1
    ).remote(settings)
    info = await actor.info.remote()
    assert (info.worker_id, info.capacity.cpu_millis, info.devices) == ("w1", 1000, ())

    jobs = [
        Assignment(f"job-{n}", 7, 1, "double", "t", f'{{"value":{n}}}', (), Needs(1000), 60.0, 1.0)
        for n in range(100)
    ]
    await actor.assign.remote(jobs)
    results: dict[str, str] = {}
    ack = started = 0
    while len(results) < 100:
        reply = await actor.poll.remote(ack, PATIENCE)
        assert reply.reports, f"nothing for {PATIENCE} s"
        ack = reply.last
        started += sum(isinstance(report, Started) for report in reply.reports)
        results |= {r.job_id: r.value for r in reply.reports if isinstance(r, Succeeded)}
    assert started == 100
    assert results == {f"job-{n}": str(2 * n) for n in range(100)}

    found = ray_here.get_actor("w1", namespace="longshore-test")
    await found.stop.remote(1.0)
    ray_here.kill(found)


async def test_a_detached_actor_that_nobody_polls_ends_by_itself(
    ray_here: Any, tmp_path: Path
) -> None:
    from longshore_cpu_workers.actor import WorkerActor

    settings = settings_of(tmp_path, worker_id="w2", abandon_after=1.0)
    actor = WorkerActor.options(  # type: ignore[attr-defined]
        name="w2", lifetime="detached", num_cpus=1
    ).remote(settings)
    pids: set[int] = set()
    with pytest.raises(ray_here.exceptions.RayActorError) as ended:
        async with asyncio.timeout(PATIENCE):
            while True:  # on a busy machine it may end before it has said anything
                pids.add((await actor.info.remote()).pid)
                await asyncio.sleep(0.1)
    assert "creation task" not in str(ended.value), "it never began"
    await gone(*pids)
