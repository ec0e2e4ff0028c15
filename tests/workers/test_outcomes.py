"""How attempts end: results, errors, refusals, crashes."""

from __future__ import annotations

import json
import signal
import socket
import time
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass, TaskError
from longshore_cpu_workers.runner.failures import field_path, raised
from longshore_cpu_workers.wire import Assignment, Failed, Needs, Returned, Started, Succeeded
from tests.workers.harness import PATIENCE, Bench, job


async def test_a_job_starts_and_succeeds(one: Bench) -> None:
    outcome = await one.run(job("a", "double", {"value": 21}))
    assert isinstance(outcome, Succeeded)
    assert outcome.value == "42"
    (started,) = one.of(Started)
    assert 0 <= outcome.seconds <= outcome.at - started.at


async def test_an_exception_is_a_task_error_without_secrets(one: Bench) -> None:
    await one.assign(job("a", "fail"))
    failure = (await one.failed("a")).failure
    assert failure.failure_class is FailureClass.TASK_ERROR
    assert failure.reason == "VALUE_ERROR"
    assert "ValueError" in failure.traceback
    assert "tasks_plain.py" in failure.traceback
    assert "hunter2" not in str(failure)
    assert "abc" not in failure.message
    assert "runner/attempt.py" not in failure.traceback


async def test_reasons_of_task_code_are_kept(one: Bench) -> None:
    await one.assign(job("a", "fail_with_reason"), job("b", "fail_for_good"))
    a, b = (await one.failed("a")).failure, (await one.failed("b")).failure
    assert (a.failure_class, a.code, a.reason) == (FailureClass.TASK_ERROR, 14, "BUSY")
    assert dict(a.metadata) == {"exception": "longshore.sdk.failures.TaskError", "host": "a"}
    assert (b.failure_class, b.code, b.reason) == (FailureClass.PERMANENT, 3, "NO_CODEC")
    assert b.violations == (("codec", "x"),)


async def test_a_payload_that_does_not_fit_is_refused_with_paths(one: Bench) -> None:
    await one.assign(job("a", "checked", {"items": [{}, {"value": "x"}], "name": 5}))
    failure = (await one.failed("a")).failure
    assert (failure.failure_class, failure.code) == (FailureClass.PERMANENT, 3)
    assert failure.reason == "INVALID_PAYLOAD"
    assert {path for path, _ in failure.violations} == {"name", "items[1].value"}


async def test_an_unknown_task_never_starts(one: Bench) -> None:
    await one.assign(job("a", "nonesuch"))
    failed = await one.failed("a")
    assert (failed.failure.reason, failed.failure.code) == ("UNKNOWN_TASK", 5)
    assert failed.failure.failure_class is FailureClass.PREEMPTED, "another worker may have it"
    assert failed.seconds is None
    assert not one.of(Started)


@pytest.mark.parametrize("value", [0, 1, 2])
async def test_memory_is_a_class_of_its_own(one: Bench, value: int) -> None:
    await one.assign(job("a", "out_of_memory", {"value": value}))
    failure = (await one.failed("a")).failure
    assert failure.failure_class is FailureClass.OUT_OF_MEMORY


async def test_a_permanent_error_is_permanent_whatever_its_reason(one: Bench) -> None:
    await one.assign(job("a", "out_of_memory", {"value": 3}))
    failure = (await one.failed("a")).failure
    assert (failure.failure_class, failure.reason) == (FailureClass.PERMANENT, "OUT_OF_MEMORY")


def test_paths_are_written_as_the_server_writes_them() -> None:
    assert field_path(("renditions", 0, "height")) == "renditions[0].height"
    assert field_path((0, "a b", "ä", "c")) == '[0]["a b"]["ä"].c'
    assert field_path(()) == ""


def test_a_failure_holds_nothing_that_a_database_cannot_keep() -> None:
    error = TaskError("cut\0here \ud800", reason="A\0B", metadata={"k\0": "v\0"})
    assert "\\u0000" not in json.dumps(raised(error).plain())


async def test_results_have_a_bound_and_are_json(one: Bench) -> None:
    await one.assign(job("large", "result", {"value": 300_000}), job("odd", "result"))
    large, odd = (await one.failed("large")).failure, (await one.failed("odd")).failure
    assert (large.failure_class, large.reason) == (FailureClass.PERMANENT, "RESULT_TOO_LARGE")
    assert (odd.failure_class, odd.reason) == (FailureClass.PERMANENT, "INVALID_RESULT")


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        (int(signal.SIGSEGV), ("signal", "SIGSEGV")),
        (int(signal.SIGKILL), ("signal", "SIGKILL")),
        (-3, ("exit_code", "3")),
        (-1000, ("exit_code", "9")),
    ],
)
async def test_a_crash_is_charged_to_the_one_that_ran(
    one: Bench, how: int, facts: tuple[str, str]
) -> None:
    assert one.worker._supervision is not None
    one.worker._supervision._oom._files.clear()  # others may run out of memory on this machine
    await one.run(job("warm", "die"))
    one.tiny("die")
    batch = [job(f"j{n}", "die", {"value": how if n == 20 else 0}) for n in range(60)]
    await one.assign(*batch)
    await one.until(lambda: len(one.outcomes()) == 61)
    outcomes = one.outcomes()
    crashed = {job_id for job_id, end in outcomes.items() if isinstance(end, Failed)}
    assert crashed == {"j20"}
    failure = (await one.failed("j20")).failure
    assert failure.failure_class is FailureClass.CRASH
    assert facts in failure.metadata
    assert all(len(one.of(Started, a.job_id)) == 1 for a in batch), "an attempt began twice"


