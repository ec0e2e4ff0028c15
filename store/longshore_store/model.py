"""What goes into the store and what comes out of it: plain records, no database in sight.

Times are integers, microseconds since the epoch by the store's clock, named `*_us`.
Bodies named `*_json` are JSON text; `spec` is a serialized longshore.v1.JobSpec without payload.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from longshore.sdk.failures import FailureClass
from longshore_store.failure import Counted
from longshore_store.states import JobState

# --- what submit takes ------------------------------------------------------------------------


class OnConflict(enum.IntEnum):
    """What a second submission of a uniqueness key gets; the values are the contract's."""

    RETURN_EXISTING = 1
    REJECT = 2
    REPLACE_QUEUED = 3
    CANCEL_EXISTING = 4


class UniqueClaim(NamedTuple):
    """Business deduplication. window_us counts from acceptance; None holds while active."""

    key: str
    window_us: int | None
    on_conflict: OnConflict


class NewJob(NamedTuple):
    """A job as the server accepted it: checked, with the defaults of its task filled in.

    `needs_json` is the canonical JSON of its resources; equal needs are equal strings.
    Deadlines are spans from acceptance, in microseconds.
    """

    id: str
    tenant: str
    task: str
    queue: str
    spec: bytes
    payload: str
    needs_json: str
    fingerprint: str
    idempotency_key: str | None = None
    priority: int = 50
    due_us: int | None = None
    queue_timeout_us: int | None = None
    total_timeout_us: int | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    unique: UniqueClaim | None = None


class CallKey(NamedTuple):
    """An idempotency key of a call, and what must be equal in a repeat."""

    tenant: str
    key: str
    fingerprint: str


class Accepted(NamedTuple):
    """One answer of submit: the job it is now, and whether this call made it."""

    job_id: str
    created: bool
    state: JobState
    created_us: int


class SubmitRefused(Exception):
    """A submission was refused and nothing of it was stored; `index` is the job to blame."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class IdempotencyConflict(SubmitRefused):
    """The key was used before with another fingerprint."""

    def __init__(self, index: int, key: str, existing_id: str) -> None:
        super().__init__(f"idempotency key {key!r} belongs to job {existing_id}", index)
        self.key = key
        self.existing_id = existing_id


class UniquenessConflict(SubmitRefused):
    """Another job holds the uniqueness key, and on_conflict is REJECT."""

    def __init__(self, index: int, key: str, existing_id: str) -> None:
        super().__init__(f"uniqueness key {key!r} is held by job {existing_id}", index)
        self.key = key
        self.existing_id = existing_id


class QueueFull(SubmitRefused):
    """The queue holds as many waiting jobs as it may."""

    def __init__(self, index: int, queue: str, waiting: int, maximum: int) -> None:
        super().__init__(f"queue {queue!r} holds {waiting} of {maximum} waiting jobs", index)
        self.queue = queue
        self.waiting = waiting
        self.maximum = maximum


class Fenced(Exception):
    """A write carried the term of a leader that another one has replaced."""


class StoreUnavailable(Exception):
    """The database cannot be reached or did not answer in time; the write may be tried again."""


class StoreRefused(StoreUnavailable):
    """The database does not let this process in, or there is none: waiting mends nothing."""


class StoreFull(StoreUnavailable):
    """The disk of the database takes no more; nothing was written, and reading goes on."""


class StoreMismatch(Exception):
    """The database has another schema, or is another deployment's; it was not touched."""


# --- what the scheduler writes and reads -------------------------------------------------------


class Lane(NamedTuple):
    """A (queue, tenant) pair with waiting jobs."""

    queue: str
    tenant: str
    waiting: int


class Head(NamedTuple):
    """A QUEUED job near the front of its lane: all that planning needs to know of it."""

    id: str
    fence: int
    queue: str
    tenant: str
    task: str
    priority: int
    needs_json: str
    ready_us: int
    interruptions: int = 0


class Lease(NamedTuple):
    """A worker's right to a job; `fence` is the one the head was read with. build: the worker's."""

    job_id: str
    fence: int
    worker_id: str
    build: str = ""


class Leased(NamedTuple):
    """A job whose lease was granted, with all an assignment needs. `fence` is the new one.

    attempts, crashes, ooms and interruptions count what ended before, in this run.
    """

    id: str
    fence: int
    number: int
    tenant: str
    task: str
    queue: str
    worker_id: str
    needs_json: str
    attempts: int
    crashes: int
    ooms: int
    interruptions: int
    total_deadline_us: int | None
    spec: bytes
    payload: str
    checkpoint_json: str | None


