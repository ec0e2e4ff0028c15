"""Task code that closes, floods, forks and nests: its job ends, once, and so do its neighbours."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.guardian import Guardian
from longshore_cpu_workers.reaping import Root, bury, kill_tree, read_stat
from longshore_cpu_workers.wire import (
    InputRef,
    Logged,
    Needs,
    Progressed,
    Returned,
    Started,
    Succeeded,
)
from longshore_gpu_workers.binding import bind
from tests.workers.harness import PATIENCE, Bench, alive, bench, job
from tests.workers.tasks_hostile import KEY_LINE, SECRET

HOSTILE = ("tasks_hostile",)


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, modules=HOSTILE) as made:
        yield made


def lines(made: Bench, job_id: str) -> list[str]:
    return [line for report in made.of(Logged, job_id) for line in report.lines]


async def test_a_task_may_close_its_output(hostile: Bench) -> None:
    await hostile.assign(job("a", "closes_its_output"), job("b", "quick"))
    assert await hostile.value("a") == "done"
    assert lines(hostile, "a") == ["before"]
    assert await hostile.value("b") == 0


@pytest.mark.parametrize("task", ["closes_everything", "closes_everything_async"])
async def test_a_runner_without_its_socket_ends(hostile: Bench, task: str) -> None:
    await hostile.assign(job("a", task), job("b", "quick"))
    assert (await hostile.failed("a")).failure.failure_class is FailureClass.CRASH
    assert await hostile.value("b") == 0


async def test_a_child_that_prints_for_ever_keeps_no_job_from_ending(hostile: Bench) -> None:
    await hostile.assign(job("a", "leaves_a_flood"), job("b", "quick"))
    assert not alive(await hostile.value("a"))
    assert await hostile.value("b") == 0
    await hostile.assign(job("c", "leaves_a_flood", {"value": 1}))
    assert (await hostile.failed("c")).failure.reason == "VALUE_ERROR"


@pytest.mark.parametrize(("how", "status"), [(0, 7), (1, 1), (2, 0)])
async def test_a_copy_of_the_runner_reports_nothing(hostile: Bench, how: int, status: int) -> None:
    await hostile.run(job("warm", "quick"))
    hostile.tiny("forks", "quick")  # the others are handed ahead, and copied too
    others = [job(f"j{n}", "quick", {"value": n}) for n in range(5)]
    await hostile.assign(job("a", "forks", {"value": how}), *others)
    assert ("j4", 1, "HANDED") in await hostile.worker.held()
    assert await hostile.value("a") == status
    for n in range(5):
        assert await hostile.value(f"j{n}") == n
    assert len(hostile.of(Started)) == 7
    assert any("of the copy" in line for line in lines(hostile, "a")) == (how == 1)


@pytest.mark.parametrize("depth", [1_200, 2_500, -2_500])
async def test_folders_nested_too_deep_are_deleted(hostile: Bench, depth: int) -> None:
    try:
        outcome = await hostile.run(job("a", "nests", {"value": depth}))
        assert isinstance(outcome, Succeeded) == (depth > 0)
        assert not list(hostile.scratch.iterdir())
    finally:  # pytest could not delete them either
        await (await asyncio.create_subprocess_exec("rm", "-rf", hostile.scratch)).wait()


@pytest.mark.parametrize("uri", ["file:///a%00b", "file://[x", "file:///proc/self/mem"])
async def test_an_input_that_cannot_be_read_ends_its_attempt_alone(
    hostile: Bench, uri: str
) -> None:
    ref = InputRef("text", uri, 0, "00")
    await hostile.assign(job("a", "reads", inputs=(ref,)), job("b", "quick"))
    failed = await hostile.failed("a")
    assert failed.failure.failure_class is FailureClass.TASK_ERROR
    assert failed.failure.reason in ("VALUE_ERROR", "OS_ERROR")
    assert failed.seconds is None
    assert await hostile.value("b") == 0


async def test_a_secret_across_the_bound_of_a_line_is_hidden(hostile: Bench) -> None:
    await hostile.run(job("a", "prints_long", {"value": 4070}))
    said = lines(hostile, "a")
    assert len(said) == 2
    assert SECRET not in str(said)


async def test_a_private_key_is_hidden_where_its_beginning_is_dropped(hostile: Bench) -> None:
    await hostile.run(job("a", "prints_a_key_in_a_flood"))
    said = lines(hostile, "a")
    assert "***" in said, "not one line of the key came through; the test proves nothing"
    assert KEY_LINE not in said


async def test_lines_of_nobody_are_scrubbed_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "flag"
    async with bench(tmp_path, modules=HOSTILE, cpus=2) as made:
        pair = [job(name, "writes_past_python", {"path": str(flag)}) for name in ("a", "b")]
        await made.assign(*pair)
        await made.started("a")
        await made.started("b")
        flag.touch()
        said, end = "", time.monotonic() + PATIENCE
        while said.count("\n") < 2:
            assert time.monotonic() < end, said
            await made.poll(0.05)
            said += capfd.readouterr().err
        assert said == "password=***\n" * 2
        flag.with_name("flag.end").touch()
        await made.until(lambda: len(made.outcomes()) == 2)


@pytest.mark.parametrize(
    ("said", "fraction"), [("nan", None), ("inf", None), ("-inf", None), ("0.25", 0.25)]
)
async def test_a_fraction_that_is_no_number_is_left_out(
    hostile: Bench, said: str, fraction: float | None
) -> None:
    await hostile.run(job("a", "says_a_fraction", {"said": said}))
    [body] = [json.loads(report.body) for report in hostile.of(Progressed)]
    assert (body.get("fraction"), body["message"]) == (fraction, said)


@pytest.mark.parametrize("code", [0, 999, 2**40, 2**70])
async def test_a_code_that_is_none_becomes_aborted(hostile: Bench, code: int) -> None:
    await hostile.assign(job("a", "has_an_odd_code", {"value": code}))
    failure = (await hostile.failed("a")).failure
    assert (failure.code, failure.message) == (10, "odd")


async def test_a_module_that_fails_at_length_is_told_briefly(benches: Any) -> None:
    made = await benches(modules=("tasks_long_winded",), start_tries=1)
    await made.assign(job("a", "quick"))
    message = (await made.failed("a")).failure.message
    assert "no licence" in message
    assert "\0" not in message
    assert len(message) < 2300


async def test_runners_of_other_devices_give_way(tmp_path: Path) -> None:
    """As many as there may be are warm, and none sees the devices that are asked for."""
    capacity = Needs(cpu_millis=4000, gpu_millis=2000)
    async with bench(
        tmp_path,
        modules=HOSTILE,
        binding=bind([], simulate=2),
        capacity=capacity,
        max_runners=2,
    ) as made:
        supervision = made.worker._supervision
        assert supervision is not None
        supervision.fleet.request((0,), 3)
        await made.until(lambda: [r.ready for r in supervision.fleet] == [True] * 3)
        both = Needs(cpu_millis=100, gpu_millis=2000)
        outcome = await made.run(job("a", "quick", needs=both))
        assert isinstance(outcome, Succeeded)
        assert not made.of(Returned)


def test_a_number_that_went_to_another_process_is_not_killed() -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        stat = read_stat(stranger.pid)
        assert stat is not None
        gone = Root(stranger.pid, stat.started - 1, "of-a-runner-that-is-gone")
        assert kill_tree(gone, signal.SIGKILL) == 0
        assert stranger.poll() is None
        bury(Root(stranger.pid, stat.started, "of-a-runner-that-is-gone"))
        assert stranger.wait(PATIENCE) == -9
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_guardian_is_tried_again_where_it_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    guardian = Guardian(tmp_path, 600.0)
    guardian._process.kill()
    guardian._process.wait()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        guardian.revive()
        guardian.beat()
    guardian.revive()
    guardian.beat()
    assert guardian._process.poll() is None
    await guardian.dismiss()
