"""CONTRIBUTING.md: its example works and the files it sends people to exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from longshore.sdk import Context
from longshore.sdk.context import Json, Progress
from longshore.sdk.task import Task
from tests.layout.tree import PACKAGES, ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


class Recorder:
    """A channel that remembers what a task reports."""

    def __init__(self) -> None:
        self.checkpoints: list[Json] = []
        self.reports: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def log(self, line: str) -> None:
        raise AssertionError(line)

    def checkpoint(self, value: Json, timeout: float) -> None:
        self.checkpoints.append(value)

    async def acheckpoint(self, value: Json, timeout: float) -> None:
        self.checkpoint(value, timeout)

    def grace(self) -> float | None:
        return None

    def cancelled(self) -> bool:
        return False


def example() -> dict[str, Any]:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "contributing"}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


@pytest.mark.parametrize("restored", [None, [100_000, 5_000_050_000]])
def test_the_example_runs_and_resumes(restored: Json, tmp_path: Path) -> None:
    names = example()
    summing = cast(Task[Any, Any], names["sum_up"])
    channel = Recorder()
    ctx = Context(
        job_id="1",
        attempt=1,
        tenant="t",
        channel=channel,
        artifacts=cast(Any, None),
        scratch=tmp_path,
        restored=restored,
    )

    result = summing(ctx, names["SumParams"](up_to=200_000))

    assert result.total == 200_000 * 200_001 // 2
    assert channel.checkpoints[-1] == [200_000, result.total]
    assert channel.reports[-1].fraction == 1.0


def test_files_it_names_exist() -> None:
    folders = "|".join([*PACKAGES, "tests", "protos", "requirements", r"\.ci"])
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", TEXT))
    assert named, "the pattern finds nothing"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
