"""Row 21: watches that are cut 100 times by a proxy that resets them."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path

from longshore import AsyncClient
from longshore.watching import Event
from tests.faults.closing import Told, close_books, recovered
from tests.faults.proxy import Proxy
from tests.faults.scale import times
from tests.faults.serving import Serving

CUTS = times(100, 25)
WATCHES = 4
CHUNKS, PAUSE = 100_000, 0.02  # more than there are before the gate opens
BOUND = 60.0


class Watched:
    """What one watch, over all its streams, has passed on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.news = asyncio.Event()

    async def read(self, target: str, job_id: str) -> None:
        """To its end."""
        async with (
            AsyncClient(target) as client,
            aclosing(client.watch(job_id, include_logs=True, after_sequence=0)) as events,
        ):
            async for event in events:
                self.events.append(event)
                self.news.set()

    @property
    def sequences(self) -> list[int]:
        """Of what is durable."""
        return [e.sequence for e in self.events if e.HasField("log_chunk") or _changed(e)]


def _changed(event: Event) -> bool:
    return event.HasField("state_change")


async def test_no_gap_no_repeat_and_one_end(tmp_path: Path, seed: int) -> None:
    told, gate = Told(21, seed), tmp_path / "open"
    seeded = random.Random(seed)
    async with (
        Serving(tmp_path) as server,
        AsyncClient(server.target) as client,
        Proxy(server.target) as proxy,
    ):
        payload = {"chunks": CHUNKS, "size": 40, "pause": PAUSE, "gate": str(gate)}
        handle = await client.submit("work", payload)
        told.accepted.add(handle.id)
        watched = [Watched() for _ in range(WATCHES)]
        reading = [asyncio.create_task(w.read(proxy.target, handle.id)) for w in watched]
        cuts = 0
        while cuts < CUTS:
            await all_have_news(watched)
            await asyncio.sleep(seeded.uniform(0, 2 * PAUSE))
            # None is cut where the news had come before the last cut and was read after it.
            cuts += proxy.reset() > 0
        gate.touch()
        await all_have_news(watched)
        seconds = await recovered(lambda: _done(reading), BOUND)
        await asyncio.gather(*reading)
        last = (await client.status(handle.id)).job.latest_sequence
        for one in watched:
            assert one.sequences == list(range(1, last + 1)), "no gap and no repeat"
            kinds = [event.WhichOneof("event") for event in one.events]
            assert kinds.count("terminal") == 1
            assert kinds[-1] == "terminal"
        told.ended[handle.id] = one.events[-1].terminal.job.state
        await server.stop()
    await close_books(server.url, told, server.marks)
    print(told.heal_line(seconds, watches=WATCHES, cuts_each=CUTS, events=last))


async def all_have_news(watched: list[Watched]) -> None:
    """Every watch has got an event since the last cut."""
    for one in watched:
        one.news.clear()
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(one.news.wait() for one in watched))


async def _done(tasks: list[asyncio.Task[None]]) -> bool:
    return all(task.done() for task in tasks)
