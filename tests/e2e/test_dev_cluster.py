"""`longshore dev-cluster` as a new user runs it: up, a job through each server, nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from longshore_embedded.main import MARK
from longshore_embedded.processes import descendants, end_strays
from tests.e2e.service import LONGSHORE, gone, until

LONG = "a-folder-with-a-path-that-is-longer-than-any-socket-may-have-" * 2
DEADLINE = 120.0


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that any user can reach: Postgres may not be root."""
    with tempfile.TemporaryDirectory(prefix="ls-dev-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name) / LONG


class DevClusterProcess:
    """The command, and what it has said; killed at the end, where it lives still."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._log = data.with_name("said")
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [LONGSHORE, "dev-cluster", "--data", data], stdout=out, stderr=out
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
            end_strays(f"{MARK}={self._data}")

    @property
    def said(self) -> str:
        return self._log.read_text()

    def up(self) -> dict[str, str]:
        """Waits until it is; returns the places that it names."""
        ended = self.process.poll
        until(lambda: "longshore doctor" in self.said or ended() is not None, DEADLINE)
        assert self.process.poll() is None, self.said
        return dict(re.findall(r"^  (\w+) {2,}(.+)$", self.said, re.MULTILINE))

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)


def cli(*command: str) -> str:
    """Runs `longshore`, which must succeed, and returns what it printed."""
    done = subprocess.run(
        [LONGSHORE, *command], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*options: str | Path) -> str:
    """What `longshore dev-cluster` says when it does not start, on standard error."""
    done = subprocess.run(
        [LONGSHORE, "dev-cluster", *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,  # some find out with a cluster half up
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_it_removes_what_a_killed_one_left_runs_jobs_and_leaves_nothing(data: Path) -> None:
    with DevClusterProcess(data) as killed:
        killed.up()
        left = descendants(killed.process.pid)
        left_scratch = Path((data / "lock").read_text())
        killed.end(signal.SIGKILL)
    with DevClusterProcess(data) as cluster:
        places = cluster.up()
        gone(left, 60)
        assert not left_scratch.exists()
        assert "Warning" not in cluster.said
        for target in (*places["servers"].split(), places["target"]):
            payload = ("--payload", '{"value": "hello"}', "--wait")
            assert "hello" in cli("--target", target, "submit", "echo", *payload)
        assert "is in use by another `longshore dev-cluster`" in refused("--data", data)
        assert cluster.process.poll() is None, "the first goes on"
        logs = {path.name for path in Path(places["logs"]).iterdir()}
        assert logs >= {"postgres.log", "ray-0.log"}
        pids = [cluster.process.pid, *descendants(cluster.process.pid)]
        scratch = Path((data / "lock").read_text())
        assert scratch.is_dir()
        assert cluster.end(signal.SIGTERM) == 0
        gone(pids, 0)
        assert not scratch.exists()
    config = data.with_name("tasks.toml")
    config.write_text('tasks = ["no_such_module"]\n[pools.cpu]\n')
    said = refused("--data", data, "--config", config)
    assert "No module named 'no_such_module'" in said, "whatever its store knows of earlier tasks"


def test_told_to_stop_while_it_starts_it_leaves_nothing(data: Path) -> None:
    with DevClusterProcess(data) as cluster:
        until((data / "logs" / "ray-0.log").exists)
        pids = [cluster.process.pid, *descendants(cluster.process.pid)]
        assert cluster.end(signal.SIGINT) == 0
        gone(pids, 0)


def test_settings_that_cannot_be_used_are_said(data: Path) -> None:
    config = data.with_name("bad.toml")
    config.write_text('clutser = "a"')
    said = refused("--data", data, "--config", config)
    assert "bad.toml: clutser: no such setting" in said


@pytest.mark.parametrize("name", ["file/below", "file"])
def test_a_folder_that_cannot_be_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused("--data", tmp_path / name)
    assert f"{tmp_path / name} cannot be written" in said
    assert "give another --data" in said


def test_root_is_told_of_a_folder_that_postgres_cannot_enter(data: Path) -> None:
    if os.geteuid() != 0:  # anybody else is whom Postgres runs as
        return
    closed = data.with_name("closed")
    closed.mkdir(0o700)
    said = refused("--data", closed / "data")
    assert f"who cannot enter {closed}: start this as another user than root, or take" in said
    assert closed.stat().st_mode & 0o777 == 0o700, "it was opened to everybody"
    with suppress(FileNotFoundError):
        assert list((closed / "data" / "postgres").iterdir()) == []
