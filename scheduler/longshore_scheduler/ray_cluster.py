"""Workers as Ray actors. The only module of the scheduler that imports Ray, and late at that:
the import alone takes a second, in which jobs are accepted already.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from longshore_cpu_workers.wire import Assignment, Cancel, PollReply, WorkerInfo
from longshore_scheduler.cluster import ClusterLost, Found, PoolSpec, WorkerGone
from longshore_scheduler.ray_folder import make_ray_folder
from longshore_scheduler.ray_head import LocalHead
from longshore_scheduler.worker_place import WorkerPlace

_log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_DEADLINE = 10.0
"""Seconds for a call that only hands something over."""

START_DEADLINE = 120.0
"""Seconds for a worker to come up: Ray may have to start a process, or wait for a node."""

CONNECT_DEADLINE = 60.0
"""Seconds for joining a cluster: Ray itself would try for ever."""

_WATCH_PERIOD = 1.0
_MISSES = 3
"""How often in a row Ray's head must not take a connection to count as gone."""

_POLL_MARGIN = 10.0
_STOP_MARGIN = 15.0
_OBJECT_STORE_BYTES = 80 * 1024**2  # messages are small and go inline; Ray's minimum is 75 MB
_PREFIX = "worker-"
_THREADS = 8


class MakeBind(Protocol):
    """Makes what a GPU worker binds its devices with; see `longshore_cpu_workers.actor.Bind`."""

    def __call__(self, pool: PoolSpec) -> Callable[[list[str]], Any]: ...


