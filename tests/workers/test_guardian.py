"""Workers of no use to anybody end by themselves, with all that they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.workers.harness import PATIENCE, alive, gone

ABANDON = 1.0
_HOST = """
import asyncio, sys
from pathlib import Path
import pytest
from tests.workers.harness import Bench, job

async def silent(made):
    await asyncio.sleep(60)

async def polled(made):
    while True:
        await made.poll(0.1)
        print("polled", flush=True)

async def busy(made):
    await made.assign(job("b", "hold_gil", {"value": 3000}))
    print(type(await made.outcome("b")).__name__, flush=True)

async def main():
    made = Bench(Path(sys.argv[1]), abandon_after=float(sys.argv[2]))
    if sys.argv[3]:
        await made.assign(job("a", sys.argv[3]))
        print(*await made.checkpoint("a"), flush=True)
    await globals()[sys.argv[4]](made)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def hosted(
    folder: Path, task: str, then: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """A worker in a process of its own, as in an actor."""
    path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOST, str(folder), str(ABANDON), task, then,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert host.stdout is not None
    try:
        yield host, host.stdout
    finally:
        if host.returncode is None:
            host.kill()
        await host.wait()


async def read(lines: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(lines.readline(), 20)).decode().strip()


async def test_what_a_stopped_worker_runs_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path, "stubborn", "polled") as (host, lines):
        pids = [int(word) for word in (await read(lines)).split()]
        assert len(pids) == 3
        assert await read(lines) == "polled"
        host.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        await gone(*pids)
        assert time.monotonic() - began < ABANDON + 2
        assert await asyncio.wait_for(host.wait(), 20) == -signal.SIGKILL


@pytest.mark.parametrize("task", ["untied", ""])
async def test_a_worker_that_nobody_polls_ends(tmp_path: Path, task: str) -> None:
    async with hosted(tmp_path, task, "silent") as (host, lines):
        pids = [int(word) for word in (await read(lines)).split()] if task else []
        assert all(map(alive, pids))
        assert await asyncio.wait_for(host.wait(), 20) == -signal.SIGKILL
        await gone(*pids)


async def test_scratch_folders_of_a_killed_worker_are_deleted(tmp_path: Path) -> None:
    of_others = tmp_path / "scratch" / "another-a-1"
    of_others.mkdir(parents=True)
    async with hosted(tmp_path, "stubborn", "polled") as (host, lines):
        pids = [int(word) for word in (await read(lines)).split()]
        assert len(list(of_others.parent.iterdir())) == 2
        host.kill()
        await gone(*pids)
        end = time.monotonic() + PATIENCE
        while len(list(of_others.parent.iterdir())) > 1:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
    assert of_others.exists()


async def test_a_worker_that_is_polled_lives_on(tmp_path: Path) -> None:
    began = time.monotonic()
    async with hosted(tmp_path, "", "busy") as (_, lines):
        assert await read(lines) == "Succeeded"
        assert time.monotonic() - began > 3 * ABANDON


def guardians(host: asyncio.subprocess.Process) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(host.pid).children():
        with contextlib.suppress(psutil.Error):  # one that was killed may be a zombie still
            if "-S" in child.cmdline():
                found.append(child)
    return found


async def test_a_guardian_that_was_killed_is_replaced(tmp_path: Path) -> None:
    async with hosted(tmp_path, "untied", "polled") as (host, lines):
        pids = [int(word) for word in (await read(lines)).split()]
        (first,) = guardians(host)
        first.kill()
        while not [one for one in guardians(host) if one.pid != first.pid]:
            assert await read(lines) == "polled"
        host.send_signal(signal.SIGSTOP)
        await gone(*pids)


async def test_the_time_in_which_the_guardian_did_not_run_does_not_count(tmp_path: Path) -> None:
    async with hosted(tmp_path, "", "polled") as (host, lines):
        await read(lines)
        (guardian,) = guardians(host)
        guardian.suspend()
        end = time.monotonic() + 2 * ABANDON
        while time.monotonic() < end:
            assert await read(lines) == "polled"
        guardian.resume()
        for _ in range(15):
            assert await read(lines) == "polled"
