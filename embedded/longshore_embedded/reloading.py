"""`longshore up --reload`: looks at the sources of the tasks and brings workers to them.

Looked at are the files that the build is made of (`longshore_cpu_workers.build`), and the modules
beside a single-file one: once a second by time and size. That is a few hundred files and a
millisecond; it works on every file system, and needs no library for the sake of developers alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from longshore_cpu_workers.build import files_of
from longshore_scheduler.catalogue import CatalogueError, TaskCatalogue, read_catalogue
from longshore_store.model import StoreUnavailable

PERIOD = 1.0

Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of the last change and size of each file."""


class Reloading:
    """Watches one installation.

    Args:
        modules: as in the settings.
        catalogue: what is deployed.
        deploy: brings a newer one into force.
        say: tells people, a line at a time.
    """

    def __init__(
        self,
        modules: Sequence[str],
        catalogue: TaskCatalogue,
        deploy: Callable[[TaskCatalogue], Awaitable[None]],
        *,
        say: Callable[[str], None] = print,
        period: float = PERIOD,
    ) -> None:
        self._modules = modules
        self._catalogue = catalogue
        self._deploy = deploy
        self._say = say
        self._period = period

    async def run(self) -> None:
        """For ever."""
        loaded = await asyncio.to_thread(stamp_of, self._catalogue.sources)
        seen = loaded
        while True:
            await asyncio.sleep(self._period)
            now = await asyncio.to_thread(stamp_of, self._catalogue.sources)
            # Many files may be written one after another: they are read once nothing moves.
            if now != loaded and now == seen:
                loaded = now if await self._reload() else loaded
            seen = now

    async def _reload(self) -> bool:
        """Reads the tasks anew. False if that is to be tried again."""
        old = self._catalogue
        try:
            new = await read_catalogue(self._modules)
            if new.build.id != old.build.id:
                await self._deploy(new)
        except CatalogueError as error:
            self._say(f"reload: {error}; build {old.build.id} goes on")
            return True
        except StoreUnavailable:
            return False
        except OSError as error:  # no process or no descriptor is to be had just now
            self._say(f"reload: the tasks cannot be read now ({error}); it is tried again")
            return False
        self._catalogue = new
        if new.build.id != old.build.id:
            self._say(f"reload: build {new.build.id} replaces {old.build.id}{_changed(old, new)}")
        return True


def stamp_of(sources: Iterable[Path]) -> Stamp:
    """What a change of the sources changes."""
    found = []
    for path in files_of(_surroundings(sources)):
        try:
            stat = path.stat()
        except OSError:  # gone meanwhile
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _surroundings(sources: Iterable[Path]) -> Iterable[Path]:
    """The packages; of a single-file module the modules beside it: it may begin to import one."""
    for source in sources:
        if source.is_dir():
            yield source
        else:
            yield from sorted(source.parent.glob("*.py"))


def _changed(old: TaskCatalogue, new: TaskCatalogue) -> str:
    before, after = set(old.build.tasks), set(new.build.tasks)
    changes = [f"+{name}" for name in sorted(after - before)]
    changes += [f"-{name}" for name in sorted(before - after)]
    return f" ({', '.join(changes)})" if changes else ""
