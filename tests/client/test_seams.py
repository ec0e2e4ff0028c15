"""Seams: what a process does at a named point, told by its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longshore import seams
from tests.e2e.service import until

PASSING = "from longshore.seams import seam\nfor n in range(3): print(n, flush=True); seam('x.y')"


def passing(armed: str) -> subprocess.Popen[str]:
    """A process that passes `x.y` three times and says so before each passage."""
    environment = {**os.environ, seams.VARIABLE: armed}
    return subprocess.Popen(
        [sys.executable, "-c", PASSING],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(armed: str) -> tuple[int, list[str], str]:
    """Its exit status, what it printed, and its last line of complaint."""
    process = passing(armed)
    out, complaint = process.communicate(timeout=30)
    return process.returncode, out.split(), complaint.strip().rpartition("\n")[2]


def arm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(seams, "_armed", seams._parse(text))
    monkeypatch.setattr(seams, "_passed", {})


def test_nothing_happens_unless_armed() -> None:
    assert ended("") == (0, ["0", "1", "2"], "")


def test_other_names_are_passed() -> None:
    assert ended("x.z=kill x=kill") == (0, ["0", "1", "2"], "")


def test_a_process_kills_itself_at_the_first_passage() -> None:
    assert ended("x.y=kill") == (-signal.SIGKILL, ["0"], "")


def test_a_process_kills_itself_at_a_later_passage() -> None:
    assert ended("x.z=stop x.y=kill@3") == (-signal.SIGKILL, ["0", "1", "2"], "")


def test_a_passage_that_never_comes() -> None:
    assert ended("x.y=kill@4") == (0, ["0", "1", "2"], "")


def test_a_process_stops_until_it_is_continued() -> None:
    process = passing("x.y=stop@2")
    state = Path(f"/proc/{process.pid}/stat")
    until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 30)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0].split() == ["0", "1", "2"]
    assert process.returncode == 0


def test_a_file_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    arm(monkeypatch, f"x.y=touch:{made}")
    seams.seam("x.y")
    made.unlink()
    seams.seam("x.y")
    assert not made.exists(), "the first passage alone"


def test_a_thread_waits_for_a_file(tmp_path: Path) -> None:
    go = tmp_path / "go"
    process = passing(f"x.y=wait:{go}@2")
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["0", "1"]
    assert process.poll() is None
    go.touch()
    assert process.communicate(timeout=30)[0].split() == ["2"]


def test_a_wait_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(seams, "_LONGEST_WAIT", 0.0)
    arm(monkeypatch, f"x.y=wait:{tmp_path / 'never'}")
    seams.seam("x.y")


def test_a_crash_names_its_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "x.y=crash@2")
    seams.seam("x.y")
    with pytest.raises(RuntimeError, match=r"seam x\.y was told to crash"):
        seams.seam("x.y")


def test_an_unknown_action_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "x.y=explode")
    with pytest.raises(ValueError, match=r"x\.y=explode is none of kill stop touch wait crash"):
        seams.seam("x.y")
