"""What can be a task, and what is said of the rest where it is declared."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from longshore import (
    Context,
    PermanentError,
    Resources,
    Retry,
    TaskDeclarationError,
    TaskError,
    Timeouts,
    task,
)

loose: Any = task
"""The decorator as somebody sees it who does not check types."""


class Params(BaseModel):
    n: int = 0


def plain(ctx: Context, params: Params) -> int:
    return params.n


def yields(ctx: Context, params: Params) -> Iterator[int]:
    yield params.n


async def yields_later(ctx: Context, params: Params) -> AsyncIterator[int]:
    yield params.n


def three(ctx: Context, a: int, b: int) -> int:
    return a + b


def with_default(ctx: Context, params: Params = Params()) -> int:  # noqa: B008  # what is refused
    return params.n


def unannotated(ctx: Context, params) -> int:  # type: ignore[no-untyped-def]
    return 1


class Holder:
    def method(self, ctx: Context, params: Params) -> int:
        return 1


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: loose(yields), "yields, and a task returns one result"),
        (lambda: loose(yields_later), "yields_later yields"),
        (lambda: loose(three), "put what it needs into one pydantic model"),
        (lambda: loose(with_default), "give the fields of its type defaults"),
        (lambda: loose(unannotated), "lacks an annotation of params"),
        (lambda: loose(Holder.method), "move it out of its class"),
        (lambda: loose(Holder), "is a class, and a task is a function"),
        (lambda: loose(functools.partial(plain)), "write a def that calls it"),
        (lambda: loose(queue="No Such Queue!")(plain), "'No Such Queue!'"),
        (lambda: loose(name="Bad Name")(plain), "'Bad Name'"),
        (lambda: loose(retry={"max_attempts": 3}), r"give Retry\(...\)"),
        (lambda: loose(timeouts=60), r"give Timeouts\(...\)"),
        (lambda: loose(resources={"cpu": 1}), r"give Resources\(...\)"),
        (lambda: loose(retry_on="ValueError"), "give classes of exceptions"),
        (lambda: loose(retry=Retry(max_attempts=2), max_attempts=3), "or alone"),
    ],
)
def test_what_is_no_task(declare: Callable[[], Any], said: str) -> None:
    with pytest.raises(TaskDeclarationError, match=said):
        declare()


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: Resources(cpu=-1), "cpu is -1; give 0.01 to 1,024"),
        (lambda: Resources(cpu=float("nan")), "cpu is nan"),
        (lambda: Resources(gpu=1.5), "above 1 give whole devices"),
        (lambda: Resources(gpu_memory=2**30), "give gpu=1, or a share"),
        (lambda: Resources(memory=-5), "memory is -5"),
        (lambda: Resources(custom={"licence": 0}), "custom"),
        (lambda: Retry(max_attempts=0), "max_attempts is 0"),
        (lambda: task(max_attempts=0), "max_attempts is 0"),
        (lambda: Timeouts(attempt=-1.0), "attempt is -1"),
    ],
)
def test_numbers_out_of_range(declare: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        declare()


@pytest.mark.parametrize("more", [{"memory": "1GB"}, {"cpu": "2"}, {"accelerators": "a100"}])
def test_values_of_another_type(more: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Resources"):
        Resources(**more)


def noted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def test_an_async_function_below_a_decorator_is_async() -> None:
    async def slow(ctx: Context, params: Params) -> int:
        return params.n

    assert task(noted(slow)).is_async
    assert not task(noted(plain)).is_async


class Picky(Exception):
    """Of the task."""


def test_which_errors_are_worth_another_attempt() -> None:
    some = task(retry_on=(ConnectionError, TaskError))(plain)
    assert not some.is_final(ConnectionResetError())
    assert not some.is_final(TaskError("again"))
    assert some.is_final(ValueError())
    assert some.is_final(PermanentError("never"))
    most = task(non_retryable=Picky)(plain)
    assert most.is_final(Picky())
    assert not most.is_final(ValueError())
    assert not most.is_final(KeyboardInterrupt())


class Open(BaseModel):
    model_config = ConfigDict(extra="ignore")
    n: int = 0


class Outer(BaseModel):
    inner: Params
    open: Open


def test_unknown_fields_are_refused_unless_the_author_lets_them_pass() -> None:
    def f(ctx: Context, params: Outer) -> int:
        return 1

    schema = task(f).describe()["input_schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Params"]["additionalProperties"] is False
    assert "additionalProperties" not in schema["$defs"]["Open"]


def test_a_task_without_parameters_takes_an_empty_payload() -> None:
    def tick(ctx: Context) -> str:
        return "tick"

    made = task(tick)
    assert made.describe()["input_schema"]["additionalProperties"] is False
    assert made.run(None, made.params.validate_json("{}")) == "tick"  # type: ignore[arg-type]
