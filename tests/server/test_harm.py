"""What one caller can do to all others: time of the event loop, memory of the process."""

from __future__ import annotations

import asyncio
import difflib
import gc
import json
import time
import weakref
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore_server.answering import answers
from longshore_server.forms import CANDIDATES, MOST_HINTS, Form, FormCache
from longshore_server.payloads import PayloadSchema
from longshore_server.refusals import refuse_field
from longshore_store.needs import LONGEST_REMEMBERED, _parse, parse_needs
from longshore_store.topology_records import TaskRecord
from tests.server.harness import DEADLINE, POOLS, Harness, refused, request
from tests.server.test_parts import catalogue, queue

LONGEST_TURN = 0.1


async def longest_turn(call: Any) -> float:
    """The most CPU that one turn of the event loop took while a call was under way: what other
    processes take does not count."""
    longest = 0.0
    while not call.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    return longest


async def publish_many(harness: Harness, count: int) -> None:
    document = (await harness.store.list_tasks())[0].document_json
    for first in range(0, count, 500):
        names = [f"team{n % 17}.render-video-{n:05d}" for n in range(first, first + 500)]
        records = [TaskRecord(n, json.dumps({**json.loads(document), "name": n})) for n in names]
        await harness.store.publish_tasks(records)
    await harness.server.services.catalogue.refresh()


async def test_a_batch_of_misspelt_names(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish_many(harness, 2000)
    looks: list[int] = []
    close = difflib.get_close_matches

    def counted(name: str, known: list[str], **options: Any) -> list[str]:
        looks.append(len(known))
        return close(name, known, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    batch = [request(task=f"team.rendr-vidoe-{n}") for n in range(1000)]
    call = asyncio.ensure_future(
        harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=batch), timeout=DEADLINE)
    )
    turn = await longest_turn(call)
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
    assert "did you mean" in refusal.message
    assert len(looks) <= MOST_HINTS
    assert max(looks) <= CANDIDATES
    assert turn < LONGEST_TURN


async def test_a_batch_of_payloads_that_are_all_wrong(harness: Harness) -> None:
    wrong = json.dumps({"renditions": [{"height": 0}] * 64, "codec": 1})
    batch = [request(task="transcode", payload=wrong) for _ in range(1000)]
    call = asyncio.ensure_future(
        harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=batch), timeout=DEADLINE)
    )
    turn = await longest_turn(call)
    assert (await refused(call)).reason == "INVALID_FIELDS"
    assert turn < LONGEST_TURN


def form(key: bytes) -> Form:
    return Form(b"spec", key, "echo", "default", "{}", 50, None, None, PayloadSchema(True))


def test_forms_are_bounded_in_bytes() -> None:
    cache, found = FormCache(100_000), catalogue([queue()], {}, POOLS)
    for n in range(1000):
        cache.of(found)
        cache.keep(form(b"%d" % n + b"x" * 5000))
        assert cache.bytes <= 100_000
    kept = cache.of(found)
    assert 0 < len(kept) < 20
    assert sum(one.size for one in kept.values()) == cache.bytes
    cache.keep(form(b"x" * 10**6))
    assert len(cache.of(found)) == len(kept)


def test_long_needs_are_not_remembered() -> None:
    before = _parse.cache_info().currsize
    text = json.dumps({"cpu_millis": 1, "model": "m" * LONGEST_REMEMBERED})
    assert parse_needs(text).model == "m" * LONGEST_REMEMBERED
    assert _parse.cache_info().currsize == before


async def test_jobs_that_differ_in_their_own_parts_share_a_form(harness: Harness) -> None:
    admission = harness.server.services._job_service._submitter._admission
    for n in range(5):
        answer = await harness.jobs.Submit(
            request(
                inputs={"video": job_pb2.PayloadRef(uri=f"file:///videos/{n}.mp4")},
                labels={"n": str(n)},
                payload=json.dumps({"text": str(n)}),
            )
        )
        spec = answer.job.spec
        assert (spec.inputs["video"].uri, spec.labels["n"]) == (f"file:///videos/{n}.mp4", str(n))
        assert spec.resources.cpu_millis == 1000
        full = pb.StatusRequest(job_id=answer.job.job_id, view=pb.JOB_VIEW_FULL)
        stored = (await harness.jobs.Status(full)).job.spec
        assert stored.payload == json.dumps({"text": str(n)})
        stored.ClearField("payload")
        assert stored == spec
    assert len(admission._forms._forms) == 1
    assert admission._forms.bytes < 10_000


