"""Watching jobs: bars at a terminal, lines in a pipe, JSON for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from longshore.aio import AsyncClient
from longshore.cli import logs
from longshore.cli.columns import failure_class, headline, last_word, placement, progress
from longshore.cli.output import Output, to_json
from longshore.cli.session import exit_status
from longshore.cli.times import clock
from longshore.errors import LongshoreError
from longshore.handle import JobHandle, is_terminal, state_name
from longshore.v1 import job_pb2, watch_pb2
from longshore.watching import Event

_BAR = 16
_WIDE = 120
"""Columns from which on a bar has room for whole ids."""


class Display(Protocol):
    """Where events of several jobs are shown."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def show(self, handle: JobHandle[Any], event: Event) -> None:
        """Shows one event; `handle.job` is the job as of it."""


class JsonLines:
    """Each event as it came, with the id of its job."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, handle: JobHandle[Any], event: Event) -> None:
        """One JSON document."""
        self._output.document({"job_id": handle.id, **to_json(event)})


class Lines:
    """One line for each event."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def show(self, handle: JobHandle[Any], event: Event) -> None:
        """One line, or one for each log line."""
        at = clock(event.event_time)
        for text in texts(handle.job, event):
            self._output.line(" ".join(part for part in (handle.id, at, text) if part))


class Bars:
    """One bar for each job; log lines go by above.

    Args:
        count: how many jobs there will be. One alone needs no name.
    """

    def __init__(self, output: Output, count: int) -> None:
        cut = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        whole = Column(no_wrap=True)
        name = [TextColumn("{task.fields[job]}", markup=False, table_column=whole)]
        self._bars = Progress(
            *(name if count > 1 else []),
            TextColumn("{task.fields[state]}", markup=False, table_column=whole),
            BarColumn(bar_width=_BAR),
            TextColumn("{task.fields[text]}", markup=False, table_column=cut),
            TimeElapsedColumn(table_column=whole),
            console=output.out,
            expand=True,
        )
        self._short = output.out.width < _WIDE
        self._named = count > 1
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, handle: JobHandle[Any], event: Event) -> None:
        """Moves the bar of the job."""
        if event.HasField("log_chunk"):
            name = f"{self._name(handle)} " if self._named else ""
            for line in logs.texts(event):
                self._bars.console.print(f"{name}{line}", markup=False)
            return
        row = self._rows.get(handle.id)
        if row is None:
            row = self._bars.add_task("", total=None, job=self._name(handle), state="", text="")
            self._rows[handle.id] = row
        job = handle.job
        known = job.progress.HasField("fraction") or is_terminal(job)
        self._bars.update(
            row,
            total=1.0 if known else None,
            completed=1.0 if is_terminal(job) else job.progress.fraction,
            state=state_name(job.state),
            text=_newest(job, event),
        )
        if is_terminal(job):
            self._bars.stop_task(row)

    def _name(self, handle: JobHandle[Any]) -> str:
        """The end of an id tells jobs apart: its beginning is the time."""
        return f"…{handle.id[-8:]}" if self._short and len(handle.id) > 8 else handle.id


def texts(job: job_pb2.Job, event: Event) -> list[str]:
    """An event as lines for people."""
    state = state_name(job.state)
    match event.WhichOneof("event"):
        case "snapshot":
            return [" ".join([state, placement(event.snapshot.placement)]).strip()]
        case "state_change":
            change = event.state_change
            told = f"{_ordered(change)}{_failed(change)}{_next(event)}"
            return [f"{state_name(change.to_state)} {change.reason}{told}"]
        case "progress":
            return [f"{state} {progress(event.progress)}"]
        case "log_chunk":
            return [f"| {line}" for line in logs.texts(event)]
        case "gap":
            return logs.texts(event)
        case "terminal":
            return [" ".join([f"ended {state}", last_word(job)]).strip()]
    return []


def _ordered(change: watch_pb2.StateChange) -> str:
    """By whom and why, where people did it."""
    if not change.HasField("order"):
        return ""
    why = f": {change.order.reason}" if change.order.reason else ""
    return f" by {change.order.actor}{why}"


def _failed(change: watch_pb2.StateChange) -> str:
    """How the attempt failed; its class where the reason is another word."""
    if not change.failure_class:
        return ""
    name = failure_class(change.failure_class)
    kind = "" if name == change.reason else f" ({name})"
    return f"{kind}: {headline(change.error.message)}"


def _next(event: Event) -> str:
    """When another attempt follows, counted from the event: no clock of ours is asked."""
    change = event.state_change
    if not change.HasField("next_attempt_time"):
        return ""
    pause = change.next_attempt_time.ToDatetime() - event.event_time.ToDatetime()
    return f"; next attempt in {max(0.0, pause.total_seconds()):.3g} s"


def _newest(job: job_pb2.Job, event: Event) -> str:
    """What is worth a look beside the bar of a job."""
    if is_terminal(job):
        return last_word(job)
    if event.state_change.will_retry:
        return f"{event.state_change.reason}{_failed(event.state_change)}{_next(event)}"
    return progress(job.progress)


def display(output: Output, count: int) -> Display:
    """The display that suits the reader."""
    if output.json:
        return JsonLines(output)
    return Bars(output, count) if output.live else Lines(output)


async def follow(
    client: AsyncClient, output: Output, ids: Sequence[str], *, with_logs: bool = False
) -> int:
    """Watches jobs until all have ended.

    Returns:
        The exit status: 0 where all succeeded, 1 where one did not, and where one could not be
        watched, the status of that error.
    """
    # Asked first: a wrong id or address is said at once, not once the others have ended.
    asked = await asyncio.gather(*(_find(client, job_id) for job_id in dict.fromkeys(ids)))
    failures = _told(output, asked)
    handles = [handle for handle in asked if isinstance(handle, JobHandle)]
    with display(output, len(handles)) as shown:
        ends = await asyncio.gather(*(_follow_one(shown, handle, with_logs) for handle in handles))
    failures += _told(output, ends)
    if failures:
        return exit_status(failures[0])
    return 0 if all(end == job_pb2.JOB_STATE_SUCCEEDED for end in ends) else 1


def _told(output: Output, answers: Sequence[object]) -> list[LongshoreError]:
    """The errors among them, which are shown."""
    errors = [answer for answer in answers if isinstance(answer, LongshoreError)]
    for error in errors:
        output.error(error)
    return errors


async def _find(client: AsyncClient, job_id: str) -> JobHandle[Any] | LongshoreError:
    try:
        return await client.get(job_id)
    except LongshoreError as error:
        return error


async def _follow_one(
    shown: Display, handle: JobHandle[Any], with_logs: bool
) -> int | LongshoreError:
    try:
        async for event in handle.watch(include_logs=with_logs):
            shown.show(handle, event)
    except LongshoreError as error:
        # The others are watched to their end.
        return error
    return handle.job.state
