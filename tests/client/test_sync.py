"""The blocking client: the asynchronous one, on a thread."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from longshore import AsyncClient, Client, JobHandle, SyncJobHandle, errors, job_spec
from longshore.v1 import job_pb2
from tests.client.fake import DEADLINE, FakeService

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
PROBE = """
import sys
from longshore import Client
with Client(sys.argv[1]) as client:
    events = client.watch("job-1")
    next(events)
    try:
        print("watching", flush=True)
        next(events)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    events.close()
    print(client.status("job-1").job.job_id, flush=True)
"""


FORK = """
import os, sys
from longshore import Client, errors, loop_thread
loop_thread.UNWIND = loop_thread.LOOK = 3600.0  # a child that waits hangs
with Client(sys.argv[1]) as client:
    client.tasks()
    if os.fork() == 0:
        try:
            client.tasks()
        except errors.LongshoreError as error:
            print(error, flush=True)
        client.close()
        client._loop._stop()
        new = Client(sys.argv[1])
        try:
            new.tasks()
        except errors.LongshoreError as error:
            print(error, flush=True)
        new.close()
        sys.exit(0)
    print(os.wait()[1], client.task("resize").name, flush=True)
"""


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target, timeout=DEADLINE) as made:
        yield made


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_method_is_mirrored() -> None:
    assert public(Client) == public(AsyncClient)
    assert public(SyncJobHandle) == public(JobHandle)
    assert inspect.signature(Client.submit) == inspect.signature(AsyncClient.submit)
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert Client.cancel.__doc__ == AsyncClient.cancel.__doc__


def test_submit_and_result(service: FakeService, client: Client) -> None:
    service.add().state(job_pb2.JOB_STATE_RUNNING).end(SUCCEEDED, "[1]")
    job = client.submit("known", {"n": 1})
    assert (job.id, job.created, job.placement is not None) == ("job-1", True, True)
    assert job.result(timeout=DEADLINE) == [1]
    assert job.job.state == SUCCEEDED
    assert repr(job) == "<SyncJobHandle job-1 SUCCEEDED>"


def test_watch_and_list_are_plain_iterators(service: FakeService, client: Client) -> None:
    service.add().end(SUCCEEDED, "1")
    kinds = [event.WhichOneof("event") for event in client.handle("job-1").watch()]
    assert kinds == ["snapshot", "state_change", "terminal"]
    assert [job.job_id for job in client.list()] == ["job-1"]


def test_submit_many_from_a_generator_that_uses_the_client(
    service: FakeService, client: Client
) -> None:
    def jobs() -> Iterator[job_pb2.JobSpec]:
        for number in range(1200):
            if number % 400 == 0:
                client.queues()
            yield job_spec("resize", {"n": number})

    handles = client.submit_many(jobs())
    assert [handle.job.spec.payload for handle in handles[:2]] == ['{"n":0}', '{"n":1}']
    assert len(handles) == 1200


def test_errors_come_through(client: Client) -> None:
    with pytest.raises(errors.JobNotFound):
        client.get("nobody")
    with pytest.raises(errors.JobNotFound):
        list(client.watch("nobody"))


async def test_it_works_where_a_loop_runs_already(service: FakeService, client: Client) -> None:
    assert client.task("resize").name == "resize"


def test_one_client_serves_many_threads(service: FakeService, client: Client) -> None:
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(client.task("resize").name)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert names == ["resize"] * 8


def test_closing_ends_the_thread_and_is_idempotent(target: str) -> None:
    client = Client(target)
    client.tasks()
    client.close()
    client.close()
    assert "longshore-client" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(errors.LongshoreError, match="is closed"):
        client.tasks()


def test_an_open_watch_does_not_keep_the_client_open(service: FakeService, target: str) -> None:
    service.add().end(SUCCEEDED, "1")
    client = Client(target)
    events = client.watch("job-1")
    next(events)
    client.close()
    with pytest.raises(errors.LongshoreError, match="is closed"):
        next(events)


def test_a_handle_outlives_the_name_of_its_client(service: FakeService, target: str) -> None:
    service.add().end(SUCCEEDED, "1")
    job = Client(target).submit("known")
    assert job.result(timeout=DEADLINE) == 1
    del job
    assert "longshore-client" not in {thread.name for thread in threading.enumerate()}


def test_the_child_of_a_fork_is_told_at_once_and_leaves_the_parent_alone(target: str) -> None:
    command = [sys.executable, "-c", FORK, target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    old, new, parent = done.stdout.splitlines()
    assert old.startswith("this client was made before a fork")
    assert new.startswith("this process was forked from one that had used a client")
    assert all("make the first client after the fork" in line for line in (old, new))
    assert parent == "0 resize"


def test_ctrl_c_ends_a_watch_and_leaves_the_client_usable(
    service: FakeService, target: str
) -> None:
    service.add()
    service.holds = True
    command = [sys.executable, "-c", PROBE, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE)
    assert output.split() == ["interrupted", "job-1"]
    assert process.returncode == 0
