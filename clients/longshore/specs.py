"""From Python values to a JobSpec."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack, runtime_checkable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.errors import InvalidJob
from longshore.v1 import job_pb2

if TYPE_CHECKING:
    from longshore.sdk import Resources, Retry, Task, Timeouts

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@runtime_checkable
class Model(Protocol):
    """A pydantic model; named by what is needed of it, so that pydantic need not be imported."""

    def model_dump_json(self, *, by_alias: bool) -> str:
        """The model as JSON text."""


Payload = Mapping[str, Any] | Model | str | None
Input = str | os.PathLike[str] | job_pb2.PayloadRef


class SpecOptions(TypedDict, total=False):
    """What a job may say beside its task and payload. None and left out are the same.

    Keys:
        queue: the default of the task where left out.
        inputs: name -> a path (becomes file:///absolute), a URI, or a PayloadRef.
        resources: what one attempt needs; the default of the task where left out.
        priority: 0 to 100, larger runs sooner; 50 where left out.
        labels: free names and values, for selection.
        schedule_time: not before; an aware datetime, or a timedelta from now.
        retry: how failed attempts are repeated.
        timeouts: the deadlines.
        fairness_key: what fair sharing inside a tenant goes by; not served yet, so it is refused.
        expected_duration: seconds, or a timedelta; not served yet, so it is refused.
        notify: who is told when the job ends.
    """

    queue: str | None
    inputs: Mapping[str, Input] | None
    resources: Resources | job_pb2.Resources | None
    priority: int | None
    labels: Mapping[str, str] | None
    schedule_time: datetime | timedelta | None
    retry: Retry | job_pb2.RetryPolicy | None
    timeouts: Timeouts | job_pb2.Timeouts | None
    fairness_key: str | None
    expected_duration: float | timedelta | None
    notify: Sequence[job_pb2.NotificationTarget] | None


def job_spec(
    task: str | Task[Any, Any], payload: Payload = None, **options: Unpack[SpecOptions]
) -> job_pb2.JobSpec:
    """Builds a JobSpec, for `submit_spec` and `submit_many`.

    Args:
        task: the name of a task, or a function decorated with @task.
        payload: a mapping or a pydantic model, or JSON text as it is; None is {}.
        options: see `SpecOptions`.

    Raises:
        InvalidJob: values have no place in a JobSpec; `violations` lists all of them.
        TypeError: an option has an unknown name.
    """
    spec = job_pb2.JobSpec()
    wrong: list[tuple[str, str]] = []
    raw = payload if isinstance(task, str) else encoded(task, payload)
    given: dict[str, Any] = {"task": task, "payload": raw, **options}
    for name, value in given.items():
        setter = _SETTERS.get(name)
        if setter is None:
            known = ", ".join(_SETTERS)
            raise TypeError(f"a job has no option {name!r}; it has {known}")
        try:
            if value is not None:
                setter(spec, value)
        except (TypeError, ValueError, AttributeError) as error:
            wrong.append((f"spec.{_FIELDS.get(name, name)}", str(error)))
    if wrong:
        listed = "; ".join(f"{field}: {text}" for field, text in wrong)
        text = f"the job cannot be sent: {listed}"
        raise InvalidJob(text, violations=wrong, code="INVALID_ARGUMENT")
    return spec


def to_duration(seconds: float | timedelta) -> Duration:
    """Seconds as a protobuf Duration, exact to the nanosecond.

    Raises:
        ValueError: not a finite number.
    """
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    duration = Duration()
    try:
        duration.FromNanoseconds(round(seconds * 1e9))
    except OverflowError:
        raise ValueError(f"{seconds} is not a number of seconds") from None
    return duration


def to_timestamp(time: datetime) -> Timestamp:
    """A protobuf Timestamp.

    Raises:
        ValueError: the time has no zone.
    """
    if time.tzinfo is None:
        raise ValueError(f"{time.isoformat()} has no time zone; add one, such as datetime.UTC")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def encoded(task: Task[Any, Any], payload: Any) -> str | None:
    """The payload of a task as JSON text: whatever type the task takes.

    Raises:
        InvalidJob: the value is no such thing.
    """
    if payload is None:
        return None
    try:
        checked = task.params.validate_python(payload)
        if isinstance(payload, Mapping):  # as it is, so that the service sees a misspelt name
            return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return task.params.dump_json(checked, by_alias=True).decode()
    except ValueError as error:
        raise InvalidJob(
            f"the job cannot be sent: spec.payload: {error}",
            violations=[("spec.payload", str(error))],
            code="INVALID_ARGUMENT",
        ) from None


def _set_task(spec: job_pb2.JobSpec, task: str | Task[Any, Any]) -> None:
    spec.task = task if isinstance(task, str) else task.name


def _set_payload(spec: job_pb2.JobSpec, payload: Payload) -> None:
    if isinstance(payload, str):
        spec.payload = payload
    elif isinstance(payload, Model):
        spec.payload = payload.model_dump_json(by_alias=True)
    else:
        # Not escaped to ASCII: 256 KiB is the limit, and escapes cost up to six times as much.
        spec.payload = json.dumps(
            payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )


def _set_inputs(spec: job_pb2.JobSpec, inputs: Mapping[str, Input]) -> None:
    for name, value in inputs.items():
        spec.inputs[name].CopyFrom(_payload_ref(value))


def _payload_ref(value: Input) -> job_pb2.PayloadRef:
    if isinstance(value, job_pb2.PayloadRef):
        return value
    if isinstance(value, str) and _URI.match(value):
        return job_pb2.PayloadRef(uri=value)
    # Not resolve(): a link that points elsewhere tomorrow is the caller's to decide.
    path = os.path.abspath(Path(value).expanduser())  # noqa: PTH100
    return job_pb2.PayloadRef(uri=Path(path).as_uri())


def _set_resources(spec: job_pb2.JobSpec, value: Resources | job_pb2.Resources) -> None:
    if isinstance(value, job_pb2.Resources):
        spec.resources.CopyFrom(value)
        return
    spec.resources.CopyFrom(
        job_pb2.Resources(
            # A zero of `Resources` is its default, so it takes that of the task.
            cpu_millis=round(value.cpu * 1000) or None,
            memory_bytes=value.memory or None,
            gpu_millis=round(value.gpu * 1000) or None,
            gpu_memory_bytes=value.gpu_memory or None,
            accelerator_types=value.accelerators,
            model=value.model or None,
            custom=value.custom,
        )
    )


def _set_schedule_time(spec: job_pb2.JobSpec, value: datetime | timedelta) -> None:
    due = datetime.now(UTC) + value if isinstance(value, timedelta) else value
    spec.schedule_time.CopyFrom(to_timestamp(due))


def _set_retry(spec: job_pb2.JobSpec, value: Retry | job_pb2.RetryPolicy) -> None:
    if isinstance(value, job_pb2.RetryPolicy):
        spec.retry_policy.CopyFrom(value)
        return
    spec.retry_policy.CopyFrom(
        job_pb2.RetryPolicy(
            maximum_attempts=value.max_attempts,
            initial_backoff=to_duration(value.initial_backoff),
            backoff_multiplier=value.multiplier,
            maximum_backoff=to_duration(value.max_backoff),
            jitter=value.jitter,
        )
    )


def _set_timeouts(spec: job_pb2.JobSpec, value: Timeouts | job_pb2.Timeouts) -> None:
    if isinstance(value, job_pb2.Timeouts):
        spec.timeouts.CopyFrom(value)
        return
    for name in ("queue", "attempt", "total", "cancel_grace"):
        seconds = getattr(value, name)
        if seconds is not None:
            getattr(spec.timeouts, name).CopyFrom(to_duration(seconds))


def _assign(name: str) -> Callable[[job_pb2.JobSpec, Any], None]:
    return lambda spec, value: setattr(spec, name, value)


_FIELDS = {"retry": "retry_policy"}
_SETTERS: dict[str, Callable[[job_pb2.JobSpec, Any], None]] = {
    "task": _set_task,
    "payload": _set_payload,
    "queue": _assign("queue"),
    "inputs": _set_inputs,
    "resources": _set_resources,
    "priority": _assign("priority"),
    "labels": lambda spec, value: spec.labels.update(value),
    "schedule_time": _set_schedule_time,
    "retry": _set_retry,
    "timeouts": _set_timeouts,
    "fairness_key": _assign("fairness_key"),
    "expected_duration": lambda spec, value: spec.expected_duration.CopyFrom(to_duration(value)),
    "notify": lambda spec, value: spec.notify.extend(value),
}
