"""When `--reload` reads the tasks anew, and what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from longshore_cpu_workers.build import Build
from longshore_embedded import reloading
from longshore_embedded.reloading import Reloading
from longshore_scheduler.catalogue import CatalogueError, TaskCatalogue
from longshore_store.model import StoreUnavailable

PATIENCE = 60.0


class Installation:
    """A package of tasks whose build is what is written in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "own"
        self.folder.mkdir()
        self.deployed: list[str] = []
        self.said: list[str] = []
        self.reads = 0
        self.outages = 0
        self.write("a")

    def write(self, text: str, name: str = "tasks.py") -> None:
        (self.folder / name).write_text(text)

    def catalogue(self) -> TaskCatalogue:
        text = (self.folder / "tasks.py").read_text()
        if text.startswith("broken"):
            raise CatalogueError("SyntaxError: invalid syntax [own/tasks.py:1]")
        return TaskCatalogue([], Build(text, text, (text,)), (self.folder,))

    async def read(self, modules: object) -> TaskCatalogue:
        self.reads += 1
        return self.catalogue()

    async def deploy(self, new: TaskCatalogue) -> None:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("gone for a moment")
        self.deployed.append(new.build.id)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = Reloading((), self.catalogue(), self.deploy, say=self.said.append, period=0.005)
        task = asyncio.create_task(watching.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    made = Installation(tmp_path)
    monkeypatch.setattr(reloading, "read_catalogue", made.read)
    return made


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def test_a_change_is_deployed_once_and_a_broken_one_is_not(own: Installation) -> None:
    async with own.watched():
        # The first look may come after the first edit: then nothing has changed since.
        while not own.deployed:
            own.write("bb" if own.reads % 2 else "b")
            await asyncio.sleep(0.02)
        own.write("ccc")
        await until(lambda: own.deployed[-1] == "ccc")
        own.write("broken")
        await until(lambda: "goes on" in own.said[-1])
        assert own.said[-1] == (
            "reload: SyntaxError: invalid syntax [own/tasks.py:1]; build ccc goes on"
        )
        own.write("dddd")
        await until(lambda: own.deployed[-1] == "dddd")
        assert own.said[-1] == "reload: build dddd replaces ccc (+dddd, -ccc)"
        reads, before = own.reads, list(own.deployed)
        own.write("no task", "later.py")
        await until(lambda: own.reads > reads)
    assert own.deployed == before, "the build is the same"


async def test_a_change_that_the_store_does_not_take_is_tried_again(own: Installation) -> None:
    own.outages = 2
    async with own.watched():
        while not own.reads:
            own.write("bb" if own.folder.joinpath("tasks.py").read_text() == "b" else "b")
            await asyncio.sleep(0.02)
        own.write("ccc")
        await until(lambda: "ccc" in own.deployed)
