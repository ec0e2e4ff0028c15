"""From a gRPC status, or from a job that ended, to the exception that says it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as rpc
from grpc_status import rpc_status

from longshore import errors
from longshore.errors import LongshoreError, RequestError
from longshore.targets import proxy_variable
from longshore.v1 import job_pb2

Kind = TypeVar("Kind", bound=RequestError)
JOB_TYPE = "longshore.v1.Job"
# What grpc says where it has a connection, and makes no call over it because of its health.
_UNHEALTHY, _HEALTH_REFUSED = "backend unhealthy", "health check call failed"
_DETAILS: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        rpc.ErrorInfo,
        rpc.BadRequest,
        rpc.QuotaFailure,
        rpc.RetryInfo,
        rpc.PreconditionFailure,
        rpc.ResourceInfo,
    )
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status that is not OK, with its details unpacked by type."""

    code: grpc.StatusCode
    message: str
    operation: str
    target: str
    details: dict[type[Message], Any] = field(default_factory=dict)

    @property
    def submits(self) -> bool:
        """True where the call was to bring a job in."""
        return self.operation in ("Submit", "SubmitBatch")

    def of(self, kind: type[Message]) -> Any:
        """The detail of one type, or an empty one."""
        return self.details.get(kind) or kind()

    @property
    def told(self) -> str:
        """The message where Longshore itself wrote it; grpc and proxies write worse than we."""
        return self.message if rpc.ErrorInfo in self.details else ""

    def violations(self) -> list[tuple[str, str]]:
        """What is wrong: fields, unmet conditions, limits."""
        fields = self.of(rpc.BadRequest).field_violations
        conditions = self.of(rpc.PreconditionFailure).violations
        limits = self.of(rpc.QuotaFailure).violations
        return [
            *((v.field, v.description) for v in fields),
            *((v.subject, v.description) for v in (*conditions, *limits)),
        ]

    def common(self) -> dict[str, Any]:
        """What every exception takes: code, reason, metadata."""
        info = self.of(rpc.ErrorInfo)
        return {"code": self.code.name, "reason": info.reason, "metadata": dict(info.metadata)}


def unpack(details: Iterable[any_pb2.Any]) -> dict[type[Message], Any]:
    """The known details by type; unknown and broken ones are left out."""
    found: dict[type[Message], Any] = {}
    for detail in details:
        kind = _DETAILS.get(detail.TypeName())
        if kind is None:
            continue
        try:
            found[kind] = kind.FromString(detail.value)
        except DecodeError:
            continue
    return found


def from_call(error: grpc.aio.AioRpcError, operation: str, target: str) -> LongshoreError:
    """The exception for a call that failed.

    Args:
        error: what grpc.aio raised.
        operation: the name of the method, such as "Submit".
        target: the address that was called; for the message.
    """
    refusal = Refusal(error.code(), error.details() or "", operation, target, _details(error))
    return _BUILDERS.get(refusal.code, _service_failed)(refusal)


def retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """The delay of a RetryInfo in seconds, or None where there is none."""
    info = _details(error).get(rpc.RetryInfo)
    return None if info is None else _seconds(info)


def _seconds(info: rpc.RetryInfo) -> float:
    seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return max(0.0, seconds)


def _details(error: grpc.aio.AioRpcError) -> dict[type[Message], Any]:
    try:
        status = rpc_status.from_call(cast(Any, error))
    except (ValueError, DecodeError):
        # A proxy rewrote the status or cut the trailer: the plain code still counts.
        return {}
    return {} if status is None else unpack(status.details)


def _refused(kind: type[Kind], otherwise: str, refusal: Refusal, message: str = "") -> Kind:
    text = message or refusal.message or otherwise
    return kind(text, violations=refusal.violations(), **refusal.common())


def _invalid(refusal: Refusal) -> LongshoreError:
    kind = errors.InvalidJob if refusal.submits else errors.InvalidRequest
    return _refused(kind, f"{refusal.operation} was given wrong fields", refusal)


def _not_found(refusal: Refusal) -> LongshoreError:
    resource = refusal.of(rpc.ResourceInfo)
    kind = errors.JobNotFound if resource.resource_type == JOB_TYPE else errors.NotFound
    named = f"{resource.resource_type or 'the resource'} {resource.resource_name!r}"
    error = _refused(kind, f"{named} does not exist", refusal)
    error.resource_type = resource.resource_type
    error.resource_name = resource.resource_name
    return error


def _already_exists(refusal: Refusal) -> LongshoreError:
    existing = refusal.of(rpc.ResourceInfo).resource_name
    otherwise = f"job {existing or '(unnamed)'} has this key already; use another"
    error = _refused(errors.AlreadyExists, otherwise, refusal)
    error.existing = existing
    return error


def _precondition(refusal: Refusal) -> LongshoreError:
    unmet = refusal.submits and rpc.PreconditionFailure in refusal.details
    kind = errors.NoCapacity if unmet else errors.PreconditionFailed
    return _refused(kind, f"{refusal.operation} is not possible as things are", refusal)


