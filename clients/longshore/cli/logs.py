"""`longshore logs`: what the task of a job has printed, from the start."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import typer

from longshore.aio import AsyncClient
from longshore.cli.output import Output, to_json
from longshore.cli.session import run
from longshore.cli.times import local
from longshore.handle import JobHandle, is_terminal
from longshore.v1 import watch_pb2
from longshore.watching import Event

_DURABLE = ("state_change", "log_chunk", "snapshot", "gap")


def logs(
    context: typer.Context,
    job_id: str = typer.Argument(metavar="ID", help="The job, running or ended."),
    follow: bool = typer.Option(
        False, "--follow", "-f", help="Go on with new lines until the job has ended."
    ),
    attempt: int | None = typer.Option(
        None, min=1, metavar="N", help="Only the lines of this attempt."
    ),
    timestamps: bool = typer.Option(
        False, "--timestamps", help="Begin each line with the time at which the service got it."
    ),
) -> None:
    """Print what the task of a job has printed, from the start.

    The service keeps a part of very long output; the command says how many lines were dropped,
    and where.
    """

    async def command(client: AsyncClient, output: Output) -> None:
        handle = await client.get(job_id)
        printed = 0
        async with aclosing(_chunks(handle, follow=follow)) as events:
            async for event in events:
                if attempt is None or event.attempt == attempt:
                    printed += 1
                    _print(output, handle.id, event, timestamps=timestamps)
        if not printed:
            output.note(f"no lines are kept of job {handle.id}")

    run(context, command)


async def _chunks(handle: JobHandle[Any], *, follow: bool) -> AsyncGenerator[Event, None]:
    """Chunks and gaps, up to what was there at the start, or with `follow` to the end."""
    newest = handle.job.latest_sequence
    stops = not follow and not is_terminal(handle.job)
    async with aclosing(handle.watch(include_logs=True, after_sequence=0)) as events:
        async for event in events:
            kind = event.WhichOneof("event")
            if kind in ("log_chunk", "gap"):
                yield event
            if stops and kind in _DURABLE and event.sequence >= newest:
                return


def _print(output: Output, job_id: str, event: Event, *, timestamps: bool) -> None:
    if output.json:
        output.document({"job_id": job_id, **to_json(event)})
        return
    stamp = f"{local(event.event_time).isoformat(timespec='milliseconds')} " if timestamps else ""
    for line in texts(event):
        output.line(f"{stamp}{line}")


def texts(event: Event) -> list[str]:
    """The lines of a chunk after a note of what was dropped before them; a note for a gap."""
    if event.HasField("gap"):
        gap = event.gap
        why = _gap_reason(gap.reason)
        return [f"… events {gap.first_sequence} to {gap.last_sequence} are gone: {why}"]
    chunk = event.log_chunk
    dropped = [f"… {chunk.dropped:,} lines dropped"] if chunk.dropped else []
    return dropped + list(chunk.lines)


def _gap_reason(value: watch_pb2.Gap.Reason.ValueType) -> str:
    known = value in watch_pb2.Gap.Reason.values()
    return watch_pb2.Gap.Reason.Name(value).removeprefix("REASON_") if known else str(value)
