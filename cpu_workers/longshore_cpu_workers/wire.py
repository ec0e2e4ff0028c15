"""What travels between scheduler and worker: plain tuples, because thousands go in one call.

Times are seconds of the worker's monotonic clock. A PollReply carries that clock's `now`, so
that the scheduler turns them into times of the store: no two wall clocks are ever compared.

Scheduler and worker may be of different releases: a worker outlives the scheduler that made it.
Each says its PROTOCOL; who speaks another one gets no work.
"""

from __future__ import annotations

from typing import NamedTuple

from longshore.sdk.failures import FailureClass

PROTOCOL = 1
"""The version of what travels here. Raise it with every change that the other side must know."""

UNKNOWN_TASK = "UNKNOWN_TASK"
"""The reason of an attempt whose worker turns out not to have its task."""


class Needs(NamedTuple):
    """What an attempt takes, or a worker offers. Thousandths, bytes, counts."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpu_millis: int = 0
    gpu_memory_bytes: int = 0
    custom: tuple[tuple[str, int], ...] = ()


class InputRef(NamedTuple):
    """A large input: name, URI, size in bytes (0 unknown), SHA-256 in hex (empty unknown)."""

    name: str
    uri: str
    size: int
    sha256: str


class Assignment(NamedTuple):
    """One attempt, handed to a worker.

    payload and checkpoint are JSON text; attempt_timeout and cancel_grace are seconds.
    protocol: what the scheduler speaks.
    """

    job_id: str
    fence: int
    number: int
    task: str
    tenant: str
    payload: str
    inputs: tuple[InputRef, ...]
    needs: Needs
    attempt_timeout: float | None
    cancel_grace: float
    checkpoint: str | None = None
    protocol: int = PROTOCOL


class Cancel(NamedTuple):
    """An order to end an attempt; `force` skips the grace."""

    job_id: str
    fence: int
    force: bool = False


class Failure(NamedTuple):
    """Why an attempt ended without a result. `code` is a canonical status code."""

    failure_class: FailureClass
    code: int
    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()
    violations: tuple[tuple[str, str], ...] = ()
    traceback: str = ""


class ArtifactRef(NamedTuple):
    """A file of a result: name, URI, size in bytes, SHA-256 in hex, media type."""

    name: str
    uri: str
    size: int
    sha256: str
    media_type: str


class Started(NamedTuple):
    """Task code begins."""

    job_id: str
    fence: int
    at: float
    devices: tuple[str, ...] = ()


class Progressed(NamedTuple):
    """The newest progress, as JSON text with the field names of longshore.v1.Progress."""

    job_id: str
    fence: int
    at: float
    body: str


class Logged(NamedTuple):
    """Lines of output, and how many were dropped before them."""

    job_id: str
    fence: int
    at: float
    lines: tuple[str, ...]
    dropped: int = 0


class Checkpointed(NamedTuple):
    """A checkpoint, as JSON text. The runner is told when this report is acknowledged."""

    job_id: str
    fence: int
    at: float
    value: str


class Succeeded(NamedTuple):
    """The result, as JSON text. `seconds` is how long task code ran."""

    job_id: str
    fence: int
    at: float
    seconds: float
    value: str
    artifacts: tuple[ArtifactRef, ...] = ()


class Failed(NamedTuple):
    """The attempt ended without a result; `seconds` is None where task code never began."""

    job_id: str
    fence: int
    at: float
    seconds: float | None
    failure: Failure


class Returned(NamedTuple):
    """Given back without having begun: recalled, or the worker stops."""

    job_id: str
    fence: int
    at: float


Report = Started | Progressed | Logged | Checkpointed | Succeeded | Failed | Returned


class PollReply(NamedTuple):
    """Reports in order; `last` is the number of the newest, to acknowledge with the next poll.

    Reports are repeated until acknowledged: number n of the reply is `last - len(reports) + n`.
    outdated: why the worker takes nothing more and wants to be replaced; empty if it does not.
    set_aside: devices that the worker lends no more, by their place in `WorkerInfo.devices`.
    """

    last: int
    now: float
    reports: tuple[Report, ...]
    outdated: str = ""
    set_aside: tuple[int, ...] = ()


class DeviceInfo(NamedTuple):
    """One accelerator of a worker; set_aside: it had faults, and gets no more attempts."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    uuid: str
    name: str
    memory_bytes: int
    simulated: bool
    set_aside: bool = False


class WorkerInfo(NamedTuple):
    """What a worker says of itself once it is up.

    protocol: what it speaks; 0 is a worker that does not say it. New fields need a default: the
    answer of an older worker must stay readable.
    build, description: of its task code; see `longshore_cpu_workers.build`. made_for: the build
    of the scheduler that made it. tasks: those that it has, by name; None says nothing.
    """

    worker_id: str
    pool: str
    node: str
    pid: int
    capacity: Needs
    devices: tuple[DeviceInfo, ...] = ()
    protocol: int = 0
    build: str = ""
    description: str = ""
    made_for: str = ""
    tasks: frozenset[str] | None = None
