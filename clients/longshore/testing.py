"""Runs a task in this process, without a service: for tests of tasks, and for `longshore run`.

from longshore.testing import run_task

def test_render(tmp_path):
    outcome = run_task(render, {"pages": 3}, folder=tmp_path)
    assert outcome.result == 3
    assert outcome.artifacts["report.txt"].read_text() == "done"
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longshore.sdk import Artifacts, Context, Input, Progress, Task
from longshore.sdk.artifacts import Kept

Payload = Any
Watch = Callable[[Progress], None]


@dataclass
class Outcome:
    """What a run has left.

    Attributes:
        result: what a caller of the job would get, as JSON values.
        artifacts: the files that it wrote, by name.
        progress: every report, in order.
        checkpoints: every checkpoint, in order; give the last one as `restored` to a next run.
    """

    result: Any = None
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    checkpoints: list[Any] = field(default_factory=list)


class _Channel:
    """Keeps what a context reports."""

    def __init__(self, outcome: Outcome, cancel_after: int | None, watch: Watch | None) -> None:
        self._outcome = outcome
        self._cancel_after = cancel_after
        self._watch = watch

    def progress(self, progress: Progress) -> None:
        self._outcome.progress.append(progress)
        if self._watch is not None:
            self._watch(progress)

    def log(self, line: str) -> None:
        """Nothing: the logger of the context writes to the handlers of this process."""

    def checkpoint(self, value: Any, timeout: float) -> None:
        self._outcome.checkpoints.append(json.loads(json.dumps(value)))

    async def acheckpoint(self, value: Any, timeout: float) -> None:
        self.checkpoint(value, timeout)

    def cancelled(self) -> bool:
        after = self._cancel_after
        return after is not None and len(self._outcome.progress) > after

    def grace(self) -> float | None:
        return None


def run_task(
    task: Task[Any, Any],
    payload: Payload = None,
    *,
    folder: Path,
    inputs: Mapping[str, str | os.PathLike[str]] | None = None,
    restored: Any = None,
    attempt: int = 1,
    cancel_after: int | None = None,
    devices: tuple[str, ...] = (),
    watch: Watch | None = None,
) -> Outcome:
    """Runs one attempt of a task, with the checks of payload and result that a worker makes.

    Args:
        task: a function decorated with @task.
        payload: as for `Client.submit`: a mapping or a model, or JSON text; None is {}.
        folder: where artifacts, scratch and kept files go, such as pytest's tmp_path.
        inputs: files by name.
        restored: the checkpoint of an earlier attempt.
        attempt: the number of this one.
        cancel_after: the job counts as cancelled once it has reported progress more often.
        devices: names of devices that the attempt may use.
        watch: is called with each report.

    Raises:
        pydantic.ValidationError: the payload or the result does not fit the types of the task.
        Exception: what the task raises, JobCancelled included.
    """
    params = task.params.validate_json(_text(payload))
    outcome = Outcome()
    artifacts = Artifacts(folder / "artifacts")
    ctx = Context(
        job_id="local",
        attempt=attempt,
        tenant="local",
        channel=_Channel(outcome, cancel_after, watch),
        artifacts=artifacts,
        scratch=folder / "scratch",
        inputs={name: _input(name, Path(path)) for name, path in (inputs or {}).items()},
        restored=restored,
        devices=devices,
        fence=attempt,
        kept=Kept(folder / "kept", attempt),
    )
    value = task.run(ctx, params)
    if task.is_async:
        value = asyncio.run(value)
    checked = task.result.validate_python(value)
    outcome.result = json.loads(task.result.dump_json(checked, by_alias=True))
    outcome.artifacts = {each.name: each.path for each in artifacts.collect()}
    return outcome


def _input(name: str, path: Path) -> Input:
    return Input(name, path.absolute(), path.stat().st_size)


def _text(payload: Payload) -> str:
    if isinstance(payload, str):
        return payload
    if payload is None:
        return "{}"
    dump = getattr(payload, "model_dump_json", None)
    return str(dump(by_alias=True)) if dump is not None else json.dumps(payload)
