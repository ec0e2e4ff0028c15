"""The identity of task code: what changes it and what does not; a worker has one, for life."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from longshore_cpu_workers.build import Build
from longshore_cpu_workers.supervision import RunnersFail
from longshore_cpu_workers.wire import Returned
from tests.workers.harness import PATIENCE, job

TASKS = """
from longshore import Context, task

@task
def version(ctx: Context, params: dict[str, int]) -> str:
    return "v1"

@task
def wait(ctx: Context, params: str) -> str:
    import pathlib, time
    while not pathlib.Path(params).exists():
        time.sleep(0.01)
    return "v1"
"""


def build_of(folder: Path, module: str) -> Build:
    """As the catalogue of a deployment says it whose code lies in that folder."""
    path = ":".join(str(entry) for entry in (folder, *filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-m", "longshore_cpu_workers.catalogue", module],
        capture_output=True, text=True, timeout=PATIENCE, check=False, env={"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    build_id, description, tasks = json.loads(done.stdout)["build"]
    return Build(build_id, description, tuple(tasks))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def test_the_code_of_a_package_is_its_identity_and_where_it_lies_is_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "own/__init__.py", "")
        write(tmp_path / name / "own/tasks.py", TASKS)
        write(tmp_path / name / "own/later.py", "ONE = 1\n")
    first = build_of(tmp_path / "a", "own.tasks")
    assert {"version", "wait"} < set(first.tasks)
    assert "own (source)" in first.description
    assert build_of(tmp_path / "b", "own.tasks") == first
    write(tmp_path / "b/own/notes.txt", "no code")
    write(tmp_path / "b/beside.py", "nobody imports it")
    assert build_of(tmp_path / "b", "own.tasks") == first
    write(tmp_path / "b/own/later.py", "ONE = 2\n")  # imported by a task, perhaps, when it runs
    assert build_of(tmp_path / "b", "own.tasks").id != first.id


def test_distributions_count_with_their_code_and_what_they_need_by_version(tmp_path: Path) -> None:
    def install(name: str, version: str, digest: str, *more: str) -> None:
        info = tmp_path / f"{name}.dist-info"
        head = [f"Name: {name}", f"Version: {version}", *more]
        write(info / "METADATA", "\n".join(["Metadata-Version: 2.1", *head, "", "long text"]))
        write(info / "RECORD", f"{name}/__init__.py,sha256={digest},1\n{name}/a.txt,sha256=x,1\n")

    write(tmp_path / "mine.py", TASKS)
    needs = "Requires-Dist: needed>=1"
    install("brings", "1.0", "aaa", needs)
    write(tmp_path / "brings.dist-info/entry_points.txt", "[longshore.tasks]\nmine = mine\n")
    install("needed", "1.0", "bbb")
    first = build_of(tmp_path, "mine")
    assert "brings 1.0" in first.description
    install("needed", "1.0", "ccc")
    assert build_of(tmp_path, "mine").id == first.id, "of what is needed the version counts"
    install("needed", "1.1", "ccc")
    second = build_of(tmp_path, "mine")
    install("brings", "1.0", "ddd", needs)
    third = build_of(tmp_path, "mine")  # built anew under the same version
    install("brings", "1.1", "ddd", needs)
    fourth = build_of(tmp_path, "mine")
    assert len({build.id for build in (first, second, third, fourth)}) == 4


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of tasks that Python finds, here and in runners."""
    folder = tmp_path / "code"
    write(folder / "changing.py", TASKS)
    monkeypatch.syspath_prepend(folder)
    return folder


async def test_a_worker_has_the_build_of_the_deployment(code: Path, benches: Any) -> None:
    made = await benches(modules=("changing",), made_for="a1b2")
    info = await made.worker.info()
    deployed = await asyncio.to_thread(build_of, code, "changing")
    assert (info.build, info.description, info.made_for) == (*deployed[:2], "a1b2")
    assert info.tasks == frozenset(deployed.tasks)


async def test_a_worker_whose_tasks_cannot_be_loaded_does_not_come_up(benches: Any) -> None:
    made = await benches(modules=("tasks_broken",), start_tries=1)
    with pytest.raises(RunnersFail, match="no licence"):
        await made.worker.info()


async def test_no_job_gets_code_that_came_under_a_running_worker(code: Path, benches: Any) -> None:
    made = await benches(cpus=2, modules=("changing",))
    await made.worker.info()
    flag = code / "flag"
    await made.assign(job("first", "wait", str(flag)))
    await made.started("first")
    write(code / "changing.py", TASKS.replace("v1", "version two"))
    for number in range(3):  # the spare runner has old code; the one after it would have new
        await made.assign(job(f"next-{number}", "wait", str(flag)))
    await made.until(lambda: bool(made.of(Returned)))
    assert (await made.worker.poll(made.ack, 0.0)).outdated.startswith("its code is now build")
    flag.touch()
    await made.until(lambda: {"first"} < set(made.outcomes()) and len(made.outcomes()) == 4)
    results = {o.value for o in made.outcomes().values() if not isinstance(o, Returned)}
    assert results == {'"v1"'}
    await made.assign(job("late", "version", {}))
    assert isinstance(await made.outcome("late"), Returned)


async def test_a_broken_change_leaves_the_runners_that_there_are(code: Path, benches: Any) -> None:
    made = await benches(modules=("changing",), start_tries=1)
    await made.worker.info()
    write(code / "changing.py", "def broken(:\n")
    await made.assign(job("first", "version", {}))  # the spare one takes it, and no other comes up
    fleet = made.worker._running().fleet
    await made.until(lambda: bool(fleet.trouble))
    fleet.tick(time.monotonic() + 1000.0)  # it is idle for long
    assert not fleet.hopeless
    await made.assign(job("second", "version", {}))
    assert [await made.value(name) for name in ("first", "second")] == ["v1", "v1"]
