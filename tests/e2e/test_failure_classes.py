"""Every class of failure, from the task that fails to what its caller sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from google.rpc import error_details_pb2 as rpc
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from longshore import AsyncClient, JobHandle
from longshore.sdk import Timeouts
from longshore.v1 import job_pb2
from longshore.v1.watch_pb2 import StateChange
from longshore.v1.watch_pb2 import WatchProgressResponse as Event
from tests.e2e.failure_tasks import SECRET
from tests.e2e.service import Service
from tests.e2e.waiting import until_started, worker_of

BOUND = 60.0
MESSAGE_BYTES, TRACEBACK_BYTES = 2 * 1024 + 2, 8 * 1024
DEAD, FAILED = job_pb2.JOB_STATE_DEAD_LETTERED, job_pb2.JOB_STATE_FAILED
CANCELLED, QUEUED = job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_QUEUED
SETTINGS = """
tasks = ["failure_tasks"]
[queues.default]
[queues.short]
attempt_timeout = 1.0
overflow_to = "long"
[queues.long]
attempt_timeout = 600.0
[pools.cpu]
cpu = 4
memory = 1073741824
[scheduler]
sweep_interval = 0.1
maximum_crashes = 2
maximum_ooms = 2
maximum_interruptions = 2
"""


class Expected(NamedTuple):
    """What a class looks like. counted: the counter that it uses up, of two each."""

    how: str
    failure_class: str
    code: Code.ValueType
    reason: str
    message: str
    facts: Mapping[str, str]
    counted: str
    in_python: bool = True


CLASSES = (
    Expected(
        "raise", "TASK_ERROR", Code.ABORTED, "VALUE_ERROR", "ValueError: xxx",
        {"exception": "ValueError"}, "attempts",
    ),
    Expected(
        "reason", "TASK_ERROR", Code.UNAVAILABLE, "BUSY", "busy, token=***",
        {"exception": "longshore.sdk.failures.TaskError", "host": "a", "password": "***"},
        "attempts",
    ),
    Expected(
        "timeout", "TIMEOUT", Code.DEADLINE_EXCEEDED, "ATTEMPT_TIMEOUT",
        "the attempt ran longer than its limit of 0.5 s", {"attempt_timeout": "0.5s"}, "attempts",
    ),
    Expected(
        "segfault", "CRASH", Code.INTERNAL, "CRASH",
        "the process of the task was ended by SIGSEGV", {"signal": "SIGSEGV"}, "crashes",
    ),
    Expected(
        "exit", "CRASH", Code.INTERNAL, "CRASH",
        "the process of the task exited with code 3", {"exit_code": "3"}, "crashes",
        in_python=False,
    ),
    Expected(
        "sys.exit", "CRASH", Code.INTERNAL, "CRASH", "SystemExit: secret=***",
        {"exception": "SystemExit", "exit_code": "1"}, "crashes",
    ),
    Expected(
        "memory", "OUT_OF_MEMORY", Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", "MemoryError",
        {"exception": "MemoryError", "memory": "host"}, "out_of_memory",
    ),
    Expected(
        "device memory", "OUT_OF_MEMORY", Code.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY",
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
        {"exception": "RuntimeError", "memory": "device"}, "out_of_memory",
    ),
    Expected(
        "device", "DEVICE_FAULT", Code.UNAVAILABLE, "DEVICE_FAULT",
        "RuntimeError: CUDA error: uncorrectable ECC error", {"exception": "RuntimeError"},
        "interruptions",
    ),
    Expected(
        "worker", "WORKER_LOST", Code.UNAVAILABLE, "WORKER_LOST", "", {}, "interruptions",
        in_python=False,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("classes"))
    service.config.write_text(SETTINGS)
    service.start()
    yield service
    assert service.stop() == 0
    assert SECRET not in service.log.read_text()


@pytest.fixture
async def client(running: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.target) as client:
        yield client


async def history(handle: JobHandle[Any]) -> list[Event]:
    """All durable events of a job that has ended."""
    events = [event async for event in handle.watch(include_logs=True, after_sequence=0)]
    durable = [e for e in events if e.WhichOneof("event") in ("state_change", "log_chunk")]
    assert [e.sequence for e in durable] == list(range(1, len(durable) + 1))
    assert SECRET not in str(durable)
    return durable


def setbacks(events: list[Event]) -> list[StateChange]:
    return [e.state_change for e in events if e.state_change.failure_class]


def detail(status: Status, kind: type[Any]) -> Any:
    found = kind()
    [packed] = [d for d in status.details if d.Is(kind.DESCRIPTOR)] or [None]
    if packed is not None:
        packed.Unpack(found)
    return found


def check_error(status: Status, expected: Expected) -> None:
    """Code, reason, message and facts; all of it bounded and without the secret."""
    assert status.code == expected.code
    assert status.message.startswith(expected.message)
    assert len(status.message.encode()) <= MESSAGE_BYTES
    info = detail(status, rpc.ErrorInfo)
    assert (info.reason, info.domain) == (expected.reason, "longshore.dev")
    facts = dict(info.metadata)
    assert int(facts.pop("peak_bytes", "1")) > 0, "what it had differs from machine to machine"
    assert facts == expected.facts


def check_traceback(status: Status, expected: Expected) -> None:
    """Where code of the task could speak for itself, it says where it failed."""
    text = "\n".join(detail(status, rpc.DebugInfo).stack_entries)
    assert len(text.encode()) <= TRACEBACK_BYTES
    assert bool(text) == expected.in_python
    if expected.in_python:
        assert "failure_tasks.py" in text


@pytest.mark.parametrize("expected", CLASSES, ids=lambda e: e.how)
async def test_a_class_is_seen_with_its_consequence(
    client: AsyncClient, expected: Expected
) -> None:
    # A long grace: a runner that is killed, because it was slow to answer, says nothing itself.
    limits = Timeouts(attempt=0.5 if expected.how == "timeout" else None, cancel_grace=BOUND)
    handle = await client.submit("failing", {"how": expected.how}, timeouts=limits)
    await handle.wait(BOUND)
    job = (await handle.status()).job
    number = job_pb2.FailureClass.Value(f"FAILURE_CLASS_{expected.failure_class}")
    assert job.state == DEAD
    assert [attempt.failure_class for attempt in job.attempts] == [number] * 2
    for attempt in job.attempts:
        check_error(attempt.error, expected)
        check_traceback(attempt.error, expected)
    check_error(job.error, expected)
    counts = {field.name: value for field, value in job.failure_counts.ListFields()}
    used = {name: n for name, n in counts.items() if not name.startswith("maximum_")}
    assert used == {expected.counted: 2}
    assert counts[f"maximum_{expected.counted}"] == 2
    first, last = changes = setbacks(await history(handle))
    for change in changes:
        assert (change.failure_class, change.reason) == (number, expected.reason)
        check_error(change.error, expected)
        assert not detail(change.error, rpc.DebugInfo).stack_entries, "bounded, for every watcher"
    assert (first.will_retry, last.will_retry) == (True, False)
    at_once = expected.how == "worker"  # a device may be as faulty a moment later
    assert first.HasField("next_attempt_time") == (not at_once)
    assert (first.to_state == QUEUED) == at_once
    assert last.to_state == DEAD
    assert SECRET not in str(job)


async def test_a_permanent_error_is_final(client: AsyncClient) -> None:
    handle = await client.submit("failing", {"how": "permanent"})
    await handle.wait(BOUND)
    job = (await handle.status()).job
    [attempt] = job.attempts
    facts = {"exception": "longshore.sdk.failures.PermanentError"}
    expected = Expected("", "PERMANENT", Code.INVALID_ARGUMENT, "NO_CODEC", "no", facts, "")
    check_error(attempt.error, expected)
    check_error(job.error, expected)
    [violation] = detail(job.error, rpc.BadRequest).field_violations
    assert (violation.field, violation.description) == ("codec", "api_key=*** is none")
    [change] = setbacks(await history(handle))
    assert (job.state, change.to_state, change.will_retry) == (FAILED, FAILED, False)
    assert (job.failure_counts.attempts, job.failure_counts.maximum_attempts) == (1, 2)


async def begun(client: AsyncClient) -> JobHandle[Any]:
    """A job whose task code runs."""
    handle = await client.submit("interrupted", {"how": ""}, timeouts=Timeouts(cancel_grace=0.5))
    await until_started(handle)
    return handle


async def test_a_cancel_is_no_failure_and_says_why(client: AsyncClient) -> None:
    handle = await begun(client)
    await handle.cancel("not needed")
    await handle.wait(BOUND)
    job = (await handle.status()).job
    [attempt] = job.attempts
    assert attempt.failure_class == job_pb2.FAILURE_CLASS_CANCELLED
    assert (attempt.error.code, job.error.code) == (Code.CANCELLED, Code.CANCELLED)
    assert job.error.message == "not needed"
    assert not job.HasField("failure_counts")
    asked, confirmed = setbacks(await history(handle))
    assert (asked.reason, asked.error.message) == ("CANCEL_REQUESTED", "not needed")
    assert (confirmed.to_state, confirmed.error.code) == (CANCELLED, Code.CANCELLED)
    assert not (asked.will_retry or confirmed.will_retry)


async def test_a_drain_costs_nothing(client: AsyncClient) -> None:
    handle = await begun(client)
    worker = await worker_of(client, handle)
    await client.drain_workers([worker.worker_id], grace=0.2)
    assert await handle.result(BOUND) == 2
    job = (await handle.status()).job
    assert [a.failure_class for a in job.attempts] == [job_pb2.FAILURE_CLASS_DRAINED, 0]
    assert job.attempts[0].error.code == Code.UNAVAILABLE
    assert not job.HasField("failure_counts")
    [change] = setbacks(await history(handle))
    assert change.failure_class == job_pb2.FAILURE_CLASS_DRAINED
    assert (change.to_state, change.will_retry) == (QUEUED, True)


async def test_what_takes_too_long_goes_on_in_another_queue(client: AsyncClient) -> None:
    limits = Timeouts(attempt=None, cancel_grace=BOUND)
    handle = await client.submit("long_winded", {"how": ""}, queue="short", timeouts=limits)
    assert await handle.result(BOUND) == [2, {"page": 7}]
    job = (await handle.status()).job
    assert (job.spec.queue, job.queue) == ("short", "long")
    assert not job.spec.timeouts.HasField("attempt"), "its queue decides, wherever it is"
    assert [a.failure_class for a in job.attempts] == [job_pb2.FAILURE_CLASS_DEMOTED, 0]
    assert not job.HasField("failure_counts"), "refunded"
    [change] = setbacks(await history(handle))
    message = "the attempt ran longer than its limit of 1 s; the job goes on in queue long"
    facts = {"attempt_timeout": "1s", "queue": "long"}
    check_error(
        change.error,
        Expected("", "DEMOTED", Code.DEADLINE_EXCEEDED, "DEMOTED", message, facts, ""),
    )
    assert (change.to_state, change.will_retry) == (QUEUED, True)
    assert [job.job_id async for job in client.list('queue = "long"')] == [job.job_id]


async def test_what_a_task_prints_is_scrubbed(client: AsyncClient) -> None:
    handle = await client.submit("failing", {"how": "sys.exit"})
    await handle.wait(BOUND)
    lines = [line for e in await history(handle) for line in e.log_chunk.lines]
    assert lines == ["***", "***", "-----END PRIVATE KEY-----", "pwd=***"] * 2
