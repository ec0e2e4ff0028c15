"""The @task decorator, and finding what was decorated."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, get_type_hints, overload

from pydantic import TypeAdapter

from longshore.sdk.resources import Resources, Retry, Timeouts

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,127}")
Handler = Callable[..., Any]


class TaskDeclarationError(TypeError):
    """A decorated function is not a task; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Task:
    """A registered handler.

    Attributes:
        name: what jobs name it by.
        handler: the function, (Context, params) -> result.
        params: the pydantic model or type its payload is parsed into.
        result: the type of what it returns.
        is_async: True shares a runner with other async tasks.
    """

    name: str
    handler: Handler
    params: TypeAdapter[Any]
    result: TypeAdapter[Any]
    description: str = ""
    queue: str = "default"
    resources: Resources = field(default_factory=Resources)
    retry: Retry = field(default_factory=Retry)
    timeouts: Timeouts = field(default_factory=Timeouts)
    is_async: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the handler itself, so that a task is tested as a function."""
        return self.handler(*args, **kwargs)

    def describe(self) -> dict[str, Any]:
        """The task as JSON: what is published to the store, schemas included."""
        return {
            "name": self.name,
            "description": self.description,
            "queue": self.queue,
            "resources": asdict(self.resources),
            "retry": asdict(self.retry),
            "timeouts": asdict(self.timeouts),
            "is_async": self.is_async,
            "input_schema": self.params.json_schema(mode="validation"),
            "output_schema": self.result.json_schema(mode="serialization"),
        }


@overload
def task(handler: Handler, /) -> Task: ...
@overload
def task(
    *,
    name: str = ...,
    queue: str = ...,
    resources: Resources = ...,
    retry: Retry = ...,
    timeouts: Timeouts = ...,
    max_attempts: int | None = ...,
) -> Callable[[Handler], Task]: ...
def task(
    handler: Handler | None = None,
    /,
    *,
    name: str = "",
    queue: str = "default",
    resources: Resources | None = None,
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    max_attempts: int | None = None,
) -> Task | Callable[[Handler], Task]:
    """Registers a function as a task.

    The function takes a Context and one annotated parameter (a pydantic model, or any type
    pydantic can describe) and returns an annotated result. Their JSON Schemas are the
    contract that callers are held to. The default name is the function's.

    Raises:
        TaskDeclarationError: an annotation is missing, or the name is outside the grammar.
    """
    if handler is None:
        return functools.partial(
            _declare,
            name=name,
            queue=queue,
            resources=resources or Resources(),
            retry=_retry(retry, max_attempts),
            timeouts=timeouts or Timeouts(),
        )
    return _declare(handler)


def _retry(retry: Retry | None, max_attempts: int | None) -> Retry:
    if retry is not None and max_attempts is not None:
        raise TaskDeclarationError("give max_attempts inside retry=Retry(...), or alone")
    return retry or (Retry(max_attempts=max_attempts) if max_attempts else Retry())


def _declare(handler: Handler, *, name: str = "", **options: Any) -> Task:
    name = name or handler.__name__
    if not _NAME.fullmatch(name):
        raise TaskDeclarationError(f"task name {name!r} is not a-z followed by a-z 0-9 _ . -")
    params, result = _signature(handler, name)
    return Task(
        name=name,
        handler=handler,
        params=TypeAdapter(params),
        result=TypeAdapter(result),
        description=(inspect.getdoc(handler) or "").partition("\n")[0],
        is_async=inspect.iscoroutinefunction(handler),
        **options,
    )


def _signature(handler: Handler, name: str) -> tuple[Any, Any]:
    hints = get_type_hints(handler)
    parameters = list(inspect.signature(handler).parameters)
    if len(parameters) != 2:
        raise TaskDeclarationError(f"task {name!r} takes (ctx, params), not {parameters}")
    missing = [p for p in (parameters[1], "return") if p not in hints]
    if missing:
        raise TaskDeclarationError(f"task {name!r} lacks an annotation of {', '.join(missing)}")
    return hints[parameters[1]], hints["return"]


def load_tasks(modules: Iterable[str] = ()) -> dict[str, Task]:
    """Imports and returns every task: of the entry points `longshore.tasks` and of modules.

    An entry point of an extra that is not installed names a module whose import fails; it is
    left out, since its tasks could not run here either.

    Raises:
        TaskDeclarationError: two different tasks have one name.
        ImportError: a module of `modules` cannot be imported.
    """
    found: dict[str, Task] = {}
    for point in entry_points(group="longshore.tasks"):
        try:
            module = point.load()
        except ImportError:
            continue
        _collect(module, found)
    for path in modules:
        _collect(importlib.import_module(path), found)
    return found


def _collect(module: ModuleType, found: dict[str, Task]) -> None:
    for value in vars(module).values():
        if not isinstance(value, Task):
            continue
        if found.setdefault(value.name, value) is not value:
            raise TaskDeclarationError(
                f"task {value.name!r} is declared twice; the second is in {module.__name__}"
            )
