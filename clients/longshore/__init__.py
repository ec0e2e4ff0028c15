"""Longshore: durable long jobs over gRPC.

Callers use `Client` or `AsyncClient`; task code uses `task`, `Context` and their like. Names are
imported when they are first used: task code does not pay for gRPC, callers not for pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from longshore.aio import AsyncClient
    from longshore.errors import (
        AlreadyExists,
        DeadlineExceeded,
        InvalidJob,
        InvalidRequest,
        JobDeadLettered,
        JobEnded,
        JobExpired,
        JobFailed,
        JobNotFound,
        JobWasCancelled,
        LimitExceeded,
        LongshoreError,
        NoCapacity,
        NotFound,
        NotServed,
        PermissionDenied,
        PreconditionFailed,
        QueueFull,
        RequestError,
        ServiceFailed,
        Unauthenticated,
        Unavailable,
    )
    from longshore.handle import JobHandle
    from longshore.sdk import (
        Context,
        Input,
        JobCancelled,
        PermanentError,
        Resources,
        Retry,
        Task,
        TaskDeclarationError,
        TaskError,
        Timeouts,
        task,
    )
    from longshore.sdk.failures import FailureClass
    from longshore.specs import job_spec
    from longshore.states import JobState
    from longshore.sync import Client, SyncJobHandle

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "Context",
    "DeadlineExceeded",
    "FailureClass",
    "Input",
    "InvalidJob",
    "InvalidRequest",
    "JobCancelled",
    "JobDeadLettered",
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobState",
    "JobWasCancelled",
    "LimitExceeded",
    "LongshoreError",
    "NoCapacity",
    "NotFound",
    "NotServed",
    "PermanentError",
    "PermissionDenied",
    "PreconditionFailed",
    "QueueFull",
    "RequestError",
    "Resources",
    "Retry",
    "ServiceFailed",
    "SyncJobHandle",
    "Task",
    "TaskDeclarationError",
    "TaskError",
    "Timeouts",
    "Unauthenticated",
    "Unavailable",
    "job_spec",
    "task",
]

_MODULES = {
    "longshore.aio": ("AsyncClient",),
    "longshore.handle": ("JobHandle",),
    "longshore.sync": ("Client", "SyncJobHandle"),
    "longshore.specs": ("job_spec",),
    "longshore.states": ("JobState",),
    "longshore.sdk.failures": ("FailureClass",),
    "longshore.sdk": (
        "Context",
        "Input",
        "JobCancelled",
        "PermanentError",
        "Resources",
        "Retry",
        "Task",
        "TaskDeclarationError",
        "TaskError",
        "Timeouts",
        "task",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("longshore")
    if name not in __all__:
        raise AttributeError(f"module 'longshore' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "longshore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
