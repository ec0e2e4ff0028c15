"""Resident memory of servers and schedulers over the soak, and whether it grows."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import suppress

import psutil

from longshore_embedded.dev_cluster import DevCluster
from longshore_embedded.member import Member
from tests.soak.chaos import led_at

PERIOD = 2.0
WARM_UP = 60.0
SHORTEST_LIFE = 120.0


class Memory:
    """Samples by process, a leader's apart from its time as a standby: Ray comes with the term.

    Only what lasted long enough to tell growth from warm-up is reported.
    """

    def __init__(self, cluster: DevCluster) -> None:
        self._members = [*cluster.servers, *cluster.schedulers]
        self._led_before: dict[int, str] = {}
        self._samples: dict[tuple[str, int], list[float]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            for member in self._members:
                if (pid := member.pid) is not None:
                    with suppress(psutil.Error):
                        mib = psutil.Process(pid).memory_info().rss / 2**20
                        self._samples.setdefault((self._role(member, pid), pid), []).append(mib)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PERIOD)

    def _role(self, member: Member, pid: int) -> str:
        """Its log outlives the process, so it leads where the log says so anew."""
        led = led_at(member.log)
        leads = self._led_before.setdefault(pid, led) != led
        return f"{member.name}, leading" if leads else member.name

    def report(self) -> str:
        """One line a process: the median of its first quarter after warm-up, of its last, and
        the growth."""
        lines = [f"{'resident memory':<22}{'lived':>8}{'warm':>10}{'last':>10}{'growth':>9}"]
        for (name, _), samples in sorted(self._samples.items()):
            warm = samples[int(WARM_UP / PERIOD) :]
            if len(warm) * PERIOD < SHORTEST_LIFE:
                continue
            quarter = len(warm) // 4
            first, last = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
            lived, growth = len(samples) * PERIOD, (last / first - 1) * 100
            lines.append(
                f"{name:<22}{lived:>6.0f} s{first:>6.1f} MiB{last:>6.1f} MiB{growth:>+8.1f}%"
                f"  by minute: {_by_minute(samples)}"
            )
        return "\n".join(lines)


def _by_minute(samples: list[float]) -> str:
    count = int(60 / PERIOD)
    minutes = (samples[i : i + count] for i in range(0, len(samples), count))
    return " ".join(f"{statistics.median(minute):.0f}" for minute in minutes)
