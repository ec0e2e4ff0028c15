"""The Ray actor: a thin shell around Worker, and the only module here that imports Ray."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

import ray

from longshore_cpu_workers.binding import Binding
from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.wire import Assignment, Cancel, PollReply, WorkerInfo
from longshore_cpu_workers.worker import Worker

# A long poll occupies a place for as long as it waits; the other calls are short. A scheduler
# that took over may poll while the calls of the one before it still wait.
CONCURRENCY = 64
Bind = Callable[[list[str]], Binding]


@ray.remote(max_concurrency=CONCURRENCY, max_restarts=0, max_task_retries=0)
class WorkerActor:
    """One worker. Make it with explicit num_cpus and num_gpus, detached and named.

    Args:
        settings: who it is; `node` is replaced by HOST/ID, with Ray's id of the node.
        bind: makes the device binding from the ids of the devices that Ray gave the actor;
            None for a CPU worker. It travels by name: give a module's function or a
            functools.partial of one, such as `longshore_gpu_workers.binding.bind`.
    """

    def __init__(self, settings: WorkerSettings, bind: Bind | None = None) -> None:
        context = ray.get_runtime_context()
        given = [str(device) for device in ray.get_gpu_ids()]
        binding = bind(given) if bind is not None else None
        node = f"{socket.gethostname()}/{context.get_node_id()}"
        settings = dataclasses.replace(settings, node=node)
        self._worker = Worker(settings, binding)

    async def info(self) -> WorkerInfo:
        """Who it is; the first call also warms the first runner."""
        return await self._worker.info()

    async def assign(self, batch: list[Assignment]) -> None:
        """See Worker.assign."""
        await self._worker.assign(batch)

    async def poll(self, ack: int, wait: float) -> PollReply:
        """See Worker.poll."""
        return await self._worker.poll(ack, wait)

    async def cancel(self, orders: list[Cancel]) -> None:
        """See Worker.cancel."""
        await self._worker.cancel(orders)

    async def recall(self, keys: list[tuple[str, int]]) -> None:
        """See Worker.recall."""
        await self._worker.recall(keys)

    async def held(self) -> list[tuple[str, int, str]]:
        """See Worker.held."""
        return await self._worker.held()

    async def stop(self, grace: float) -> None:
        """See Worker.stop. The actor lives on, so that `poll` can hand over the last reports."""
        await self._worker.stop(grace)
