"""The services over one store, put together; what a grpc server is given."""

from __future__ import annotations

from typing import Any

import grpc

from longshore.v1 import job_service_pb2, pool_service_pb2, queue_service_pb2, task_service_pb2
from longshore.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from longshore.v1.pool_service_pb2_grpc import add_PoolServiceServicer_to_server
from longshore.v1.queue_service_pb2_grpc import add_QueueServiceServicer_to_server
from longshore.v1.task_service_pb2_grpc import add_TaskServiceServicer_to_server
from longshore_server.catalogue import PERIOD, CatalogueReader
from longshore_server.decoding import DecodingServer
from longshore_server.hub import POLL, WatchHub
from longshore_server.job_service import JobService
from longshore_server.jobs import JobReader
from longshore_server.pool_service import PoolService
from longshore_server.queue_service import QueueService
from longshore_server.submitting import Submitter
from longshore_server.task_service import TaskService
from longshore_store.bus import Bus
from longshore_store.retention_records import ages_of
from longshore_store.settings import Settings
from longshore_store.store import Store

SERVICE_NAMES = tuple(
    service.full_name
    for module in (job_service_pb2, queue_service_pb2, pool_service_pb2, task_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)


class Services:
    """All services of longshore.v1 over one open store.

    Args:
        store: open already, and closed by whoever opened it.
        settings: the deployment; its `server` and `retention` parts are used here, and the
            bounds of its `scheduler`.
        poll: seconds between two polls for changes of watched jobs, should hints be lost.
        bus: to the other processes over the same store; started and stopped by whoever made it.
        catalogue_period: seconds between two readings of tasks, queues and pools.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        poll: float = POLL,
        bus: Bus | None = None,
        catalogue_period: float = PERIOD,
    ) -> None:
        server = settings.server
        self.hub = WatchHub(store, server.maximum_watches, poll=poll, bus=bus)
        self.catalogue = CatalogueReader(store, period=catalogue_period)
        jobs = JobReader(
            store, self.catalogue, ages_of(settings.retention).jobs, settings.scheduler
        )
        submitter = Submitter(store, self.catalogue, jobs)
        self._job_service = JobService(store, server, jobs, submitter, self.hub)
        self._queue_service = QueueService(store, self.catalogue, jobs)
        self._pool_service = PoolService(store)
        self._task_service = TaskService(self.catalogue)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the services to a server that has not started."""
        decoding: Any = DecodingServer(server)
        add_JobServiceServicer_to_server(self._job_service, decoding)
        add_QueueServiceServicer_to_server(self._queue_service, decoding)
        add_PoolServiceServicer_to_server(self._pool_service, decoding)
        add_TaskServiceServicer_to_server(self._task_service, decoding)

    def start(self) -> None:
        """Begins to follow the store. Call it in the running loop."""
        self.hub.start()
        self.catalogue.start()

    async def drain(self, timeout: float) -> None:
        """Sends every watch away: Reconnect, then UNAVAILABLE. New ones are refused."""
        await self.hub.drain(timeout)

    async def stop(self) -> None:
        """Ends what `start` began."""
        await self.hub.stop()
        await self.catalogue.stop()


def add_services(server: grpc.aio.Server, store: Store, settings: Settings) -> Services:
    """Registers all services on a given server; the caller starts and stops what it returns."""
    services = Services(store, settings)
    services.register(server)
    return services
