"""grpc.health.v1: whether this server serves. All of its services do, or none."""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from longshore_server.identity import Context

SERVICE_NAME: str = health.SERVICE_NAME
_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """The servicer of grpcio-health-checking has every watch write under one lock: a client that
    does not read would keep all others from hearing anything, and the server from stopping. Here
    nobody waits for anybody, and watches end with the server.

    Args:
        names: the services that are asked for; "" stands for all.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._serving = True
        self._stopping = self._closed = False
        self._changed = asyncio.Event()

    def report(self, *, serving: bool) -> None:
        """Says that the services serve, or do not. Nothing, once the server stops."""
        if not self._stopping:
            self._serving = serving
            self._tell()

    def stop_serving(self) -> None:
        """Says for good that nothing serves."""
        self.report(serving=False)
        self._stopping = True

    def close_watches(self) -> None:
        """Ends every watch; each that is read has heard NOT_SERVING before."""
        self._closed = True
        self._tell()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """See grpc.health.v1."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service is known here")
        return _Status(status=self._status(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """See grpc.health.v1."""
        told = None
        while True:
            changed = self._changed  # as of now: what changes during the write is seen after it
            status = self._status(request.service)
            if status != told:
                await context.write(_Status(status=status))
                told = status
            elif self._closed:
                return
            else:
                await changed.wait()

    def _status(self, name: str) -> int:
        if name not in self._names:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
