"""Submitting: how AsyncClient brings jobs to the service, one or many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from longshore.batches import IN_FLIGHT, Items, Pipeline, new_key
from longshore.calls import Calls, Repeat
from longshore.handle import JobHandle
from longshore.specs import Payload, SpecOptions, job_spec
from longshore.v1 import job_pb2, job_service_pb2

if TYPE_CHECKING:
    from longshore.aio import AsyncClient
    from longshore.sdk import Task

In = TypeVar("In")
Out = TypeVar("Out")


class SubmitOptions(SpecOptions, total=False):
    """What `submit` takes beside a task and its payload."""

    idempotency_key: str
    uniqueness: job_service_pb2.Uniqueness | str | None
    validate_only: bool
    timeout: float | None


class SubmitCalls:
    """The methods of AsyncClient that submit."""

    _calls: Calls

    @overload
    async def submit(
        self,
        task: Task[None, Out],
        payload: None = None,
        *,
        idempotency_key: str = "",
        uniqueness: job_service_pb2.Uniqueness | str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
        **options: Unpack[SpecOptions],
    ) -> JobHandle[Out]: ...
    @overload
    async def submit(
        self,
        task: Task[In, Out],
        payload: In,
        *,
        idempotency_key: str = "",
        uniqueness: job_service_pb2.Uniqueness | str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
        **options: Unpack[SpecOptions],
    ) -> JobHandle[Out]: ...
    @overload
    async def submit(
        self,
        task: str,
        payload: Payload = None,
        *,
        idempotency_key: str = "",
        uniqueness: job_service_pb2.Uniqueness | str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
        **options: Unpack[SpecOptions],
    ) -> JobHandle[Any]: ...
    async def submit(
        self,
        task: str | Task[Any, Any],
        payload: Any = None,
        *,
        idempotency_key: str = "",
        uniqueness: job_service_pb2.Uniqueness | str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
        **options: Unpack[SpecOptions],
    ) -> JobHandle[Any]:
        """Submits one job. Returned means: committed by the server, and it will run.

        While no server answers, and while the queue is full for no longer than the timeout, the
        call is repeated under the same key, so that the job is accepted once.

        Args:
            task: a function decorated with @task: its payload and the result of the handle then
                have the types that it declares. Or the name of a task.
            payload: what the task takes. With a name: a mapping or a pydantic model, or JSON text
                as it is; None is {}.
            idempotency_key: makes later calls with it return this job; a fresh one where empty.
            uniqueness: business deduplication; a string is a key held while the job is active.
            validate_only: check and answer as if for real, and store nothing.
            options: queue, inputs, resources, priority ...: see `SpecOptions`.

        Raises:
            InvalidJob: fields are wrong; `violations` lists all of them.
            AlreadyExists: a key is taken by another job, named in `existing`.
            NoCapacity: no pool can ever run it.
            QueueFull: there was no room before the timeout.
        """
        handle = await self.submit_spec(
            job_spec(task, payload, **options),
            idempotency_key=idempotency_key,
            uniqueness=uniqueness,
            validate_only=validate_only,
            timeout=timeout,
        )
        return handle if isinstance(task, str) else handle.typed(task.result)

    async def submit_spec(
        self,
        spec: job_pb2.JobSpec,
        *,
        idempotency_key: str = "",
        uniqueness: job_service_pb2.Uniqueness | str | None = None,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> JobHandle[Any]:
        """Submits a job that was built by `job_spec` or by hand; otherwise as `submit`."""
        if isinstance(uniqueness, str):
            uniqueness = job_service_pb2.Uniqueness(key=uniqueness)
        request = job_service_pb2.SubmitRequest(
            idempotency_key=idempotency_key or new_key(),
            spec=spec,
            uniqueness=uniqueness,
            validate_only=validate_only,
        )
        response = await self._calls.unary(
            self._calls.jobs.Submit, request, timeout=timeout, repeat=Repeat.WHEN_FULL
        )
        return self._submitted(response)

    async def submit_many(
        self, jobs: Items, *, timeout: float | None = None, in_flight: int = IN_FLIGHT
    ) -> list[JobHandle[Any]]:
        """Submits many jobs in batches; the handles are in the order of the jobs.

        Each batch is accepted whole or not at all; the batches are not one transaction. A job
        that brings no key of its own gets one, the same over all repetitions.

        Args:
            jobs: JobSpecs or SubmitRequests, from any iterable or async iterable; taken as they
                are needed, so a generator of millions is not unrolled first.
            timeout: seconds for each batch, its repetitions included.
            in_flight: how many batches are on their way at once.

        Raises:
            InvalidJob: `requests[N]` in a violation is the place of the job among `jobs`, from 0.
            QueueFull: there was no room for a batch before its timeout.
        """
        pipeline = Pipeline(self._calls, timeout=timeout, in_flight=in_flight)
        return [self._submitted(response) async for response in pipeline.run(jobs)]

    def _submitted(self, response: job_service_pb2.SubmitResponse) -> JobHandle[Any]:
        client = cast("AsyncClient", self)
        placement = response.placement if response.HasField("placement") else None
        return JobHandle(client, response.job, created=response.created, placement=placement)