class Start(NamedTuple):
    """Task code of an attempt began."""

    job_id: str
    fence: int
    started_us: int
    devices_json: str = "[]"


class Completion(NamedTuple):
    """An attempt succeeded. started_us is given again, for starts that come with the outcome."""

    job_id: str
    fence: int
    started_us: int
    value_json: str
    artifacts_json: str = "[]"


class Setback(NamedTuple):
    """An attempt ended without a result; which store method takes it says what follows.

    started_us is None where task code never began. due_us is the time of the next attempt,
    for retry_attempts. needs_json replaces the job's needs (after OUT_OF_MEMORY). queue is where
    demote_attempts moves the job.
    """

    job_id: str
    fence: int
    failure_class: FailureClass
    reason: str
    failure_json: str
    started_us: int | None = None
    due_us: int | None = None
    needs_json: str | None = None
    queue: str | None = None


class Attempted(NamedTuple):
    """A (job, fence) pair: names one attempt for ever."""

    job_id: str
    fence: int


class ProgressUpdate(NamedTuple):
    """The newest progress of an attempt, as JSON with the names of longshore.v1.Progress."""

    job_id: str
    fence: int
    body_json: str


class LogUpdate(NamedTuple):
    """A log event: {"lines": [...], "dropped": n}.

    number: rises with each update of an attempt. One that is not above the last is a repetition.
    """

    job_id: str
    fence: int
    number: int
    body_json: str


class CheckpointUpdate(NamedTuple):
    """A checkpoint of an attempt."""

    job_id: str
    fence: int
    value_json: str


class ActiveAttempt(NamedTuple):
    """A job that a worker holds, as the store knows it; what a new leader starts from."""

    id: str
    fence: int
    number: int
    state: JobState
    tenant: str
    task: str
    queue: str
    worker_id: str
    needs_json: str
    attempts: int
    crashes: int
    ooms: int
    interruptions: int
    total_deadline_us: int | None
    started_us: int | None
    spec: bytes


# --- what the server reads --------------------------------------------------------------------


class AttemptRecord(NamedTuple):
    """One ended or current attempt."""

    fence: int
    number: int
    run: int
    worker_id: str
    queued_us: int | None
    leased_us: int | None
    started_us: int | None
    ended_us: int | None
    failure_class: int
    failure_json: str | None
    devices_json: str
    build: str


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands. Parts that were not asked for are None or empty."""

    id: str
    tenant: str
    task: str
    queue: str
    priority: int
    state: JobState
    run: int
    number: int
    fence: int
    sequence: int
    progress_count: int
    worker_id: str | None
    created_us: int
    ready_us: int
    due_us: int | None
    first_started_us: int | None
    ended_us: int | None
    needs_json: str
    spec: bytes
    progress_json: str | None
    failure_json: str | None
    counted: Counted
    payload: str | None = None
    value_json: str | None = None
    artifacts_json: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()

    @property
    def revision(self) -> int:
        """Grows with every state change, log event and stored progress."""
        return self.sequence + self.progress_count


class EventKind(enum.IntEnum):
    """What a durable event is."""

    STATE = 1
    LOG = 2


class EventRecord(NamedTuple):
    """One durable event. States are 0 on logs; due_us is set on changes to RETRYING."""

    job_id: str
    sequence: int
    time_us: int
    number: int
    kind: EventKind
    from_state: int
    to_state: int
    reason: str
    due_us: int | None
    body_json: str | None


class JobChanges(NamedTuple):
    """What is new of a watched job: events after the cursor, and the newest progress.

    first_sequence is the oldest sequence still retained.
    """

    job_id: str
    state: JobState
    sequence: int
    progress_count: int
    first_sequence: int
    number: int
    progress_json: str | None
    progress_us: int | None
    worker_heartbeat_us: int | None
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class JobQuery:
    """A page of ListJobs: every given condition holds; order is by id, which is by time."""

    states: tuple[int, ...] = ()
    not_states: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    not_tasks: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    not_queues: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    not_tenants: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    created_from_us: int | None = None
    created_before_us: int | None = None
    ended_from_us: int | None = None
    ended_before_us: int | None = None
    descending: bool = True
    after_id: str | None = None
    limit: int = 50
