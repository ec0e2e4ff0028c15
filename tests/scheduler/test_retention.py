"""The leader deletes what is too old: bit by bit, with its files, and never what is not."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from longshore_scheduler import retention as module
from longshore_scheduler.retention import HOURLY, REST, SHARE, Pruned, Retention
from longshore_scheduler.term import Term
from longshore_store.redrive_records import DeadLetters, RedriveRecord
from longshore_store.retention_records import DAY
from longshore_store.settings import RetentionSettings
from longshore_store.states import JobState
from tests.scheduler.harness import DEADLINE, Harness, make_job, make_settings, until

SETTINGS = RetentionSettings(batch=32)
WEEK = 7 * DAY / 1e6
QUOTE = "DETAIL: the key of some tenant"


async def make_term(harness: Harness) -> Term:
    number = await harness.store.lead("test", 10**15)
    assert number is not None
    settings = make_settings().scheduler
    return Term(
        number, harness.store, harness.cluster, settings, [], {}, clock=harness.clock.seconds
    )


async def make_retention(harness: Harness, artifacts: Path | None = None) -> Retention:
    return Retention(await make_term(harness), SETTINGS, artifacts)


async def cancelled(harness: Harness, count: int) -> list[str]:
    ids = await harness.submit(*(make_job() for _ in range(count)))
    assert await harness.store.cancel_jobs(ids, "", False) == []
    return ids


async def existing(harness: Harness, ids: list[str]) -> set[str]:
    return {job.id for job in await harness.store.read_jobs(ids)}


async def one_pass(retention: Retention) -> int:
    """How many steps it took."""
    for step in itertools.count(1):
        if not await retention.run_once():
            return step
    raise AssertionError


def keep_artifact(artifacts: Path, job_id: str) -> Path:
    path = artifacts / job_id / "1" / "thumb.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"png")
    return path


async def test_a_pass_deletes_what_is_too_old_in_steps(harness: Harness) -> None:
    retention = await make_retention(harness)
    old = await cancelled(harness, 100)
    waiting = await harness.submit(make_job())
    harness.clock.advance(WEEK)
    young = await cancelled(harness, 3)
    steps = await one_pass(retention)
    assert await existing(harness, [*old, *waiting, *young]) == {*waiting, *young}
    assert steps >= 100 / SETTINGS.batch
    assert retention.pruned == Pruned(jobs=100)


async def test_files_go_with_their_job(harness: Harness, tmp_path: Path) -> None:
    retention = await make_retention(harness, tmp_path)
    (old,) = await cancelled(harness, 1)
    harness.clock.advance(WEEK)
    (young,) = await cancelled(harness, 1)
    files = [keep_artifact(tmp_path, job_id) for job_id in (old, young)]
    await one_pass(retention)
    assert [file.exists() for file in files] == [False, True]
    assert not (tmp_path / old).exists()


async def test_files_that_a_crash_has_left_are_found(harness: Harness, tmp_path: Path) -> None:
    """Whoever died between the commit and the files has left folders without a job."""
    artifacts = tmp_path / "artifacts"
    retention = await make_retention(harness, artifacts)
    (living,) = await harness.submit(make_job())
    lost = "00000000-0000-7000-8000-00000000ffff"
    now_ms = harness.store.now_us() // 1000
    recent = f"{now_ms >> 16:08x}-{now_ms & 0xFFFF:04x}-7000-8000-000000000000"
    for name in (living, lost, recent, "lost+found"):
        keep_artifact(artifacts, name)
    await one_pass(retention)
    assert {path.name for path in artifacts.iterdir()} == {living, recent, "lost+found"}
    assert retention.pruned.folders == 1


async def test_many_folders_are_looked_at_in_steps(harness: Harness, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    retention = await make_retention(harness, artifacts)
    await one_pass(retention)  # there is no folder yet
    harness.clock.advance(HOURLY)
    for n in range(450):
        (artifacts / f"00000000-0000-7000-8000-{n:012x}").mkdir(parents=True)
    assert await one_pass(retention) == 4, "200, 200, 50, and nothing"
    assert list(artifacts.iterdir()) == []
    assert retention.pruned.folders == 450


async def test_folders_are_looked_at_once_an_hour(harness: Harness, tmp_path: Path) -> None:
    retention = await make_retention(harness, tmp_path / "artifacts")
    await one_pass(retention)
    keep_artifact(tmp_path / "artifacts", "00000000-0000-7000-8000-000000000000")
    await one_pass(retention)
    assert retention.pruned.folders == 0
    harness.clock.advance(HOURLY)
    await one_pass(retention)
    assert retention.pruned.folders == 1


async def test_redrives_go_once_an_hour_after_all_jobs_of_their_time(harness: Harness) -> None:
    retention = await make_retention(harness)
    made_us = harness.store.now_us()
    redrive = RedriveRecord("r", DeadLetters("t"), 1000, 0, "why", "ann", made_us, 0)
    await harness.store.create_redrive(redrive)
    await harness.store.stop_redrive("r", "t", "enough")
    for days, left in ((29.9, 1), (0.2, 0)):
        harness.clock.advance(days * DAY / 1e6)
        await one_pass(retention)
        assert len(await harness.store.list_redrives("t", None, 10)) == left
    assert retention.pruned == Pruned(redrives=1)


async def test_it_rests_for_many_times_as_long_as_it_works(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = await make_retention(harness)
    term: Any = retention._term
    await cancelled(harness, 20)
    harness.clock.advance(WEEK)
    readings = itertools.count(0.0, 0.02)  # each step takes 20 ms
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            term.end("enough")

    monkeypatch.setattr(term, "pause", pause)
    await retention.run()
    within = [seconds for seconds in pauses if seconds != REST]
    assert within == pytest.approx([0.02 / SHARE - 0.02] * len(within))
    assert len(within) >= 2
    assert REST in pauses


async def test_a_slow_step_makes_the_next_ones_small(harness: Harness) -> None:
    retention = await make_retention(harness)
    for _ in range(10):
        retention._adapt(module.SLOW / 2)
    assert retention._limit == SETTINGS.batch
    retention._adapt(module.SLOW * 2)
    assert retention._limit == SETTINGS.batch // 2
    for _ in range(10):
        retention._adapt(module.SLOW * 2)
    assert retention._limit == SETTINGS.batch // 8


async def test_a_replaced_leader_deletes_nothing(harness: Harness) -> None:
    retention = await make_retention(harness)
    old = await cancelled(harness, 1)
    harness.clock.advance(WEEK)
    await harness.store.resign("test")
    assert await harness.store.lead("another", 10**15) is not None
    async with asyncio.timeout(DEADLINE):
        await retention.run()
    assert await existing(harness, old) == set(old)


async def test_what_goes_wrong_is_tried_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    retention = await make_retention(harness)
    term, store = retention._term, harness.store
    old = await cancelled(harness, 1)
    harness.clock.advance(WEEK)
    find, failures = store.prunable_jobs, [RuntimeError("bad row")]

    async def prunable_jobs(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await find(*arguments)

    monkeypatch.setattr(store, "prunable_jobs", prunable_jobs)
    monkeypatch.setattr(module, "REST", 0.01)
    running = term.spawn(retention.run(), "retention")
    await until(lambda: retention.pruned.jobs == 1)
    await term.close()
    assert running.done()
    assert "nothing is deleted for now" in caplog.text
    assert await existing(harness, old) == set()


async def test_a_scheduler_does_it_beside_its_work(harness: Harness, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    old = await cancelled(harness, 40)
    files = [keep_artifact(artifacts, job_id) for job_id in old]
    harness.clock.advance(WEEK)
    await harness.launch(artifacts=artifacts)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, job_id)
    await until(lambda: not any(file.exists() for file in files))
    assert await existing(harness, [*old, job_id]) == {job_id}


async def test_what_goes_wrong_is_logged_without_what_a_row_says(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: Any) -> None:
        raise RuntimeError(QUOTE)

    monkeypatch.setattr(harness.store, "prunable_jobs", refuse)
    retention = await make_retention(harness)
    running = asyncio.create_task(retention.run())
    await until(lambda: "nothing is deleted" in caplog.text)
    running.cancel()
    assert QUOTE not in caplog.text
    assert "RuntimeError" in caplog.text
