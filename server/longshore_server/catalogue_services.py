"""QueueService, PoolService and TaskService: what there is, and pausing a queue."""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

from longshore.v1 import pool_service_pb2 as pools
from longshore.v1 import queue_service_pb2 as queues
from longshore.v1 import task_service_pb2 as tasks
from longshore.v1.pool_service_pb2_grpc import PoolServiceServicer
from longshore.v1.queue_service_pb2_grpc import QueueServiceServicer
from longshore.v1.task_service_pb2_grpc import TaskServiceServicer
from longshore_server.answering import answers
from longshore_server.catalogue import CatalogueReader
from longshore_server.convert import pool_message, queue_message, worker_message
from longshore_server.identity import Context
from longshore_server.paging import check_name, named_page
from longshore_server.refusals import QUEUE, TASK, Faults, not_found, unimplemented
from longshore_server.spec_checks import check_text
from longshore_store.store import Store


class QueueService(QueueServiceServicer):
    """Queues as they stand, read anew for each call."""

    def __init__(self, store: Store, catalogue: CatalogueReader) -> None:
        self._store = store
        self._catalogue = catalogue

    @answers
    async def ListQueues(
        self, request: queues.ListQueuesRequest, context: Context
    ) -> queues.ListQueuesResponse:
        """A page of queues, by name."""
        catalogue = await self._catalogue.refresh()
        rows = sorted(catalogue.queues.values(), key=lambda queue: queue.name)
        page, token = named_page(
            rows, lambda q: q.name, request.page_size, request.page_token, "queues"
        )
        found = [queue_message(queue, catalogue.rate(queue.name)) for queue in page]
        return queues.ListQueuesResponse(queues=found, next_page_token=token)

    @answers
    async def PauseQueue(
        self, request: queues.PauseQueueRequest, context: Context
    ) -> queues.PauseQueueResponse:
        """Stops leases from a queue."""
        check_name(request.queue, "queue")
        faults = Faults()
        check_text(request.reason, 1024, "reason", faults)
        faults.check()
        known = "\0" not in request.queue
        if not known or not await self._store.pause_queue(request.queue, request.reason):
            raise not_found(QUEUE, request.queue)
        return queues.PauseQueueResponse(queue=await self._queue(request.queue))

    @answers
    async def ResumeQueue(
        self, request: queues.ResumeQueueRequest, context: Context
    ) -> queues.ResumeQueueResponse:
        """Undoes PauseQueue."""
        check_name(request.queue, "queue")
        known = "\0" not in request.queue
        if not known or not await self._store.resume_queue(request.queue):
            raise not_found(QUEUE, request.queue)
        return queues.ResumeQueueResponse(queue=await self._queue(request.queue))

    async def _queue(self, name: str) -> queues.Queue:
        catalogue = await self._catalogue.refresh()
        if name not in catalogue.queues:
            raise not_found(QUEUE, name)
        return queue_message(catalogue.queues[name], catalogue.rate(name))

    @answers
    async def ListDeadLetters(
        self, request: queues.ListDeadLettersRequest, context: Context
    ) -> queues.ListDeadLettersResponse:
        """Not served yet."""
        raise unimplemented("QueueService.ListDeadLetters")

    @answers
    async def Redrive(
        self, request: queues.RedriveRequest, context: Context
    ) -> queues.RedriveResponse:
        """Not served yet."""
        raise unimplemented("QueueService.Redrive")

    @answers
    async def PurgeDeadLetters(
        self, request: queues.PurgeDeadLettersRequest, context: Context
    ) -> queues.PurgeDeadLettersResponse:
        """Not served yet."""
        raise unimplemented("QueueService.PurgeDeadLetters")


class PoolService(PoolServiceServicer):
    """Pools and workers as the scheduler last recorded them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @answers
    async def ListPools(
        self, request: pools.ListPoolsRequest, context: Context
    ) -> pools.ListPoolsResponse:
        """A page of pools, by name."""
        rows = sorted(await self._store.list_pools(), key=lambda pool: pool.name)
        page, token = named_page(
            rows, lambda p: p.name, request.page_size, request.page_token, "pools"
        )
        found = [pool_message(pool) for pool in page]
        return pools.ListPoolsResponse(pools=found, next_page_token=token)

    @answers
    async def ListWorkers(
        self, request: pools.ListWorkersRequest, context: Context
    ) -> pools.ListWorkersResponse:
        """A page of workers, by id, of one pool or of all."""
        workers = await self._store.list_workers()
        rows = [w for w in workers if not request.pool or w.pool == request.pool]
        rows.sort(key=lambda worker: worker.id)
        query = ("workers", request.pool)
        page, token = named_page(
            rows, lambda w: w.id, request.page_size, request.page_token, *query
        )
        found = [worker_message(worker) for worker in page]
        return pools.ListWorkersResponse(workers=found, next_page_token=token)

    @answers
    async def DrainWorkers(
        self, request: pools.DrainWorkersRequest, context: Context
    ) -> pools.DrainWorkersResponse:
        """Not served yet."""
        raise unimplemented("PoolService.DrainWorkers")

    @answers
    async def CordonWorker(
        self, request: pools.CordonWorkerRequest, context: Context
    ) -> pools.CordonWorkerResponse:
        """Not served yet."""
        raise unimplemented("PoolService.CordonWorker")


class TaskService(TaskServiceServicer):
    """The catalogue of tasks."""

    def __init__(self, catalogue: CatalogueReader) -> None:
        self._catalogue = catalogue

    @answers
    async def ListTasks(
        self, request: tasks.ListTasksRequest, context: Context
    ) -> tasks.ListTasksResponse:
        """A page of tasks, by name, without their schemas."""
        catalogue = await self._catalogue.refresh()
        rows = sorted(catalogue.tasks.values(), key=lambda task: task.name)
        page, token = named_page(
            rows, lambda t: t.name, request.page_size, request.page_token, "tasks"
        )
        found = [task.summary for task in page]
        return tasks.ListTasksResponse(tasks=found, next_page_token=token)

    @answers
    async def GetTask(
        self, request: tasks.GetTaskRequest, context: Context
    ) -> tasks.GetTaskResponse:
        """One task with its schemas."""
        check_name(request.task, "task")
        task = (await self._catalogue.refresh()).tasks.get(request.task)
        if task is None:
            raise not_found(TASK, request.task)
        return tasks.GetTaskResponse(task=task.full())
