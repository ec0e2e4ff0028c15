"""Orders: cancel, timeout, recall, stop; and what is left of processes afterwards."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.runner.inbox import Inbox
from longshore_cpu_workers.runner.link import Link
from longshore_cpu_workers.wire import (
    Cancel,
    Checkpointed,
    Failed,
    Logged,
    Returned,
    Started,
    Succeeded,
)
from tests.workers.harness import PATIENCE, Bench, alive, gone, job


def failure_class(outcome: object) -> FailureClass:
    assert isinstance(outcome, Failed), outcome
    return outcome.failure.failure_class


async def test_a_cooperative_task_ends_by_itself_and_its_runner_lives(one: Bench) -> None:
    await one.assign(job("a", "cooperative", grace=30.0))
    await one.started("a")
    pids = one.runner_pids()
    await one.worker.cancel([Cancel("a", 1)])
    assert failure_class(await one.outcome("a")) is FailureClass.CANCELLED
    assert "INFO cleaned up" in [line for report in one.of(Logged, "a") for line in report.lines]
    await one.run(job("b", "double"))
    assert all(map(alive, pids))


async def test_what_has_not_begun_is_cancelled_at_once(one: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    await one.assign(job("a", "wait_for_file", {"path": str(flag)}), job("b", "double"))
    await one.started("a")
    await one.worker.cancel([Cancel("b", 1), Cancel("unknown", 1)])
    outcome = await one.outcome("b")
    assert failure_class(outcome) is FailureClass.CANCELLED
    assert isinstance(outcome, Failed)
    assert outcome.seconds is None
    flag.touch()
    assert await one.value("a") == "found"


async def test_a_stubborn_task_is_killed_with_its_family(one: Bench) -> None:
    await one.assign(job("a", "stubborn", grace=0.1))
    pids = await one.checkpoint("a")
    await one.poll(0.1)  # acknowledges the checkpoint
    assert len(pids) == 3
    attempt, before = one.attempt("a"), time.monotonic()
    await one.worker.cancel([Cancel("a", 1)])
    assert attempt.kill_at is not None
    assert before + 0.1 <= attempt.kill_at <= time.monotonic() + 0.1
    assert failure_class(await one.outcome("a")) is FailureClass.CANCELLED
    assert not [pid for pid in pids if alive(pid)], "reported before they were gone"
    assert not list(one.artifacts.rglob("*"))
    assert not list(one.scratch.rglob("*"))


async def test_force_skips_the_grace(one: Bench) -> None:
    await one.assign(job("a", "sleepy", grace=600.0))
    pids = await one.checkpoint("a")
    await one.poll(0.1)
    await one.worker.cancel([Cancel("a", 1, force=True)])
    assert failure_class(await one.outcome("a")) is FailureClass.CANCELLED
    await gone(*pids)


async def test_a_timeout_interrupts_a_blocked_task(one: Bench) -> None:
    await one.assign(job("a", "sleepy", timeout=300.0, grace=0.1))
    pids = await one.checkpoint("a")
    attempt = one.attempt("a")
    assert attempt.timeout_at == (await one.started("a")).at + 300.0
    attempt.timeout_at = time.monotonic()  # not before it blocks, however slow the machine is
    outcome = await one.outcome("a")
    assert isinstance(outcome, Failed)
    assert outcome.failure.failure_class is FailureClass.TIMEOUT
    assert outcome.failure.code == 4
    assert outcome.seconds is not None
    await gone(*pids)
    assert await_value(await one.run(job("b", "double", {"value": 2}))) == 4


def await_value(outcome: object) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return json.loads(outcome.value)


async def test_a_success_after_the_cancel_counts(one: Bench) -> None:
    await one.assign(job("a", "hold_gil", {"value": 300}, grace=20.0))
    await one.started("a")
    await one.worker.cancel([Cancel("a", 1)])
    assert isinstance(await one.outcome("a"), Succeeded)


async def test_a_task_that_holds_the_gil_does_not_stop_heartbeats(
    one: Bench, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    await one.assign(job("a", "hold_gil_until_told", {"path": str(pipe)}))
    await one.started("a")
    end = await writable(pipe)
    try:
        for _ in range(5):
            assert await one.poll(0.1) == []
        os.write(end, b".")
        assert await one.value("a") == 1
    finally:
        os.close(end)


async def writable(pipe: Path) -> int:
    """The end to write to, once somebody has the other one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_jobs_behind_a_long_one_are_taken_back(two: Bench, tmp_path: Path) -> None:
    """Its run time was tiny so far, so others were handed ahead behind it."""
    flag, ready = tmp_path / "flag", tmp_path / "ready"
    ready.touch()
    short = {"path": str(ready)}
    await two.run(job("warm", "wait_for_file", short))
    two.tiny("wait_for_file")
    batch = [job(f"j{n}", "wait_for_file", short) for n in range(50)]
    await two.assign(job("long", "wait_for_file", {"path": str(flag)}), *batch)
    assert ("j0", 1, "HANDED") in await two.worker.held()
    await two.until(lambda: len(two.outcomes()) == 51)
    assert "long" not in two.outcomes()
    flag.touch()
    assert await two.value("long") == "found"


