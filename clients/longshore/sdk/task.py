"""The @task decorator, and finding what was decorated."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from longshore.sdk.context import Context
from longshore.sdk.failures import PermanentError
from longshore.sdk.resources import Resources, Retry, Timeouts

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,127}")
_QUEUE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Errors = tuple[type[Exception], ...]


class TaskDeclarationError(TypeError):
    """A decorated function is not a task; the message says what to change."""


class NoParams(BaseModel):
    """The payload of a task without parameters: {}."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Task(Generic[In, Out]):
    """A registered handler, with the types of what it takes and what it returns.

    Attributes:
        name: what jobs name it by.
        handler: the function, (Context, params) -> result, or (Context) -> result.
        params: the pydantic model or type its payload is parsed into.
        result: the type of what it returns.
        is_async: True shares a runner with other async tasks.
        takes_params: False if the handler takes the Context alone.
        retry_on: if given, every other exception of the handler is permanent.
        non_retryable: these exceptions of the handler are permanent.
    """

    name: str
    handler: Callable[..., Any]
    params: TypeAdapter[Any]
    result: TypeAdapter[Any]
    description: str = ""
    queue: str = "default"
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    timeouts: Timeouts = field(default_factory=Timeouts)
    is_async: bool = False
    takes_params: bool = True
    retry_on: Errors | None = None
    non_retryable: Errors = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the handler itself, so that a task is tested as a function."""
        return self.handler(*args, **kwargs)

    def run(self, ctx: Context, params: Any) -> Any:
        """Calls the handler with what it takes; a coroutine if the task is async."""
        return self.handler(ctx, params) if self.takes_params else self.handler(ctx)

    def is_final(self, error: BaseException) -> bool:
        """True if the task says that another attempt would meet this error again."""
        if isinstance(error, PermanentError) or not isinstance(error, Exception):
            return isinstance(error, PermanentError)
        if self.retry_on is not None and not isinstance(error, self.retry_on):
            return True
        return isinstance(error, self.non_retryable)

    def describe(self) -> dict[str, Any]:
        """The task as JSON: what is published to the store, schemas included.

        A model that says nothing of unknown fields refuses them here, so that a misspelt option is
        told to the caller. `model_config = ConfigDict(extra="ignore")` lets them pass.
        """
        return {
            "name": self.name,
            "description": self.description,
            "queue": self.queue,
            "resources": asdict(self.resources),
            "retry": asdict(self.retry),
            "timeouts": asdict(self.timeouts),
            "is_async": self.is_async,
            "input_schema": self.params.json_schema(
                mode="validation", schema_generator=_ClosedModels
            ),
            "output_schema": self.result.json_schema(mode="serialization"),
        }


class _ClosedModels(GenerateJsonSchema):
    """Says additionalProperties false of each model whose author did not choose."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        if "properties" in made and "extra" not in schema["cls"].model_config:
            made.setdefault("additionalProperties", False)
        return made


class _Decorator(Protocol):
    """What `task(...)` with options returns."""

    @overload
    def __call__(
        self, handler: Callable[[Context, In], Coroutine[Any, Any, Out]], /
    ) -> Task[In, Out]: ...
    @overload
    def __call__(self, handler: Callable[[Context, In], Out], /) -> Task[In, Out]: ...
    @overload
    def __call__(
        self, handler: Callable[[Context], Coroutine[Any, Any, Out]], /
    ) -> Task[None, Out]: ...
    @overload
    def __call__(self, handler: Callable[[Context], Out], /) -> Task[None, Out]: ...


@overload
def task(handler: Callable[[Context, In], Coroutine[Any, Any, Out]], /) -> Task[In, Out]: ...
@overload
def task(handler: Callable[[Context, In], Out], /) -> Task[In, Out]: ...
@overload
def task(handler: Callable[[Context], Coroutine[Any, Any, Out]], /) -> Task[None, Out]: ...
@overload
def task(handler: Callable[[Context], Out], /) -> Task[None, Out]: ...
@overload
def task(
    *,
    name: str = ...,
    queue: str = ...,
    resources: Resources = ...,
    retry: Retry = ...,
    timeouts: Timeouts = ...,
    max_attempts: int | None = ...,
    retry_on: type[Exception] | Errors | None = ...,
    non_retryable: type[Exception] | Errors = ...,
) -> _Decorator: ...
def task(
    handler: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    queue: str = "default",
    resources: Resources | None = None,
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    max_attempts: int | None = None,
    retry_on: type[Exception] | Errors | None = None,
    non_retryable: type[Exception] | Errors = (),
) -> Any:
    """Registers a function as a task.

    The function takes a Context and one annotated parameter (a pydantic model, or any type
    pydantic can describe), or a Context alone, and returns an annotated result. Their JSON
    Schemas are the contract that callers are held to. The default name is the function's.

    Args:
        retry_on: exceptions that are worth another attempt; every other one ends the job FAILED.
        non_retryable: exceptions that end the job FAILED.

    Raises:
        TaskDeclarationError: it cannot be a task; the message says what to change.
        ValueError: a number of resources, retry or timeouts is out of its range.
    """
    declare = functools.partial(
        _declare,
        name=name,
        queue=queue,
        resources=_of("resources", resources, Resources),
        retry=_retry(_of("retry", retry, Retry), max_attempts),
        timeouts=_of("timeouts", timeouts, Timeouts),
        retry_on=None if retry_on is None else _errors("retry_on", retry_on),
        non_retryable=_errors("non_retryable", non_retryable),
    )
    return declare if handler is None else declare(handler)


