"""Breaks parts of a running DevCluster, and says how long new work then takes to get through."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis.asyncio

from longshore import AsyncClient, LongshoreError
from longshore_embedded.dev_cluster import DevCluster
from longshore_embedded.member import Member
from tests.soak.cables import Cable

RUNNER = "longshore_cpu_workers.runner"
CANARY_DEADLINE = 120.0


@dataclass
class Record:
    """One kind of fault: how often, and the slowest recovery in seconds."""

    times: int = 0
    slowest: float = 0.0
    recoveries: list[float] = field(default_factory=list)

    def note(self, seconds: float) -> None:
        """Takes a recovery into account."""
        self.recoveries.append(seconds)
        self.slowest = max(self.slowest, seconds)


class Chaos:
    """Injects faults in a seeded order.

    Args:
        spared: servers from this number on are left alone: their memory is watched.
        cables: of the members that can be cut off from the stores.
    """

    def __init__(
        self,
        cluster: DevCluster,
        client: AsyncClient,
        seed: int,
        spared: int,
        cables: Mapping[Member, Cable],
    ) -> None:
        self._cables = cables
        self._cluster = cluster
        self._client = client
        self._random = random.Random(seed)
        self._victims = cluster.servers[:spared]
        self.records: dict[str, Record] = {}
        self.spare_schedulers = False
        self._undo: set[asyncio.Task[None]] = set()
        self.faults: dict[str, tuple[float, Callable[[], Awaitable[bool]]]] = {
            "server killed": (2, self._kill_server),
            "server told to stop": (1, self._stop_server),
            "server paused 4 s": (1, self._pause_server),
            "server cut off 15 s": (1, self._cut_server),
            "leader cut off beyond its term": (1, self._cut_leader),
            "leader killed": (1, self._kill_leader),
            "leader paused beyond its term": (1, self._pause_leader),
            "leader told to stop": (1, self._stop_leader),
            "worker killed": (3, self._kill_worker),
            "worker paused beyond its lease": (1, self._pause_worker),
            "runner killed": (4, self._kill_runner),
            "raylet killed": (0.7, self._kill_raylet),
            "raylet paused 8 s": (0.5, self._pause_raylet),
            "Redis killed": (1, self._kill_redis),
            "Redis paused 5 s": (1, self._pause_redis),
            "Redis flushed": (1, self._flush_redis),
            "Postgres stopped 0-2 s": (2, self._stop_postgres),
            "Postgres paused 3 s": (1, self._pause_postgres),
        }

    async def run(self, until: float, shortest: float, longest: float) -> None:
        """A fault every `shortest` to `longest` seconds, until a time of the monotonic clock."""
        while time.monotonic() < until:
            await self.inject(self._choose())
            pause = self._random.uniform(shortest, longest)
            await asyncio.sleep(max(0.0, min(pause, until - time.monotonic())))

    def _choose(self) -> str:
        names = [n for n in self.faults if not (self.spare_schedulers and "leader" in n)]
        return self._random.choices(names, weights=[self.faults[n][0] for n in names])[0]

    async def inject(self, name: str) -> None:
        """Injects one fault and waits until a job submitted then has been done."""
        record = self.records.setdefault(name, Record())
        if not await self.faults[name][1]():
            return
        record.times += 1
        seconds = await self._canary()
        record.note(seconds)
        print(
            f"{time.strftime('%H:%M:%S')} {name}: new work done after {seconds:.1f} s", flush=True
        )

    async def heal(self) -> None:
        """Ends what is under way and waits until every member runs."""
        if self._undo:
            await asyncio.wait(self._undo)
        for member in self._cluster.members:
            await member.start()

    async def _canary(self) -> float:
        """Ahead of the backlog: it shows whether work gets through, not how much waits."""
        began = time.monotonic()
        with suppress(LongshoreError, TimeoutError):
            handle = await self._client.submit("echo", {}, priority=100, timeout=CANARY_DEADLINE)
            await handle.result(timeout=CANARY_DEADLINE)
        return time.monotonic() - began

    # -- what is broken

    def _after(self, seconds: float, undo: Callable[[], object]) -> None:
        async def later() -> None:
            await asyncio.sleep(seconds)
            done = undo()
            if asyncio.iscoroutine(done):
                await done

        task = asyncio.create_task(later())
        self._undo.add(task)
        task.add_done_callback(self._undo.discard)

    def _pause(self, pid: int | None, seconds: float) -> bool:
        if pid is None or not _signal(pid, signal.SIGSTOP):
            return False
        self._after(seconds, lambda: _signal(pid, signal.SIGCONT))
        return True

    def _server(self) -> Member:
        return self._random.choice(self._victims)

    async def _kill_server(self) -> bool:
        return _kill(self._server().pid)

    async def _stop_server(self) -> bool:
        self._server().send(signal.SIGTERM)
        return True

    async def _pause_server(self) -> bool:
        return self._pause(self._server().pid, 4.0)

    def _cut(self, member: Member, seconds: float) -> bool:
        cable = self._cables[member]
        cable.cut()
        self._after(seconds, cable.mend)
        return True

    async def _cut_server(self) -> bool:
        return self._cut(self._server(), 15.0)

    async def _cut_leader(self) -> bool:
        return self._cut(await self._leader(), 18.0)

    async def _leader(self) -> Member:
        """The one whose process says so last in its log."""
        return max(self._cluster.schedulers, key=lambda m: led_at(m.log))

    async def _kill_leader(self) -> bool:
        return _kill((await self._leader()).pid)

    async def _pause_leader(self) -> bool:
        return self._pause((await self._leader()).pid, 18.0)

    async def _stop_leader(self) -> bool:
        (await self._leader()).send(signal.SIGTERM)
        return True

    async def _worker(self) -> int | None:
        with suppress(LongshoreError):
            pids = [w.pid for w in await self._client.workers() if psutil.pid_exists(w.pid)]
            return self._random.choice(pids) if pids else None
        return None

    async def _kill_worker(self) -> bool:
        return _kill(await self._worker())

    async def _pause_worker(self) -> bool:
        return self._pause(await self._worker(), 20.0)

    async def _kill_runner(self) -> bool:
        runners = [p.pid for p in psutil.process_iter(["cmdline"]) if _is_runner(p)]
        return bool(runners) and _kill(self._random.choice(runners))

    def _raylet(self) -> int | None:
        """Of the last node: the driver's own is not the one that is lost."""
        pid = self._cluster.nodes[-1].pid
        found = (
            [p.pid for p in psutil.Process(pid).children() if p.name() == "raylet"] if pid else []
        )
        return found[0] if found else None

    async def _kill_raylet(self) -> bool:
        return _kill(self._raylet())

    async def _pause_raylet(self) -> bool:
        return self._pause(self._raylet(), 8.0)

    async def _kill_redis(self) -> bool:
        return _kill(self._cluster.redis.pid)

    async def _pause_redis(self) -> bool:
        return self._pause(self._cluster.redis.pid, 5.0)

    async def _flush_redis(self) -> bool:
        with suppress(redis.RedisError, OSError):
            async with redis.asyncio.from_url(self._cluster.redis_url, socket_timeout=2) as client:
                await client.flushall()
                return True
        return False

    async def _stop_postgres(self) -> bool:
        await self._cluster.postgres.down(signal.SIGQUIT)  # immediate: as a crash
        self._after(self._random.uniform(0.0, 2.0), self._cluster.postgres.start)
        return True

    async def _pause_postgres(self) -> bool:
        pid = self._cluster.postgres.pid
        if pid is None:
            return False
        family = [pid, *(p.pid for p in psutil.Process(pid).children())]
        paused = [self._pause(each, 3.0) for each in family]  # all of them, not the first
        return any(paused)


def led_at(log: Path) -> str:
    """When a scheduler last said that it leads; empty where it never did."""
    found = [line for line in log.read_text(errors="replace").splitlines() if "leading in" in line]
    return found[-1][:23] if found else ""


def _is_runner(process: psutil.Process) -> bool:
    return RUNNER in (process.info["cmdline"] or ())


def _signal(pid: int, how: signal.Signals) -> bool:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int | None) -> bool:
    return pid is not None and _signal(pid, signal.SIGKILL)
