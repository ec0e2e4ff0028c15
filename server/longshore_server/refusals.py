"""Refusals: every way a call is turned down, as an exception that knows its google.rpc.Status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status

from longshore.v1 import errors_pb2
from longshore_server.times import span

DOMAIN = "longshore.dev"
JOB, TASK, QUEUE = "longshore.v1.Job", "longshore.v1.Task", "longshore.v1.Queue"
REDRIVE = "longshore.v1.Redrive"

# A status travels in the trailers, for which grpc clients keep 8 KiB: base64 and the message,
# which goes twice, have to fit too.
MESSAGE_BYTES = 512
DETAIL_BYTES = 3500
MOST_FAULTS = 256
TEXT_LENGTH = 240
MOST_GONE = 16

Code = grpc.StatusCode
REASONS = frozenset(
    name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()[1:]
)
"""What callers may be told, as the contract lists it."""


class Refusal(Exception):
    """A call is refused: canonical code, stable reason, one sentence, details."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        details: Iterable[Message] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        assert reason in REASONS, f"{reason} is not in errors.proto"
        self.code = code
        self.reason = reason
        self.message = cut_bytes(message, MESSAGE_BYTES)
        self.details = tuple(details)
        self.metadata = dict(metadata or {})

    def status(self) -> Status:
        """The refusal as it goes over the wire; an ErrorInfo is always the first detail."""
        status = Status(code=self.code.value[0], message=self.message)
        info = rpc.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        for detail in (info, *self.details):
            status.details.add().Pack(detail)
        return status


def cut(text: str, length: int = TEXT_LENGTH) -> str:
    """The text, shortened where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def cut_bytes(text: str, limit: int) -> str:
    """The text, shortened to so many bytes of UTF-8."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "…"


class Faults:
    """Collects every bad field of a request, so that the caller sees them all at once.

    A request is refused for the gravest kind of fault in it: wrong fields, then things that do
    not exist, then fields that are not served, then needs that no pool can meet.
    """

    def __init__(self) -> None:
        self._fields: list[tuple[str, str]] = []
        self._left = 0
        self._invalid = False
        self._missing: tuple[str, str] | None = None
        self._conditions: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._fields or self._conditions)

    @property
    def is_missing(self) -> bool:
        """True where a named thing was not found: a newer catalogue may know it."""
        return self._missing is not None

    def merge(self, other: Faults) -> None:
        """Takes over the faults of another."""
        for path, text in other._fields:
            self._keep(path, text)
        self._left += other._left
        for subject, text in other._conditions:
            self.impossible(subject, text)
        self._invalid = self._invalid or other._invalid
        self._missing = self._missing or other._missing

    def add(self, path: str, text: str) -> None:
        """A field is wrong."""
        self._invalid = True
        self._keep(path, text)

    def missing(self, path: str, kind: str, name: str, text: str) -> None:
        """A field names something that does not exist."""
        self._missing = self._missing or (kind, name)
        self._keep(path, text)

    def unserved(self, path: str, text: str) -> None:
        """A field is in the contract and not served."""
        self._keep(path, text)

    def impossible(self, subject: str, text: str) -> None:
        """No pool can ever meet a need."""
        if len(self._conditions) < MOST_FAULTS:
            self._conditions.append((subject, cut(text)))

    def _keep(self, path: str, text: str) -> None:
        if len(self._fields) < MOST_FAULTS:
            self._fields.append((path, cut(text)))
        else:
            self._left += 1

    def check(self) -> None:
        """Raises Refusal where there is any fault."""
        if self._invalid:
            raise self._refusal(Code.INVALID_ARGUMENT, "INVALID_FIELDS")
        if self._missing:
            kind, name = self._missing
            reason = f"{kind.rpartition('.')[2].upper()}_NOT_FOUND"
            resource = rpc.ResourceInfo(resource_type=kind, resource_name=cut(name, 128))
            raise self._refusal(Code.NOT_FOUND, reason, resource)
        if self._fields:
            raise self._refusal(Code.UNIMPLEMENTED, "NOT_SERVED")
        if self._conditions:
            raise self._precondition()

    def _refusal(self, code: grpc.StatusCode, reason: str, *details: Message) -> Refusal:
        kept, left = _within(self._fields)
        left += self._left
        bad = rpc.BadRequest()
        for path, text in kept:
            bad.field_violations.add(field=path, description=text)
        if left:
            bad.field_violations.add(field="*", description=f"and {left} more fields are wrong")
        return Refusal(code, reason, _sentence(self._fields, self._left), (*details, bad))

    def _precondition(self) -> Refusal:
        kept, _ = _within(self._conditions)
        failure = rpc.PreconditionFailure()
        for subject, text in kept:
            failure.violations.add(type="NO_CAPACITY", subject=subject, description=text)
        message = _sentence(self._conditions)
        return Refusal(Code.FAILED_PRECONDITION, "NO_CAPACITY", message, (failure,))


