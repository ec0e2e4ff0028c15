"""Client: Longshore from code that does not use asyncio.

    with Client() as client:
        job = client.submit("resize", {"width": 320}, inputs={"image": "cat.png"})
        print(job.result(timeout=60))

Every method is the one of AsyncClient or of its JobHandle, run on a loop in a thread of the
client's own; so it also works where the caller runs a loop already (and blocks that loop).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from longshore.aio import AsyncClient, JobHandle
from longshore.batches import IN_FLIGHT, Item
from longshore.loop_thread import LoopThread
from longshore.v1 import job_pb2

if TYPE_CHECKING:
    from longshore.handle import ResultType
    from longshore.sdk import Task
    from longshore.specs import Payload
    from longshore.submits import SubmitOptions

__all__ = ["Client", "SyncJobHandle"]

P = ParamSpec("P")
T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
CHUNK = 500


class _Mirror:
    """Something asynchronous and the loop that it lives on."""

    _loop: LoopThread
    _mirrored: Any


def _call(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The method, waited for."""

    def call(self: _Mirror, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._mirrored, *args, **kwargs))

    return _named_like(method, call)


def _call_for_handle(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, JobHandle[Any]]],
) -> Callable[Concatenate[Any, P], SyncJobHandle[Any]]:
    """The method, waited for; its handle mirrored too."""

    def call(self: _Mirror, /, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[Any]:
        return SyncJobHandle(self._loop, self._loop.run(method(self._mirrored, *args, **kwargs)))

    return _named_like(method, call)


def _iterate(
    method: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """The method, as a plain iterator."""

    def call(self: _Mirror, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._mirrored, *args, **kwargs))

    return _named_like(method, call)


def _named_like(method: Callable[..., Any], call: Callable[P, T]) -> Callable[P, T]:
    functools.update_wrapper(call, method)
    return call


def _constructed_like(
    constructor: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    return functools.wraps(constructor)


class SyncJobHandle(_Mirror, Generic[Out]):
    """A job on the server; the methods of `JobHandle` without await."""

    def __init__(self, loop: LoopThread, handle: JobHandle[Out]) -> None:
        self._loop = loop
        self._mirrored: JobHandle[Out] = handle

    def __repr__(self) -> str:
        return f"<Sync{repr(self._mirrored)[1:]}"

    @property
    def id(self) -> str:
        """The id of the job."""
        return self._mirrored.id

    @property
    def job(self) -> job_pb2.Job:
        """The job as last heard of."""
        return self._mirrored.job

    @property
    def created(self) -> bool:
        """False where Submit returned an earlier job."""
        return self._mirrored.created

    @property
    def placement(self) -> job_pb2.Placement | None:
        """What admission thought of it at Submit."""
        return self._mirrored.placement

    def typed(self, result_type: ResultType[T]) -> SyncJobHandle[T]:
        """The same job; `result` then returns this type."""
        return SyncJobHandle(self._loop, self._mirrored.typed(result_type))

    status = _call(JobHandle.status)
    watch = _iterate(JobHandle.watch)
    wait = _call(JobHandle.wait)
    result_job = _call(JobHandle.result_job)
    artifacts = _call(JobHandle.artifacts)
    cancel = _call(JobHandle.cancel)
    retry = _call(JobHandle.retry)

    def result(self, timeout: float | None = None) -> Out:
        """Waits for success and returns what the task returned; as `JobHandle.result`."""
        return self._loop.run(self._mirrored.result(timeout))


class Client(_Mirror):
    """A connection to one Longshore service; takes what `AsyncClient` takes.

    One client serves any number of threads. Close it, or use it as a context manager; the end of
    the program closes it too. Not to be carried over a fork.
    """

    @_constructed_like(AsyncClient.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = LoopThread()
        self._mirrored: AsyncClient = AsyncClient(*args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends calls under way, the channel and the thread. Idempotent."""
        if not self._loop.stopped:
            self._loop.run(self._mirrored.close())
            self._loop.stop()

    if TYPE_CHECKING:

        @overload
        def submit(
            self, task: Task[None, Out], payload: None = None, **more: Unpack[SubmitOptions]
        ) -> SyncJobHandle[Out]: ...
        @overload
        def submit(
            self, task: Task[In, Out], payload: In, **more: Unpack[SubmitOptions]
        ) -> SyncJobHandle[Out]: ...
        @overload
        def submit(
            self, task: str, payload: Payload = None, **more: Unpack[SubmitOptions]
        ) -> SyncJobHandle[Any]: ...
        def submit(self, task: Any, payload: Any = None, **more: Any) -> SyncJobHandle[Any]:
            """As `AsyncClient.submit`."""

    else:
        submit = _call_for_handle(AsyncClient.submit)
    submit_spec = _call_for_handle(AsyncClient.submit_spec)
    get = _call_for_handle(AsyncClient.get)
    status = _call(AsyncClient.status)
    watch = _iterate(AsyncClient.watch)
    list = _iterate(AsyncClient.list)
    attempts = _iterate(AsyncClient.attempts)
    cancel = _call(AsyncClient.cancel)
    retry = _call(AsyncClient.retry)
    queues = _call(AsyncClient.queues)
    pause_queue = _call(AsyncClient.pause_queue)
    resume_queue = _call(AsyncClient.resume_queue)
    pools = _call(AsyncClient.pools)
    workers = _call(AsyncClient.workers)
    scheduler = _call(AsyncClient.scheduler)
    drain_workers = _call(AsyncClient.drain_workers)
    cordon_worker = _call(AsyncClient.cordon_worker)
    tasks = _call(AsyncClient.tasks)
    task = _call(AsyncClient.task)
    dead_letters = _iterate(AsyncClient.dead_letters)
    redrive = _call(AsyncClient.redrive)
    redrives = _iterate(AsyncClient.redrives)
    stop_redrive = _call(AsyncClient.stop_redrive)
    purge_dead_letters = _call(AsyncClient.purge_dead_letters)

    def handle(self, job_id: str) -> SyncJobHandle[Any]:
        """A handle on a job whose id is known; makes no call."""
        return SyncJobHandle(self._loop, self._mirrored.handle(job_id))

    def submit_many(
        self, jobs: Iterable[Item], *, timeout: float | None = None, in_flight: int = IN_FLIGHT
    ) -> Handles:
        """Submits many jobs in batches; as `AsyncClient.submit_many`."""
        batches = self._mirrored.submit_many(
            _off_the_loop(jobs), timeout=timeout, in_flight=in_flight
        )
        return [SyncJobHandle(self._loop, handle) for handle in self._loop.run(batches)]


# `list` is a method inside the class.
Handles = list[SyncJobHandle[Any]]


async def _off_the_loop(jobs: Iterable[Item]) -> AsyncIterator[Item]:
    """Takes the jobs in a thread: a generator may block, or use this very client."""
    source = iter(jobs)
    while chunk := await asyncio.to_thread(lambda: list(itertools.islice(source, CHUNK))):
        for job in chunk:
            yield job
