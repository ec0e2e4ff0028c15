"""Row 17: 200 kills of a SQLite writer at random points."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from longshore import AsyncClient
from longshore_store.states import JobState
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.scale import kills
from tests.faults.serving import ROOT, Serving
from tests.faults.writers import SIDE_BY_SIDE

FILES = 3
NOTE = len("+") + 36  # with the id of a job
KILLS = kills(200) // FILES + 1  # of each file
LATEST = 100.0
BOUND = 60.0


async def test_what_was_acknowledged_outlives_kills(tmp_path: Path, seed: int) -> None:
    folders = [tmp_path / str(n) for n in range(FILES)]
    told = await asyncio.gather(*(kill_writers(f, seed + n) for n, f in enumerate(folders)))
    jobs = sum(len(one.accepted) for one in told)
    assert jobs > FILES * KILLS, "most lives wrote something"
    seconds = max([await heal(f, one) for f, one in zip(folders, told, strict=True)])
    print(told[0].heal_line(seconds, kills=FILES * KILLS, acknowledged_jobs=jobs))


async def kill_writers(folder: Path, seed: int) -> Told:
    """All kills of one file. Returns what was acknowledged meanwhile."""
    folder.mkdir()
    said = folder / "acknowledged"
    command = (sys.executable, "-m", "tests.faults.writers", folder / "store.db", said)
    process = await asyncio.create_subprocess_exec(*command, str(KILLS), str(seed), cwd=ROOT)
    try:
        async with asyncio.timeout(LATEST):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    told = Told(17, seed)
    for line in said.read_text().splitlines():
        if len(line) != NOTE:  # nothing, or what a kill has cut short
            continue
        if line[0] == "+":
            told.accepted.add(line[1:])
        else:
            told.ended[line[1:]] = JobState.SUCCEEDED
    return told


async def heal(folder: Path, told: Told) -> float:
    """A service starts on what is left and ends every job by itself. Returns its seconds."""
    server = Serving(folder)
    async with server, AsyncClient(server.target) as client:
        seconds = await recovered(lambda: all_ended(client), BOUND)
        await server.stop()
    in_flight = KILLS * SIDE_BY_SIDE * 5
    books = await close_books(server.url, told, unanswered=in_flight)
    assert set(books.states) == {JobState.SUCCEEDED}
    return seconds
