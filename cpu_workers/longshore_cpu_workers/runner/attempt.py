"""One attempt inside the runner: small steps over one object.

    find task, open inputs, restore, context │ start is reported │ parse, call, render, collect

Nothing left of the bar is task code; right of it everything may be, pydantic validators
included. A crash is therefore charged to the attempt whose code ran: what one leaves running ends,
or its process does, before the next begins.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from longshore.sdk.artifacts import Artifacts, Kept, delete_folder
from longshore.sdk.context import Context, Input
from longshore.sdk.failures import FailureClass, JobCancelled
from longshore.sdk.task import Task
from longshore_cpu_workers.runner.channel import AttemptChannel
from longshore_cpu_workers.runner.failures import (
    Told,
    invalid_payload,
    permanent,
    raised,
    sole_cause,
    unknown_task,
    violations,
)
from longshore_cpu_workers.runner.inbox import Job
from longshore_cpu_workers.runner.inputs import InputRefused, open_input
from longshore_cpu_workers.runner.link import encode

MAX_RESULT = 256 * 1024


class Surroundings(NamedTuple):
    """What all attempts of a runner have in common; `scratch` is how paths of folders begin."""

    tasks: Mapping[str, Task[Any, Any]]
    artifacts: str
    scratch: str


class Refused(Exception):
    """A step found a reason to end the attempt."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.message)
        self.told = told


