"""Every status becomes the exception that says it; every exception has a status or an outcome."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as rpc
from google.rpc import status_pb2

from longshore import calls, error_mapping, errors
from longshore.aio import AsyncClient
from longshore.errors import LongshoreError
from longshore.v1 import job_pb2
from tests.client.fake import DEADLINE, FakeService, Refusal, queue_full, serving

Code = grpc.StatusCode
BAD = rpc.BadRequest(field_violations=[{"field": "spec.task", "description": "unknown"}])
EXISTING = rpc.ResourceInfo(resource_type="longshore.v1.Job", resource_name="job-7")
# Beyond the deadline of the call: it is not made again.
LATER = rpc.RetryInfo(retry_delay=Duration(seconds=3600))
TASK = rpc.ResourceInfo(resource_type="longshore.v1.Task", resource_name="resize")
OFFER = rpc.PreconditionFailure(
    violations=[{"type": "NO_CAPACITY", "subject": "gpu_memory", "description": "at most 80 GiB"}]
)


async def failure(service: FakeService, client: AsyncClient, refusal: Refusal) -> LongshoreError:
    service.refusals["Submit"].append(refusal)
    with pytest.raises(LongshoreError) as caught:
        await client.submit("resize", timeout=calls.SHORTEST_TRY)
    return caught.value


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.INVALID_ARGUMENT, (BAD,), errors.InvalidJob),
        (Code.NOT_FOUND, (EXISTING,), errors.JobNotFound),
        (Code.NOT_FOUND, (TASK,), errors.NotFound),
        (Code.ALREADY_EXISTS, (EXISTING,), errors.AlreadyExists),
        (Code.FAILED_PRECONDITION, (OFFER,), errors.NoCapacity),
        (Code.FAILED_PRECONDITION, (), errors.PreconditionFailed),
        (Code.RESOURCE_EXHAUSTED, (), errors.LimitExceeded),
        (Code.UNAUTHENTICATED, (), errors.Unauthenticated),
        (Code.PERMISSION_DENIED, (), errors.PermissionDenied),
        (Code.UNIMPLEMENTED, (), errors.NotServed),
        (Code.UNAVAILABLE, (LATER,), errors.Unavailable),
        (Code.DEADLINE_EXCEEDED, (), errors.DeadlineExceeded),
        (Code.INTERNAL, (), errors.ServiceFailed),
        (Code.DATA_LOSS, (), errors.ServiceFailed),
    ],
)
async def test_each_status(
    service: FakeService,
    client: AsyncClient,
    code: Code,
    details: tuple[Message, ...],
    kind: type[LongshoreError],
) -> None:
    info = rpc.ErrorInfo(reason="WHY", metadata={"queue": "fast"})
    error = await failure(service, client, Refusal(code, "it said so", (info, *details)))
    assert type(error) is kind
    assert (error.code, error.reason, error.metadata) == (code.name, "WHY", {"queue": "fast"})
    assert "it said so" in str(error)


async def test_details_become_attributes(service: FakeService, client: AsyncClient) -> None:
    def refuse(code: Code, *details: Message) -> Any:
        return failure(service, client, Refusal(code, "no", details))

    assert (await refuse(Code.INVALID_ARGUMENT, BAD)).violations == [("spec.task", "unknown")]
    assert (await refuse(Code.ALREADY_EXISTS, EXISTING)).existing == "job-7"
    assert (await refuse(Code.NOT_FOUND, TASK)).resource_name == "resize"
    assert (await refuse(Code.NOT_FOUND, TASK, BAD)).violations == [("spec.task", "unknown")]
    offer = ("gpu_memory", "at most 80 GiB")
    assert (await refuse(Code.FAILED_PRECONDITION, OFFER)).violations == [offer]


async def test_the_same_status_of_another_call_is_not_about_a_job(
    service: FakeService, client: AsyncClient
) -> None:
    service.refusals["ListJobs"].append(Refusal(Code.INVALID_ARGUMENT, "filter", (BAD,)))
    with pytest.raises(errors.InvalidRequest) as caught:
        [job async for job in client.list("nonsense")]
    assert not isinstance(caught.value, errors.InvalidJob)


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_a_plain_status_without_details_or_message(code: Code) -> None:
    plain = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    error = error_mapping.from_call(plain, "Submit", "here:1")
    assert error.code == code.name
    assert len(str(error)) > 10


def test_details_that_contradict_the_status_are_ignored() -> None:
    other = status_pb2.Status(code=3, message="other").SerializeToString()
    error = grpc.aio.AioRpcError(
        Code.NOT_FOUND,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", other)),
        details="gone",
    )
    assert type(error_mapping.from_call(error, "Status", "here:1")) is errors.NotFound


def test_unknown_and_broken_details_are_left_out() -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/longshore.v9.New", value=b"x")
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert error_mapping.unpack([unknown, broken]) == {}


async def test_a_deadline_is_a_timeout_error(service: FakeService, client: AsyncClient) -> None:
    service.refusals["Submit"].extend([Refusal(Code.DEADLINE_EXCEEDED)] * 20)
    with pytest.raises(TimeoutError):
        await client.submit("resize")


async def test_errors_travel_between_processes(service: FakeService, client: AsyncClient) -> None:
    service.refusals["Submit"].append(queue_full(9000))
    with pytest.raises(errors.QueueFull) as caught:
        await client.submit("resize")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.retry_after, copy.reason) == (str(caught.value), 9000, "QUEUE_FULL")


async def test_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.close()
    with pytest.raises(LongshoreError, match="is closed"):
        await client.submit("resize")
    with pytest.raises(LongshoreError, match="is closed"):
        [event async for event in client.watch("job-1")]


async def test_a_call_that_is_under_way_when_its_client_closes_is_no_cancellation() -> None:
    entered = asyncio.Event()

    class Holding(FakeService):
        async def Submit(self, request: Any, context: Any) -> Any:  # noqa: N802
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(DEADLINE), serving(Holding()) as target:
        client = AsyncClient(target)
        call = asyncio.ensure_future(client.submit("resize"))
        await entered.wait()
        await client.close()
        with pytest.raises(LongshoreError, match="closed while a call was under way"):
            await call


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (job_pb2.JOB_STATE_FAILED, errors.JobFailed),
        (job_pb2.JOB_STATE_DEAD_LETTERED, errors.JobDeadLettered),
        (job_pb2.JOB_STATE_CANCELLED, errors.JobWasCancelled),
        (job_pb2.JOB_STATE_EXPIRED, errors.JobExpired),
    ],
)
async def test_each_outcome(
    service: FakeService, client: AsyncClient, state: int, kind: type[errors.JobEnded]
) -> None:
    detail = any_pb2.Any()
    detail.Pack(rpc.ErrorInfo(reason="BAD_VIDEO"))
    status = status_pb2.Status(code=3, message="no frames", details=[detail])
    service.add().end(state, error=status)

    with pytest.raises(errors.JobEnded, match=r"job job-1 .*: no frames") as caught:
        await client.handle("job-1").result()

    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.code) == ("BAD_VIDEO", "INVALID_ARGUMENT")
    assert caught.value.status == status
    assert caught.value.job.job_id == "job-1"
    assert pickle.loads(pickle.dumps(caught.value)).status == status


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    names = [line.split("── ")[1].split()[0] for line in drawn]
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LongshoreError)
    ]
    assert ["LongshoreError", *names] == defined
