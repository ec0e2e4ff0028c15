"""What an attempt leaves behind is gone before the next one begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.settings import EnvSource
from longshore_cpu_workers.wire import Checkpointed, Logged, Needs, Succeeded
from longshore_gpu_workers.binding import bind
from tests.workers.harness import Bench, alive, bench, gone, job
from tests.workers.tasks_leaving import WAYS

MODULES = ("tasks_leaving",)
ASYNC = Needs(cpu_millis=10)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, modules=MODULES) as made:
        yield made


def lines(made: Bench, job_id: str) -> list[str]:
    return [line for report in made.of(Logged, job_id) for line in report.lines]


@pytest.mark.parametrize("how", sorted(WAYS))
async def test_the_next_attempt_gets_a_process_that_is_as_it_was(
    made: Bench, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "longshore_cpu_workers")
    made.tiny("leaves", "looks")  # the second is handed ahead, and must not begin there
    await made.assign(job("a", "leaves", {"how": how}), job("b", "looks"))
    (first, left), seen = await made.value("a"), await made.value("b")
    assert (seen["pid"] == first) == (how == "nothing")
    assert seen["secret"] is None
    assert lines(made, "b") == ["looks prints", "INFO looks logs"]
    assert ("is replaced after a job of task leaves" in caplog.text) == (how != "nothing")
    assert "of-a" not in caplog.text, "the value of a variable was told"
    if left:
        await gone(left)


async def test_a_process_that_is_as_it_was_goes_on(made: Bench) -> None:
    pids = {(await made.run(job("a", "grows", {"value": 0}))).value}  # type: ignore[union-attr]
    for n, task in enumerate(("keeps_a_pool", "streams", "pools", "artifact")):
        payload = {"how": "whole"} if task == "artifact" else {}
        assert isinstance(await made.run(job(f"j{n}", task, payload)), Succeeded)
    await made.assign(job("b", "grows", {"value": 0}))
    assert await made.value("b") == int(*pids)


async def test_a_child_of_a_job_prints_into_no_other(made: Bench, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    await made.assign(job("a", "child_prints", {"path": flag}), job("b", "waits", {"path": flag}))
    pid = await made.value("a")
    assert not alive(pid)
    await made.started("b")
    Path(flag).touch()
    await made.value("b")
    assert lines(made, "b") == []


async def test_tenants_share_no_process_unless_they_may(benches: Any) -> None:
    for share in (False, True):
        made: Bench = await benches(modules=MODULES, share_runners=share)
        pids = []
        for n, tenant in enumerate("aba"):
            await made.assign(job(f"j{n}", "looks")._replace(tenant=tenant))
            pids.append((await made.value(f"j{n}"))["pid"])
        assert pids[0] == pids[2]
        assert (pids[0] == pids[1]) == share


@pytest.mark.parametrize(
    ("settings", "runs"),
    [({"runner_max_attempts": 3}, 3), ({"runner_max_memory": 64 << 20}, 3)],
)
async def test_a_process_is_replaced_in_time(benches: Any, settings: Any, runs: int) -> None:
    made: Bench = await benches(modules=MODULES, **settings)
    pids = []
    for n in range(2 * runs):
        await made.assign(job(f"j{n}", "grows", {"value": 30}))
        pids.append(await made.value(f"j{n}"))
    assert len(set(pids[:runs])) == len(set(pids[runs:])) == 1
    assert pids[0] != pids[-1]


@pytest.mark.parametrize(
    ("text", "reason", "renewed"),
    [
        ("CUDA error: uncorrectable ECC error encountered", "DEVICE_FAULT", True),
        ("CUDA error: an illegal memory access was encountered", "RUNTIME_ERROR", True),
        ("CUDNN_STATUS_EXECUTION_FAILED", "RUNTIME_ERROR", True),
        ("CUDA error: device-side assert triggered", "RUNTIME_ERROR", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "OUT_OF_MEMORY", True),
        ("operator acme.cuda:CudaNMS is not registered", "RUNTIME_ERROR", False),
    ],
)
async def test_a_spoilt_process_gets_no_further_job(
    made: Bench, text: str, reason: str, renewed: bool
) -> None:
    await made.assign(job("warm", "on_device"))
    first = await made.value("warm")
    await made.assign(job("a", "on_device", {"how": text}), job("b", "on_device"))
    assert (await made.failed("a")).failure.reason == reason
    assert (await made.value("b") != first) == renewed


async def test_a_device_that_fails_twice_is_set_aside(tmp_path: Path) -> None:
    needs = Needs(cpu_millis=100, gpu_millis=1000)
    fault = {"how": "CUDA error: uncorrectable ECC error encountered"}
    async with bench(
        tmp_path,
        modules=MODULES,
        cpus=4,
        binding=bind([], simulate=2),
        capacity=Needs(4000, 0, 2000),
    ) as made:
        for n in range(2):
            await made.assign(job(f"bad{n}", "on_device", fault, needs=needs))
            failure = (await made.failed(f"bad{n}")).failure
            assert failure.failure_class is FailureClass.DEVICE_FAULT
        reply = await made.worker.poll(made.ack, 0.0)
        assert reply.set_aside == (0,)
        assert [d.set_aside for d in (await made.worker.info()).devices] == [True, False]
        await made.assign(job("good", "on_device", needs=needs))
        assert isinstance(await made.outcome("good"), Succeeded)
        both = job("both", "on_device", needs=needs._replace(gpu_millis=2000))
        await made.assign(both)
        await made.outcome("both")
        assert type(made.outcomes()["both"]).__name__ == "Returned", "it runs on another worker"


async def test_a_crash_tells_where_it_was(made: Bench) -> None:
    await made.assign(job("a", "crashes"))
    failure = (await made.failed("a")).failure
    assert failure.failure_class is FailureClass.CRASH
    assert ("signal", "SIGSEGV") in failure.metadata
    assert "Fatal Python error: Segmentation fault" in failure.traceback
    assert "in crashes" in failure.traceback


# Forks


async def test_lines_of_forked_children_are_of_the_job(made: Bench) -> None:
    await made.assign(job("a", "pools"))
    assert await made.value("a") == [0, 1, 4, 9]
    for n in range(4):
        assert f"child prints {n}" in lines(made, "a")
        assert f"WARNING child logs {n}" in lines(made, "a")


async def test_every_pool_of_processes_ends(benches: Any) -> None:
    """It ends its processes with SIGTERM, which may come while one of them begins."""
    made: Bench = await benches(modules=MODULES, cpus=3)
    await made.assign(*[job(f"j{n}", "pools") for n in range(60)])
    await made.until(lambda: len(made.outcomes()) == 60)
    assert all(isinstance(outcome, Succeeded) for outcome in made.outcomes().values())


async def test_a_copy_never_waits_for_what_a_thread_held(made: Bench) -> None:
    await made.assign(job("a", "forks_in_a_storm", {"value": 40}))
    assert await made.value("a") == 40


# Artifacts


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("link", "is a symbolic link"),
        ("folder", "is a folder; pack it"),
        ("fifo", "is no regular file"),
        ("missing", "never written"),
        ("open", "is still open"),
    ],
)
async def test_what_is_no_artifact_fails_the_job_by_name(made: Bench, how: str, said: str) -> None:
    await made.assign(job("a", "artifact", {"how": how}))
    failure = (await made.failed("a")).failure
    assert (failure.reason, failure.failure_class) == ("INVALID_ARTIFACT", FailureClass.PERMANENT)
    assert "'out'" in failure.message
    assert said in failure.message
    assert ("artifact", "out") in failure.metadata


async def test_an_artifact_is_whole_and_stays_so(made: Bench) -> None:
    outcome = await made.run(job("a", "artifact", {"how": "whole"}))
    assert isinstance(outcome, Succeeded)
    [ref] = outcome.artifacts
    assert (ref.name, ref.size) == ("out", 5)
    assert (made.artifacts / "a/1/out").stat().st_mode & 0o777 == 0o444
    missing = await made.run(job("b", "artifact", {"how": "optional"}))
    assert isinstance(missing, Succeeded)
    assert missing.artifacts == ()


async def test_artifacts_are_on_the_disk_before_success_is_told(made: Bench) -> None:
    await made.run(job("a", "counts_syncs"))
    await made.assign(job("b", "synced"))
    folder = made.artifacts / "a"
    assert await made.value("b") == [
        *(str(path) for path in (folder / "1/out", folder / "1", folder, made.artifacts))
    ]


async def test_streams_have_what_libraries_ask_of_them(made: Bench) -> None:
    await made.assign(job("a", "streams"))
    assert await made.value("a") == ["<stdout>", "w", "True", "backslashreplace", "False"]
    assert lines(made, "a") == ["after"]


# Async


async def test_a_checkpoint_stops_no_other_attempt(benches: Any, tmp_path: Path) -> None:
    made: Bench = await benches(modules=MODULES)
    flag = tmp_path / "flag"
    await made.assign(
        *[
            job(f"{how}{n}", "saves_async", {"how": how, "value": n}, needs=ASYNC)
            for how in ("plain", "awaited")
            for n in (1, 2)
        ]
    )
    # Nothing is acknowledged, so nothing is durable yet; both of each kind went on to send.
    sent: set[str] = set()
    while len(sent) < 4:
        reply = await made.poll(1.0, acknowledge=False)
        sent = {r.job_id for r in reply if isinstance(r, Checkpointed)}
    done = {r.job_id for r in await made.poll(1.0, acknowledge=False) if isinstance(r, Succeeded)}
    assert not {"awaited1", "awaited2"} & done
    flag.touch()
    assert await made.value("plain1") == "went on"
    assert await made.value("awaited2") == "durable"
    assert await made.value("awaited1") == "durable"


async def test_an_awaited_checkpoint_gives_up_in_time(made: Bench) -> None:
    await made.assign(job("a", "saves_in_vain", needs=ASYNC))
    found: list[Any] = []
    while not found:
        found = [r for r in await made.poll(1.0, acknowledge=False) if isinstance(r, Succeeded)]
    assert "not confirmed within 0.05 s" in found[0].value


@pytest.mark.parametrize("how", ["", "task", "child"])
async def test_an_idle_async_process_is_as_it_was(made: Bench, how: str) -> None:
    await made.assign(job("a", "leaves_async", {"how": how}, needs=ASYNC))
    first = await made.value("a")
    if how:
        await gone(first)
    await made.assign(job("b", "leaves_async", needs=ASYNC))
    assert (await made.value("b") == first) == (how == "")


async def test_files_of_async_attempts_are_collected_and_deleted(made: Bench) -> None:
    outcome = await made.run(job("a", "writes_async", needs=ASYNC))
    assert isinstance(outcome, Succeeded)
    assert outcome.artifacts[0].size == 5
    assert not list(made.scratch.iterdir())


async def test_a_crash_among_async_attempts_is_charged_to_one_the_next_time(
    benches: Any, tmp_path: Path
) -> None:
    made: Bench = await benches(modules=MODULES, cpus=4)
    dies, ends = tmp_path / "dies", tmp_path / "ends"

    async def pair(lives: str, other: str) -> None:
        for name, how, flag in ((lives, "", ends), (other, "die", dies)):
            payload = {"how": how, "path": str(flag)}
            await made.assign(job(name, "crashes_async", payload, needs=ASYNC))
            await made.started(name)
        dies.touch()

    await pair("a", "b")
    for name in ("a", "b"):
        assert (await made.failed(name)).failure.reason == "RUNNER_LOST"
    dies.unlink()
    await pair("c", "d")
    assert (await made.failed("d")).failure.failure_class is FailureClass.CRASH
    ends.touch()
    assert await made.value("c") is None


async def test_lines_printed_in_an_executor_are_of_their_attempt(
    benches: Any, tmp_path: Path
) -> None:
    made: Bench = await benches(modules=MODULES)
    flag = tmp_path / "flag"
    for n in range(2):
        payload = {"value": n, "path": str(flag)}
        await made.assign(job(f"j{n}", "prints_aside", payload, needs=ASYNC))
        await made.started(f"j{n}")
    await made.until(lambda: all(lines(made, f"j{n}") for n in range(2)))
    flag.touch()
    for n in range(2):
        await made.value(f"j{n}")
        assert lines(made, f"j{n}") == [f"aside {n}"]


# Memory


@pytest.mark.parametrize(("limit", "ends"), [("soft", True), ("off", False)])
async def test_an_attempt_may_not_have_more_memory_than_it_asked_for(
    benches: Any, limit: str, ends: bool
) -> None:
    made: Bench = await benches(modules=MODULES, memory_limit=limit, cpus=2)
    needs = Needs(cpu_millis=1000, memory_bytes=32 << 20)
    takes = {"value": 200, "how": "hold" if ends else ""}
    await made.assign(
        job("small", "takes", {"value": 8}, needs=needs), job("large", "takes", takes, needs=needs)
    )
    assert isinstance(await made.outcome("small"), Succeeded)
    outcome = await made.outcome("large")
    if not ends:
        assert isinstance(outcome, Succeeded)
        return
    failure = (await made.failed("large")).failure
    facts = dict(failure.metadata)
    assert failure.failure_class is FailureClass.OUT_OF_MEMORY
    assert facts["memory"] == "host"
    assert int(facts["asked_bytes"]) == 32 << 20
    assert int(facts["peak_bytes"]) > 32 << 20


async def test_a_hard_limit_lets_the_allocation_fail(benches: Any) -> None:
    made: Bench = await benches(modules=MODULES, memory_limit="hard")
    needs = Needs(cpu_millis=1000, memory_bytes=64 << 20)
    await made.assign(job("a", "takes", {"value": 300}, needs=needs))
    failure = (await made.failed("a")).failure
    assert failure.message.startswith("MemoryError")
    assert failure.failure_class is FailureClass.OUT_OF_MEMORY
    assert int(dict(failure.metadata)["peak_bytes"]) > 0
    await made.assign(job("b", "takes", {"value": 16}, needs=needs))
    assert await made.value("b") == 16 << 20


# Variables


async def test_task_code_sees_what_the_pool_gives_it_and_nothing_hidden(
    benches: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of a file\n")
    for name in ("AWS_SECRET", "LONGSHORE_STORE", "RAY_AUTH_TOKEN", "MINE"):
        monkeypatch.setenv(name, "of the worker")
    env = {
        "MODE": "fast",
        "TOKEN": EnvSource(file=str(tmp_path / "token")),
        "THEIRS": EnvSource(variable="MINE"),
    }
    made: Bench = await benches(modules=MODULES, env=env, hidden_env=("AWS_*",))
    await made.assign(job("a", "sees_env"))
    seen = await made.value("a")
    assert [seen[name] for name in ("MODE", "TOKEN", "THEIRS")] == [
        "fast",
        "of a file",
        "of the worker",
    ]
    assert not {"AWS_SECRET", "LONGSHORE_STORE", "RAY_AUTH_TOKEN"} & set(seen)


async def test_a_variable_that_cannot_be_read_is_named(benches: Any, tmp_path: Path) -> None:
    missing = EnvSource(file=str(tmp_path / "nowhere"))
    made: Bench = await benches(modules=MODULES, env={"TOKEN": missing}, start_tries=1)
    await made.assign(job("a", "looks"))
    message = (await made.failed("a")).failure.message
    assert "variable TOKEN" in message
    assert "nowhere cannot be read" in message
