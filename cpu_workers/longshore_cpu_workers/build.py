"""The build of a worker or of a deployment: which tasks its code has, and which code that is.

An id is 12 hex digits of a SHA-256 over:

- the version of Python;
- each distribution that brings tasks: its name, its version, and the hashes of its code as its
  RECORD has them, so that a wheel that was built again under an old version is another build;
- the distributions that these depend on, by name and version;
- the source files of what was imported from no such place: packages that are installed in place
  (editable), and modules that Python finds by a plain path. A package counts with all its files.

Not covered: what is imported later from another plain path, files that are no Python code, the
environment, and binaries beside Python. After a change of such things, drain the workers.
"""

from __future__ import annotations

import hashlib
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import Distribution, distributions
from importlib.metadata import entry_points as find_entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MOST_FILES = 5_000
MOST_BYTES = 64 << 20
"""What is read of sources at most: more than that is no code."""

_LONGEST_DESCRIPTION = 512
_CODE = (".py", ".so")
_REQUIRES = re.compile(r"^Requires-Dist:\s*([A-Za-z0-9][\w.-]*)", re.MULTILINE)
_NAME = re.compile(r"^Name:\s*(\S+)", re.MULTILINE)
_VERSION = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)
_SEPARATORS = re.compile(r"[-_.]+")


class Build(NamedTuple):
    """An identity: the id, a line for people, and the tasks that this code has, by name."""

    id: str
    description: str
    tasks: tuple[str, ...]


UNKNOWN = Build("", "", ())
"""Where nobody says: every worker is taken as it is."""


def identify(tasks: Iterable[str], modules: Sequence[str]) -> Build:
    """The build of this process, which has loaded these tasks from entry points and `modules`."""
    bringing = _bringing(modules)
    sources = list(loaded_sources())
    facts = {
        "python": [sys.implementation.name, *sys.version_info[:3]],
        "tasks": sorted(tasks),
        "modules": list(modules),
        "distributions": {name: _recorded(found) for name, found in sorted(bringing.items())},
        "dependencies": sorted(_dependencies(bringing)),
        "sources": _digest(sources),
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    names = [f"{name} {found.version}" for name, found in sorted(bringing.items())]
    names += [f"{source.name} (source)" for source in sources]
    return Build(
        hashlib.sha256(canonical.encode()).hexdigest()[:12],
        ", ".join(names)[:_LONGEST_DESCRIPTION],
        tuple(sorted(tasks)),
    )


def loaded_sources() -> Iterator[Path]:
    """The packages and modules that were imported from source folders, each once, in order."""
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not file or not file.endswith(_CODE):
            continue
        if Path(file).is_absolute() and not is_installed(file):
            found.add(_outermost(name, Path(file)))
    yield from sorted(found)


def is_installed(file: str) -> bool:
    """True for a file of Python or of what was installed; those of source folders are not."""
    path = Path(file)
    frozen = file.startswith("<")
    return frozen or any(path.is_relative_to(folder) for folder in _installed_folders())


def files_of(sources: Iterable[Path]) -> Iterator[Path]:
    """The code files of packages and modules, in order, at most MOST_FILES."""
    count = 0
    for source in sources:
        for path in _walk(source):
            count += 1
            if count > MOST_FILES:
                return
            yield path


def _outermost(name: str, path: Path) -> Path:
    """The folder of the outermost package with an __init__ around a module, or the module."""
    outermost = path.parent if path.name == "__init__.py" else path
    while "." in name:
        name = name.rpartition(".")[0]
        parent: ModuleType | None = sys.modules.get(name)
        file = getattr(parent, "__file__", None)
        if file:
            outermost = Path(file).parent
    return outermost


def _walk(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    try:
        entries = sorted(source.iterdir())
    except OSError:  # it went since it was imported: that is a change too
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.name.endswith(_CODE):
            yield entry


def _digest(sources: Sequence[Path]) -> str:
    """Names within their packages and contents: where the packages lie does not matter."""
    digest, left = hashlib.sha256(), MOST_BYTES
    for source in sources:
        for path in files_of([source]):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            left -= len(content)
            if left < 0:
                break
            name = str(path.relative_to(source.parent))
            digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
    return digest.hexdigest()


def _bringing(modules: Sequence[str]) -> dict[str, Distribution]:
    """The distributions that bring tasks, by their canonical names."""
    found: dict[str, Distribution] = {}
    for point in find_entry_points(group="longshore.tasks"):
        if point.dist is not None:
            found[_canonical(point.dist.name)] = point.dist
    for name in modules:
        if (owner := _owner(name)) is not None:
            found[_canonical(owner.name)] = owner
    return found


def _owner(module: str) -> Distribution | None:
    """The distribution that has installed a module, if one has."""
    file = getattr(sys.modules.get(module), "__file__", None)
    folder = next((f for f in _installed_folders() if file and Path(file).is_relative_to(f)), None)
    if file is None or folder is None:
        return None
    line = f"{Path(file).relative_to(folder).as_posix()},"
    records = ((found, found.read_text("RECORD") or "") for found in distributions())
    return next((found for found, text in records if line in text), None)


def _recorded(found: Distribution) -> list[str]:
    """Version and code of an installed distribution; of one in place its sources are read."""
    lines = (found.read_text("RECORD") or "").splitlines()
    code = sorted(line for line in lines if line.partition(",")[0].endswith(_CODE))
    return [found.version, hashlib.sha256("\n".join(code).encode()).hexdigest()]


def _dependencies(bringing: dict[str, Distribution]) -> Iterator[str]:
    """What they require, and so on, as far as it is installed; extras count like the rest."""
    seen, waiting = set(bringing), list(bringing.values())
    while waiting:
        for name in _required(waiting.pop()) - seen:
            seen.add(name)
            if (found := _installed().get(name)) is not None:
                waiting.append(found)
                yield f"{name} {''.join(_VERSION.findall(_head(found))[:1])}"


def _required(found: Distribution) -> set[str]:
    return {_canonical(name) for name in _REQUIRES.findall(_head(found))}


@cache
def _installed() -> dict[str, Distribution]:
    """Every distribution by its canonical name; the first on the path is the one in use.

    Left out are folders within an installed package: Ray puts some of its own on the path.
    """
    found: dict[str, Distribution] = {}
    folders = _installed_folders()
    path = [
        entry for entry in sys.path if entry and (Path(entry) in folders or not is_installed(entry))
    ]
    for each in distributions(path=path):
        for name in _NAME.findall(_head(each))[:1]:
            found.setdefault(_canonical(name), each)
    return found


@cache
def _head(found: Distribution) -> str:
    """The fields of its metadata. Read by patterns: as a message it takes ten times as long."""
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    return text.partition("\n\n")[0]


def _canonical(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


@cache
def _installed_folders() -> tuple[Path, ...]:
    """Where Python and installed distributions lie."""
    paths = sysconfig.get_paths()
    folders = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    real = {Path(folder) for folder in folders} | {Path(folder).resolve() for folder in folders}
    return tuple(sorted(real))
