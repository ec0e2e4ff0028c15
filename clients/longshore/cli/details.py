"""All that `longshore status` says of one job."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from google.rpc import status_pb2
from google.rpc.error_details_pb2 import DebugInfo

from longshore.cli import columns, times
from longshore.handle import is_terminal, state_name
from longshore.v1 import job_pb2, job_service_pb2

_LONGEST = 200
"""Characters of a payload that are shown without --verbose."""


def lines(response: job_service_pb2.StatusResponse, *, verbose: bool) -> Iterator[str]:
    """The facts of a job, its artifacts, its attempts, and where it failed."""
    job = response.job
    for name, value in _facts(response, verbose=verbose).items():
        if value:
            yield f"{name:<9} {value}"
    for name, ref in sorted(job.spec.inputs.items()):
        yield f"{'input':<9} {_file(name, ref)}"
    for name, ref in sorted(job.result.artifacts.items()):
        yield f"{'artifact':<9} {_file(name, ref)}"
    if job.attempt_count > len(job.attempts):
        yield f"{'attempts':<9} {job.attempt_count} in all; --verbose shows those before, too"
    for attempt in job.attempts:
        yield f"{'attempt':<9} {_attempt(attempt, job)}"
        if verbose and attempt.error != job.error:
            yield from _traceback(attempt.error)
    # A PermanentError says itself why.
    permanent = job_pb2.FAILURE_CLASS_PERMANENT
    if verbose or not (job.attempts and job.attempts[-1].failure_class == permanent):
        yield from _traceback(job.error)


def _facts(response: job_service_pb2.StatusResponse, *, verbose: bool) -> dict[str, str]:
    job, spec = response.job, response.job.spec
    ended = is_terminal(job)
    succeeded = job.state == job_pb2.JOB_STATE_SUCCEEDED
    return {
        "id": job.job_id,
        "task": spec.task,
        "queue": job.queue,
        "state": state_name(job.state),
        "waits": columns.placement(response.placement),
        # The last report of a job that succeeded may well be one of 95 %.
        "progress": "" if succeeded else columns.progress(job.progress),
        "created": times.moment(job.create_time),
        "scheduled": times.moment(spec.schedule_time),
        "started": times.moment(job.start_time),
        "ended": times.moment(job.end_time),
        "ran": times.took(job.start_time, job.end_time) if job.start_time.seconds else "",
        "next": "" if ended else times.due(job.next_attempt_time),
        "run": str(job.run) if job.run > 1 else "",
        "priority": str(spec.priority) if spec.HasField("priority") else "",
        "labels": ", ".join(f"{name}={value}" for name, value in sorted(spec.labels.items())),
        "timeouts": _timeouts(spec.timeouts),
        "failures": columns.failures(job.failure_counts),
        "payload": spec.payload if verbose else _short(spec.payload),
        "error": job.error.message,
        "result": job.result.value,
    }


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text):,} characters, --verbose shows them)"


def _timeouts(value: job_pb2.Timeouts) -> str:
    """Such as "attempt 30s, total 2h00m"; only those of a job that set them."""
    return ", ".join(
        f"{field.name} {times.lasting(duration.ToTimedelta() / timedelta(seconds=1))}"
        for field, duration in value.ListFields()
    )


def _file(name: str, ref: job_pb2.PayloadRef) -> str:
    """The name, the size, the address, and what to check the file with."""
    size = f" ({columns.bytes_(ref.size_bytes)})" if ref.size_bytes else ""
    digest = f" sha256:{ref.sha256.hex()}" if ref.sha256 else ""
    return f"{name}{size} {ref.uri}{digest}"


def _attempt(attempt: job_pb2.Attempt, job: job_pb2.Job) -> str:
    """Where it ran, when, how long, and how it failed; the error of the job is said once."""
    failure = columns.failure_class(attempt.failure_class)
    said = attempt.error.message
    why = f": {columns.headline(said)}" if said not in ("", job.error.message) else ""
    began = times.clock(attempt.start_time)
    ran = times.took(attempt.start_time, attempt.end_time)
    parts = [
        f"{attempt.number} on {attempt.worker_id or 'no worker'}",
        ", ".join(attempt.devices),
        f"at {began}, ran {ran}" if began else "",
        f"build {attempt.build}" if attempt.build else "",
        failure + why if attempt.failure_class else "",
    ]
    return " ".join(part for part in parts if part)


def _traceback(error: status_pb2.Status) -> Iterator[str]:
    info = DebugInfo()
    for detail in error.details:
        if detail.Is(DebugInfo.DESCRIPTOR) and detail.Unpack(info):
            yield "traceback"
            yield from (f"  {line}" for line in "\n".join(info.stack_entries).splitlines())
