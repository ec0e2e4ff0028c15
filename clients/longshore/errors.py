"""What can go wrong, as exceptions.

LongshoreError
├── RequestError                 the service read the request and refused it: .violations
│   ├── InvalidRequest           a field is wrong
│   │   └── InvalidJob           a field of a job that was to be submitted
│   ├── NotFound                 .resource_type, .resource_name
│   │   └── JobNotFound
│   ├── AlreadyExists            .existing: the id of the job that has the key
│   ├── PreconditionFailed       the state of things forbids it
│   │   └── NoCapacity           no pool can ever run this job
│   ├── LimitExceeded            .retry_after: seconds, or None where waiting does not help
│   │   └── QueueFull            too many jobs wait
│   ├── Unauthenticated          the service does not know who asks
│   ├── PermissionDenied         it knows, and the answer is no
│   └── NotServed                this server does not have that call
├── ServiceFailed                the service broke while it answered
├── Unavailable                  no server answered, retries included
├── DeadlineExceeded             also a TimeoutError: time ran out, here or at the server
└── JobEnded                     a job ended otherwise than SUCCEEDED: .job, .status
    ├── JobFailed                the task said: never retry this
    │   └── JobDeadLettered      attempts, crashes or interruptions are used up
    ├── JobWasCancelled
    └── JobExpired               a queue or total deadline passed

`longshore.JobCancelled` is none of these: task code sees it, callers do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

    from longshore.v1.job_pb2 import Job


class LongshoreError(Exception):
    """The root of the tree.

    Attributes:
        code: the canonical code, such as "NOT_FOUND"; empty where no call was made.
        reason: the stable UPPER_SNAKE_CASE reason of the service or the task; may be empty.
        metadata: short facts for programs.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})


class RequestError(LongshoreError):
    """The service read the request and refused it; nothing was changed.

    Attributes:
        violations: (field path or subject, what is wrong with it), all of them at once; empty
            where the message says it all.
    """

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[tuple[str, str]] = (),
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, metadata=metadata)
        self.violations = list(violations)


class InvalidRequest(RequestError):
    """Fields of a request are wrong; `violations` has a field path for each."""


class InvalidJob(InvalidRequest):
    """A job that was to be submitted is wrong.

    After `submit_many` a field starts with `requests[N]`, N being the place of the job, from 0,
    among all that were given.
    """


class NotFound(RequestError):
    """What a request names does not exist, or is not the caller's.

    Attributes:
        resource_type: what kind of thing, such as "longshore.v1.Job"; may be empty.
        resource_name: the name that was not found; may be empty.
    """

    resource_type: str = ""
    resource_name: str = ""


class JobNotFound(NotFound):
    """No such job: never accepted, deleted after its retention, or another tenant's."""


class AlreadyExists(RequestError):
    """The idempotency key or the uniqueness key is taken by another job.

    Attributes:
        existing: the id of that job; empty where the service did not say.
    """

    existing: str = ""


class PreconditionFailed(RequestError):
    """The request is well formed, and the state of things forbids it."""


class NoCapacity(PreconditionFailed):
    """No pool can ever run the job; `violations` name each need and the largest offer."""


class LimitExceeded(RequestError):
    """A limit is reached.

    Attributes:
        retry_after: seconds until it is worth trying again; None where waiting does not help.
    """

    retry_after: float | None = None


class QueueFull(LimitExceeded):
    """Too many jobs wait: for longer than the caller's deadline, or than any waiting helps."""


class Unauthenticated(RequestError):
    """The service does not know who asks."""


class PermissionDenied(RequestError):
    """The service knows who asks, and refuses."""


class NotServed(RequestError):
    """This server does not have that call: it is older, or plays another role."""


class ServiceFailed(LongshoreError):
    """The service broke while it answered; whether the request took effect is not known."""


class Unavailable(LongshoreError):
    """No server answered until the deadline, retries included."""


class DeadlineExceeded(LongshoreError, TimeoutError):
    """Time ran out; whether the request took effect is not known."""


class JobEnded(LongshoreError):
    """A job ended otherwise than SUCCEEDED.

    Attributes:
        job: the job as it ended.
        status: how it ended, as google.rpc.Status; its details carry the reason.
    """

    job: Job
    status: Status


class JobFailed(JobEnded):
    """The task failed for good."""


class JobDeadLettered(JobFailed):
    """Attempts, crashes or interruptions are used up; the job is kept for a redrive."""


class JobWasCancelled(JobEnded):
    """The job was cancelled."""


class JobExpired(JobEnded):
    """The queue deadline or the total deadline of the job passed."""