def _exhausted(refusal: Refusal) -> LongshoreError:
    retry = refusal.details.get(rpc.RetryInfo)
    full = retry is not None or refusal.common()["reason"] == "QUEUE_FULL"
    kind = errors.QueueFull if refusal.submits and full else errors.LimitExceeded
    error = _refused(kind, "a limit of the service is reached", refusal)
    error.retry_after = None if retry is None else _seconds(retry)
    return error


def _not_served(refusal: Refusal) -> LongshoreError:
    text = refusal.message or "the method is unknown"
    guess = (
        f"the server at {refusal.target} does not serve {refusal.operation} ({text}): "
        "update it, or ask one that does"
    )
    return _refused(errors.NotServed, "", refusal, refusal.told or guess)


def _unavailable(refusal: Refusal) -> LongshoreError:
    said = refusal.message or "no detail"
    if _UNHEALTHY in said:
        text = (
            f"the server at {refusal.target} says that it cannot serve now ({said}): try again; "
            "if that does not help, see whether it reaches its store"
        )
    elif _HEALTH_REFUSED in said:
        text = (
            f"{refusal.target} does not say whether it is healthy ({said}): try again; where it "
            "demands metadata, give it, or let grpc.health.v1.Health pass without"
        )
    else:
        text = (
            f"no Longshore server answers at {refusal.target} ({said}): {_remedy(refusal.target)}"
        )
    return errors.Unavailable(refusal.told or text, **refusal.common())


def _remedy(target: str) -> str:
    variable = proxy_variable(target)
    if not variable:
        return "start one with `longshore up`, or correct the target"
    return (
        f"the variable {variable} sends gRPC through a proxy; set no_proxy to the host of the"
        " target to go past it, or correct the target"
    )


def _cut(refusal: Refusal) -> LongshoreError:
    return errors.Unavailable(
        f"{refusal.operation} was cut off by {refusal.target} with {refusal.code.name} "
        f"({refusal.message or 'no detail'}): try again",
        **refusal.common(),
    )


def _deadline(refusal: Refusal) -> LongshoreError:
    return errors.DeadlineExceeded(
        f"{refusal.operation} got no answer from {refusal.target} in time "
        f"({refusal.message or 'no detail'}): try again, or allow a longer timeout",
        **refusal.common(),
    )


def _service_failed(refusal: Refusal) -> LongshoreError:
    return errors.ServiceFailed(
        f"{refusal.operation} failed inside the service at {refusal.target} with "
        f"{refusal.code.name} ({refusal.message or 'no detail'}): see the log of the server",
        **refusal.common(),
    )


def _plain(kind: type[RequestError], otherwise: str) -> Callable[[Refusal], LongshoreError]:
    return partial(_refused, kind, otherwise)


_BUILDERS: dict[grpc.StatusCode, Callable[[Refusal], LongshoreError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: _invalid,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.ALREADY_EXISTS: _already_exists,
    grpc.StatusCode.FAILED_PRECONDITION: _precondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _exhausted,
    grpc.StatusCode.UNAUTHENTICATED: _plain(
        errors.Unauthenticated, "the service does not know the caller; give credentials"
    ),
    grpc.StatusCode.PERMISSION_DENIED: _plain(
        errors.PermissionDenied, "the caller may not do this; ask for the permission"
    ),
    grpc.StatusCode.UNIMPLEMENTED: _not_served,
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.ABORTED: _cut,
    grpc.StatusCode.CANCELLED: _cut,
    grpc.StatusCode.DEADLINE_EXCEEDED: _deadline,
}

_OUTCOMES: dict[int, tuple[type[errors.JobEnded], str]] = {
    job_pb2.JOB_STATE_FAILED: (errors.JobFailed, "failed"),
    job_pb2.JOB_STATE_DEAD_LETTERED: (errors.JobDeadLettered, "was dead-lettered"),
    job_pb2.JOB_STATE_CANCELLED: (errors.JobWasCancelled, "was cancelled"),
    job_pb2.JOB_STATE_EXPIRED: (errors.JobExpired, "expired"),
}


def from_job(job: job_pb2.Job) -> errors.JobEnded:
    """The exception for a job that ended otherwise than SUCCEEDED."""
    # An unknown terminal state comes from a newer server; it is no success either.
    kind, verb = _OUTCOMES.get(job.state, (errors.JobFailed, f"ended in state {job.state}"))
    info = unpack(job.error.details).get(rpc.ErrorInfo) or rpc.ErrorInfo()
    text = job.error.message or info.reason or "no reason was recorded"
    error = kind(
        f"job {job.job_id} {verb}: {text}", reason=info.reason, metadata=dict(info.metadata)
    )
    error.job, error.status = job, job.error
    error.code = _code_name(job.error.code)
    return error


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "")
