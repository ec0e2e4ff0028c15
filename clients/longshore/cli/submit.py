"""`longshore submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from longshore.aio import AsyncClient, JobHandle
from longshore.cli import parsing
from longshore.cli.columns import placement
from longshore.cli.live import follow
from longshore.cli.output import Output, to_json
from longshore.cli.session import run
from longshore.handle import state_name
from longshore.specs import job_spec, to_duration
from longshore.v1 import job_pb2, job_service_pb2


def submit(
    context: typer.Context,
    *,
    task: str = typer.Argument(help="The task to run; `longshore tasks` lists them."),
    payload: str | None = typer.Option(
        None, metavar="JSON|@FILE|-", help="The input: JSON text, a file of it, or - for stdin."
    ),
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=PATH", help="A file or a URI. Repeatable."),
    ] = None,
    queue: str | None = typer.Option(None, show_default="the task's"),
    priority: int | None = typer.Option(None, help="0 to 100; larger runs sooner."),
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="K=V", help="Repeatable.")
    ] = None,
    cpu: float | None = typer.Option(None, min=0.001, max=1e6, help="Cores."),
    memory: str | None = typer.Option(None, metavar="SIZE", help="Such as 2GiB."),
    gpu: float | None = typer.Option(None, min=0.001, max=1e6, help="GPUs; 0.5 shares one."),
    gpu_memory: str | None = typer.Option(None, metavar="SIZE", help="Free memory of each GPU."),
    key: str = typer.Option("", help="Idempotency key: the same key is the same job."),
    delay: str | None = typer.Option(None, "--in", metavar="DURATION", help="Start after: 10m."),
    at: str | None = typer.Option(None, metavar="TIME", help="Start at: 2026-01-31T18:00."),
    max_attempts: int | None = typer.Option(
        None, min=1, max=2**31 - 1, help="All tries, the first one included."
    ),
    attempt_timeout: str | None = typer.Option(None, metavar="DURATION", help="Of one try."),
    validate_only: bool = typer.Option(False, "--validate-only", help="Check; run nothing."),
    watch: bool = typer.Option(False, "--watch", help="Then watch it to its end."),
    wait: bool = typer.Option(False, "--wait", help="Then wait and print its result."),
) -> None:
    """Submit a job and print its id.

    Printed means: accepted for good. Repeating with the same --key never makes a second job.
    """
    _require_one_end(watch=watch, wait=wait, validate_only=validate_only)
    text, due = parsing.payload(payload), parsing.schedule(delay, at)
    named, selected = parsing.pairs(inputs or ()), parsing.pairs(labels or ())
    needs = _resources(cpu, memory, gpu, gpu_memory)
    timeouts = _timeouts(attempt_timeout)

    async def command(client: AsyncClient, output: Output) -> int | None:
        spec = job_spec(
            task,
            text,
            queue=queue,
            inputs=named,
            resources=needs,
            priority=priority,
            labels=selected,
            schedule_time=due,
            retry=None if max_attempts is None else _attempts(max_attempts),
            timeouts=timeouts,
        )
        handle = await client.submit_spec(spec, idempotency_key=key, validate_only=validate_only)
        _show(output, handle, validate_only=validate_only)
        if validate_only:
            return 0
        if watch:
            return await follow(client, output, [handle.id])
        return await _result(output, handle) if wait else 0

    run(context, command)


def _require_one_end(*, watch: bool, wait: bool, validate_only: bool) -> None:
    if watch and wait:
        raise typer.BadParameter("give --watch or --wait, not both")
    if validate_only and (watch or wait):
        raise typer.BadParameter("--validate-only runs nothing: leave out --watch and --wait")


def _show(output: Output, handle: JobHandle, *, validate_only: bool) -> None:
    if output.json:
        response = job_service_pb2.SubmitResponse(
            job=handle.job, created=handle.created, placement=handle.placement
        )
        output.document(to_json(response))
        return
    output.line("valid" if validate_only else handle.id)
    known = "" if handle.created or validate_only else ", known already"
    place = placement(handle.placement) if handle.placement is not None else ""
    output.note("; ".join(part for part in (state_name(handle.job.state) + known, place) if part))


async def _result(output: Output, handle: JobHandle) -> int:
    job = await handle.result_job()
    if output.json:
        output.document(to_json(job))
    else:
        output.line(job.result.value or "null")
    return 0


def _resources(
    cpu: float | None, memory: str | None, gpu: float | None, gpu_memory: str | None
) -> job_pb2.Resources | None:
    if all(value is None for value in (cpu, memory, gpu, gpu_memory)):
        return None
    return job_pb2.Resources(
        cpu_millis=None if cpu is None else round(cpu * 1000),
        memory_bytes=parsing.size(memory) if memory else None,
        gpu_millis=None if gpu is None else round(gpu * 1000),
        gpu_memory_bytes=parsing.size(gpu_memory) if gpu_memory else None,
    )


def _attempts(maximum: int) -> job_pb2.RetryPolicy:
    # Alone: the rest of the policy stays the task's.
    return job_pb2.RetryPolicy(maximum_attempts=maximum)


def _timeouts(attempt: str | None) -> job_pb2.Timeouts | None:
    if attempt is None:
        return None
    return job_pb2.Timeouts(attempt=to_duration(parsing.duration(attempt)))
