"""LongshoreServer: the gRPC server of one process, from its port to its orderly end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2_grpc

from longshore_server.catalogue import PERIOD
from longshore_server.health import SERVICE_NAME as HEALTH
from longshore_server.health import Health
from longshore_server.hub import POLL
from longshore_server.reflecting import reflect
from longshore_server.services import SERVICE_NAMES, Services
from longshore_server.watch import LIFETIME
from longshore_store.bus import Bus
from longshore_store.settings import Settings
from longshore_store.store import Store

CONNECTION_AGE = LIFETIME
CONNECTION_GRACE = LIFETIME + 300.0
SPARE_STREAMS = 1000
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent share
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # Clients may ping every 30 s, also while they have no call open.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Peers that are gone without a word are noticed after 80 s: their watches are freed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A connection is left after a while, so that a server which was added gets some from clients
    # behind a balancer. The grace is longer than any watch lives: none is cut off.
    ("grpc.max_connection_age_ms", round(CONNECTION_AGE * 1000)),
    ("grpc.max_connection_age_grace_ms", round(CONNECTION_GRACE * 1000)),
)
DRAIN_SHARE = 0.5
HEALTH_NAMES = ("", *SERVICE_NAMES)
_LOOK_PERIOD = 0.5

_log = logging.getLogger(__name__)


class ListenError(Exception):
    """The server cannot listen; the message is one line: where, why, what to do."""


class PortTaken(ListenError):
    """Another process listens there."""


class LongshoreServer:
    """The gRPC server over an open store.

    Args:
        store: open already; the server does not close it.
        settings: the deployment; its `server` part holds the limits.
        listen: address and port, "127.0.0.1:7233"; port 0 takes a free one.
        poll: seconds between two polls for changes of watched jobs, should hints be lost.
        bus: to the other processes over the same store; started and stopped by whoever made it.
        catalogue_period: seconds between two readings of tasks, queues and pools.
        credentials: TLS; without them the port speaks plain text.
        interceptors: run around every call, the first one outermost.

    Attributes:
        port: the bound port, once started; 0 before, and for a unix: address.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        listen: str,
        poll: float = POLL,
        bus: Bus | None = None,
        catalogue_period: float = PERIOD,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self.port = 0
        self.services = Services(
            store, settings, poll=poll, bus=bus, catalogue_period=catalogue_period
        )
        self._settings = settings.server
        self._listen = listen
        self._credentials = credentials
        self._interceptors = tuple(interceptors)
        self._health = Health(HEALTH_NAMES)
        self._server: grpc.aio.Server | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Binds and serves.

        Raises:
            PortTaken: another process listens on the port.
            ListenError: the address is not one of this machine, or cannot be bound.
        """
        # More than the watches that are admitted, which are refused with a reason: a stream above
        # this bound waits at the client without a word.
        streams = self._settings.maximum_watches + SPARE_STREAMS
        options = (*OPTIONS, ("grpc.max_concurrent_streams", streams))
        server = grpc.aio.server(options=options, interceptors=self._interceptors)
        self.services.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflect(server, (*SERVICE_NAMES, HEALTH))
        self.port = self._bind(server)
        await server.start()
        self._server = server
        self.services.start()
        self._looking = asyncio.create_task(self._look_at_store(), name="look at the store")

    async def _look_at_store(self) -> None:
        """A server that does not reach its store is not healthy, so that clients and balancers
        choose another one. Watches are sent there too: here they would hear nothing."""
        catalogue, serving = self.services.catalogue, True
        while True:
            await asyncio.sleep(_LOOK_PERIOD)
            if catalogue.lost is not serving:
                continue
            serving = not serving
            _log.warning("the store is %s", "reached again" if serving else "out of reach")
            self._health.report(serving=serving)
            self.services.hub.storeless = not serving
            if not serving:
                self.services.hub.send_away()

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._credentials is not None:
                return server.add_secure_port(self._listen, self._credentials)
            return server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise why_not(self._listen) from error

    async def stop(self, grace: float | None = None) -> None:
        """Ends in order: not healthy, watches sent away, unary calls finished, closed.

        grace: seconds that calls may take to finish; by default settings.server.shutdown_grace.
        """
        server, self._server = self._server, None
        if server is None:
            return
        grace = self._settings.shutdown_grace if grace is None else grace
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        if self._looking is not None:
            self._looking.cancel()
        self._health.stop_serving()
        await self.services.drain(grace * DRAIN_SHARE)
        self._health.close_watches()
        await server.stop(max(0.0, end - loop.time()))
        await self.services.stop()

    async def wait(self) -> None:
        """Returns once the server was stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()


def why_not(listen: str) -> ListenError:
    """Why an address cannot be listened on: grpc does not say, so a plain socket is asked."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    remedy = "stop what listens there, or give another --listen"
    try:
        info = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = info[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return PortTaken(f"{listen} is taken by another process: {remedy}")
        return ListenError(f"cannot listen on {listen} ({error.strerror}): give another --listen")
    return PortTaken(f"{listen} could not be bound, though it is free now: try again")
