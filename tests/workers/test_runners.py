"""Which process runs what: async tasks, devices, environments, speed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.attempt import Stage
from longshore_cpu_workers.wire import (
    Cancel,
    DeviceInfo,
    Failed,
    InputRef,
    Needs,
    Started,
    Succeeded,
)
from longshore_gpu_workers.binding import DeviceBinding, NoDeviceError, bind
from longshore_gpu_workers.devices import real_devices, simulated_devices
from tests.workers.harness import PATIENCE, Bench, job

HALF = Needs(cpu_millis=100, gpu_millis=500, gpu_memory_bytes=1 << 30)
WHOLE = Needs(cpu_millis=100, gpu_millis=1000)
BOTH = Needs(cpu_millis=100, gpu_millis=2000)


async def test_async_tasks_share_a_process_and_are_cancelled_one_by_one(two: Bench) -> None:
    await two.assign(job("a", "for_ever", grace=30.0), job("b", "gather", {"value": 1}))
    pid = await two.value("b")
    await two.assign(job("c", "gather", {"value": 1}))
    assert await two.value("c") == pid
    await two.worker.cancel([Cancel("a", 1)])
    assert (await two.failed("a")).failure.failure_class is FailureClass.CANCELLED
    await two.assign(job("d", "gather"))
    assert await two.value("d") == pid


async def test_an_async_task_that_blocks_harms_no_other_task(benches: Any) -> None:
    made: Bench = await benches(cpus=4)
    await made.assign(job("other", "for_ever"), job("a", "blocks_the_loop"))
    await made.started("a")
    await made.started("other")
    blocks = job("b", "blocks_the_loop", {"value": 1}, timeout=0.2, grace=0.1)
    await made.assign(blocks)
    assert (await made.failed("b")).failure.failure_class is FailureClass.TIMEOUT
    lost = (await made.failed("a")).failure
    assert (lost.failure_class, lost.reason) == (FailureClass.PREEMPTED, "NEIGHBOUR_STOPPED")
    # From now on each attempt of that task has a process: the next one that blocks harms nobody.
    await made.assign(job("c", "blocks_the_loop"))
    await made.started("c")
    await made.assign(blocks._replace(job_id="d"))
    assert (await made.failed("d")).failure.failure_class is FailureClass.TIMEOUT
    assert set(made.outcomes()) == {"a", "b", "d"}
    held = {job_id for job_id, _, stage in await made.worker.held() if stage == "RUNNING"}
    assert held == {"c", "other"}


async def test_a_cpu_runner_sees_no_device_and_no_secret(
    benches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LONGSHORE_STORE", "postgres://me:secret@host/")
    monkeypatch.setenv("RAY_X", "token")
    made = await benches()
    await made.assign(job("a", "sees"))
    seen = await made.value("a")
    assert seen["env"] == {
        "CUDA_VISIBLE_DEVICES": "",
        "LONGSHORE_SIMULATED_DEVICES": None,
        "LONGSHORE_STORE": None,
        "RAY_X": None,
    }
    assert len(seen["fds"]) <= 11, "it inherited what it should not have"


async def test_attempts_get_their_devices_and_no_other(benches: Any) -> None:
    made: Bench = await benches(binding=bind([], simulate=2), capacity=Needs(4000, 0, 2000), cpus=4)
    info = await made.worker.info()
    assert [(d.name, d.simulated) for d in info.devices] == [
        ("simulated 0", True),
        ("simulated 1", True),
    ]
    await made.assign(*[job(f"half{n}", "sees", needs=HALF) for n in range(2)])
    for name in ("half0", "half1"):
        seen = await made.value(name)
        assert seen["env"]["CUDA_VISIBLE_DEVICES"] == ""
        assert seen["env"]["LONGSHORE_SIMULATED_DEVICES"] == "0"
        assert seen["devices"] == ["simulated 0"]
    await made.assign(job("both", "sees", needs=BOTH))
    assert (await made.value("both"))["env"]["LONGSHORE_SIMULATED_DEVICES"] == "0,1"
    assert made.of(Started, "both")[0].devices == ("simulated 0", "simulated 1")


def test_shares_are_packed_and_wholes_are_whole() -> None:
    binding = DeviceBinding(simulated_devices(2))
    assert binding.acquire(HALF) == (0,)
    assert binding.acquire(WHOLE) == (1,)
    assert binding.acquire(HALF) == (0,)
    assert binding.acquire(HALF) is None
    binding.release((1,), WHOLE)
    assert binding.acquire(BOTH) is None
    assert binding.acquire(HALF) == (1,)


def test_device_memory_is_kept() -> None:
    binding = DeviceBinding(simulated_devices(1, memory_bytes=3 << 30))
    tenth = Needs(gpu_millis=100, gpu_memory_bytes=2 << 30)
    assert binding.acquire(tenth) == (0,)
    assert binding.acquire(tenth) is None
    assert not binding.possible(Needs(gpu_millis=100, gpu_memory_bytes=4 << 30))
    assert not binding.possible(Needs(gpu_millis=1500)), "a share of several devices"


def test_real_devices_are_named_by_uuid() -> None:
    infos = [DeviceInfo(n, f"GPU-{n}{n}", "H100", 80 << 30, False) for n in range(2)]
    env = DeviceBinding(infos).env((1,))
    assert env == {"CUDA_VISIBLE_DEVICES": "GPU-11", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_without_devices_a_gpu_worker_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert real_devices() == ()
    with pytest.raises(NoDeviceError, match="simulate"):
        bind([])


def catalogue(*modules: str, folder: Path = Path()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longshore_cpu_workers.catalogue", *modules]
    env = {"PYTHONPATH": ":".join(entry for entry in (*sys.path, str(folder)) if entry)}
    return subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=PATIENCE, check=False
    )


def test_the_catalogue_describes_tasks_as_json() -> None:
    done = catalogue("tasks_plain")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = {described["name"] for described in found["tasks"]}
    assert {"double", "gather"} <= names
    build_id, description, tasks = found["build"]
    assert re.fullmatch("[0-9a-f]{12}", build_id)
    assert "longshore" in description
    assert set(tasks) == names


def test_the_catalogue_says_in_one_line_what_is_wrong() -> None:
    done = catalogue("tasks_broken")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no licence" in done.stderr
    assert "tasks_broken.py:" in done.stderr, "the file and the line"


def test_a_module_that_ends_the_interpreter_is_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    done = catalogue("leaves", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"SystemExit: 0 [{tmp_path}/leaves.py:2]" in done.stderr


async def test_speed(one: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: machines differ. Run with -s to see it."""
    await one.run(job("warm", "double"))
    began = time.monotonic()
    await one.run(job("single", "double"))
    single = time.monotonic() - began
    count = 10_000
    began = time.monotonic()
    await one.assign(*[job(f"j{n}", "double", {"value": n}) for n in range(count)])
    await one.until(lambda: len(one.reports) >= 2 * (count + 2))
    rate = count / (time.monotonic() - began)
    assert len(one.of(Succeeded)) == count + 2
    assert not one.of(Failed)
    with capsys.disabled():
        print(f"\none idle job: {single * 1e3:.1f} ms; one runner: {rate:,.0f} jobs/s")


