"""The pure parts: ids, rates, delays, pages, refusals, defaults, placement."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import SubmitRequest
from longshore_server import answering
from longshore_server import catalogue as catalogue_module
from longshore_server.admission import Admission, read_item
from longshore_server.capacity import offers, slots
from longshore_server.catalogue import Catalogue, CatalogueReader
from longshore_server.hub import WatchHub
from longshore_server.identity import Context
from longshore_server.ids import IdSource, is_id
from longshore_server.overload import retry_delay
from longshore_server.paging import make_token, read_token
from longshore_server.payloads import dotted
from longshore_server.placement import place
from longshore_server.rates import DrainRates, Rate
from longshore_server.refusals import Faults, Refusal
from longshore_server.tasks import parse_task
from longshore_store import model as m
from longshore_store.needs import needs_json, parse_needs
from longshore_store.states import JobState
from longshore_store.store import Store
from longshore_store.topology_records import PoolRecord, QueueRecord, TaskRecord
from tests.server.harness import DEADLINE, POOLS, echo, request, until

CPU = needs_json(cpu_millis=1000)


def queue(name: str = "default", **values: int) -> QueueRecord:
    counters = {"waiting": 0, "active": 0, "drained": 0, **values}
    return QueueRecord(name, False, "", None, 0, None, "", **counters)


def catalogue(
    queues: list[QueueRecord], rates: dict[str, Rate], pools: list[PoolRecord]
) -> Catalogue:
    entry = parse_task(json.dumps(echo.describe()))
    named = {q.name: q for q in queues}
    return Catalogue({"echo": entry}, named, offers(pools), rates, version=1, read_at=0)


async def test_a_reading_that_failed_answers_nobody() -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Failing:
        """A store that answers once, and then after `go_on` only that it is lost."""

        reads = 0

        async def list_tasks(self) -> list[TaskRecord]:
            self.reads += 1
            if self.reads > 1:
                reading.set()
                await go_on.wait()
                raise m.StoreUnavailable("it is cut off")
            return []

        async def list_queues(self) -> list[QueueRecord]:
            return []

        list_pools = list_queues

        async def leader(self) -> None:
            return None

    reader = CatalogueReader(cast(Store, Failing()))
    await reader.refresh()
    calls = [asyncio.ensure_future(reader.refresh())]
    async with asyncio.timeout(DEADLINE):
        await reading.wait()
        calls += [asyncio.ensure_future(reader.refresh()) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [m.StoreUnavailable] * 4


async def test_a_store_that_only_surprises_is_lost_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "LOST_AFTER", 0.0)

    class Odd:
        async def list_tasks(self) -> list[TaskRecord]:
            raise LookupError("a column is gone")

    reader = CatalogueReader(cast(Store, Odd()), period=0.0)
    reader.start()
    try:
        await until(lambda: reader.lost)
    finally:
        await reader.stop()


def test_ids_are_uuid7_and_rise() -> None:
    new_id = IdSource()
    ids = [new_id() for _ in range(20_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    parsed = uuid.UUID(ids[0])
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert all(map(is_id, ids[:10]))


def test_ids_rise_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    new_id = IdSource()
    first = new_id()
    monkeypatch.setattr("time.time_ns", lambda: 1)
    assert new_id() > first


@given(st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 1000)), min_size=1, max_size=30))
def test_rates_stay_within_what_was_measured(steps: list[tuple[float, int]]) -> None:
    rates, now, drained = DrainRates(), 0.0, 0
    rates.observe([queue()], now)
    for passed, more in steps:
        now, drained = now + passed, drained + more
        found = rates.observe([queue(drained=drained)], now)
    mean, deviation = found["default"]
    assert 0 <= mean <= max(more / passed for passed, more in steps) * 1.001
    assert deviation >= 0


def test_steady_rate_has_no_spread() -> None:
    rates = DrainRates()
    for second in range(60):
        found = rates.observe([queue(drained=second * 50)], float(second))
    assert found["default"] == pytest.approx((50, 0))


@pytest.mark.parametrize(
    ("rate", "excess", "delay"), [(50, 100, 2), (50, 1, 1), (0.1, 1000, 300), (0, 1, 300)]
)
def test_delay_follows_the_rate(rate: float, excess: int, delay: float) -> None:
    found = catalogue([queue()], {"default": Rate(rate, 0)}, [])
    assert retry_delay(excess, "default", found) == delay
    assert retry_delay(excess, "unmeasured", found) == 10


@given(st.text(max_size=40).filter(lambda t: "\0" not in t), st.text(max_size=20))
def test_tokens_come_back_for_their_query_only(after: str, text: str) -> None:
    token = make_token(after, text, "True")
    assert read_token(token, Faults(), text, "True") == after
    faults = Faults()
    assert read_token(token, faults, text + "x", "True") is None
    assert faults


@given(st.text(max_size=50))
def test_any_token_is_read_or_refused(token: str) -> None:
    faults = Faults()
    assert read_token(token, faults, "q") is None
    assert bool(faults) == bool(token)


def test_paths() -> None:
    assert dotted(["renditions", 0, "height"]) == ".renditions[0].height"
    assert dotted(["a b", "c"]) == '["a b"].c'


def test_the_gravest_fault_decides() -> None:
    faults = Faults()
    faults.impossible("cpu", "too much")
    faults.unserved("notify", "no")
    faults.missing("task", "longshore.v1.Task", "x", "unknown")
    with pytest.raises(Refusal) as caught:
        faults.check()
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    faults.add("priority", "wrong")
    with pytest.raises(Refusal) as caught:
        faults.check()
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=400)), min_size=1, max_size=400))
def test_a_status_always_fits_into_trailers(fields: list[tuple[str, str]]) -> None:
    faults = Faults()
    for path, text in fields:
        faults.add(path, text)
    with pytest.raises(Refusal) as caught:
        faults.check()
    status = caught.value.status()
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) * 3 < 8 * 1024


async def fingerprint(asked: SubmitRequest) -> str:
    faults, found = Faults(), catalogue([queue()], {}, POOLS)
    copy = SubmitRequest()
    copy.CopyFrom(asked)
    jobs, _ = await Admission().admit([read_item(copy)], [""], found, "t", 0, faults)
    faults.check()
    return jobs[0].fingerprint


async def test_fingerprint_is_of_what_the_caller_said() -> None:
    one = request(payload='{"text":"a"}', labels={"a": "1", "b": "2"})
    same = request(labels={"b": "2", "a": "1"}, payload='{"text":"a"}')
    assert await fingerprint(one) == await fingerprint(same)
    assert await fingerprint(request()) == await fingerprint(request(payload="{}"))
    others = [request(), request(payload='{"text":"b"}'), request(priority=50)]
    assert len({await fingerprint(other) for other in [one, *others]}) == 4
    unique = request()
    unique.uniqueness.key = "k"
    assert await fingerprint(unique) != await fingerprint(request())


@pytest.mark.parametrize("deadline", [0.01, 1.0, 60.0, 86400.0])
def test_what_waits_leaves_time_to_answer(deadline: float) -> None:
    context = cast(Context, SimpleNamespace(time_remaining=lambda: deadline))
    patience = answering._patience(context)
    assert patience is not None
    assert 0 < answering.waiting_time(context) < patience < deadline


def test_estimate_from_the_rate() -> None:
    found = catalogue([queue(waiting=500)], {"default": Rate(50, 10)}, POOLS[:1])
    placed = place(found, "echo", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    assert placed.approximate_position == 500
    assert placed.estimated_start_time.seconds == 10
    assert placed.estimated_start_spread.seconds == 2
    assert list(placed.waiting_reasons) == []


def test_busy_pool() -> None:
    busy = POOLS[0]._replace(active_attempts=4)
    found = catalogue([queue(waiting=5)], {}, [busy])
    placed = place(found, "echo", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    codes = [reason.code for reason in placed.waiting_reasons]
    assert codes == [job_pb2.WaitingReason.CODE_POOL_FULL]
    assert not placed.HasField("estimated_start_time")


def codes_of(found: Catalogue, state: JobState = JobState.QUEUED) -> list[int]:
    placed = place(found, "echo", "default", CPU, state, due_us=10**18, now_us=0)
    assert placed.pool == "cpu"
    return [reason.code for reason in placed.waiting_reasons]


def test_without_a_leader_that_is_the_reason() -> None:
    found = replace(catalogue([queue()], {"default": Rate(1, 0)}, POOLS), led=False)
    assert codes_of(found) == [job_pb2.WaitingReason.CODE_NO_SCHEDULER]
    placed = place(found, "echo", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    assert not placed.HasField("estimated_start_time")


def test_what_waits_for_a_time_is_not_ahead() -> None:
    found = catalogue([queue(waiting=5, not_due=3)], {}, POOLS)
    for state, ahead in ((JobState.QUEUED, 1), (JobState.SCHEDULED, 2), (JobState.RETRYING, 2)):
        placed = place(found, "echo", "default", CPU, state, due_us=1, now_us=0, own=1)
        assert placed.approximate_position == ahead


def test_a_cordoned_pool_is_the_reason() -> None:
    cordoned = POOLS[0]._replace(ready_workers=0, cordoned_workers=1)
    assert codes_of(catalogue([queue()], {}, [cordoned, POOLS[1]])) == [
        job_pb2.WaitingReason.CODE_POOL_CORDONED
    ]
    replaced = cordoned._replace(starting_workers=1)
    assert codes_of(catalogue([queue()], {}, [replaced, POOLS[1]])) == [
        job_pb2.WaitingReason.CODE_POOL_STARTING
    ]


def test_pools_that_shrank() -> None:
    need = needs_json(cpu_millis=64_000)
    found = catalogue([queue()], {}, POOLS)
    placed = place(found, "echo", "default", need, JobState.QUEUED, due_us=None, now_us=0)
    (reason,) = placed.waiting_reasons
    assert reason.code == job_pb2.WaitingReason.CODE_NO_CAPACITY_FOR
    assert (reason.resource, placed.pool) == ("cpu", "")


def test_a_job_whose_task_no_worker_has() -> None:
    cpu = POOLS[0]._replace(build="abc", lacks_json='["echo"]')
    found = catalogue([queue()], {}, [cpu, POOLS[1]])
    placed = place(found, "echo", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    (reason,) = placed.waiting_reasons
    assert reason.code == job_pb2.WaitingReason.CODE_NO_WORKER_HAS_TASK
    assert "'echo'" in reason.message
    assert "abc" in reason.message
    assert not placed.HasField("estimated_start_time")
    gone = place(found, "gone", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    (reason,) = gone.waiting_reasons
    assert reason.code == job_pb2.WaitingReason.CODE_NO_WORKER_HAS_TASK
    assert "without it" in reason.message
    starting = catalogue([queue()], {}, [cpu._replace(ready_workers=0)])
    placed = place(starting, "echo", "default", CPU, JobState.QUEUED, due_us=None, now_us=0)
    assert [r.code for r in placed.waiting_reasons] == [job_pb2.WaitingReason.CODE_POOL_STARTING]


def test_slots() -> None:
    shape = parse_needs(needs_json(cpu_millis=4000, memory_bytes=100, custom={"nvenc": 3}))
    assert slots(parse_needs(needs_json(cpu_millis=1000)), shape) == 4
    assert slots(parse_needs(needs_json(cpu_millis=1000, memory_bytes=50)), shape) == 2
    assert slots(parse_needs(needs_json(cpu_millis=10, custom={"nvenc": 1})), shape) == 3


async def test_a_drain_waits_for_watches_also_where_others_have_gone_before() -> None:
    hub = WatchHub(cast(Store, None), 10)
    with hub.admitted():
        pass
    with hub.admitted():
        drain = asyncio.create_task(hub.drain(3600))
        await asyncio.sleep(0.01)
        assert not drain.done()
    await drain
