"""The folder that outlives attempts: until one succeeds, and no longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore_cpu_workers.wire import Assignment, Succeeded
from tests.workers.harness import Bench, bench, job


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, modules=("tasks_keeping",)) as made:
        yield made


def attempt(job_id: str, fence: int, then: str = "succeed") -> Assignment:
    return job(job_id, "keeps", {"then": then}, fence=fence)


@pytest.mark.parametrize("ending", ["fail", "crash"])
async def test_what_an_attempt_leaves_is_there_for_the_next(tmp_path: Path, ending: str) -> None:
    kept = tmp_path / "artifacts" / "a" / "kept"
    async with bench(tmp_path, modules=("tasks_keeping",)) as one:
        await one.assign(attempt("a", 1, ending))
        await one.failed("a")
        assert (kept / "1-work").read_text() == "done"
    async with bench(tmp_path, modules=("tasks_keeping",)) as one:
        await one.assign(attempt("a", 2))
        assert await one.value("a") == ["1-work", "2-work"]
        assert not kept.exists()
        assert (kept.parent / "2" / "out.txt").exists()


async def test_jobs_do_not_share_it(keeping: Bench) -> None:
    await keeping.assign(attempt("a", 1, "fail"), attempt("b", 2))
    assert await keeping.value("b") == ["2-work"]
    assert (keeping.artifacts / "a" / "kept" / "1-work").exists()


async def test_an_attempt_that_lost_its_lease_deletes_nothing(keeping: Bench) -> None:
    outcome = await keeping.run(attempt("a", 1, "be late"))
    assert isinstance(outcome, Succeeded)
    assert (keeping.artifacts / "a" / "kept" / "1-work").exists()


async def test_success_deletes_what_it_did_not_use(keeping: Bench) -> None:
    kept = keeping.artifacts / "a" / "kept"
    kept.mkdir(parents=True)
    (kept / "1-work").write_text("of an older version of the task")
    await keeping.run(job("a", "keeps_nothing", fence=2, checkpoint="1"))
    assert not kept.exists()


async def test_it_is_made_at_first_use(keeping: Bench) -> None:
    await keeping.run(job("a", "keeps_nothing"))
    assert not (keeping.artifacts / "a").exists()