def _of(what: str, given: Any, kind: type[Out]) -> Out:
    if given is None:
        return kind()
    if not isinstance(given, kind):
        name = kind.__name__
        raise TaskDeclarationError(f"{what}={given!r} is no {name}: give {name}(...)")
    return given


def _retry(retry: Retry, max_attempts: int | None) -> Retry:
    if max_attempts is None:
        return retry
    if retry != Retry():
        raise TaskDeclarationError("give max_attempts inside retry=Retry(...), or alone")
    return Retry(max_attempts=max_attempts)


def _errors(what: str, given: Any) -> Errors:
    kinds = given if isinstance(given, tuple) else (given,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TaskDeclarationError(f"{what} holds {kind!r}: give classes of exceptions")
    return kinds


def _declare(
    handler: Callable[..., Any], *, name: str, queue: str, **options: Any
) -> Task[Any, Any]:
    function = _function(handler)
    name = name or function.__name__
    if not _NAME.fullmatch(name):
        raise TaskDeclarationError(f"task name {name!r} is not a-z followed by a-z 0-9 _ . -")
    if not _QUEUE.fullmatch(queue):
        text = "is not a-z followed by at most 63 of a-z 0-9 _ . -"
        raise TaskDeclarationError(f"task {name!r}: queue {queue!r} {text}")
    params, result, takes_params = _signature(function, name)
    return Task(
        name=name,
        handler=handler,
        params=TypeAdapter(params),
        result=TypeAdapter(result),
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        queue=queue,
        is_async=inspect.iscoroutinefunction(function),
        takes_params=takes_params,
        **options,
    )


def _function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, below decorators that say whom they wrap."""
    if isinstance(handler, type):
        raise TaskDeclarationError(
            f"{handler.__name__} is a class, and a task is a function: decorate a function that"
            " makes what it needs, or keeps it in a module"
        )
    function = inspect.unwrap(handler)
    if not inspect.isfunction(function):
        raise TaskDeclarationError(
            f"{handler!r} is no function: write a def that calls it, and decorate that"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TaskDeclarationError(
            f"{function.__name__} yields, and a task returns one result: report with ctx.progress,"
            " and write what is large with ctx.artifacts"
        )
    return function


def _signature(function: Callable[..., Any], name: str) -> tuple[Any, Any, bool]:
    """The types of the parameter and of the result, and whether there is a parameter."""
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    if names[:1] == ["self"] or names[:1] == ["cls"]:
        raise TaskDeclarationError(
            f"task {name!r} is a method: move it out of its class; a task takes (ctx, params)"
        )
    if len(parameters) not in (1, 2):
        raise TaskDeclarationError(
            f"task {name!r} takes (ctx) or (ctx, params), not ({', '.join(names)}): put what it"
            " needs into one pydantic model"
        )
    missing = [p for p in (*names[1:], "return") if p not in hints]
    if missing:
        raise TaskDeclarationError(f"task {name!r} lacks an annotation of {', '.join(missing)}")
    if len(parameters) == 1:
        return NoParams, hints["return"], False
    if parameters[1].default is not inspect.Parameter.empty:
        raise TaskDeclarationError(
            f"task {name!r}: a default of {names[1]} is never used, as every job has a payload:"
            " give the fields of its type defaults"
        )
    return hints[names[1]], hints["return"], True


def load_tasks(modules: Iterable[str] = ()) -> dict[str, Task[Any, Any]]:
    """Imports and returns every task: of the entry points `longshore.tasks` and of modules.

    An entry point of an extra that is not installed names a module whose import fails; it is
    left out, since its tasks could not run here either.

    Raises:
        TaskDeclarationError: two different tasks have one name.
        ImportError: a module of `modules` cannot be imported.
    """
    found: dict[str, Task[Any, Any]] = {}
    for point in entry_points(group="longshore.tasks"):
        try:
            module = point.load()
        except ImportError:
            continue
        _collect(module, found)
    for path in modules:
        _collect(importlib.import_module(path), found)
    return found


def _collect(module: ModuleType, found: dict[str, Task[Any, Any]]) -> None:
    for value in vars(module).values():
        if not isinstance(value, Task):
            continue
        if found.setdefault(value.name, value) is not value:
            raise TaskDeclarationError(
                f"task {value.name!r} is declared twice; the second is in {module.__name__}"
            )
