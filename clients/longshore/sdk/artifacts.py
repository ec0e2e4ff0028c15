"""Files of a job: those an attempt hands over once it has won, and those that outlive it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import mimetypes
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longshore.sdk.failures import PermanentError

MAX_ARTIFACTS = 256
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a result: where it is, its size in bytes and the SHA-256 of its bytes, in hex."""

    name: str
    path: Path
    size: int
    sha256: str
    media_type: str


class Artifacts:
    """The files of one attempt, in a folder that no other attempt writes to."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = folder
        self._names: dict[str, _Declared] = {}

    @property
    def folder(self) -> Path:
        """Where they lie; made by the first `write`."""
        return Path(self._folder)

    @property
    def declared(self) -> bool:
        """True once one was declared: there is something to collect."""
        return bool(self._names)

    def write(self, name: str, *, media_type: str = "", optional: bool = False) -> Path:
        """Declares an artifact and returns the path to write it to.

        It must be there when the task returns, as a regular file with all its bytes: close it.
        Afterwards it can only be read.

        Args:
            name: letters, digits, '_', '.', '-'; at most 128 characters.
            media_type: guessed from the name where empty.
            optional: it may be missing when the task returns; then the result does not list it.

        Raises:
            ValueError: the name is outside the grammar, or there are more than 256.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"artifact name {name!r} is not 1 to 128 of A-Z a-z 0-9 _ . -")
        if name not in self._names and len(self._names) >= MAX_ARTIFACTS:
            raise ValueError(f"artifact {name!r} would be number {MAX_ARTIFACTS + 1}; pack them")
        self.folder.mkdir(parents=True, exist_ok=True)
        guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._names[name] = _Declared(media_type or guessed, optional)
        return self.folder / name

    def collect(self) -> list[Artifact]:
        """Measures and hashes what was written, and makes it durable and read-only.

        Raises:
            PermanentError: INVALID_ARTIFACT, one is missing, or is no regular file.
        """
        if not self._names:
            return []
        if self._still_open():
            gc.collect()  # closes files that nobody refers to any more
        unfinished = self._still_open()
        listed = [
            _listed(self.folder / name, declared, unfinished)
            for name, declared in self._names.items()
        ]
        _sync_folders(self.folder)
        return [artifact for artifact in listed if artifact is not None]

    def _still_open(self) -> set[str]:
        """Those that this process has open to write to: bytes may wait in a buffer."""
        ids = {}
        for name in self._names:
            with contextlib.suppress(OSError):
                found = (self.folder / name).stat()
                ids[found.st_dev, found.st_ino] = name
        return {ids[number] for number in _open_for_writing() if number in ids}


class _Declared(NamedTuple):
    media_type: str
    optional: bool


class Kept:
    """A folder for work that outlives an attempt: every attempt of the job sees it.

    It lies on the storage of the artifacts. The runner deletes it when an attempt succeeds; one
    that fails leaves it to the next.
    """

    __slots__ = ("_fence", "_folder", "used")

    def __init__(self, folder: Path | str, fence: int) -> None:
        self._folder = folder
        self._fence = fence
        self.used = False

    def open(self) -> Path:
        """The folder; made at first use, with a mark that this attempt is there."""
        folder = Path(self._folder)
        if not self.used:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".{self._fence}").touch()
            self.used = True
        return folder

    def discard(self) -> None:
        """Deletes it, unless a newer attempt is there: then this one has lost its lease."""
        folder = Path(self._folder)
        marks = (path.name.removeprefix(".") for path in folder.glob(".*"))
        if all(int(mark) <= self._fence for mark in marks if mark.isdigit()):
            delete_folder(folder)


def delete_folder(folder: Path | str) -> None:
    """Deletes a folder and all that is in it, as far as this process may. Never raises."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):  # nested deeper than Python's stack, or than files can be open
        with contextlib.suppress(OSError):
            quiet = subprocess.DEVNULL
            command = ["rm", "-rf", "--", folder]
            subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False)


def _listed(path: Path, declared: _Declared, unfinished: set[str]) -> Artifact | None:
    """The artifact, once it is on the disk; None where an optional one is missing."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO does not wait
    except FileNotFoundError:
        if declared.optional:
            return None
        raise _invalid(
            path.name, "was declared and never written; write it, or declare it with optional=True"
        ) from None
    except OSError as error:
        raise _invalid(path.name, _why_not(path, error)) from None
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        raise _invalid(path.name, _why_not(path, None))
    with os.fdopen(number, "rb") as file:
        if path.name in unfinished:
            raise _invalid(path.name, "is still open to write to; close it before the task returns")
        if found.st_nlink == 1:  # else it is somebody's file under another name as well
            os.fchmod(number, 0o444)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(number)
        return Artifact(path.name, path, os.fstat(number).st_size, digest, declared.media_type)


def _invalid(name: str, what: str) -> PermanentError:
    return PermanentError(
        f"artifact {name!r} {what}",
        reason="INVALID_ARTIFACT",
        code="FAILED_PRECONDITION",
        metadata={"artifact": name},
    )


def _why_not(path: Path, error: OSError | None) -> str:
    if path.is_symlink():
        return "is a symbolic link; write the file itself, or copy it there"
    if path.is_dir():
        return "is a folder; pack it into one file, such as a .tar or .zip"
    if error is None:
        return "is no regular file; write the bytes into a file"
    return f"cannot be read ({error.strerror})"


def _open_for_writing() -> Iterator[tuple[int, int]]:
    """Device and number of each file that this process has open to write to."""
    with contextlib.suppress(FileNotFoundError):  # a system without /proc: then nobody knows
        for entry in Path("/proc/self/fd").iterdir():
            number = int(entry.name)
            with contextlib.suppress(OSError):  # it was closed meanwhile
                if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                    found = os.fstat(number)
                    yield found.st_dev, found.st_ino


def _sync_folders(folder: Path) -> None:
    """The names of files are durable once their folder is, and its own name once its parent is."""
    for place in (folder, folder.parent, folder.parent.parent):
        number = os.open(place, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
