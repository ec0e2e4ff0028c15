"""Submitting: keys, patience, batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2 as rpc

from longshore import calls, errors, job_spec
from longshore.aio import AsyncClient
from longshore.batches import MAX_BYTES, MAX_ITEMS, new_key, pack
from longshore.v1 import job_pb2, job_service_pb2
from tests.client.fake import FakeService, FakeTime, Refusal, queue_full, unavailable


def specs(count: int, **options: Any) -> Iterator[job_pb2.JobSpec]:
    return (job_spec("resize", {"n": n}, **options) for n in range(count))


def keys(service: FakeService) -> list[str]:
    return [request.idempotency_key for request in service.requests["Submit"]]


async def test_a_key_is_filled_in_and_the_same_over_retries(
    service: FakeService, client: AsyncClient
) -> None:
    service.refusals["Submit"].extend([unavailable(), unavailable(), queue_full(1)])

    handle = await client.submit("resize", {"width": 1})

    assert len(keys(service)) == 4
    assert len(set(keys(service))) == 1
    assert handle.id == f"id-{keys(service)[0]}"
    assert handle.created
    assert handle.placement is not None
    assert handle.placement.approximate_position == 3


async def test_each_call_has_a_key_of_its_own_unless_given(
    service: FakeService, client: AsyncClient
) -> None:
    await client.submit("resize")
    await client.submit("resize")
    await client.submit("resize", idempotency_key="mine")
    assert len(set(keys(service))) == 3
    assert keys(service)[2] == "mine"


def test_keys_are_uuid7_that_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 2, 70_000, 2**40):
        monkeypatch.setattr(time, "time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(new_key())
    assert made == sorted(made)
    assert all(len(key) == 32 and key[12] == "7" and key[16] in "89ab" for key in made)


async def test_a_full_queue_is_waited_out_as_long_as_it_says(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    service.refusals["Submit"].extend([queue_full(7), queue_full(3)])
    await client.submit("resize")
    assert fake_time.slept == [7.0, 3.0]


async def test_a_queue_that_stays_full_past_the_deadline_is_told_at_once(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    service.refusals["Submit"].append(queue_full(200))
    with pytest.raises(errors.QueueFull) as caught:
        await client.submit("resize", timeout=100)
    assert caught.value.retry_after == 200
    assert caught.value.violations == [("queue:fast", "1000 wait")]
    assert fake_time.slept == []


async def test_a_limit_that_names_no_delay_is_not_waited_for(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    service.refusals["Submit"].append(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large"))
    with pytest.raises(errors.LimitExceeded) as caught:
        await client.submit("resize")
    assert not isinstance(caught.value, errors.QueueFull)
    assert fake_time.slept == []


async def test_a_server_that_stays_away_is_unavailable_after_the_deadline(
    service: FakeService,
    client: AsyncClient,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each pause is as long as all before it: when half of the time is over, no other fits. grpc
    # has what is left for its part, on a clock that is not fake.
    monkeypatch.setattr(calls, "LONGEST_BACKOFF", 1000.0)
    service.refusals["Submit"].extend([unavailable()] * 100)
    with pytest.raises(errors.Unavailable, match="longshore up"):
        await client.submit("resize", timeout=100)
    assert 50 < fake_time.now < 100


async def test_an_endless_timeout_is_a_long_one(client: AsyncClient) -> None:
    for timeout in (float("inf"), 1e12):
        assert (await client.submit("resize", timeout=timeout)).created


async def test_a_repeated_retry_has_one_key(service: FakeService, client: AsyncClient) -> None:
    service.add()
    service.refusals["Retry"].append(unavailable())
    await client.retry("job-1", expected_run=1)
    first, repeat = service.requests["Retry"]
    assert first == repeat
    assert (bool(first.idempotency_key), first.expected_run) == (True, 1)


async def test_the_request_says_what_was_asked_for(
    service: FakeService, client: AsyncClient
) -> None:
    await client.submit("resize", uniqueness="cat", validate_only=True, queue="fast")
    (request,) = service.requests["Submit"]
    assert request.uniqueness == job_service_pb2.Uniqueness(key="cat")
    assert request.validate_only
    assert request.spec == job_pb2.JobSpec(task="resize", queue="fast")


async def test_many_are_packed_in_order(service: FakeService, client: AsyncClient) -> None:
    handles = await client.submit_many(specs(2500))

    batches = service.requests["SubmitBatch"]
    # Which of those under way together comes first is the network's to say.
    assert sorted(len(batch.requests) for batch in batches) == [500, 1000, 1000]
    assert [handle.job.spec.payload for handle in handles] == [f'{{"n":{n}}}' for n in range(2500)]
    sent = [request.idempotency_key for batch in batches for request in batch.requests]
    assert len(set(sent)) == 2500


async def test_many_from_an_async_generator_with_keys(
    service: FakeService, client: AsyncClient
) -> None:
    async def requests() -> AsyncIterator[job_service_pb2.SubmitRequest]:
        for spec in specs(3):
            yield job_service_pb2.SubmitRequest(spec=spec, idempotency_key=spec.payload)

    handles = await client.submit_many(requests())
    assert [handle.id for handle in handles] == ['id-{"n":0}', 'id-{"n":1}', 'id-{"n":2}']


async def test_many_of_nothing(service: FakeService, client: AsyncClient) -> None:
    assert await client.submit_many([]) == []
    assert service.requests["SubmitBatch"] == []


async def test_batches_stay_below_the_size_grpc_takes() -> None:
    payload = f'"{"x" * 250_000}"'
    batches = [batch async for batch in pack([job_spec("resize", payload)] * 40)]
    assert [len(batch) for batch in batches] == [13, 13, 13, 1]
    assert all(batch.request.ByteSize() <= MAX_BYTES for batch in batches)
    assert [batch.first for batch in batches] == [0, 13, 26, 39]


async def test_one_that_is_too_large_travels_alone() -> None:
    huge, small = job_spec("resize", "x" * (MAX_BYTES + 1)), job_spec("resize")
    batches = [batch async for batch in pack([small, huge, small])]
    assert [len(batch) for batch in batches] == [1, 1, 1]


async def test_the_caller_s_request_is_not_written_to() -> None:
    request = job_service_pb2.SubmitRequest(spec=job_spec("resize"))
    assert [len(batch) async for batch in pack([request])] == [1]
    assert request.idempotency_key == ""


async def test_a_generator_is_taken_as_it_is_needed(
    service: FakeService, client: AsyncClient
) -> None:
    taken = 0

    def counted() -> Iterator[job_pb2.JobSpec]:
        nonlocal taken
        for spec in specs(100_000):
            taken += 1
            yield spec

    service.refusals["SubmitBatch"].append(Refusal(grpc.StatusCode.PERMISSION_DENIED))
    with pytest.raises(errors.PermissionDenied) as caught:
        await client.submit_many(counted(), in_flight=2)
    assert taken <= 5 * MAX_ITEMS
    assert "were accepted before" in caught.value.__notes__[0]


async def test_a_batch_is_repeated_under_the_same_keys(
    service: FakeService, client: AsyncClient, fake_time: FakeTime
) -> None:
    service.refusals["SubmitBatch"].extend([unavailable(), queue_full(2)])
    assert len(await client.submit_many(specs(5))) == 5
    first, second, third = service.requests["SubmitBatch"]
    assert first == second == third
    assert fake_time.slept[-1] == 2.0


async def test_a_bad_job_is_named_by_its_place_among_all(
    service: FakeService, client: AsyncClient
) -> None:
    bad = rpc.BadRequest(
        field_violations=[
            {"field": "requests[7].idempotency_key", "description": "repeats that of requests[3]"}
        ]
    )
    message = "requests[7].idempotency_key: repeats that of requests[3]"
    refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, message, (bad,))
    arrived = asyncio.Event()
    service.on_enter = lambda context: arrived.set()

    async def jobs() -> AsyncIterator[job_pb2.JobSpec]:
        for number, spec in enumerate(specs(1500)):
            if number == 1499:
                # The first batch arrived before the second is full.
                await arrived.wait()
                service.refusals["SubmitBatch"].append(refusal)
            yield spec

    with pytest.raises(errors.InvalidJob) as caught:
        await client.submit_many(jobs())
    [(field, text)] = caught.value.violations
    assert (field, text) == ("requests[1007].idempotency_key", "repeats that of requests[1003]")
    assert str(caught.value) == f"{field}: {text}"
    assert caught.value.__notes__ == ["1000 jobs of this submit_many were accepted before"]
