"""WatchProgress: every rule of the contract."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_pb2, watch_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore_server.jobs import JobReader
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from longshore_store.topology_records import WorkerRecord
from tests.server.harness import (
    DEADLINE,
    Event,
    Harness,
    kind_of,
    kinds,
    make_settings,
    opened,
    read_to_end,
    refused,
    request,
    states,
    take,
    take_until,
    until,
)

SLOW_PROGRESS = Duration(seconds=3600)
WATCH = "/longshore.v1.JobService/WatchProgress"
# It does not grow, so that what is not read is soon felt by the server.
SMALL_WINDOW = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 * 1024),
]


async def test_snapshot_then_changes_then_terminal(harness: Harness) -> None:
    job = await harness.submit()
    watch = harness.watch(job.job_id)
    (first,) = await take(watch, 1)
    assert kind_of(first) == "snapshot"
    assert first.snapshot.job == job
    assert first.snapshot.placement.pool == "cpu"
    assert (first.sequence, first.revision) == (1, 1)
    await harness.run(job.job_id)
    events = await read_to_end(watch)
    assert states(events) == ["LEASED", "RUNNING", "SUCCEEDED"]
    assert [event.sequence for event in events] == [2, 3, 4, 4]
    assert kind_of(events[-1]) == "terminal"
    ended = events[-1].terminal.job
    assert ended.result.value == '{"text":"done"}'
    assert ended.spec.payload == ""
    assert len(ended.attempts) == 1
    assert await watch.code() is StatusCode.OK


async def test_ended_before_it_was_watched(harness: Harness) -> None:
    job = await harness.submit()
    await harness.run(job.job_id)
    assert kinds(await read_to_end(harness.watch(job.job_id))) == ["snapshot", "terminal"]
    replayed = await read_to_end(harness.watch(job.job_id, after_sequence=0))
    assert kinds(replayed) == [*["state_change"] * 4, "terminal"]
    assert kinds(await read_to_end(harness.watch(job.job_id, after_sequence=4))) == ["terminal"]


async def test_replay_from_the_middle(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    watch = harness.watch(job.job_id, after_sequence=1)
    assert states(await take(watch, 2)) == ["LEASED", "RUNNING"]
    await harness.complete(job.job_id, fence)
    assert kinds(await read_to_end(watch)) == ["state_change", "terminal"]


async def test_replay_over_many_pages(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    for _ in range(6):
        await asyncio.gather(*(harness.log(job.job_id, fence, "line") for _ in range(100)))
    await harness.complete(job.job_id, fence)
    events = await read_to_end(harness.watch(job.job_id, after_sequence=0, include_logs=True))
    assert [event.sequence for event in events] == [*range(1, 605), 604]


async def test_trimmed_events_are_a_gap(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    body = '{"lines":["x"],"dropped":0}'
    for first in (1, 401, 801):
        updates = [m.LogUpdate(job.job_id, fence, n, body) for n in range(first, first + 400)]
        await harness.store.record_logs(harness.term, updates)
    kept = (await harness.store.read_changes({job.job_id: 0}))[0].first_sequence
    assert kept > 2
    watch = harness.watch(job.job_id, after_sequence=1, include_logs=True)
    gap, snapshot, *rest = await take(watch, 12)
    assert (gap.gap.first_sequence, gap.gap.last_sequence) == (2, kept - 1)
    assert gap.gap.reason == watch_pb2.Gap.REASON_RETENTION
    assert kind_of(snapshot) == "snapshot"
    assert (snapshot.sequence, snapshot.snapshot.job.latest_sequence) == (kept - 1, 1203)
    assert [event.sequence for event in rest] == list(range(kept, kept + 10))


async def test_beyond_the_end(harness: Harness) -> None:
    job = await harness.submit()
    refusal = await refused(harness.watch(job.job_id, after_sequence=2).read())
    assert (refusal.code, refusal.reason) == (StatusCode.OUT_OF_RANGE, "SEQUENCE_BEYOND_END")
    refusal = await refused(harness.watch(job.job_id, after_sequence=-1).read())
    assert list(refusal.fields) == ["after_sequence"]


async def test_logs_only_where_asked_for(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    with_logs = harness.watch(job.job_id, include_logs=True)
    without = harness.watch(job.job_id)
    await take(with_logs, 1)
    await take(without, 1)
    await harness.log(job.job_id, fence, "one", "two")
    await harness.complete(job.job_id, fence)
    events = await read_to_end(with_logs)
    assert kinds(events) == ["log_chunk", "state_change", "terminal"]
    assert list(events[0].log_chunk.lines) == ["one", "two"]
    silent = await read_to_end(without)
    assert [(kind_of(e), e.sequence) for e in silent] == [("state_change", 5), ("terminal", 5)]


async def test_progress_is_merged_and_flushed_before_the_end(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    watch = harness.watch(job.job_id, minimum_progress_interval=SLOW_PROGRESS)
    await take(watch, 1)
    await harness.progress(job.job_id, fence, 0.1)
    (first,) = await take(watch, 1)
    assert (first.progress.fraction, first.attempt, first.sequence) == (0.1, 1, 3)
    for n in range(2, 10):
        await harness.progress(job.job_id, fence, n / 10)
    await harness.complete(job.job_id, fence)
    events = await read_to_end(watch)
    told = [e.progress.fraction for e in events if kind_of(e) == "progress"]
    assert told == [0.9]
    assert kind_of(events[-1]) == "terminal"


async def test_progress_that_waits_comes_before_what_is_caught_up_with(tmp_path: Path) -> None:
    async with opened(tmp_path, make_settings(watch_buffer=8)) as harness:
        job_id = (await harness.submit()).job_id
        fence = await harness.start(job_id)
        options = {"include_logs": True, "minimum_progress_interval": SLOW_PROGRESS}
        watch = harness.watch(job_id, **options)
        await take(watch, 1)
        await harness.progress(job_id, fence, 0.1)
        await take(watch, 1)
        await harness.progress(job_id, fence, 0.2)
        [box] = harness.server.services.hub._topics[job_id].watchers
        await until(lambda: getattr(box, "progress", None) is not None)
        read, committed = harness.store.read_changes, asyncio.Event()

        async def late(cursors: Any) -> Any:
            await committed.wait()
            return await read(cursors)

        harness.store.read_changes = late  # type: ignore[method-assign]
        for line in "abcdefghi":
            await harness.log(job_id, fence, line)
        why = FailureRecord(FailureClass.PREEMPTED, 14, "DRAINED", "its worker goes").to_json()
        back = m.Setback(job_id, fence, FailureClass.PREEMPTED, "DRAINED", why, None, None)
        await harness.store.release_attempts(harness.term, [back])
        committed.set()
        told = await take(watch, 11)
        assert kinds(told).index("progress") < kinds(told).index("state_change")
        await harness.run(job_id)
        assert "progress" not in kinds(await read_to_end(watch))


async def test_a_retry_while_the_terminal_is_read_comes_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event is in the mailbox by then, and the store has it too."""
    job_id = (await harness.submit()).job_id
    watch = harness.watch(job_id, after_sequence=0)
    await take(watch, 1)
    read = JobReader.terminal

    async def after_a_retry(jobs: JobReader, job_id: str) -> Event | None:
        monkeypatch.undo()
        [box] = harness.server.services.hub._topics[job_id].watchers
        await harness.store.retry_jobs([job_id], "")
        await until(lambda: box.cursor == 5)
        return await read(jobs, job_id)

    monkeypatch.setattr(JobReader, "terminal", after_a_retry)
    await harness.run(job_id)
    events = await take(watch, 4)
    await harness.run(job_id)
    events += await read_to_end(watch)
    assert [event.sequence for event in events] == [2, 3, 4, 5, 6, 7, 8, 8]


