"""An event loop in a thread of its own, for code that blocks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from longshore.errors import LongshoreError

T = TypeVar("T")
# Seconds an interrupted call may take to let go of its stream, and a loop to end.
UNWIND = 2.0
# How often a waiting thread looks whether the loop is still there.
LOOK = 5.0
_END = object()


class LoopThread:
    """An event loop in a thread of its own; stopped at the latest when nobody holds it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_on_loop_error)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="longshore-client", daemon=True
        )
        self._thread.start()
        self._process = os.getpid()
        self._stop = weakref.finalize(self, _stop, self._loop, self._thread, self._process)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits. Interrupted by Ctrl-C, it is cancelled there first.

        Raises:
            LongshoreError: the client is closed.
            RuntimeError: called from the loop itself, which would wait for itself for ever.
        """
        refusal = self._refusal()
        if refusal is not None:
            coroutine.close()
            raise refusal
        errand = Errand(coroutine)
        try:
            self._loop.call_soon_threadsafe(errand.start)
            while not errand.over(LOOK):
                if not self._thread.is_alive():
                    raise LongshoreError("the client was closed before this call could start")
        except BaseException:
            # Ctrl-C may strike anywhere in here, also before the errand has started.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(errand.cancel)
                errand.over(UNWIND)
            raise
        return errand.result()

    def iterate(self, source: AsyncGenerator[T, None]) -> Iterator[T]:
        """Its items, one by one; it is closed with the iterator."""
        try:
            while (item := self.run(_next(source))) is not _END:
                yield item  # type: ignore[misc]  # _END was told apart by identity
        finally:
            if not self.stopped:
                self.run(_close(source))

    def stop(self) -> None:
        """Ends what still runs, then the thread. Idempotent."""
        self._stop()

    @property
    def stopped(self) -> bool:
        """True once nothing can run any more, and in the child of a fork: it has no such thread."""
        return not self._stop.alive or os.getpid() != self._process

    def _refusal(self) -> Exception | None:
        if os.getpid() != self._process:
            return LongshoreError(
                "this client was made before a fork, and gRPC does not work after one: start"
                ' processes with multiprocessing.get_context("spawn"), or make the first client'
                " after the fork"
            )
        if self.stopped:
            return LongshoreError("this client is closed: make a new one")
        if threading.current_thread() is self._thread:
            return RuntimeError("called from the client's own loop; use AsyncClient there")
        return None


class Errand(Generic[T]):
    """A coroutine on its way to another thread's loop.

    Not run_coroutine_threadsafe: Ctrl-C inside it, or inside the wait() of its future, loses the
    task or leaves a broken lock. A SimpleQueue waits in one C call, interrupted as a whole.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        self._finished = False
        self._done: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """Called in the loop."""
        if not self._cancelled:
            self._task = asyncio.get_running_loop().create_task(self._coroutine)
            self._task.add_done_callback(lambda _: self._finish())

    def cancel(self) -> None:
        """Called in the loop; a task that runs still has to unwind before it is over."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self._finish()

    def over(self, timeout: float) -> bool:
        """Waits in the calling thread, so many seconds at most; True once it has ended."""
        if not self._finished:
            with contextlib.suppress(Empty):
                self._done.get(timeout=timeout)
        return self._finished

    def result(self) -> T:
        """What it returned or raised."""
        assert self._task is not None
        try:
            return self._task.result()
        except asyncio.CancelledError:
            raise LongshoreError("the client was closed while this call was under way") from None

    def _finish(self) -> None:
        self._finished = True
        self._done.put(None)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if os.getpid() != process:
        return  # after a fork the thread is the parent's, and so is what would wake it
    if threading.current_thread() is thread:
        # The garbage collector came by in the loop itself, which can't wait for its own end.
        loop.stop()
        return
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(_wind_up(), loop).result(UNWIND)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(UNWIND)
    if not thread.is_alive():
        loop.close()


async def _next(source: AsyncGenerator[T, None]) -> T | object:
    return await anext(source, _END)


async def _close(source: AsyncGenerator[Any, None]) -> None:
    await source.aclose()


async def _wind_up() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Where two loops of a process use grpc.aio, the one that comes second to a wake-up reports
    # this and goes on (grpc#25364).
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
