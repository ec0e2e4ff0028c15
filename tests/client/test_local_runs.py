"""Tasks that run in this process: `longshore.testing`, and `longshore run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner, Result

from longshore.cli.app import app
from longshore.sdk import Context, JobCancelled, task
from longshore.testing import run_task


class Render(BaseModel):
    pages: int


@task
def render(ctx: Context, params: Render) -> int:
    first = ctx.restored or 0
    for page in range(first, params.pages):
        ctx.progress(completed=page, total=params.pages, unit="pages")
        ctx.checkpoint(page)
    (ctx.scratch / "draft").touch()
    ctx.artifacts.write("report.txt").write_text("done")
    return params.pages - first


@task
async def measure(ctx: Context, params: dict[str, str]) -> tuple[int, str]:
    return ctx.inputs["file"].size, ctx.inputs["file"].path.read_text()


def test_a_run_tells_all_that_a_task_did(tmp_path: Path) -> None:
    outcome = run_task(render, {"pages": 3}, folder=tmp_path)
    assert outcome.result == 3
    assert [report.completed for report in outcome.progress] == [0, 1, 2]
    assert outcome.checkpoints == [0, 1, 2]
    assert outcome.artifacts["report.txt"].read_text() == "done"
    again = run_task(render, Render(pages=3), folder=tmp_path / "2", restored=2, attempt=2)
    assert again.result == 1


def test_an_async_task_with_an_input(tmp_path: Path) -> None:
    file = tmp_path / "in put#.txt"
    file.write_text("abc")
    assert run_task(measure, folder=tmp_path, inputs={"file": file}).result == [3, "abc"]


def test_a_run_is_cancelled_as_a_job_is(tmp_path: Path) -> None:
    with pytest.raises(JobCancelled):
        run_task(render, {"pages": 9}, folder=tmp_path, cancel_after=2)


def test_a_payload_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        run_task(render, '{"pages": "many"}', folder=tmp_path)


TASKS = """
from longshore import Context, task

@task
def double(ctx: Context, params: int) -> int:
    ctx.progress(0.5, "half")
    if params < 0:
        raise ValueError("is negative")
    ctx.artifacts.write("out.txt").write_text("x")
    return 2 * params
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_local_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "cli_local_tasks"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["run", *words])


def test_the_command_prints_the_result_alone(module: str, tmp_path: Path) -> None:
    words = ("double", "--module", module, "--payload", "21", "--folder", str(tmp_path / "f"))
    done = run(*words)
    assert (done.exit_code, done.stdout) == (0, "42\n")
    assert "50% half" in done.stderr
    document = json.loads(run(*words, "--json").stdout)
    assert document["result"] == 42
    assert Path(document["artifacts"]["out.txt"]).read_text() == "x"


def test_the_command_takes_the_modules_of_settings(module: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'tasks = ["{module}"]')
    words = ("double", "--config", str(config), "--payload", "1", "--folder", str(tmp_path / "g"))
    assert run(*words).stdout == "2\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["double", "--payload", '"x"'], 2, "valid integer"),
        (["double", "--payload", "-1"], 1, "ValueError: is negative"),
        (["dubble"], 2, "there is no task 'dubble' here; there are double"),
        (["double", "--payload", "1", "--input", "a=/no/such"], 2, "there is no file /no/such"),
        (["double", "--module", "no_such_module"], 2, "No module named 'no_such_module'"),
    ],
)
def test_what_is_wrong_is_said(
    module: str, tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    done = run(*words, "--module", module, "--folder", str(tmp_path / "f"))
    assert done.exit_code == status
    assert said in done.stderr