async def test_progress_comes_at_its_interval(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    watch = harness.watch(job.job_id)
    await take(watch, 1)
    await harness.progress(job.job_id, fence, 0.1)
    await take(watch, 1)
    await harness.progress(job.job_id, fence, 0.2)
    (trailing,) = await take(watch, 1)
    assert trailing.progress.fraction == 0.2


async def test_heartbeat(tmp_path: Path) -> None:
    async with opened(tmp_path, make_settings(heartbeat_interval=0.2)) as harness:
        now = harness.store.now_us()
        worker = WorkerRecord("w1", "cpu", 2, "n", 1, "{}", "[]", 0, now, now)
        await harness.store.record_workers(harness.term, [worker])
        job = await harness.submit()
        await harness.lease(job.job_id)
        watch = harness.watch(job.job_id)
        (first,) = await take(watch, 1)
        assert kind_of(first) == "snapshot"
        (beat,) = await take(watch, 1)
        while not beat.heartbeat.HasField("worker_heartbeat_time"):  # the store is read meanwhile
            assert (kind_of(beat), beat.sequence) == ("heartbeat", 2)
            (beat,) = await take(watch, 1)
        assert (beat.sequence, beat.heartbeat.latest_sequence) == (2, 2)
        watch.cancel()


async def test_reconnect_at_shutdown(harness: Harness) -> None:
    job = await harness.submit()
    watches = [harness.watch(job.job_id) for _ in range(3)]
    for watch in watches:
        await take(watch, 1)
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=9, wait=Duration(seconds=30))
    poll = asyncio.ensure_future(harness.jobs.Status(ask))
    await until(lambda: harness.server.services.hub.open_watches == 4)
    stopping = asyncio.ensure_future(harness.server.stop())
    for watch in watches:
        (event,) = await take(watch, 1)
        assert kind_of(event) == "reconnect"
        assert 0.5 <= event.reconnect.retry_delay.ToMilliseconds() / 1000 <= 2
        refusal = await refused(watch.read())
        assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert refusal.delay > 0
    assert (await asyncio.wait_for(poll, DEADLINE)).job.job_id == job.job_id
    await asyncio.wait_for(stopping, DEADLINE)