async def test_recalled_jobs_come_back_unless_they_began(one: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    await one.run(job("warm", "wait_for_file", {"path": str(flag)}))
    flag.unlink()
    one.tiny("wait_for_file")
    batch = [job(f"j{n}", "wait_for_file", {"path": str(flag)}) for n in range(20)]
    await one.assign(*batch)
    assert ("j1", 1, "HANDED") in await one.worker.held()
    await one.started("j0")
    await one.worker.recall([(a.job_id, a.fence) for a in batch])
    await one.until(lambda: len(one.of(Returned)) == 19)
    flag.touch()
    assert await one.value("j0") == "found"
    assert len(one.of(Started)) == 2


async def test_a_recall_of_what_never_came_returns_it_once(one: Bench) -> None:
    await one.worker.recall([("lost", 3), ("lost", 3)])
    await one.worker.recall([("lost", 3)])
    await one.assign(job("lost", "double", fence=3))  # the recall overtook it
    assert isinstance(await one.outcome("lost"), Returned)
    assert await one.run(job("lost-2", "double", {"value": 2})) == one.outcomes()["lost-2"]
    assert await one.poll(0.1) == []
    assert [r.fence for r in one.of(Returned)] == [3]
    assert not one.of(Started, "lost")


async def test_a_recall_of_what_has_ended_adds_nothing(one: Bench) -> None:
    await one.assign(job("a", "double", {"value": 2}))
    assert await one.value("a") == 4
    await one.worker.recall([("a", 1)])
    assert await one.poll(0.1) == []
    await one.assign(job("a", "double", {"value": 3}, fence=2))  # a later lease is another attempt
    await one.until(lambda: len(one.of(Succeeded)) == 2)


async def test_stop_returns_drains_and_leaves_nothing(one: Bench) -> None:
    await one.assign(job("a", "stubborn", grace=0.1), job("b", "double"))
    pids = [*await one.checkpoint("a"), *one.runner_pids()]
    await one.poll(0.1)
    await one.worker.stop(0.1)
    assert not [pid for pid in pids if alive(pid)]
    await one.assign(job("c", "double"))
    await one.until(lambda: len(one.outcomes()) == 3)
    outcomes = one.outcomes()
    assert failure_class(outcomes["a"]) is FailureClass.DRAINED
    assert isinstance(outcomes["b"], Returned)
    assert isinstance(outcomes["c"], Returned)


async def test_stop_lets_what_runs_finish_within_the_grace(one: Bench) -> None:
    await one.assign(job("a", "hold_gil", {"value": 300}))
    await one.started("a")
    await one.worker.stop(30.0)
    assert isinstance(await one.outcome("a"), Succeeded)


async def test_a_task_that_is_asked_for_a_checkpoint_may_finish(one: Bench) -> None:
    await one.assign(job("a", "drained", {"value": 1}))
    await one.checkpoint("a")
    stopping = asyncio.create_task(one.worker.stop(600.0))
    assert await one.value("a") == "True"
    await stopping
    assert [json.loads(c.value) for c in one.of(Checkpointed)] == ["at work", "asked"]


async def test_what_a_drained_task_saves_at_its_end_comes_before_its_outcome(one: Bench) -> None:
    await one.assign(job("a", "drained", grace=10.0))
    await one.checkpoint("a")
    stopping = asyncio.create_task(one.worker.stop(600.0))
    await one.until(lambda: len(one.of(Checkpointed)) == 2)
    await one.worker.stop(0.0)  # the shorter grace counts
    await stopping
    assert failure_class(await one.outcome("a")) is FailureClass.DRAINED
    saved = [json.loads(c.value) for c in one.of(Checkpointed)]
    assert saved == ["at work", "asked", "at the end"]
    assert isinstance(one.reports[-1], Failed)


async def test_an_attempt_that_begins_in_a_drain_is_asked_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox = Inbox(Link(theirs))
        ours.sendall(orjson.dumps(["drain", 1e12]) + b"\n")
        rest = [1, "a", 1, 1, "double", "t", "{}", [], None, None, [], 0]
        ours.sendall(orjson.dumps(["run", [rest]]) + b"\n")
        ours.shutdown(socket.SHUT_WR)
        inbox.serve()
        taken = inbox.take(wait=False)
    assert taken is not None
    assert (taken[1].grace() or 0.0) > 0


_HOST = """
import asyncio, sys
from pathlib import Path
import pytest
from tests.workers.harness import Bench, job

async def main():
    made = Bench(Path(sys.argv[1]))
    await made.assign(job("a", sys.argv[2]))
    print(*await made.checkpoint("a"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("task", ["sleepy", "untied"])
async def test_runner_and_child_die_with_the_worker(tmp_path: Path, task: str) -> None:
    path = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    host = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOST,
        str(tmp_path),
        task,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert host.stdout is not None
    line = await asyncio.wait_for(host.stdout.readline(), PATIENCE)
    pids = [int(word) for word in line.split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    host.send_signal(signal.SIGKILL)
    await gone(*pids)
    await host.communicate()  # to the end of its output: else a warning strikes another test