class AttemptRun:
    """One attempt from its assignment to the bytes of its outcome.

    Call `prepare`; if it returns True, send `start()`, then run it (`run` or `run_async`);
    then send `outcome()`.
    """

    __slots__ = (
        "_folder",
        "_scratch",
        "_started",
        "artifacts",
        "channel",
        "ctx",
        "inputs",
        "job",
        "kept",
        "params",
        "refs",
        "restored",
        "seconds",
        "task",
        "text",
        "told",
        "value",
        "where",
    )

    task: Task[Any, Any]
    ctx: Context

    def __init__(self, job: Job, channel: AttemptChannel, where: Surroundings) -> None:
        self.job = job
        self.channel = channel
        self.where = where
        self.inputs: dict[str, Input] = {}
        self.restored: Any = None
        self.params: Any = None
        self.value: Any = None
        self.text = ""
        self.refs: list[tuple[str, str, int, str, str]] = []
        self.told: Told | None = None
        self.seconds: float | None = None
        self._started = 0.0
        self._folder = f"{where.artifacts}/{job.job_id}/{job.fence}"
        self._scratch = f"{where.scratch}{job.job_id}-{job.fence}"
        self.kept = Kept(f"{where.artifacts}/{job.job_id}/kept", job.fence)

    # Before the start

    def prepare(self) -> bool:
        """All that happens before task code; False where the attempt has failed already."""
        try:
            self._find_task()
            self._open_inputs()
            self._restore()
            self._make_context()
        except (Refused, InputRefused) as refused:
            self.told = refused.told
        except (JobCancelled, Exception) as error:  # noqa: BLE001 - a file that fails when read, say
            self.told = raised(error)
        return self.told is None

    def start(self) -> bytes:
        """The report that task code begins now."""
        self._started = time.monotonic()
        return encode(["start", self.job.serial, self._started])

    def _find_task(self) -> None:
        task = self.where.tasks.get(self.job.task)
        if task is None:
            raise Refused(unknown_task(self.job.task, list(self.where.tasks)))
        self.task = task

    def _open_inputs(self) -> None:
        for name, uri, size, sha256 in self.job.inputs:
            found = open_input(str(name), str(uri), int(str(size)), str(sha256), self._cancelled)
            self.inputs[str(name)] = found

    def _cancelled(self) -> bool:
        return self.channel.is_cancelled

    def _restore(self) -> None:
        if self.job.checkpoint is not None:
            self.restored = orjson.loads(self.job.checkpoint)

    def _make_context(self) -> None:
        job = self.job
        limit = job.attempt_timeout
        self.artifacts = Artifacts(self._folder)
        self.ctx = Context(
            job_id=job.job_id,
            attempt=job.number,
            tenant=job.tenant,
            channel=self.channel,
            artifacts=self.artifacts,
            scratch=self._scratch,
            inputs=self.inputs,
            restored=self.restored,
            devices=tuple(job.devices),
            deadline=None if limit is None else time.monotonic() + limit,
            fence=job.fence,
            kept=self.kept,
        )

    # Task code

    def run(self, end_children: Callable[[], None]) -> None:
        """Runs a sync task; whatever it raises becomes the failure of the attempt."""
        try:
            self._parse()
            self.value = self.task.run(self.ctx, self.params)
            self._render()
            if self.artifacts.declared:
                end_children()  # none of them may write to what is hashed
                self._collect()
        except BaseException as error:  # noqa: BLE001 - SystemExit and JobCancelled are outcomes
            self._fail(error)

    async def run_async(self, aside: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """The same for an async task; `aside` runs what works on files elsewhere."""
        try:
            self._parse()
            self.value = await self.task.run(self.ctx, self.params)
            self._render()
            if self.artifacts.declared:
                await aside(self._collect)
        except BaseException as error:  # noqa: BLE001 - CancelledError is an outcome too
            # asyncio knows one way to end a task; ours to say so is JobCancelled.
            self._fail(JobCancelled() if self.channel.is_cancelled else error)

    def _parse(self) -> None:
        try:
            self.params = self.task.params.validate_json(self.job.payload)
        except ValidationError as error:
            raise Refused(invalid_payload(self.job.task, error)) from None

    def _render(self) -> None:
        task = self.job.task
        try:
            data = self._dump()
        except ValidationError as error:
            message = f"task {task!r} returned what its annotation does not allow"
            told = permanent("INTERNAL", "INVALID_RESULT", message, task=task)
            raise Refused(told._replace(violations=violations(error))) from None
        except (PydanticSerializationError, UnicodeError, RecursionError) as error:
            message = f"task {task!r} returned what is not JSON: {error}"
            raise Refused(permanent("INTERNAL", "INVALID_RESULT", message, task=task)) from None
        if len(data) > MAX_RESULT:
            raise Refused(_too_large(task, len(data)))
        self.text = data.decode()

    def _dump(self) -> bytes:
        """With the names of the schema that was published."""
        result = self.task.result
        return result.dump_json(result.validate_python(self.value), by_alias=True)

    def _collect(self) -> None:
        self.refs = [
            (a.name, a.path.absolute().as_uri(), a.size, a.sha256, a.media_type)
            for a in self.artifacts.collect()
        ]

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, Refused):
            self.told = error.told
            return
        self.told = raised(error)
        is_plain = self.told.failure_class == FailureClass.TASK_ERROR
        if is_plain and self.task.is_final(sole_cause(error)):
            self.told = self.told._replace(failure_class=FailureClass.PERMANENT)

    # After it

    @property
    def leaves_files(self) -> bool:
        """True where `outcome` may have folders to delete."""
        if self.told is not None or self.kept.used or self.job.number > 1:
            return True
        return self.job.checkpoint is not None or (
            self.seconds is not None and self.ctx.scratch_used
        )

    def stop_clock(self) -> None:
        """Task code is over."""
        self.seconds = time.monotonic() - self._started

    def outcome(self) -> bytes:
        """Cleans up and returns what was not sent yet, the outcome last."""
        if self.seconds is not None and self.ctx.scratch_used:
            delete_folder(self._scratch)
        if self.told is not None:
            self._delete_artifacts()
        elif self.kept.used or self.job.number > 1 or self.job.checkpoint is not None:
            self.kept.discard()
        unsent = self.channel.close()
        return unsent + encode(self._message(time.monotonic()))

    def _message(self, now: float) -> list[Any]:
        serial = self.job.serial
        if self.told is not None:
            return ["fail", serial, now, self.seconds, self.told.plain()]
        return ["done", serial, now, self.seconds, self.text, self.refs]

    def _delete_artifacts(self) -> None:
        if os.path.lexists(self._folder):
            delete_folder(self._folder)
            with contextlib.suppress(OSError):  # another attempt of the job has files there
                Path(self._folder).parent.rmdir()


def _too_large(task: str, size: int) -> Told:
    message = (
        f"task {task!r} returned {size} bytes of JSON, more than {MAX_RESULT}; "
        "write them to ctx.artifacts and return their name"
    )
    return permanent("RESOURCE_EXHAUSTED", "RESULT_TOO_LARGE", message, task=task)
