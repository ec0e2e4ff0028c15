"""From a task to its caller the types are kept; mypy holds this file to it."""

from __future__ import annotations

from typing import Any, assert_type

import pytest
from pydantic import BaseModel, Field

from longshore import (
    AsyncClient,
    Client,
    Context,
    FailureClass,
    InvalidJob,
    JobHandle,
    JobState,
    SyncJobHandle,
    Task,
    job_spec,
    task,
)
from longshore.v1 import job_pb2
from tests.client.fake import FakeService


class Render(BaseModel):
    pages: int


class Rendered(BaseModel):
    size: int


@task
def render(ctx: Context, params: Render) -> Rendered:
    return Rendered(size=params.pages)


@task(name="later", max_attempts=2)
async def render_later(ctx: Context, params: Render) -> int:
    return params.pages


@task
def tick(ctx: Context) -> str:
    return ctx.job_id


def test_a_task_has_the_types_of_its_function() -> None:
    assert_type(render, Task[Render, Rendered])
    assert_type(render_later, Task[Render, int])
    assert_type(tick, Task[None, str])
    assert (render.is_async, render_later.is_async, tick.takes_params) == (False, True, False)


async def test_a_result_has_the_type_that_the_task_declares(
    client: AsyncClient, service: FakeService
) -> None:
    handle = await client.submit(render, Render(pages=3), idempotency_key="a")
    assert_type(handle, JobHandle[Rendered])
    service.add(handle.id).end(job_pb2.JOB_STATE_SUCCEEDED, '{"size":3}')
    assert await handle.result() == Rendered(size=3)
    by_name = await client.submit("render", {"pages": 3}, idempotency_key="a")
    assert_type(by_name, JobHandle[Any])
    assert await by_name.result() == {"size": 3}
    later = client.handle(handle.id).typed(render.result)
    assert await later.result() == Rendered(size=3)


async def test_what_a_task_does_not_take_is_not_sent(
    client: AsyncClient, service: FakeService
) -> None:
    wrong: Any = {"pagez": 3}
    with pytest.raises(InvalidJob, match="pages"):
        await client.submit(render, wrong)
    assert not service.requests["Submit"]


class Aliased(BaseModel):
    width: int = Field(alias="w")


@task
def scale(ctx: Context, params: Aliased) -> Aliased:
    return params


async def test_names_travel_as_the_schema_says(client: AsyncClient, service: FakeService) -> None:
    handle = await client.submit(scale, Aliased(w=3), idempotency_key="a")
    assert service.requests["Submit"][-1].spec.payload == '{"w":3}'
    service.add(handle.id).end(job_pb2.JOB_STATE_SUCCEEDED, '{"w":3}')
    assert (await handle.result()).width == 3
    assert job_spec("scale", Aliased(w=3)).payload == '{"w":3}'


def test_a_misspelt_name_is_left_for_the_service_to_refuse() -> None:
    given: Any = {"pages": 3, "stepz": 4}
    assert job_spec(render, given).payload == '{"pages":3,"stepz":4}'


def test_text_is_text_to_a_task_that_takes_text() -> None:
    @task
    def shout(ctx: Context, params: str) -> str:
        return params

    assert job_spec(shout, "hello").payload == '"hello"'


async def test_a_task_without_parameters_needs_no_payload(
    client: AsyncClient, service: FakeService
) -> None:
    handle = await client.submit(tick)
    assert_type(handle, JobHandle[str])
    assert service.requests["Submit"][-1].spec.payload in ("", "{}")


def test_the_same_without_async(target: str) -> None:
    with Client(target) as client:
        assert_type(client.submit(render, Render(pages=1)), SyncJobHandle[Rendered])
        assert_type(client.submit(tick), SyncJobHandle[str])
        assert_type(client.submit("render", {"pages": 1}), SyncJobHandle[Any])


def test_names_of_states_and_classes_are_those_of_the_contract() -> None:
    states = {f"JOB_STATE_{state.name}": int(state) for state in JobState}
    assert states == {k: v for k, v in job_pb2.JobState.items() if v}
    kinds = {f"FAILURE_CLASS_{kind.name}": int(kind) for kind in FailureClass}
    assert kinds == {k: v for k, v in job_pb2.FailureClass.items() if v}
    assert JobState(job_pb2.JOB_STATE_FAILED).is_terminal
    assert not JobState.CANCELLING.is_terminal
