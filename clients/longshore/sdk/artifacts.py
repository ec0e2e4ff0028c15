"""Files of a job: those an attempt hands over once it has won, and those that outlive it."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
        self._names: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where they lie; made by the first `write`."""
        return Path(self._folder)

    def write(self, name: str, *, media_type: str = "") -> Path:
        """Declares an artifact and returns the path to write it to.

        Args:
            name: letters, digits, '_', '.', '-'; at most 128 characters.
            media_type: guessed from the name where empty.

        Raises:
            ValueError: the name is outside the grammar, or there are more than 256.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"artifact name {name!r} is not 1 to 128 of A-Z a-z 0-9 _ . -")
        if name not in self._names and len(self._names) >= MAX_ARTIFACTS:
            raise ValueError(f"artifact {name!r} would be number {MAX_ARTIFACTS + 1}; pack them")
        self.folder.mkdir(parents=True, exist_ok=True)
        guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._names[name] = media_type or guessed
        return self.folder / name

    def collect(self) -> list[Artifact]:
        """Measures and hashes what was written; a declared name without a file is left out."""
        return [
            Artifact(name, path, path.stat().st_size, _sha256(path), media_type)
            for name, media_type in self._names.items()
            if (path := self.folder / name).is_file()
        ]


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
