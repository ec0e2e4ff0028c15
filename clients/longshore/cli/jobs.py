"""`longshore status | watch | list | cancel | retry`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import typer
from google.rpc.error_details_pb2 import DebugInfo

from longshore.aio import AsyncClient
from longshore.cli import columns
from longshore.cli.live import follow
from longshore.cli.output import Output, to_json
from longshore.cli.parsing import pairs
from longshore.cli.session import exit_status, run
from longshore.errors import LongshoreError
from longshore.handle import state_name
from longshore.v1 import job_pb2, job_service_pb2

T = TypeVar("T")
IDS = typer.Argument(metavar="ID...", help="Ids of jobs.")


def status(context: typer.Context, ids: list[str] = IDS) -> None:
    """Show jobs: state, progress, attempts, outcome."""

    async def command(client: AsyncClient, output: Output) -> int:
        found, exit_with = await _each(output, ids, client.status)
        if output.json:
            for response in found:
                output.document(to_json(response))
        elif len(ids) > 1:
            output.show(columns.JOB, [response.job for response in found])
        else:
            for response in found:
                _show_details(output, response)
        return exit_with

    run(context, command)


def watch(
    context: typer.Context,
    ids: list[str] = IDS,
    logs: bool = typer.Option(False, "--logs", help="Also the output of the tasks."),
) -> None:
    """Watch jobs live until all have ended.

    Exits with 1 where one ended otherwise than SUCCEEDED.
    """
    run(context, lambda client, output: follow(client, output, ids, logs=logs))


def list_(
    context: typer.Context,
    *,
    state: Annotated[list[str] | None, typer.Option(help="Such as RUNNING. Repeatable.")] = None,
    queue: str | None = typer.Option(None),
    task: str | None = typer.Option(None),
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="K=V", help="Repeatable.")
    ] = None,
    filter_: str = typer.Option(
        "", "--filter", help="Such as 'create_time >= \"2026-01-31T00:00:00Z\"'."
    ),
    limit: int = typer.Option(50, min=0, help="The most jobs to show; 0 shows all."),
) -> None:
    """List jobs, the newest first."""
    terms = _terms(filter_, state or (), {"queue": queue, "task": task}, pairs(labels or ()))

    async def command(client: AsyncClient, output: Output) -> None:
        page_size = min(limit, 200) or 200
        found = client.list(" AND ".join(terms), page_size=page_size)
        await output.show_first(columns.JOB, found, limit)

    run(context, command)


def cancel(
    context: typer.Context,
    ids: list[str] = IDS,
    reason: str = typer.Option("", help="Why; goes to the log and the worker."),
    force: bool = typer.Option(False, "--force", help="Kill at once, without the grace."),
) -> None:
    """Ask for jobs to be cancelled."""

    async def command(client: AsyncClient, output: Output) -> int:
        async def cancelled(job_id: str) -> job_pb2.Job:
            return await client.cancel(job_id, reason, force=force)

        found, exit_with = await _each(output, ids, cancelled)
        output.show(columns.JOB, found)
        return exit_with

    run(context, command)


def retry(
    context: typer.Context,
    ids: list[str] = IDS,
    reason: str = typer.Option("", help="Why; is recorded."),
) -> None:
    """Run ended jobs again, under the same ids."""

    async def command(client: AsyncClient, output: Output) -> int:
        async def retried(job_id: str) -> job_pb2.Job:
            return await client.retry(job_id, reason)

        found, exit_with = await _each(output, ids, retried)
        output.show(columns.JOB, found)
        return exit_with

    run(context, command)


def _terms(
    given: str, states: Sequence[str], fields: dict[str, str | None], labels: dict[str, str]
) -> list[str]:
    """The parts of a filter, in the grammar of ListJobs."""
    terms = [given] if given else []
    if states:
        terms.append(f"state:({', '.join(name.upper() for name in states)})")
    named = {**fields, **{f"labels.{name}": value for name, value in labels.items()}}
    return terms + [f"{name} = {json.dumps(value)}" for name, value in named.items() if value]


async def _each(
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


def _show_details(output: Output, response: job_service_pb2.StatusResponse) -> None:
    job = response.job
    facts = {
        "id": job.job_id,
        "task": job.spec.task,
        "queue": job.queue,
        "state": state_name(job.state),
        "waits": columns.placement(response.placement),
        "progress": columns.progress(job.progress),
        "age": columns.age(job.create_time),
        "next": columns.due(job.next_attempt_time),
        "failures": columns.failures(job.failure_counts),
        "error": job.error.message,
        "result": job.result.value,
    }
    for name, value in facts.items():
        if value:
            output.line(f"{name:<9} {value}")
    for name, ref in sorted(job.result.artifacts.items()):
        output.line(f"{'artifact':<9} {_artifact(name, ref)}")
    for attempt in job.attempts:
        output.line(f"{'attempt':<9} {_attempt(attempt, job.error.message)}")
    for line in _traceback(job):
        output.line(line)


def _artifact(name: str, ref: job_pb2.PayloadRef) -> str:
    """The name, the size, the address, and what to check the file with."""
    digest = f" sha256:{ref.sha256.hex()}" if ref.sha256 else ""
    return f"{name} ({columns.bytes_(ref.size_bytes)}) {ref.uri}{digest}"


def _attempt(attempt: job_pb2.Attempt, outcome: str) -> str:
    """Where it ran and how it failed; not in words where the job ended with the same ones."""
    failure = columns.failure_class(attempt.failure_class)
    said = attempt.error.message
    why = f": {columns.headline(said)}" if said not in ("", outcome) else ""
    parts = [
        f"{attempt.number} on {attempt.worker_id or 'no worker'}",
        ", ".join(attempt.devices),
        failure + why if attempt.failure_class else "",
    ]
    return " ".join(part for part in parts if part)


def _traceback(job: job_pb2.Job) -> Iterator[str]:
    """Where task code failed; nothing for a PermanentError, by which it says why itself."""
    if job.attempts and job.attempts[-1].failure_class == job_pb2.FAILURE_CLASS_PERMANENT:
        return
    info = DebugInfo()
    for detail in job.error.details:
        if detail.Unpack(info):
            yield "traceback"
            yield from (f"  {line}" for line in "\n".join(info.stack_entries).splitlines())