class RayCluster:
    """The cluster port on Ray.

    Args:
        place: what all workers are told.
        address: an existing cluster, such as "auto" or "10.0.0.1:6379"; None starts a local
            one, which dies with this process. Workers of an existing cluster are detached and
            survive it.
        namespace: keeps the workers of several deployments on one cluster apart.
        make_bind: for pools with GPUs.
        spare: a local cluster has room for one more worker of each pool without GPUs, so that one
            with a new build comes up while the old one ends what it has.
    """

    def __init__(
        self,
        place: WorkerPlace,
        *,
        address: str | None = None,
        namespace: str = "longshore",
        make_bind: MakeBind | None = None,
        spare: bool = False,
    ) -> None:
        self._place = place
        self._address = address
        self._spare = spare
        self._namespace = namespace
        self._make_bind = make_bind or gpu_bind
        self._ray: Any = None
        self._actor_class: Any = None
        self._actors: dict[str, Any] = {}
        self._temporary: str | None = None
        self._head: LocalHead | None = None
        self._head_address = ""
        # Of its own: calls to a head that is gone last a minute, and nobody must wait for them.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ray-call")

    async def start(self, pools: Sequence[PoolSpec]) -> None:
        """Starts a local cluster if need be, and connects to it. Raises ConnectionError where
        nobody listens, ClusterLost where somebody does and is no Ray.

        Connecting takes a second and cannot be cut short, so its thread is a daemon: a process
        that is told to stop meanwhile does not wait for it.
        """
        if self._address is None:
            if self._head is not None and self._head.ended:
                await self._head.stop()
                self._head = None
            self._head = self._head or await LocalHead.start(self._local(pools))
        address = self._address or (self._head.address if self._head else "")
        await _require_listener(address)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def connect() -> None:
            try:
                self._connect(address)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                _tell(loop, done, error)
            else:
                _tell(loop, done, None)

        threading.Thread(target=connect, name="ray-connect", daemon=True).start()
        try:
            await asyncio.wait_for(done, CONNECT_DEADLINE)
        except TimeoutError:
            # Ray knows one connection a process, and that thread is making it still.
            why = f"Ray at {address} did not answer in {CONNECT_DEADLINE:.0f} s"
            raise self._lost(why) from None
        _take_signals_back()

    async def watch(self) -> None:
        """Looks at Ray's head once a second; Ray itself would notice after a minute."""
        host, _, port = self._head_address.rpartition(":")
        misses = 0
        while misses < _MISSES:
            await asyncio.sleep(_WATCH_PERIOD)
            if self._head is not None and self._head.ended:
                raise self._lost("the local Ray has ended")
            misses = 0 if await _listens(host, int(port)) else misses + 1
        raise self._lost(f"Ray's head at {self._head_address} takes no connections")

    def _lost(self, why: str) -> ClusterLost:
        # Whatever is asked of Ray from now on, an orderly end too, would wait for what is gone.
        self._ray = None
        return ClusterLost(why)

    @staticmethod
    def load() -> Any:
        """Imports Ray and the actor, which `start` else does; returns both. Takes a second."""
        import ray  # noqa: PLC0415 - see the top

        from longshore_cpu_workers.actor import WorkerActor  # noqa: PLC0415 - imports Ray

        return ray, WorkerActor

    def _connect(self, address: str) -> None:
        ray, actor_class = self.load()
        # Ray tells everybody the command line of whoever connects, and takes it as UTF-8 only: it
        # may hold the password of a store, and a path may hold any bytes. No option turns it off.
        ray._private.utils.get_entrypoint_name = lambda: "longshore"  # noqa: SLF001
        ray.init(
            address=address,
            namespace=self._namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
        self._head_address = ray.get_runtime_context().gcs_address
        self._ray, self._actor_class = ray, actor_class

    def _local(self, pools: Sequence[PoolSpec]) -> dict[str, Any]:
        """A cluster of one node that has what the pools declare, whatever the machine has.

        Declaring more cores than there are is on purpose: a pool says how much may run at once.
        """
        # Ray puts sockets below it, whose paths may have 107 characters. A supervisor that has
        # set RAY_TMPDIR also removes it, which a killed process cannot.
        folder = os.environ.get("RAY_TMPDIR") or self._temporary
        if folder is None:
            folder = self._temporary = make_ray_folder("ls-ray-")
        spare = [self._spare and not pool.settings.gpu for pool in pools]
        sizes = [
            (pool.settings, pool.settings.maximum_workers + more)
            for pool, more in zip(pools, spare, strict=True)
        ]
        return {
            "address": "local",
            "num_cpus": sum(int(size.cpu + 1) * count for size, count in sizes) or 1,
            "num_gpus": sum(size.gpu * count for size, count in sizes),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
        }

    async def create_worker(self, pool: PoolSpec, worker_id: str) -> WorkerInfo:
        """Makes an actor named for the worker and waits until it answers."""
        actor = await self._in_thread(lambda: self._make_actor(pool, worker_id))
        self._actors[worker_id] = actor
        try:
            info: WorkerInfo = await self._call(actor.info.remote, (), START_DEADLINE)
        except self._ray.exceptions.RayTaskError as error:  # its text is a stack of two processes
            raise WorkerGone(_line(error.cause)) from error
        return info

    def _make_actor(self, pool: PoolSpec, worker_id: str) -> Any:
        size = pool.settings
        bind = self._make_bind(pool) if size.gpu else None
        options = self._actor_class.options(
            name=_PREFIX + worker_id,
            namespace=self._namespace,
            lifetime="detached" if self._address is not None else None,
            scheduling_strategy="SPREAD",  # a node that dies should not take a whole pool along
            num_cpus=size.cpu,
            num_gpus=size.gpu,
            max_restarts=0,
            max_task_retries=0,
        )
        return options.remote(self._place.settings_of(pool, worker_id), bind)

    async def find_workers(self) -> Found:
        """Named actors of our namespace."""
        names = await self._in_thread(self._ray.util.list_named_actors)
        ids = [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]
        answers = await asyncio.gather(*map(self._find, ids), return_exceptions=True)
        found = Found([], [])
        for worker_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, WorkerInfo):
                found.answered.append(answer)
                continue
            _log.warning("worker %s does not answer: %s", worker_id, _line(answer))
            # Only one that is gone holds nothing: the answer of another release may be unreadable.
            if not isinstance(answer, WorkerGone | ValueError):  # the name of a vanished actor
                found.silent.append(worker_id)
        return found

    async def _find(self, worker_id: str) -> WorkerInfo:
        def get() -> Any:
            return self._ray.get_actor(_PREFIX + worker_id, namespace=self._namespace)

        self._actors[worker_id] = actor = await self._in_thread(get)
        info: WorkerInfo = await self._call(actor.info.remote, (), CALL_DEADLINE)
        return info

    async def assign(self, worker_id: str, assignments: Sequence[Assignment]) -> None:
        """Hands attempts over, all in one call."""
        actor = self._actor(worker_id)
        await self._call(actor.assign.remote, (list(assignments),), CALL_DEADLINE)

    async def poll(self, worker_id: str, acknowledged: int, wait: float) -> PollReply:
        """Waits a little longer than the worker does."""
        actor = self._actor(worker_id)
        arguments = (acknowledged, wait)
        reply: PollReply = await self._call(actor.poll.remote, arguments, wait + _POLL_MARGIN)
        return reply

    async def cancel(self, worker_id: str, cancels: Sequence[Cancel]) -> None:
        """Orders the worker to end attempts."""
        await self._call(self._actor(worker_id).cancel.remote, (list(cancels),), CALL_DEADLINE)

    async def recall(self, worker_id: str, attempts: Sequence[tuple[str, int]]) -> None:
        """Asks for attempts back."""
        await self._call(self._actor(worker_id).recall.remote, (list(attempts),), CALL_DEADLINE)

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        """Asks what it has."""
        answer: list[tuple[str, int, str]] = await self._call(
            self._actor(worker_id).held.remote, (), CALL_DEADLINE
        )
        return answer

    async def stop_worker(self, worker_id: str, grace: float) -> None:
        """Answers when no runner of the worker is left."""
        await self._call(self._actor(worker_id).stop.remote, (grace,), grace + _STOP_MARGIN)

    async def kill_worker(self, worker_id: str) -> None:
        """Kills the actor; its runners die with it."""
        actor = self._actors.get(worker_id)
        if actor is not None:
            await self._in_thread(lambda: self._ray.kill(actor))
            self._actors.pop(worker_id, None)

    async def close(self) -> None:
        """Disconnects; a local cluster is gone afterwards, with its files."""
        if self._ray is not None:
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(CALL_DEADLINE):
                    await loop.run_in_executor(self._threads, self._ray.shutdown)
            except TimeoutError:  # whoever closes it ends its process without waiting for threads
                _log.warning("Ray did not disconnect within %.0f s: left as it is", CALL_DEADLINE)
            self._ray = None
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._head is not None:
            await self._head.stop()
            self._head = None
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    def _actor(self, worker_id: str) -> Any:
        actor = self._actors.get(worker_id)
        if actor is None:
            raise WorkerGone(f"worker {worker_id} is unknown")
        return actor

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Calls that go to Ray's head and wait for it. Raises WorkerGone, TimeoutError."""
        if self._ray is None:
            raise WorkerGone("Ray is not connected")
        async with asyncio.timeout(CALL_DEADLINE):
            loop = asyncio.get_running_loop()
            return await self._translated(loop.run_in_executor(self._threads, call))

    async def _call(
        self, method: Callable[..., Any], arguments: tuple[Any, ...], deadline: float
    ) -> Any:
        """One actor call. Raises WorkerGone, TimeoutError, or what the method raised."""
        if self._ray is None:
            raise WorkerGone("Ray is not connected")
        return await self._translated(_answer(method, arguments, deadline))

    async def _translated(self, work: Awaitable[T]) -> T:
        errors = self._ray.exceptions
        try:
            return await work
        except errors.ActorUnavailableError as error:  # perhaps alive, perhaps it was executed
            raise TimeoutError(_line(error)) from error
        except (errors.RayActorError, errors.RaySystemError) as error:
            raise WorkerGone(_line(error)) from error


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CALL_DEADLINE):
            # An IPv6 address is written in brackets before a port, and nowhere else.
            _, writer = await asyncio.open_connection(host.strip("[]"), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _require_listener(address: str) -> None:
    """Raises ConnectionError where nobody listens: Ray would try for a minute, and say nothing."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and not await _listens(host, int(port)):
        raise ConnectionError(f"nobody listens at {address}, the address of Ray's head")


async def _answer(method: Callable[..., Any], arguments: tuple[Any, ...], deadline: float) -> Any:
    # Not cancelled when time is up: Ray would still complete the future it made.
    future = asyncio.wrap_future(method(*arguments).future())
    future.add_done_callback(_look)
    done, _ = await asyncio.wait((future,), timeout=deadline)
    if not done:
        raise TimeoutError(f"no answer within {deadline:.0f} s")
    return future.result()


def _take_signals_back() -> None:
    """Puts this process's own handlers in the place of Ray's.

    Ray's prints a stack at SIGTERM, passes it on, and leaves an alarm that aborts the process
    three seconds later: in the middle of a drain.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(signum)
        if handler is not None:
            signal.signal(signum, handler)
            signal.siginterrupt(signum, False)  # as asyncio has it


def _tell(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], error: BaseException | None
) -> None:
    """Ends `done` from another thread, unless nobody waits any more."""

    def end() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(end)


def _look(future: asyncio.Future[Any]) -> None:
    """Looks at an exception, so that nobody complains that nobody did: its caller may be gone."""
    if not future.cancelled() and future.exception() is not None:
        _log.debug("an actor call ended with %s", _line(future.exception()))


def _line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def gpu_bind(pool: PoolSpec) -> Callable[[list[str]], Any]:
    """The device binding of the GPU workers, imported only where a pool has GPUs."""
    from longshore_gpu_workers import binding  # noqa: PLC0415 - a CPU deployment lacks it

    return functools.partial(binding.bind, simulate=pool.settings.gpu if pool.simulated else 0)
