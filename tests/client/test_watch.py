"""A watch is whole, whatever happens to its streams."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore import errors, watching
from longshore.aio import AsyncClient
from longshore.v1 import job_pb2, watch_pb2
from longshore.watching import Seen
from tests.client.fake import DURABLE, Cut, Event, FakeService, FakeTime, History, Refusal, serving

CUTS = st.lists(
    st.builds(
        Cut,
        after=st.integers(0, 8),
        how=st.sampled_from(
            [
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.CANCELLED,
                "eof",
                "reconnect",
            ]
        ),
    ),
    max_size=12,
)
KINDS = st.lists(st.sampled_from(["state", "log", "progress"]), max_size=25)


def filled(history: History, kinds: list[str]) -> History:
    for number, kind in enumerate(kinds):
        if kind == "state":
            history.state(job_pb2.JOB_STATE_RUNNING)
        elif kind == "log":
            history.log(f"line {number}")
        else:
            history.progress(number / 100)
    return history.end(job_pb2.JOB_STATE_SUCCEEDED, "42")


async def watched(service: FakeService, *, logs: bool) -> list[Event]:
    time = FakeTime()
    async with serving(service) as target, AsyncClient(target, timing=time.timing) as client:
        return [event async for event in client.watch("job-1", include_logs=logs)]


def kinds_of(events: list[Event]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def sequences(events: list[Event]) -> list[int]:
    return [event.sequence for event in events if event.WhichOneof("event") in DURABLE]


@settings(max_examples=60, deadline=None)
@given(kinds=KINDS, cuts=CUTS, logs=st.booleans())
def test_every_durable_event_once_in_order_and_one_terminal(
    kinds: list[str], cuts: list[Cut], logs: bool
) -> None:
    service = FakeService()
    history = filled(service.add(), kinds)
    service.cuts.extend(cuts)

    events = asyncio.run(watched(service, logs=logs))

    expected = history.after(None, logs=logs)
    assert sequences(events) == sequences(expected)
    assert kinds_of(events)[0] == "snapshot"
    assert kinds_of(events).index("terminal") == len(events) - 1
    shown = [event.revision for event in events if event.HasField("progress")]
    assert shown == sorted(set(shown))
    assert set(kinds_of(events)) <= {*DURABLE, "snapshot", "progress", "terminal"}


@settings(max_examples=40, deadline=None)
@given(kinds=KINDS, cuts=CUTS, trims=st.lists(st.integers(0, 25), max_size=12))
def test_what_was_trimmed_shows_as_a_gap_and_nothing_comes_twice(
    kinds: list[str], cuts: list[Cut], trims: list[int]
) -> None:
    service = FakeService()
    history = filled(service.add(), kinds)
    service.cuts.extend(cuts)
    service.trims.extend(trims)

    events = asyncio.run(watched(service, logs=True))

    start = events[0].sequence
    covered = list(range(1, start + 1))
    for event, following in zip(events, [*events[1:], None], strict=True):
        if event.HasField("gap"):
            assert following is not None
            assert following.HasField("snapshot")
            covered += range(event.gap.first_sequence, event.gap.last_sequence + 1)
        elif event.WhichOneof("event") in DURABLE:
            covered.append(event.sequence)
    assert covered == list(range(1, history.latest + 1))
    assert kinds_of(events).count("terminal") == 1


async def test_a_reconnect_is_obeyed_and_not_shown(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    filled(service.add(), ["state"])
    service.cuts.append(Cut(2, "reconnect"))

    events = [event async for event in client.handle("job-1").watch()]

    assert "reconnect" not in kinds_of(events)
    assert fake_time.slept == [5.0]
    assert [r.after_sequence for r in service.requests["WatchProgress"]] == [0, 1]


async def test_control_events_are_shown_when_asked_for(
    service: FakeService, client: AsyncClient
) -> None:
    filled(service.add(), ["state"])
    service.cuts.append(Cut(1, "reconnect"))

    events = [event async for event in client.watch("job-1", control=True)]

    assert kinds_of(events).count("reconnect") == 1


async def test_a_restored_store_starts_again_from_a_snapshot(
    service: FakeService, client: AsyncClient
) -> None:
    filled(service.add(), ["state"])

    events = [event async for event in client.watch("job-1", after_sequence=99)]

    assert kinds_of(events) == ["snapshot", "state_change", "state_change", "terminal"]
    opened = service.requests["WatchProgress"]
    assert [request.HasField("after_sequence") for request in opened] == [True, False]


async def test_the_backoff_grows_and_the_patience_ends(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    service.add()
    service.refusals["WatchProgress"].extend([Refusal(grpc.StatusCode.UNAVAILABLE)] * 200)

    with pytest.raises(errors.Unavailable):
        [event async for event in client.watch("job-1")]

    assert fake_time.slept[:4] == [0.05, 0.1, 0.2, 0.4]
    assert max(fake_time.slept) == 5.0
    assert 290 < fake_time.now <= 300


async def test_streams_that_end_early_for_ever_are_given_up(
    service: FakeService, client: AsyncClient
) -> None:
    service.add().state(job_pb2.JOB_STATE_RUNNING)
    service.cuts.extend([Cut(0, "eof")] * 200)

    with pytest.raises(errors.Unavailable, match="got no event for 300 s"):
        [event async for event in client.watch("job-1")]


async def test_a_stream_that_falls_silent_is_left(
    service: FakeService, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(service.add(), ["state"])
    service.holds = True

    events = client.watch("job-1")
    kinds = kinds_of([await anext(events)])
    service.holds = False
    with monkeypatch.context() as patch:
        patch.setattr(watching, "SILENCE", 0.05)
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # it reads now, and is the only one with so little patience
    kinds += kinds_of([await following])
    kinds += kinds_of([event async for event in events])

    assert kinds == ["snapshot", "state_change", "state_change", "terminal"]


async def test_a_watch_ends_with_its_client(service: FakeService, client: AsyncClient) -> None:
    service.add()
    service.holds = True
    events = client.watch("job-1")
    await anext(events)
    await client.close()
    with pytest.raises(errors.LongshoreError, match="is closed"):
        await anext(events)


async def test_an_unknown_job_is_told_at_once(client: AsyncClient, fake_time: FakeTime) -> None:
    with pytest.raises(errors.JobNotFound) as caught:
        [event async for event in client.watch("nobody")]
    assert caught.value.resource_name == "nobody"
    assert fake_time.slept == []


async def test_the_handle_knows_the_job_as_of_the_event(
    service: FakeService, client: AsyncClient
) -> None:
    history = service.add().state(job_pb2.JOB_STATE_RUNNING).progress(0.5)
    history.end(job_pb2.JOB_STATE_SUCCEEDED, "1")
    handle = client.handle("job-1")

    states = [(handle.job.state, handle.job.progress.fraction) async for _ in handle.watch()]

    assert states[:3] == [
        (job_pb2.JOB_STATE_QUEUED, 0.0),
        (job_pb2.JOB_STATE_RUNNING, 0.0),
        (job_pb2.JOB_STATE_RUNNING, 0.5),
    ]
    assert handle.job.result.value == "1"


async def test_leaving_a_watch_early_ends_its_stream(
    service: FakeService, client: AsyncClient
) -> None:
    filled(service.add(), ["state", "state"])
    events = client.watch("job-1")
    assert (await anext(events)).HasField("snapshot")
    await events.aclose()
    assert [event async for event in events] == []


def test_progress_without_a_revision_passes() -> None:
    seen = Seen()
    event = Event(progress=job_pb2.Progress(fraction=0.1))
    assert seen.admit(event) == [event]
    assert seen.admit(event) == [event]


def test_a_lagging_snapshot_does_not_move_the_cursor_back() -> None:
    seen = Seen(sequence=7)
    seen.admit(Event(sequence=5, snapshot=watch_pb2.Snapshot()))
    assert seen.sequence == 7


async def test_a_gap_cut_off_from_its_snapshot_is_told_once(
    service: FakeService, client: AsyncClient
) -> None:
    filled(service.add(), ["state"] * 5)
    service.cuts.extend([Cut(2), Cut(1), Cut(1)])
    service.trims.extend([0, 3, 4])

    events = [event async for event in client.watch("job-1")]

    assert kinds_of(events)[:4] == ["snapshot", "state_change", "gap", "snapshot"]
    assert kinds_of(events).count("gap") == 1
    assert (events[2].gap.first_sequence, events[2].gap.last_sequence) == (2, 4)


def state_change(sequence: int) -> Event:
    return Event(sequence=sequence, state_change=watch_pb2.StateChange())


def test_a_gap_is_forgotten_where_its_stream_ended() -> None:
    seen = Seen(sequence=1)
    assert seen.admit(Event(sequence=9, gap=watch_pb2.Gap(last_sequence=9))) == []
    seen.resume()
    assert seen.admit(state_change(2)) == [state_change(2)]


def test_a_durable_event_that_was_had_is_dropped() -> None:
    seen = Seen(sequence=7)
    assert seen.admit(state_change(7)) == []
    assert seen.admit(state_change(8)) == [state_change(8)]
    assert seen.admit(state_change(8)) == []


def test_progress_ahead_of_an_event_does_not_hide_it() -> None:
    seen = Seen(sequence=6)
    seen.admit(Event(sequence=7, revision=20, progress=job_pb2.Progress(fraction=0.5)))
    assert seen.admit(state_change(7)) == [state_change(7)]
