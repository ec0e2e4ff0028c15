"""A registered task as admission needs it: defaults as messages, the schema compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from longshore.v1 import job_pb2, task_service_pb2
from longshore_server.payloads import PayloadSchema
from longshore_server.times import duration, span
from longshore_store.topology_records import QueueRecord


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
    _fill(merged.resources, task.resources)
    _fill(merged.retry_policy, task.retry)
    own = merged.timeouts.HasField("attempt")
    if queue.attempt_timeout_us is not None and not own:
        merged.timeouts.attempt.CopyFrom(duration(queue.attempt_timeout_us))
    _fill_unset(merged.timeouts, task.timeouts)
    if queue.overflow_to and not own:
        merged.timeouts.ClearField("attempt")
    return merged


def _fill(target: Any, defaults: Any) -> None:
    """Zero and empty take the default; a zero backoff counts as unset, a zero jitter does not."""
    for field, value in defaults.ListFields():
        given = getattr(target, field.name)
        if field.name == "jitter":
            if not target.HasField("jitter"):
                target.jitter = value
        elif field.message_type is not None and not field.is_repeated:
            if given.seconds == 0 and given.nanos == 0:
                given.CopyFrom(value)
        elif field.is_repeated:
            if not given:
                given.MergeFrom(value)
        elif not given:
            setattr(target, field.name, value)


def _fill_unset(target: job_pb2.Timeouts, defaults: job_pb2.Timeouts) -> None:
    given = {field.name for field, _ in target.ListFields()}
    for field, value in defaults.ListFields():
        if field.name not in given:
            getattr(target, field.name).CopyFrom(value)
