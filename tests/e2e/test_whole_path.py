"""The whole path: a real channel, a real Ray, real tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from longshore import AsyncClient, JobDeadLettered, JobFailed
from longshore.v1 import job_pb2
from longshore.v1.watch_pb2 import WatchProgressResponse as Event
from tests.e2e.service import Service
from tests.e2e.waiting import worker_of


async def test_a_job_is_submitted_placed_run_watched_and_its_result_handed_over(
    client: AsyncClient,
) -> None:
    await client.pause_queue("held", "it is watched before it runs")
    handle = await client.submit("steps", {"count": 4, "pause": 0.15}, queue="held")
    events: list[Event] = []
    async for event in handle.watch(include_logs=True):
        if not events:
            await client.resume_queue("held")
        events.append(event)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "snapshot"
    assert kinds.count("terminal") == 1
    assert kinds[-1] == "terminal"
    fractions = [e.progress.fraction for e in events if e.HasField("progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    lines = [line for e in events if e.HasField("log_chunk") for line in e.log_chunk.lines]
    assert [line for line in lines if "step" in line][-1].endswith("step 4")
    assert await handle.result(timeout=60) == 4


async def test_a_client_with_only_the_stubs_in_another_process(shared: Service) -> None:
    script = Path(__file__).with_name("stub_client.py")
    child = await asyncio.create_subprocess_exec(
        sys.executable, script, shared.target, "steps", '{"count": 2}', stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(child.communicate(), 150)
    lines = out.decode().split()
    assert child.returncode == 0
    assert lines[0] == "snapshot"
    assert lines[-2:] == ["terminal", "2"]


async def test_what_fails_is_tried_again_and_what_must_not_is_not(client: AsyncClient) -> None:
    again = await client.submit("failing", {"times": 2})
    assert await again.result(timeout=60) == 3
    never = await client.submit("failing", {"permanent": True})
    with pytest.raises(JobFailed) as failed:
        await never.result(timeout=60)
    assert "attempt 1 fails" in str(failed.value)
    often = await client.submit("failing", {"times": 9})
    with pytest.raises(JobDeadLettered):
        await often.result(timeout=60)


async def test_a_crash_is_its_own_class_and_the_pool_lives(client: AsyncClient) -> None:
    handle = await client.submit("failing", {"times": 1, "crash": True})
    assert await handle.result(timeout=60) == 2
    job = (await client.status(handle.id)).job
    assert job.attempts[0].failure_class == job_pb2.FAILURE_CLASS_CRASH
    assert "SIGSEGV" in job.attempts[0].error.message


async def test_a_worker_sees_its_devices_and_no_others(client: AsyncClient) -> None:
    on_cpu = await (await client.submit("devices", {})).result(timeout=60)
    assert on_cpu == {"devices": "", "visible": ""}
    handle = await client.submit("gpu_devices", {})
    assert "simulated" in (await handle.result(timeout=60))["devices"]
    devices = (await worker_of(client, handle)).devices
    assert devices
    assert all(device.simulated for device in devices)


@pytest.mark.parametrize(
    ("task", "payload", "inputs", "reason"),
    [
        ("transcode", {"renditions": [{"name": "a", "height": 240}]}, {"video": "none.mp4"},
         "INPUT_NOT_FOUND"),
        ("transcode", {"renditions": [{"name": "a", "height": 240}]}, {"video": "text.txt"},
         "NOT_A_VIDEO"),
        ("infer", {}, {"model": "text.txt", "data": "text.txt"}, "NOT_A_MODEL"),
    ],
)  # fmt: skip
async def test_bad_inputs_end_a_job_with_a_reason_and_one_sentence(
    client: AsyncClient,
    tmp_path: Path,
    task: str,
    payload: dict[str, object],
    inputs: dict[str, str],
    reason: str,
) -> None:
    (tmp_path / "text.txt").write_text("neither a video nor a model")
    paths = {name: tmp_path / file for name, file in inputs.items()}
    handle = await client.submit(task, payload, inputs=paths)
    with pytest.raises(JobFailed) as failed:
        await handle.result(timeout=60)
    assert failed.value.reason == reason
    assert "\n" not in str(failed.value)
