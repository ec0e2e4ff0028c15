"""grpc.health.v1, whose watches end with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health, health_pb2

from longshore_server.identity import Context

SERVICE_NAME: str = health.SERVICE_NAME


class Health(health.aio.HealthServicer):
    """The servicer of grpcio-health-checking, but for one thing: its watches never end, so a
    single client that watches health would hold up every stop for the whole grace."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = asyncio.Event()

    async def report(self, names: Iterable[str], *, serving: bool) -> None:
        """Says of the services that they serve, or do not. Nothing, once the server stops."""
        status = health_pb2.HealthCheckResponse
        for name in names:
            await self.set(name, status.SERVING if serving else status.NOT_SERVING)

    def close_watches(self) -> None:
        """Ends every watch; each has heard NOT_SERVING before."""
        self._closing.set()

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """See grpc.health.v1."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            closing.cancel()
            await asyncio.gather(watching, closing, return_exceptions=True)