def _within(pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], int]:
    kept, room = [], DETAIL_BYTES
    for path, text in pairs:
        room -= len(path.encode()) + len(text.encode()) + 8
        if room < 0:
            break
        kept.append((path, text))
    return kept, len(pairs) - len(kept)


def _sentence(pairs: Sequence[tuple[str, str]], left: int = 0) -> str:
    path, text = pairs[0]
    left += len(pairs) - 1
    more = f" (and {left} more)" if left else ""
    return cut_bytes(f"{path}: {text}", MESSAGE_BYTES - 32) + more


def refuse_field(path: str, text: str) -> NoReturn:
    """Refuses for one wrong field."""
    faults = Faults()
    faults.add(path, text)
    faults.check()
    raise AssertionError("a fault refuses")


def not_found(kind: str, name: str) -> Refusal:
    """What a request names does not exist, or is not the caller's: the two look the same."""
    noun = kind.rpartition(".")[2]
    resource = rpc.ResourceInfo(resource_type=kind, resource_name=cut(name, 128))
    message = f"there is no {noun.lower()} {cut(name, 128)!r}: check it, or list what there is"
    if kind == JOB:
        message = (
            f"there is no job {cut(name, 128)!r}: it was never accepted, "
            "or was deleted after its retention"
        )
    return Refusal(Code.NOT_FOUND, f"{noun.upper()}_NOT_FOUND", message, (resource,))


def gone(missing: Mapping[tuple[str, str], int]) -> Refusal:
    """Jobs are to run again that nothing could run.

    Args:
        missing: how many of the jobs name a thing that is there no more, by its kind, which is
            TASK or QUEUE, and its name.
    """
    failure = rpc.PreconditionFailure()
    for (kind, name), count in sorted(missing.items(), key=_tasks_first)[:MOST_GONE]:
        text = f"{count} of the jobs name it, and it is there no more"
        failure.violations.add(type=f"{_noun(kind)}_NOT_FOUND", subject=cut(name, 128))
        failure.violations[-1].description = text
    first = failure.violations[0]
    noun = first.type.partition("_")[0].lower()
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    message = (
        f"{noun} {first.subject!r}{more}, which these jobs name, is there no more: bring it back,"
        " choose other jobs, or purge these"
    )
    return Refusal(Code.FAILED_PRECONDITION, first.type, message, (failure,))


def _tasks_first(item: tuple[tuple[str, str], int]) -> tuple[bool, str]:
    (kind, name), _ = item
    return kind != TASK, name


def _noun(kind: str) -> str:
    return kind.rpartition(".")[2].upper()


def already_exists(reason: str, job_id: str, message: str) -> Refusal:
    """Another job holds the key."""
    resource = rpc.ResourceInfo(resource_type=JOB, resource_name=job_id)
    return Refusal(Code.ALREADY_EXISTS, reason, message, (resource,), {"job_id": job_id})


def key_reused(kind: str, made_id: str, message: str) -> Refusal:
    """An idempotency key belongs to another call, which made this job or redrive."""
    resource = rpc.ResourceInfo(resource_type=kind, resource_name=made_id)
    name = f"{_noun(kind).lower()}_id"
    return Refusal(
        Code.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", message, (resource,), {name: made_id}
    )


def exhausted(reason: str, subject: str, message: str, delay: float | None = None) -> Refusal:
    """A limit is reached; `delay` in seconds where waiting helps."""
    quota = rpc.QuotaFailure()
    quota.violations.add(subject=subject, description=message)
    return Refusal(Code.RESOURCE_EXHAUSTED, reason, message, (quota, *_retry(delay)))


def unavailable(reason: str, message: str, delay: float) -> Refusal:
    """The call may be repeated after `delay` seconds."""
    return Refusal(Code.UNAVAILABLE, reason, message, _retry(delay))


def _retry(delay: float | None) -> tuple[Message, ...]:
    return () if delay is None else (rpc.RetryInfo(retry_delay=span(delay)),)