@pytest.mark.parametrize("value", range(7))
async def test_a_runner_that_cannot_be_understood_is_killed(one: Bench, value: int) -> None:
    await one.assign(job("a", "writes_to_the_link", {"value": value}))
    failure = (await one.failed("a")).failure
    assert failure.failure_class is FailureClass.CRASH
    await one.assign(job("b", "double", {"value": 2}))
    assert await one.value("b") == 4


async def test_what_was_said_before_nonsense_stands(one: Bench) -> None:
    """Both in one read: the worker is held up until both are there."""
    await one.run(job("warm", "double"))
    await one.assign(job("a", "writes_to_the_link", {"value": 0}))
    assert one.worker._supervision is not None
    (runner,) = (runner for runner in one.worker._supervision.fleet if runner.attempts)
    end = time.monotonic() + PATIENCE
    while b"no json\n" not in unread(runner._link):
        assert time.monotonic() < end
        time.sleep(0.001)  # noqa: ASYNC251 - the point of it
    both_there = time.monotonic()
    assert (await one.failed("a")).failure.failure_class is FailureClass.CRASH
    (started,) = one.of(Started, "a")
    assert started.at < both_there, "it began a second time"


def unread(link: socket.socket) -> bytes:
    try:
        return link.recv(1 << 16, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


async def test_a_repeated_assign_changes_nothing(one: Bench) -> None:
    batch = [job("a", "double"), job("b", "double")]
    await one.assign(*batch)
    await one.assign(*batch)
    await one.outcome("b")
    await one.assign(*batch)
    await one.run(job("c", "double"))
    assert len(one.of(Started)) == 3
    assert len(one.of(Succeeded)) == 3


async def test_impossible_needs_fail_instead_of_waiting(one: Bench) -> None:
    await one.assign(job("a", "double", needs=Needs(cpu_millis=5000)))
    assert (await one.failed("a")).failure.reason == "NEEDS_EXCEED_WORKER"


async def test_a_job_id_is_never_a_path(one: Bench) -> None:
    with pytest.raises(ValueError, match="job id"):
        await one.assign(job("../x", "double"))


async def test_what_is_beyond_the_bound_comes_back(benches: Any) -> None:
    made = await benches(max_assigned=2)
    await made.assign(*[job(f"j{n}", "double") for n in range(3)])
    await made.until(lambda: len(made.outcomes()) == 3)
    assert [r.job_id for r in made.of(Returned)] == ["j2"]


async def test_broken_task_modules_fail_the_attempts_with_the_reason(benches: Any) -> None:
    made = await benches(modules=("tasks_broken",), start_tries=1)
    await made.assign(job("a", "double"))
    failure = (await made.failed("a")).failure
    assert failure.failure_class is FailureClass.WORKER_LOST
    assert failure.reason == "RUNNER_START_FAILED"
    assert "no licence" in failure.message
    assert "secret" not in failure.message


async def test_capacity_is_kept_and_the_rest_waits(two: Bench) -> None:
    flags = [two.scratch / f"flag-{n}" for n in range(3)]
    await two.assign(
        *[job(f"j{n}", "wait_for_file", {"path": str(flag)}) for n, flag in enumerate(flags)]
    )
    await two.started("j0")
    await two.started("j1")
    assert ("j2", 1, "WAITING") in await two.worker.held()
    flags[1].touch()
    await two.outcome("j1")
    await two.started("j2")
    flags[0].touch()
    flags[2].touch()
    await two.until(lambda: len(two.outcomes()) == 3)


def assignments(count: int) -> list[Assignment]:
    return [job(f"j{n}", "double", {"value": n}) for n in range(count)]


async def test_reports_are_repeated_until_acknowledged(one: Bench) -> None:
    await one.assign(*assignments(5))
    while len(first := await one.poll(acknowledge=False)) < 10:
        pass
    again = await one.poll(acknowledge=False)
    assert again == first
    await one.poll()
    assert not await one.poll(wait=0.0)
    with pytest.raises(ValueError, match="beyond"):
        await one.worker.poll(10_000, 0.0)