async def test_fifty_watchers(harness: Harness) -> None:
    job = await harness.submit()
    watches = [harness.watch(job.job_id) for _ in range(50)]
    await asyncio.gather(*(take(watch, 1) for watch in watches))
    await harness.run(job.job_id)
    for events in await asyncio.gather(*map(read_to_end, watches)):
        assert states(events) == ["LEASED", "RUNNING", "SUCCEEDED"]
        assert kinds(events).count("terminal") == 1
    await until(lambda: harness.server.services.hub.open_watches == 0)


async def test_as_many_watches_as_may_be(tmp_path: Path) -> None:
    async with opened(tmp_path, make_settings(maximum_watches=2)) as harness:
        job = await harness.submit()
        watches = [harness.watch(job.job_id) for _ in range(2)]
        await asyncio.gather(*(take(watch, 1) for watch in watches))
        refusal = await refused(harness.watch(job.job_id).read())
        assert refusal.code is StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "TOO_MANY_WATCHES"
        watches[0].cancel()
        await until(lambda: harness.server.services.hub.open_watches == 1)
        await take(harness.watch(job.job_id), 1)


async def test_slow_reader_is_cut_off_and_others_go_on(tmp_path: Path) -> None:
    hasty = make_settings(slow_reader_timeout=0.5, watch_buffer=8)
    async with opened(tmp_path, hasty) as harness:
        job = await harness.submit()
        fence = await harness.start(job.job_id)
        target = f"127.0.0.1:{harness.server.port}"
        async with grpc.aio.insecure_channel(target, options=SMALL_WINDOW) as channel:
            ask = pb.WatchProgressRequest(job_id=job.job_id, include_logs=True)
            raw: Any = channel.unary_stream(WATCH)
            slow = raw(ask.SerializeToString())
            await asyncio.wait_for(slow.initial_metadata(), DEADLINE)
            # It alone has little time: where the machine pauses, a good reader is late, too.
            service: Any = harness.server.services._job_service
            service._settings = make_settings(watch_buffer=8).server
            good = harness.watch(job.job_id, include_logs=True)
            await take(good, 1)
            reading = asyncio.ensure_future(read_to_end(good))
            for _ in range(20):
                await harness.log(job.job_id, fence, *(["x" * 4000] * 10))
            await until(lambda: harness.server.services.hub.open_watches == 1)
            await harness.complete(job.job_id, fence)
            events = await reading
            assert [event.sequence for event in events] == [*range(4, 25), 24]
            assert await asyncio.wait_for(_code_after_reading(slow), DEADLINE) is (
                StatusCode.RESOURCE_EXHAUSTED
            )


