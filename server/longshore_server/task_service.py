"""TaskService: the tasks that can be run."""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

from longshore.v1 import task_service_pb2 as tasks
from longshore.v1.task_service_pb2_grpc import TaskServiceServicer
from longshore_server.answering import answers
from longshore_server.catalogue import CatalogueReader
from longshore_server.identity import Context
from longshore_server.paging import check_name, named_page
from longshore_server.refusals import TASK, not_found


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
        found, token = named_page(
            rows, lambda task: task.name, lambda task: task.summary, request, "tasks"
        )
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
