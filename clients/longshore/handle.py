"""JobHandle: one job, as the caller holds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from longshore import error_mapping
from longshore.errors import DeadlineExceeded, LongshoreError
from longshore.v1 import job_pb2, job_service_pb2
from longshore.watching import Event

if TYPE_CHECKING:
    from longshore.aio import AsyncClient

Out_co = TypeVar("Out_co", covariant=True)
T = TypeVar("T")


class ResultType(Protocol[Out_co]):
    """Reads a result; that of a task is a pydantic TypeAdapter."""

    def validate_json(self, data: str, /) -> Out_co:
        """The value that a JSON text stands for."""


TERMINAL_STATES = frozenset(
    {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELLED,
        job_pb2.JOB_STATE_EXPIRED,
        job_pb2.JOB_STATE_DEAD_LETTERED,
    }
)
# A waiter needs the outcome only; the server may merge everything before it.
QUIET = 60.0


class JobHandle(Generic[Out_co]):
    """A job on the server, and the type of what its task returns: Any of a task given by name.

    Attributes:
        created: False where Submit returned an earlier job.
        placement: what admission thought of it at Submit; None from other calls.
    """

    __slots__ = ("_client", "_job", "_result_type", "created", "placement")

    def __init__(
        self,
        client: AsyncClient,
        job: job_pb2.Job,
        *,
        created: bool = False,
        placement: job_pb2.Placement | None = None,
        result_type: ResultType[Out_co] | None = None,
    ) -> None:
        self._result_type = result_type
        self._client = client
        self._job = job
        self.created = created
        self.placement = placement

    def typed(self, result_type: ResultType[T]) -> JobHandle[T]:
        """The same job; `result` then returns this type."""
        return JobHandle(
            self._client,
            self._job,
            created=self.created,
            placement=self.placement,
            result_type=result_type,
        )

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} {state_name(self._job.state)}>"

    @property
    def id(self) -> str:
        """The id of the job, durable: `client.get(id)` finds it again tomorrow."""
        return self._job.job_id

    @property
    def job(self) -> job_pb2.Job:
        """The job as last heard of, by whichever call; makes no call itself."""
        return self._job

    async def status(
        self,
        *,
        view: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL,
        timeout: float | None = None,
    ) -> job_service_pb2.StatusResponse:
        """Reads the job and, while it waits, its placement.

        Raises:
            JobNotFound: it was deleted after its retention.
        """
        response = await self._client.status(self.id, view=view, timeout=timeout)
        self._job = response.job
        return response

    async def watch(
        self,
        *,
        include_logs: bool = False,
        after_sequence: int | None = None,
        control: bool = False,
        minimum_progress_interval: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """What happens to the job, live; as `AsyncClient.watch`."""
        events = self._client.watch(
            self.id,
            include_logs=include_logs,
            after_sequence=after_sequence,
            control=control,
            minimum_progress_interval=minimum_progress_interval,
        )
        async with aclosing(events):
            async for event in events:
                self._observe(event)
                yield event

    async def wait(self, timeout: float | None = None) -> job_pb2.Job:
        """Waits until the job has ended, however it did; survives restarts of the server.

        A result that is known is returned without a call. A failure is asked for again: the job
        may have been retried or redriven since.

        Args:
            timeout: seconds; None waits as long as the job takes. While no server can be
                reached, the `reconnect_timeout` of the client is the bound either way.

        Returns:
            The job with its outcome.

        Raises:
            DeadlineExceeded: it had not ended in time; it goes on, and may be waited for again.
        """
        if self._result_is_known():
            return self._job
        try:
            async with asyncio.timeout(timeout), aclosing(self._quiet_watch()) as events:
                async for _ in events:
                    pass
        except TimeoutError as error:
            if isinstance(error, LongshoreError):
                raise
            raise DeadlineExceeded(
                f"job {self.id} is {state_name(self._job.state)} after {timeout:g} s: "
                "wait again, or allow a longer timeout",
                code="DEADLINE_EXCEEDED",
            ) from None
        return self._job

    async def result_job(self, timeout: float | None = None) -> job_pb2.Job:
        """Waits for success and returns the job; otherwise as `result`."""
        job = await self.wait(timeout)
        if job.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise error_mapping.from_job(job)
        return job

    async def result(self, timeout: float | None = None) -> Out_co:
        """Waits for success and returns what the task returned: as the type that it declares if the
        job was submitted by the task itself, else as parsed JSON.

        Args:
            timeout: seconds; as in `wait`.

        Raises:
            JobFailed, JobDeadLettered, JobWasCancelled, JobExpired: it ended so.
            DeadlineExceeded: it had not ended in time.
        """
        value = (await self.result_job(timeout)).result.value
        if self._result_type is not None:
            return self._result_type.validate_json(value or "null")
        parsed: Any = json.loads(value) if value else None
        return cast("Out_co", parsed)

    async def artifacts(self, timeout: float | None = None) -> Mapping[str, job_pb2.PayloadRef]:
        """Waits for success and returns the large outputs, by name; otherwise as `result`."""
        return dict((await self.result_job(timeout)).result.artifacts)

    async def cancel(
        self, reason: str = "", *, force: bool = False, timeout: float | None = None
    ) -> job_pb2.Job:
        """Asks for cancellation; as `AsyncClient.cancel`."""
        self._job = await self._client.cancel(self.id, reason, force=force, timeout=timeout)
        return self._job

    async def retry(
        self, reason: str = "", *, expected_run: int | None = None, timeout: float | None = None
    ) -> job_pb2.Job:
        """Runs the ended job again; as `AsyncClient.retry`."""
        self._job = await self._client.retry(
            self.id, reason, expected_run=expected_run, timeout=timeout
        )
        return self._job

    def _quiet_watch(self) -> AsyncGenerator[Event, None]:
        return self.watch(minimum_progress_interval=QUIET)

    def _result_is_known(self) -> bool:
        # The BASIC view of a success says that there is a result, not which.
        return self._job.state == job_pb2.JOB_STATE_SUCCEEDED and self._job.HasField("result")

    def _observe(self, event: Event) -> None:
        kind = event.WhichOneof("event")
        if kind == "terminal":
            self._job = event.terminal.job
        elif kind == "snapshot":
            self._job = event.snapshot.job
        elif kind == "state_change" and event.sequence > self._job.latest_sequence:
            # Not by revision: that of a state change is a lower bound, it counts no progress.
            self._job = _moved_on(self._job, event)
        elif kind == "progress" and event.revision >= self._job.revision:
            self._job = _moved_on(self._job, event)


def _moved_on(job: job_pb2.Job, event: Event) -> job_pb2.Job:
    """A copy, since the caller may hold the job as it was."""
    moved = job_pb2.Job()
    moved.CopyFrom(job)
    moved.revision = max(job.revision, event.revision)
    moved.latest_sequence = max(job.latest_sequence, event.sequence)
    if event.HasField("state_change"):
        moved.state = event.state_change.to_state
    else:
        moved.progress.CopyFrom(event.progress)
    return moved


def is_terminal(job: job_pb2.Job) -> bool:
    """True once the job has ended."""
    return job.state in TERMINAL_STATES


def state_name(state: int) -> str:
    """RUNNING for JOB_STATE_RUNNING; the number itself for a state of a newer server."""
    try:
        return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")  # type: ignore[arg-type]
    except ValueError:
        return str(state)
