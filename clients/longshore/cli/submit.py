"""`longshore submit`."""

from __future__ import annotations

import asyncio
from typing import Any

import typer
from google.protobuf.duration_pb2 import Duration

from longshore.aio import AsyncClient, JobHandle
from longshore.cli import parsing
from longshore.cli import submit_options as options
from longshore.cli.columns import placement
from longshore.cli.live import follow
from longshore.cli.output import Output, to_json
from longshore.cli.session import run
from longshore.handle import state_name
from longshore.specs import SpecOptions, job_spec, to_duration
from longshore.v1 import job_pb2, job_service_pb2


def submit(
    context: typer.Context,
    *,
    task: options.Task,
    payload: options.Payload = None,
    inputs: options.Inputs = None,
    queue: options.Queue = None,
    priority: options.Priority = None,
    labels: options.Labels = None,
    cpu: options.Cpu = None,
    memory: options.Memory = None,
    gpu: options.Gpu = None,
    gpu_memory: options.GpuMemory = None,
    key: options.Key = "",
    unique: options.Unique = "",
    unique_for: options.UniqueFor = None,
    delay: options.Delay = None,
    at: options.At = None,
    max_attempts: options.MaxAttempts = None,
    backoff: options.Backoff = None,
    max_backoff: options.MaxBackoff = None,
    attempt_timeout: options.AttemptTimeout = None,
    total_timeout: options.TotalTimeout = None,
    queue_timeout: options.QueueTimeout = None,
    validate_only: options.ValidateOnly = False,
    watch: options.Watch = False,
    wait: options.Wait = False,
) -> None:
    """Submit a job and print its id.

    Printed means: accepted for good. Repeating with the same --key never makes a second job.
    """
    _require_one_end(watch=watch, wait=wait, validate_only=validate_only)
    spec_options: SpecOptions = {
        "queue": queue,
        "inputs": parsing.pairs(inputs or ()),
        "resources": _resources(cpu, memory, gpu, gpu_memory),
        "priority": priority,
        "labels": parsing.pairs(labels or ()),
        "schedule_time": parsing.schedule(delay, at),
        "retry": _retry(max_attempts, backoff, max_backoff),
        "timeouts": _timeouts(attempt=attempt_timeout, total=total_timeout, queue=queue_timeout),
    }
    text, uniqueness = parsing.payload(payload), _uniqueness(unique, unique_for)

    async def command(client: AsyncClient, output: Output) -> int | None:
        handle = await client.submit_spec(
            job_spec(task, text, **spec_options),
            idempotency_key=key,
            uniqueness=uniqueness,
            validate_only=validate_only,
        )
        _show(output, handle, validate_only=validate_only, wait=wait)
        return await _to_the_end(client, output, handle, watch=watch, wait=wait)

    run(context, command)


async def _to_the_end(
    client: AsyncClient, output: Output, handle: JobHandle[Any], *, watch: bool, wait: bool
) -> int:
    try:
        if watch:
            return await follow(client, output, [handle.id])
        return await _result(output, handle) if wait else 0
    except asyncio.CancelledError:  # Ctrl-C
        output.tell(f"job {handle.id} goes on; cancel it with: longshore cancel {handle.id}")
        raise


def _require_one_end(*, watch: bool, wait: bool, validate_only: bool) -> None:
    if watch and wait:
        raise typer.BadParameter("give --watch or --wait, not both")
    if validate_only and (watch or wait):
        raise typer.BadParameter("--validate-only runs nothing: leave out --watch and --wait")


def _show(output: Output, handle: JobHandle[Any], *, validate_only: bool, wait: bool) -> None:
    if wait:  # the standard output is the result's
        if not output.json:
            typer.echo(handle.id, err=True)
        return
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


async def _result(output: Output, handle: JobHandle[Any]) -> int:
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


def _retry(
    attempts: int | None, backoff: str | None, max_backoff: str | None
) -> job_pb2.RetryPolicy | None:
    """The given parts alone: the rest of the policy stays the task's."""
    if attempts is None and backoff is None and max_backoff is None:
        return None
    return job_pb2.RetryPolicy(
        maximum_attempts=attempts or 0,
        initial_backoff=_seconds(backoff),
        maximum_backoff=_seconds(max_backoff),
    )


def _timeouts(**given: str | None) -> job_pb2.Timeouts | None:
    if not any(given.values()):
        return None
    return job_pb2.Timeouts(**{name: _seconds(text) for name, text in given.items()})


def _uniqueness(key: str, window: str | None) -> job_service_pb2.Uniqueness | None:
    if not key and window is not None:
        raise typer.BadParameter("--unique-for keeps the key of --unique: give that too")
    return job_service_pb2.Uniqueness(key=key, window=_seconds(window)) if key else None


def _seconds(text: str | None) -> Duration | None:
    return None if text is None else to_duration(parsing.duration(text))