async def test_a_reader_that_takes_not_even_the_first_event_is_told_why(tmp_path: Path) -> None:
    async with opened(tmp_path, make_settings(slow_reader_timeout=0.2)) as harness:
        job = await harness.submit()
        fence = await harness.start(job.job_id)
        await harness.log(job.job_id, fence, *(["x" * 4000] * 10))
        target = f"127.0.0.1:{harness.server.port}"
        async with grpc.aio.insecure_channel(target, options=SMALL_WINDOW) as channel:
            ask = pb.WatchProgressRequest(job_id=job.job_id, after_sequence=3, include_logs=True)
            raw: Any = channel.unary_stream(WATCH)
            watch = raw(ask.SerializeToString())
            await asyncio.wait_for(watch.initial_metadata(), DEADLINE)
            await until(lambda: harness.server.services.hub.open_watches == 0)
            code = await asyncio.wait_for(_code_after_reading(watch), DEADLINE)
            assert code is StatusCode.RESOURCE_EXHAUSTED


async def _code_after_reading(call: Any) -> StatusCode:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return StatusCode.OK


async def test_watch_of_a_run_that_follows(harness: Harness) -> None:
    """An end in the past is a change like others; the watch ends with the run that is now."""
    job = await harness.submit()
    await harness.run(job.job_id)
    await harness.jobs.Retry(pb.RetryRequest(job_id=job.job_id))
    watch = harness.watch(job.job_id, after_sequence=0)
    events = await take(watch, 5)
    assert states(events) == ["QUEUED", "LEASED", "RUNNING", "SUCCEEDED", "QUEUED"]
    await harness.run(job.job_id)
    rest = await read_to_end(watch)
    assert states(rest) == ["LEASED", "RUNNING", "SUCCEEDED"]
    assert rest[-1].terminal.job.run == 2


async def test_cancel_is_seen(harness: Harness) -> None:
    job = await harness.submit()
    watch = harness.watch(job.job_id)
    await take(watch, 1)
    await harness.jobs.Cancel(pb.CancelRequest(job_id=job.job_id))
    events = await read_to_end(watch)
    assert states(events) == ["CANCELLED"]
    assert events[-1].terminal.job.state == job_pb2.JOB_STATE_CANCELLED


async def test_lost_hints_are_found_by_the_poll(harness: Harness) -> None:
    job = await harness.submit()
    watch = harness.watch(job.job_id)
    await take(watch, 1)
    harness.store._listeners.clear()
    try:
        await harness.lease(job.job_id)
        assert states(await take_until(watch, "state_change")) == ["LEASED"]
    finally:
        harness.store.subscribe(harness.server.services.hub._hint)


async def test_hundred_cancelled_watches_leave_nothing(harness: Harness) -> None:
    ids = [(await harness.jobs.Submit(request())).job.job_id for _ in range(4)]
    watches = [harness.watch(ids[n % 4]) for n in range(100)]
    await asyncio.gather(*(take(watch, 1) for watch in watches))
    for watch in watches:
        watch.cancel()
    hub = harness.server.services.hub
    await until(lambda: hub.open_watches == 0 and not hub._topics)
