"""From the records of the store to the messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from google.rpc import error_details_pb2 as rpc
from google.rpc.code_pb2 import CANCELLED, DEADLINE_EXCEEDED, UNKNOWN
from google.rpc.status_pb2 import Status

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_pb2, pool_service_pb2, queue_service_pb2, watch_pb2
from longshore_server.rates import Rate
from longshore_server.refusals import DOMAIN
from longshore_server.times import duration, span, timestamp
from longshore_store.failure import Counted, FailureRecord
from longshore_store.model import AttemptRecord, EventRecord, JobRecord
from longshore_store.needs import parse_needs
from longshore_store.redrive_records import DeadLetters, RedriveRecord
from longshore_store.settings import SchedulerSettings
from longshore_store.states import REDRIVE, RERUN, TERMINAL, WAITING, JobState
from longshore_store.topology_records import PoolRecord, QueueRecord, WorkerRecord

_CANCELLED = (CANCELLED, "CANCELLED", "the job was cancelled")
_UNEXPLAINED = {
    JobState.CANCELLED: _CANCELLED,
    JobState.EXPIRED: (DEADLINE_EXCEEDED, "EXPIRED", "a deadline of the job passed"),
}
_ORDERED = (RERUN.reason, REDRIVE.reason)
_LARGEST = 2**63 - 1
ATTEMPTS_BYTES = 1024 * 1024
"""Of the attempts in a job: with its payload, result and inputs it stays below the 4 MiB that a
grpc client takes."""
_PLAIN_PROGRESS = ("fraction", "completed", "total", "unit", "phase", "message")


def job_message(
    record: JobRecord,
    kept_us: Mapping[JobState, int],
    bounds: SchedulerSettings,
    *,
    payload: bool = False,
) -> job_pb2.Job:
    """A job. Parts that the record was read without stay unset: that is the BASIC view.

    kept_us: how long a job is kept after its end, by its state. bounds: how often each class of
    failure may strike. payload: include it, where it was read.
    """
    job = job_pb2.Job(
        job_id=record.id,
        state=_state(record.state),
        revision=record.revision,
        tenant=record.tenant,
        latest_sequence=record.sequence,
        run=record.run,
        queue=record.queue,
        attempt_count=record.number,
    )
    job.spec.ParseFromString(record.spec)
    if payload and record.payload is not None:
        job.spec.payload = record.payload
    _set_times(job, record, kept_us)
    if record.progress_json is not None:
        job.progress.CopyFrom(progress_message(record.progress_json))
    job.attempts.extend(newest_attempts(record.attempts))
    if any(record.counted):
        job.failure_counts.CopyFrom(_failure_counts(record.counted, job.spec, bounds))
    _set_outcome(job, record)
    return job


def _state(state: int) -> job_pb2.JobState.ValueType:
    return job_pb2.JobState.ValueType(state)


def _set_times(job: job_pb2.Job, record: JobRecord, kept_us: Mapping[JobState, int]) -> None:
    job.create_time.CopyFrom(timestamp(record.created_us))
    if record.first_started_us is not None:
        job.start_time.CopyFrom(timestamp(record.first_started_us))
    if record.state is JobState.RETRYING and record.due_us is not None:
        job.next_attempt_time.CopyFrom(timestamp(record.due_us))
    if record.ended_us is None or record.state not in TERMINAL:
        return
    job.end_time.CopyFrom(timestamp(record.ended_us))
    job.expire_time.CopyFrom(timestamp(record.ended_us + kept_us[record.state]))


def _failure_counts(
    counted: Counted, spec: job_pb2.JobSpec, bounds: SchedulerSettings
) -> job_pb2.FailureCounts:
    return job_pb2.FailureCounts(
        attempts=counted.attempts,
        maximum_attempts=spec.retry_policy.maximum_attempts,
        crashes=counted.crashes,
        maximum_crashes=bounds.maximum_crashes,
        out_of_memory=counted.ooms,
        maximum_out_of_memory=bounds.maximum_ooms,
        interruptions=counted.interruptions,
        maximum_interruptions=bounds.maximum_interruptions,
    )


def _set_outcome(job: job_pb2.Job, record: JobRecord) -> None:
    if record.state not in TERMINAL:
        return
    if record.state is JobState.SUCCEEDED:
        if record.value_json is not None:
            job.result.value = record.value_json
            for name, ref in _artifacts(record.artifacts_json):
                job.result.artifacts[name].CopyFrom(ref)
    elif record.failure_json is not None:
        job.error.CopyFrom(failure_status(record.failure_json))
    else:
        unknown = (UNKNOWN, record.state.name, "the job failed; no cause was recorded")
        job.error.CopyFrom(_status(*_UNEXPLAINED.get(record.state, unknown), {}))


def _artifacts(text: str | None) -> list[tuple[str, job_pb2.PayloadRef]]:
    values: Any = orjson.loads(text or "[]")
    pairs = values.items() if isinstance(values, dict) else ((v["name"], v) for v in values)
    return [(name, _reference(value)) for name, value in pairs]


def _reference(value: dict[str, Any]) -> job_pb2.PayloadRef:
    return job_pb2.PayloadRef(
        uri=value.get("uri", ""),
        size_bytes=value.get("size_bytes", value.get("size", 0)),
        sha256=bytes.fromhex(value.get("sha256", "")),
        media_type=value.get("media_type", ""),
    )


def newest_attempts(records: Sequence[AttemptRecord]) -> list[job_pb2.Attempt]:
    """The last of the attempts, in order, as many as fit into an answer."""
    found: list[job_pb2.Attempt] = []
    room = ATTEMPTS_BYTES
    for record in reversed(records):
        attempt = attempt_message(record)
        room -= attempt.ByteSize()
        if found and room < 0:
            break
        found.append(attempt)
    return found[::-1]


def attempt_message(record: AttemptRecord) -> job_pb2.Attempt:
    """One attempt, ended or current."""
    attempt = job_pb2.Attempt(
        number=record.number,
        fence=record.fence,
        worker_id=record.worker_id,
        failure_class=job_pb2.FailureClass.ValueType(record.failure_class),
        run=record.run,
        build=record.build,
        devices=[_device_name(device) for device in orjson.loads(record.devices_json or "[]")],
    )
    for field, us in (
        (attempt.queue_time, record.queued_us),
        (attempt.lease_time, record.leased_us),
        (attempt.start_time, record.started_us),
        (attempt.end_time, record.ended_us),
    ):
        if us is not None:
            field.CopyFrom(timestamp(us))
    if record.failure_json is not None:
        attempt.error.CopyFrom(failure_status(record.failure_json))
    elif record.failure_class == FailureClass.CANCELLED:
        attempt.error.CopyFrom(_status(*_CANCELLED, {}))
    return attempt


def _device_name(device: Any) -> str:
    return device if isinstance(device, str) else str(device.get("name", ""))


def failure_status(failure_json: str) -> Status:
    """How an attempt or a job failed, with all its details."""
    return _failure_status(FailureRecord.from_json(failure_json))


def _failure_status(failure: FailureRecord) -> Status:
    status = _status(failure.code, failure.reason, failure.message, dict(failure.metadata))
    if failure.violations:
        bad = rpc.BadRequest()
        for path, text in failure.violations:
            bad.field_violations.add(field=path, description=text)
        status.details.add().Pack(bad)
    if failure.traceback:
        debug = rpc.DebugInfo(stack_entries=failure.traceback.splitlines())
        status.details.add().Pack(debug)
    return status


def _status(code: int, reason: str, message: str, metadata: dict[str, str]) -> Status:
    status = Status(code=code, message=message)
    status.details.add().Pack(rpc.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status


def progress_message(progress_json: str) -> job_pb2.Progress:
    """The newest progress; estimated_remaining is kept in seconds. Unknown names are skipped."""
    values = orjson.loads(progress_json)
    given = {n: values[n] for n in _PLAIN_PROGRESS if values.get(n) is not None}
    for name in ("completed", "total"):  # JSON has larger numbers than these fields
        given[name] = min(given.get(name, 0), _LARGEST)
    progress = job_pb2.Progress(**given)
    if values.get("metrics"):
        progress.metrics.update(values["metrics"])
    remaining = values.get("estimated_remaining")
    if remaining is not None:
        seconds = float(str(remaining).removesuffix("s"))
        progress.estimated_remaining.CopyFrom(span(max(0.0, seconds)))
    return progress


def state_event(record: EventRecord, revision: int) -> watch_pb2.WatchProgressResponse:
    """A state change as one event of a watch."""
    message = _event(record, revision)
    change = message.state_change
    change.from_state, change.to_state = _state(record.from_state), _state(record.to_state)
    change.reason = record.reason
    if record.due_us is not None:
        change.next_attempt_time.CopyFrom(timestamp(record.due_us))
    if record.reason in _ORDERED and record.body_json is not None:
        change.order.CopyFrom(watch_pb2.Order(**orjson.loads(record.body_json)))
    elif record.body_json is not None:
        failure = FailureRecord.from_json(record.body_json)
        change.failure_class = job_pb2.FailureClass.ValueType(failure.failure_class)
        change.error.CopyFrom(_failure_status(failure._replace(traceback="")))
        change.will_retry = record.to_state in WAITING
    elif record.to_state == JobState.CANCELLED:  # its attempt confirmed what was asked for
        change.failure_class = job_pb2.FAILURE_CLASS_CANCELLED
        change.error.CopyFrom(_status(*_CANCELLED, {}))
    return message


def log_event(record: EventRecord, revision: int) -> watch_pb2.WatchProgressResponse:
    """A chunk of log lines as one event of a watch."""
    message = _event(record, revision)
    values = orjson.loads(record.body_json or "{}")
    message.log_chunk.lines.extend(values.get("lines", ()))
    message.log_chunk.dropped = values.get("dropped", 0)
    return message


def _event(record: EventRecord, revision: int) -> watch_pb2.WatchProgressResponse:
    return watch_pb2.WatchProgressResponse(
        sequence=record.sequence,
        event_time=timestamp(record.time_us),
        attempt=record.number,
        revision=revision,
    )


def queue_message(record: QueueRecord, rate: Rate) -> queue_service_pb2.Queue:
    """A queue with its depth and its rate."""
    queue = queue_service_pb2.Queue(
        name=record.name,
        paused=record.paused,
        pause_reason=record.pause_reason,
        waiting=record.waiting,
        not_due=record.not_due,
        active=record.active,
        maximum_waiting=record.maximum_waiting,
        drain_rate=rate.mean,
        overflow_to=record.overflow_to,
    )
    if record.paused_us is not None:
        queue.pause_time.CopyFrom(timestamp(record.paused_us))
    if record.attempt_timeout_us is not None:
        queue.attempt_timeout.CopyFrom(duration(record.attempt_timeout_us))
    return queue


def redrive_message(record: RedriveRecord) -> queue_service_pb2.Redrive:
    """A redrive and how far it has come."""
    redrive = queue_service_pb2.Redrive(
        redrive_id=record.id,
        selection=_selection_message(record.letters),
        state=queue_service_pb2.RedriveState.ValueType(record.state),
        stop_reason=record.stop_reason,
        actor=record.actor,
        reason=record.reason,
        rate=record.rate_milli / 1000,
        maximum_failure_share=record.maximum_failures_milli / 1000,
        total=record.total,
        redriven=record.redriven,
        failed=record.failed,
        create_time=timestamp(record.created_us),
    )
    if record.ended_us is not None:
        redrive.end_time.CopyFrom(timestamp(record.ended_us))
    return redrive


def _selection_message(letters: DeadLetters) -> queue_service_pb2.DeadLetterSelection:
    selection = queue_service_pb2.DeadLetterSelection(
        queue=letters.queue or "",
        task=letters.task or "",
        failure_class=job_pb2.FailureClass.ValueType(letters.failure_class or 0),
    )
    if letters.ended_from_us is not None:
        selection.ended_after.CopyFrom(timestamp(letters.ended_from_us))
    if letters.ended_before_us is not None:
        selection.ended_before.CopyFrom(timestamp(letters.ended_before_us))
    return selection


def resources_message(shape_json: str) -> job_pb2.Resources:
    """What a worker offers."""
    shape = parse_needs(shape_json)
    return job_pb2.Resources(
        cpu_millis=shape.cpu_millis,
        memory_bytes=shape.memory_bytes,
        gpu_millis=shape.gpu_millis,
        gpu_memory_bytes=shape.gpu_memory_bytes,
        accelerator_types=shape.accelerators,
        model=shape.model,
        custom=dict(shape.custom),
    )


def pool_message(record: PoolRecord) -> pool_service_pb2.Pool:
    """A pool with its size and its load."""
    return pool_service_pb2.Pool(
        name=record.name,
        worker_resources=resources_message(record.shape_json),
        minimum_workers=record.minimum_workers,
        maximum_workers=record.maximum_workers,
        ready_workers=record.ready_workers,
        starting_workers=record.starting_workers,
        active_attempts=record.active_attempts,
        simulated=record.simulated,
        build=record.build,
        cordoned_workers=record.cordoned_workers,
    )


def worker_message(record: WorkerRecord) -> pool_service_pb2.Worker:
    """A worker with its devices."""
    devices = orjson.loads(record.devices_json or "[]")
    return pool_service_pb2.Worker(
        worker_id=record.id,
        pool=record.pool,
        state=pool_service_pb2.WorkerState.ValueType(record.state),
        node=record.node,
        pid=record.pid,
        resources=resources_message(record.shape_json),
        devices=[pool_service_pb2.Device(**device) for device in devices],
        active_attempts=record.active_attempts,
        start_time=timestamp(record.started_us),
        heartbeat_time=timestamp(record.heartbeat_us),
        build=record.build,
        build_description=record.build_description,
    )