# -- fields of a later release


def with_unknown(message: Any, number: int = 1000) -> Any:
    """The message and a field that it does not have."""
    tag, raw = number << 3, bytearray()
    while tag > 127:
        raw.append(tag & 127 | 128)
        tag >>= 7
    return type(message).FromString(message.SerializeToString() + bytes([*raw, tag, 1]))


def everywhere() -> list[tuple[str, pb.SubmitRequest]]:
    """A request with an unknown field, for each message in it, and the path of that field."""
    ref = job_pb2.PayloadRef(uri="file:///a")
    unique = with_unknown(pb.Uniqueness(key="k"))
    return [
        ("1000", with_unknown(request())),
        ("spec.1000", pb.SubmitRequest(spec=with_unknown(job_pb2.JobSpec(task="echo")))),
        ("spec.resources.1000", request(resources=with_unknown(job_pb2.Resources()))),
        ("spec.timeouts.1000", request(timeouts=with_unknown(job_pb2.Timeouts()))),
        ("spec.retry_policy.1000", request(retry_policy=with_unknown(job_pb2.RetryPolicy()))),
        ("spec.inputs['a'].1000", request(inputs={"a": with_unknown(ref)})),
        ("uniqueness.1000", pb.SubmitRequest(spec=request().spec, uniqueness=unique)),
    ]


@pytest.mark.parametrize(("path", "asked"), everywhere())
async def test_an_unknown_field_is_refused_by_number(
    harness: Harness, path: str, asked: pb.SubmitRequest
) -> None:
    """A server that ignored it would run something else than what was asked for."""
    refusal = await refused(harness.jobs.Submit(asked))
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert "number 1000" in refusal.fields[path]
    assert (await harness.jobs.ListJobs(pb.ListJobsRequest())).jobs == []


@pytest.mark.parametrize("levels", [128, 129])
async def test_payloads_are_nested_as_deep_as_a_runner_reads(harness: Harness, levels: int) -> None:
    arrays = "[" * (levels - 1) + "]" * (levels - 1)
    asked = request(payload=f'{{"more": {arrays}}}')
    if levels <= 128:
        assert (await harness.jobs.Submit(asked)).created
    else:
        assert "128 levels" in (await refused(harness.jobs.Submit(asked))).fields["spec.payload"]


@pytest.mark.parametrize("uri", ["file:///a/%2e%2e/b", "file:///a/..%2fb", "file:///a%00b"])
async def test_escapes_in_addresses_are_looked_through(harness: Harness, uri: str) -> None:
    asked = request(inputs={"a": job_pb2.PayloadRef(uri=uri)})
    assert "spec.inputs['a'].uri" in (await refused(harness.jobs.Submit(asked))).fields


async def test_a_refused_request_is_freed_at_once() -> None:
    """Not by the garbage collector, which comes late: requests are up to 4 MiB."""

    class Large:
        pass

    class Call:
        def time_remaining(self) -> float:
            return DEADLINE

        async def abort_with_status(self, status: Any) -> None:
            raise grpc.aio.AbortError(status)

    held: list[weakref.ref[Large]] = []

    @answers
    async def handler(service: object, request: Large, context: Any) -> None:
        taken_apart = Large()
        held.extend(map(weakref.ref, (request, taken_apart)))
        refuse_field("name", "is wrong")

    gc.collect()
    gc.disable()
    try:
        kept = None
        try:
            await handler(object(), Large(), Call())
        except grpc.aio.AbortError as error:
            kept = error
        assert kept is not None
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
