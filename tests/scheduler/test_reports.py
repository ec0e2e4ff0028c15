"""Reports of workers on their way into the store, across a change of leader."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from longshore_cpu_workers.wire import Logged
from longshore_store.model import EventKind
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import hang
from tests.scheduler.harness import Harness, make_job


async def test_a_line_that_the_last_leader_stored_is_not_stored_again(harness: Harness) -> None:
    harness.cluster.default = hang
    first = await harness.launch(keep_workers=True)
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.RUNNING, job_id)
    worker = harness.cluster.only()
    stored, record_logs = asyncio.Event(), harness.store.record_logs

    async def and_hang(*arguments: Any) -> None:
        await record_logs(*arguments)
        stored.set()
        await asyncio.Event().wait()  # the leader never acknowledges it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.store, "record_logs", and_hang)
        job = worker.assigned[0]
        worker.report(Logged(job.job_id, job.fence, harness.clock.seconds(), ("once",)))
        await stored.wait()
        await first.stop(0.0)
    await harness.launch(keep_workers=True)
    worker.report(Logged(job.job_id, job.fence, harness.clock.seconds(), ("twice",)))
    worker.succeed(job)
    await harness.reach(JobState.SUCCEEDED, job_id)
    (changes,) = await harness.store.read_changes({job_id: 0})
    logs = [e.body_json for e in changes.events if e.kind == EventKind.LOG]
    assert [json.loads(body or "")["lines"] for body in logs] == [["once"], ["twice"]]
