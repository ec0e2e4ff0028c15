"""A registered task as admission needs it: defaults as messages, the schema compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from longshore.v1 import job_pb2, task_service_pb2
from longshore_server.payloads import PayloadSchema
from longshore_server.times import duration, span
from longshore_store.topology_records import QueueRecord

_Amount = Literal["cpu_millis", "memory_bytes", "gpu_millis", "gpu_memory_bytes", "model"]
_AMOUNTS: tuple[_Amount, ...] = get_args(_Amount)


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One task of the catalogue. `summary` is the task without its schemas."""

    name: str
    queue: str
    resources: job_pb2.Resources
    retry: job_pb2.RetryPolicy
    timeouts: job_pb2.Timeouts
    payload: PayloadSchema
    summary: task_service_pb2.Task
    input_schema: str
    output_schema: str

    def full(self) -> task_service_pb2.Task:
        """The task with its schemas."""
        task = task_service_pb2.Task()
        task.CopyFrom(self.summary)
        task.input_schema, task.output_schema = self.input_schema, self.output_schema
        return task


def parse_task(document_json: str) -> TaskEntry:
    """The entry of a published document, `Task.describe()` as JSON text.

    Raises:
        ValueError: the document is not JSON, or its input schema is no schema.
        KeyError: a part is missing.
    """
    document = orjson.loads(document_json)
    resources = _resources(document["resources"])
    retry, timeouts = _retry(document["retry"]), _timeouts(document["timeouts"])
    summary = task_service_pb2.Task(
        name=document["name"],
        description=document["description"],
        queue=document["queue"],
        resources=resources,
        retry_policy=retry,
        timeouts=timeouts,
    )
    return TaskEntry(
        name=document["name"],
        queue=document["queue"],
        resources=resources,
        retry=retry,
        timeouts=timeouts,
        payload=PayloadSchema(document["input_schema"]),
        summary=summary,
        input_schema=orjson.dumps(document["input_schema"]).decode(),
        output_schema=orjson.dumps(document["output_schema"]).decode(),
    )


def _resources(values: Mapping[str, Any]) -> job_pb2.Resources:
    return job_pb2.Resources(
        cpu_millis=round(values["cpu"] * 1000),
        memory_bytes=values["memory"],
        gpu_millis=round(values["gpu"] * 1000),
        gpu_memory_bytes=values["gpu_memory"],
        accelerator_types=values["accelerators"],
        model=values["model"],
        custom=values["custom"],
    )


def _retry(values: Mapping[str, Any]) -> job_pb2.RetryPolicy:
    return job_pb2.RetryPolicy(
        maximum_attempts=values["max_attempts"],
        initial_backoff=span(values["initial_backoff"]),
        backoff_multiplier=values["multiplier"],
        maximum_backoff=span(values["max_backoff"]),
        jitter=values["jitter"],
    )


def _timeouts(values: Mapping[str, Any]) -> job_pb2.Timeouts:
    given = {name: span(seconds) for name, seconds in values.items() if seconds is not None}
    return job_pb2.Timeouts(**given)


def with_defaults(spec: job_pb2.JobSpec, task: TaskEntry, queue: QueueRecord) -> job_pb2.JobSpec:
    """What is stored: the caller's spec without payload, every gap filled.

    The attempt timeout of a queue goes before the task's: an operator who declares it means
    the jobs of this queue, while a task always has one. Where long jobs are moved on it stays
    unset: then it depends on the queue where the job is.
    """
    merged = job_pb2.JobSpec()
    merged.CopyFrom(spec)
    merged.ClearField("payload")
    merged.queue = queue.name
    if not merged.HasField("priority"):
        merged.priority = 50
    _fill_resources(merged.resources, task.resources)
    _fill_retry(merged.retry_policy, task.retry)
    own = merged.timeouts.HasField("attempt")
    if queue.attempt_timeout_us is not None and not own:
        merged.timeouts.attempt.CopyFrom(duration(queue.attempt_timeout_us))
    _fill_timeouts(merged.timeouts, task.timeouts)
    if queue.overflow_to and not own:
        merged.timeouts.ClearField("attempt")
    return merged


def _fill_resources(target: job_pb2.Resources, defaults: job_pb2.Resources) -> None:
    """A given zero stands. Without GPUs the defaults of the other GPU fields mean nothing."""
    no_gpu = target.HasField("gpu_millis") and not target.gpu_millis
    for name in _AMOUNTS:
        if not target.HasField(name) and not (no_gpu and name == "gpu_memory_bytes"):
            setattr(target, name, getattr(defaults, name))
    if not target.accelerator_types and not no_gpu:
        target.accelerator_types.extend(defaults.accelerator_types)
    custom = {**defaults.custom, **target.custom}
    target.custom.clear()
    target.custom.update({name: count for name, count in custom.items() if count})


def _fill_retry(target: job_pb2.RetryPolicy, defaults: job_pb2.RetryPolicy) -> None:
    target.maximum_attempts = target.maximum_attempts or defaults.maximum_attempts
    target.backoff_multiplier = target.backoff_multiplier or defaults.backoff_multiplier
    if not target.HasField("jitter"):
        target.jitter = defaults.jitter
    _fill_timeouts(target, defaults)


def _fill_timeouts(target: Message, defaults: Message) -> None:
    """The spans that are not set."""
    given = {field.name for field, _ in target.ListFields()}
    for field, value in defaults.ListFields():
        if field.name not in given and isinstance(value, Duration):
            getattr(target, field.name).CopyFrom(value)
