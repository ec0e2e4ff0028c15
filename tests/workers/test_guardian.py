"""Workers of no use to anybody end by themselves, with all that they run."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from longshore_cpu_workers import guardian, reaping
from tests.workers.harness import PATIENCE, Bench, alive, gone

# Nobody is abandoned before the test says so, however slow the machine is.
_HOST = """
import asyncio, os, signal, sys
from pathlib import Path
import pytest
from tests.workers.harness import Bench, job

def abandon_soon(made):
    guardian = made.worker._guardian
    guardian._words = (*guardian._words[:2], "0.1", "10", *guardian._words[4:])
    guardian._process.kill()
    guardian._process.wait()
    guardian.revive()
    guardian.beat()

async def stopped(made):
    await asyncio.to_thread(sys.stdin.readline)
    abandon_soon(made)
    os.kill(os.getpid(), signal.SIGSTOP)

async def silent(made):
    await asyncio.to_thread(sys.stdin.readline)
    abandon_soon(made)
    await asyncio.sleep(600)

async def polled(made):
    while True:
        await made.poll(0.1)
        print("polled", flush=True)

async def main():
    made = Bench(Path(sys.argv[1]), abandon_after=600.0)
    made.worker.start()
    if sys.argv[2]:
        await made.assign(job("a", sys.argv[2]))
        print(*await made.checkpoint("a"), flush=True)
    await globals()[sys.argv[3]](made)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def hosted(folder: Path, task: str, then: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in a process of its own, as in an actor."""
    path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOST, str(folder), task, then,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        yield host
    finally:
        if host.returncode is None:
            host.kill()
        await host.communicate()  # to the end of its output: else a warning strikes another test


async def read(host: asyncio.subprocess.Process) -> str:
    assert host.stdout is not None
    return (await asyncio.wait_for(host.stdout.readline(), PATIENCE)).decode().strip()


async def pids_of(host: asyncio.subprocess.Process) -> list[int]:
    pids = [int(word) for word in (await read(host)).split()]
    assert pids
    assert all(map(alive, pids))
    return pids


async def killed(host: asyncio.subprocess.Process) -> bool:
    """Lets it go on; True once its guardian has ended it."""
    assert host.stdin is not None
    host.stdin.write(b"\n")
    return await asyncio.wait_for(host.wait(), PATIENCE) == -signal.SIGKILL


async def test_what_a_stopped_worker_runs_ends(tmp_path: Path) -> None:
    async with hosted(tmp_path, "stubborn", "stopped") as host:
        pids = await pids_of(host)
        assert len(pids) == 3
        assert await killed(host)
        await gone(*pids)


@pytest.mark.parametrize("task", ["untied", ""])
async def test_a_worker_that_nobody_polls_ends(tmp_path: Path, task: str) -> None:
    async with hosted(tmp_path, task, "silent") as host:
        pids = await pids_of(host) if task else []
        assert await killed(host)
        await gone(*pids)


async def test_scratch_folders_of_a_killed_worker_are_deleted(tmp_path: Path) -> None:
    of_others = tmp_path / "scratch" / "another-a-1"
    of_others.mkdir(parents=True)
    async with hosted(tmp_path, "stubborn", "polled") as host:
        pids = await pids_of(host)
        assert len(list(of_others.parent.iterdir())) == 2
        host.kill()
        await gone(*pids)
        end = time.monotonic() + PATIENCE
        while len(list(of_others.parent.iterdir())) > 1:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
    assert of_others.exists()


def guardians(host: asyncio.subprocess.Process) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(host.pid).children():
        with contextlib.suppress(psutil.Error):  # one that was killed may be a zombie still
            if "-S" in child.cmdline():
                found.append(child)
    return found


async def test_a_guardian_that_was_killed_is_replaced(tmp_path: Path) -> None:
    async with hosted(tmp_path, "untied", "polled") as host:
        pids = await pids_of(host)
        (first,) = guardians(host)
        first.kill()
        while not [one for one in guardians(host) if one.pid != first.pid]:
            assert await read(host) == "polled"
        host.kill()
        await gone(*pids)


class _Beats:
    """How often a worker had the time to beat, and how often it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chances = self.beats = 0
        monkeypatch.setattr(guardian.Guardian, "revive", lambda _: self._count("chances"))
        monkeypatch.setattr(guardian.Guardian, "beat", lambda _: self._count("beats"))

    def _count(self, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)

    async def after(self, chances: int) -> int:
        """The beats in the next so many chances."""
        first, end, beats = self.chances, time.monotonic() + PATIENCE, self.beats
        while self.chances < first + chances:
            assert time.monotonic() < end
            await asyncio.sleep(0.001)
        return self.beats - beats


async def test_a_worker_beats_while_it_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that waits counts as long as it waits, and one that does not wait counts once."""
    seen = _Beats(monkeypatch)
    made = Bench(tmp_path)
    made.worker._guardian.period = 0.01
    made.worker.start()
    try:
        assert await seen.after(10) == 0
        polling = asyncio.create_task(made.poll(60.0))
        await asyncio.sleep(0)
        assert await seen.after(10) >= 10
        polling.cancel()
        await asyncio.wait([polling])
        assert await seen.after(10) <= 1
        assert await seen.after(10) == 0
        before = seen.beats
        await made.poll(0.0)
        await seen.after(10)
        assert seen.beats > before
        assert await seen.after(10) == 0
    finally:
        await made.worker.stop(0.0)
        await made.worker.close()


@pytest.mark.parametrize("abandon_after", [1.0, 7.5, 60.0])
def test_the_patience_of_a_guardian_lasts_as_long_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abandon_after: float
) -> None:
    monkeypatch.setattr(guardian.Guardian, "_start", lambda _: (None, -1))
    made = guardian.Guardian(tmp_path, abandon_after)
    period, patience = map(float, made._words[2:4])
    assert period == made.period
    assert period * patience == abandon_after
    assert patience >= 10


_PATIENCE = 10  # periods


class _Clock:
    """The guardian's code in this process; what it waits for comes from a text.

    Each `-` is a period without a beat, each run of dots one read of as many beats; the pipe
    closes at the end of the text.
    """

    def __init__(self, folder: Path, text: str, *, parent: int = 1) -> None:
        self.did: list[str] = []
        self._heard = iter([part for kind, run in groupby(text) for part in _parts(kind, run)])
        self._beats = b""
        self._parent = parent
        argv = ["-c", str(folder), "token", "0.1", str(_PATIENCE), "1", str(folder)]
        self._modules = {
            "os": SimpleNamespace(
                getppid=lambda: self._parent,
                kill=lambda pid, sig: self.did.append(f"kill {pid} {sig:d}"),
                listdir=os.listdir,
                path=os.path,
                read=lambda fd, size: self._beats,
            ),
            "select": SimpleNamespace(select=self._select),
            "signal": signal,
            "sys": SimpleNamespace(argv=argv, path=[]),
            reaping.__name__: SimpleNamespace(bury_worker=self.did.append),
        }
        names = {**vars(builtins), "__import__": lambda name, *rest: self._modules[name]}
        exec(guardian._CODE, {"__builtins__": names})
        self.left = list(self._heard)

    def _select(self, *args: Any) -> tuple[list[int], list[int], list[int]]:
        part = next(self._heard, "")
        self._beats = part.encode()
        return ([] if part == "-" else [0]), [], []


def _parts(kind: str, run: Any) -> list[str]:
    return list(run) if kind == "-" else ["".join(run)]


SILENCE = "-" * _PATIENCE
ALMOST = SILENCE[1:]


@pytest.mark.parametrize("text", [f"{ALMOST}." * 5, f"{ALMOST}{'.' * 20}{ALMOST}", ""])
def test_a_worker_that_beats_lives_on(tmp_path: Path, text: str) -> None:
    """Only waking counts: no clock is asked, and a time in which it did not run is one read."""
    assert _Clock(tmp_path, text).did == ["token"], "what is left of it, once the pipe is closed"


@pytest.mark.parametrize("before", ["", ".", f"{ALMOST}....", f"{ALMOST}."])
def test_a_worker_that_is_silent_is_killed(tmp_path: Path, before: str) -> None:
    clock = _Clock(tmp_path, f"{before}{SILENCE}-.")
    assert clock.did == ["kill 1 9", "token"]
    assert clock.left == ["-", "."]


def test_a_stranger_is_not_killed_in_place_of_the_parent(tmp_path: Path) -> None:
    assert _Clock(tmp_path, SILENCE, parent=2).did == ["token"]
