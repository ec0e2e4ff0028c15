"""A TCP proxy that is slow, silent or rude on demand; runs in the loop of the test."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST and drops the rest


class Proxy:
    """Passes bytes between whoever connects and one upstream address.

    Args:
        upstream: host:port, or the path of a unix socket.

    Attributes:
        delay: seconds that each chunk waits, in both directions.
        limit: bytes towards the client after which its connection is reset; None is no limit.
        refusing: new connections are reset at once.
        resets: connections that were reset so far.
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.delay = 0.0
        self.limit: int | None = None
        self.refusing = False
        self.resets = 0
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def target(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._clients)

    def pause(self) -> None:
        """From now on nothing passes; connections stay open, new ones are taken and hang."""
        self._open.clear()

    def resume(self) -> None:
        """What was held back passes, in order."""
        self._open.set()

    def reset(self) -> int:
        """Cuts every connection with RST. Returns how many."""
        clients = list(self._clients)
        for client in clients:
            self._cut(client)
        return len(clients)

    def _cut(self, client: asyncio.StreamWriter) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self.resets += 1
            raw: socket.socket = client.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, client))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._clients.add(client)
        try:
            if self.refusing:
                self._cut(client)
                return
            upstream_reader, upstream = await self._connect()
        except OSError:
            self._cut(client)
            return
        both = [
            asyncio.create_task(self._pass(reader, upstream)),
            asyncio.create_task(self._pass(upstream_reader, client, self.limit)),
        ]
        try:
            # One that was cut ends both, so that no half of a connection lives on.
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            self._clients.discard(client)
            upstream.transport.abort()
            client.transport.abort()
            await asyncio.gather(*both, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "/" in self._upstream:
            return await asyncio.open_unix_connection(self._upstream)
        host, _, port = self._upstream.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None = None
    ) -> None:
        passed = 0
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(self.delay)
            await self._open.wait()
            if limit is not None and passed + len(data) > limit:
                writer.write(data[: limit - passed])
                self._cut(writer)
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()
