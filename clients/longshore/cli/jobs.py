"""`longshore status | list`, and which jobs a command is about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import typer

from longshore.aio import AsyncClient
from longshore.cli import columns, details
from longshore.cli.output import Output, to_json
from longshore.cli.parsing import failure_class, pairs
from longshore.cli.session import exit_status, run
from longshore.errors import LongshoreError
from longshore.v1 import job_pb2, job_service_pb2

T = TypeVar("T")
PAGE = 200
IDS = typer.Argument(metavar="ID", help="Ids of jobs.")
STATE = typer.Option(
    None, "--state", metavar="STATE", help="Only in this state, such as RUNNING. Repeatable."
)
QUEUE = typer.Option(None, "--queue", metavar="NAME", help="Only of this queue.")
TASK = typer.Option(None, "--task", metavar="NAME", help="Only of this task.")
LABELS = typer.Option(
    None, "--label", metavar="K=V", help="Only with this label. Repeatable: all must be there."
)
FILTER = typer.Option(
    "",
    "--filter",
    metavar="FILTER",
    help="Such as 'create_time >= \"2026-01-31T00:00:00Z\"'; see longshore help filter.",
)


def status(
    context: typer.Context,
    ids: list[str] = IDS,
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Also the traceback of each failed attempt, and all text."
    ),
) -> None:
    """Show jobs: state, times, progress, attempts, outcome."""

    async def command(client: AsyncClient, output: Output) -> int:
        found, exit_with = await each(output, ids, client.status)
        if output.json:
            for response in found:
                output.document(to_json(response))
        elif len(ids) > 1:
            output.show(columns.JOB, [response.job for response in found])
        else:
            for response in found:
                if verbose:
                    await _read_all_attempts(client, response.job)
                for line in details.lines(response, verbose=verbose):
                    output.line(line)
        return exit_with

    run(context, command)


async def _read_all_attempts(client: AsyncClient, job: job_pb2.Job) -> None:
    """The answer to Status has only the newest ones."""
    if job.attempt_count > len(job.attempts):
        newest_first = [attempt async for attempt in client.attempts(job.job_id)]
        del job.attempts[:]
        job.attempts.extend(reversed(newest_first))


def list_(
    context: typer.Context,
    *,
    state: list[str] | None = STATE,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    labels: list[str] | None = LABELS,
    filter_: str = FILTER,
    cause: str | None = typer.Option(
        None,
        "--failure-class",
        metavar="CLASS",
        help="Only jobs whose last failed attempt ended so, such as CRASH.",
    ),
    limit: int = typer.Option(
        50, min=0, metavar="N", help="The most jobs to show; 0 shows all of them."
    ),
    all_: bool = typer.Option(False, "--all", help="Show all jobs."),
) -> None:
    """List jobs, the newest first.

    `longshore help filter` tells how to write a filter.
    """
    chosen = terms_of(filter_, state, queue, task, labels)
    wanted, most = failure_class(cause), 0 if all_ else limit

    async def command(client: AsyncClient, output: Output) -> None:
        # The attempts tell the failure; the BASIC view leaves them out.
        view = job_service_pb2.JOB_VIEW_FULL if wanted else job_service_pb2.JOB_VIEW_BASIC
        size = min(most + 1, PAGE) if most else PAGE
        found = client.list(chosen, page_size=size, view=view)
        kept = found if wanted is None else _failed_as(found, wanted)
        await output.show_first(columns.JOB, kept, most)

    run(context, command)


async def _failed_as(jobs: AsyncIterator[job_pb2.Job], wanted: int) -> AsyncIterator[job_pb2.Job]:
    async for job in jobs:
        failed = [a.failure_class for a in job.attempts if a.failure_class]
        if failed[-1:] == [wanted]:
            yield job


def terms_of(
    given: str,
    states: Sequence[str] | None,
    queue: str | None,
    task: str | None,
    labels: Sequence[str] | None,
) -> str:
    """One filter of all options, in the grammar of ListJobs."""
    terms = [given] if given else []
    if states:
        terms.append(f"state:({', '.join(name.upper() for name in states)})")
    named = {"queue": queue, "task": task}
    named |= {f"labels.{name}": value for name, value in pairs(labels or ()).items()}
    return " AND ".join(
        terms + [f"{name} = {json.dumps(value)}" for name, value in named.items() if value]
    )


async def each(
    output: Output, ids: Sequence[str], call: Callable[[str], Awaitable[T]]
) -> tuple[list[T], int]:
    """The answers of those that gave one, and the exit status; the errors are shown."""

    async def one(job_id: str) -> T | LongshoreError:
        try:
            return await call(job_id)
        except LongshoreError as error:
            return error

    answers = await asyncio.gather(*(one(job_id) for job_id in ids))
    errors = [answer for answer in answers if isinstance(answer, LongshoreError)]
    for error in errors:
        output.error(error)
    found = [answer for answer in answers if not isinstance(answer, LongshoreError)]
    return found, exit_status(errors[0]) if errors else 0