async def test_jobs_with_inputs_wait_in_line_unless_their_inputs_are_hashed(
    one: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"content")
    plain = InputRef("video", path.as_uri(), 7, "")
    hashed = plain._replace(sha256=hashlib.sha256(b"content").hexdigest())
    await one.run(job("first", "double", {"value": 1}))
    for ref, in_line in ((plain, 3), (hashed, 1)):
        one.tiny("double")
        _signal(one, signal.SIGSTOP)  # so that none is over before the next one is handed out
        names = [f"{in_line}-{n}" for n in range(3)]
        await one.assign(*(job(name, "double", {"value": 1}, inputs=(ref,)) for name in names))
        handed = [one.attempt(name).stage is Stage.HANDED for name in names]
        _signal(one, signal.SIGCONT)
        assert sum(handed) == in_line
        for name in names:
            await one.value(name)


async def test_who_looks_for_its_inputs_for_long_keeps_no_others_waiting(
    one: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "input"
    path.touch()
    ref = InputRef("video", path.as_uri(), 0, "")
    await one.run(job("first", "double", {"value": 1}))
    one.tiny("double")
    _signal(one, signal.SIGSTOP)  # as it looks to the worker when a disk does not answer
    names = ["a", "b", "c"]
    await one.assign(*(job(name, "double", {"value": 1}, inputs=(ref,)) for name in names))
    supervision = one.worker._supervision
    assert supervision is not None
    end = time.monotonic() + PATIENCE
    while not any(runner.withdrawing for runner in supervision.fleet):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    _signal(one, signal.SIGCONT)
    for name in names:
        await one.value(name)


def _signal(one: Bench, number: signal.Signals) -> None:
    for pid in one.runner_pids():
        os.kill(pid, number)
