"""Nothing is left behind: orphans are adopted, descendants and strays found and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longshore_embedded.processes import descendants, end_strays
from tests.e2e.service import alive, until

# A parent that has a child in a session of its own, says so, and ends or waits.
_FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
{then}
"""


def _start(then: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", _FAMILY.format(then=then)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


def test_descendants_are_found_across_sessions() -> None:
    process, grandchild = _start("child.wait()")
    try:
        assert {process.pid, grandchild} <= set(descendants(os.getpid()))
    finally:
        os.kill(grandchild, signal.SIGKILL)
        process.wait(60)


def test_strays_are_ended_by_their_mark_and_others_are_not(tmp_path: Path) -> None:
    marked, stray = _start("", OWNED_BY_LONGSHORE=str(tmp_path))
    other, bystander = _start("", OWNED_BY_LONGSHORE=f"{tmp_path}-else")
    try:
        assert marked.wait(60) == other.wait(60) == 0
        assert end_strays(f"OWNED_BY_LONGSHORE={tmp_path}") == 1
        until(lambda: not alive(stray))
        assert alive(bystander)
    finally:
        os.kill(bystander, signal.SIGKILL)


_SUPERVISE = """
import sys
from pathlib import Path
from longshore_embedded import main
from longshore.cli.up import UpOptions
main.SERVICE = [sys.executable, "-c", sys.argv[2]]
log_format = sys.argv[3]
sys.exit(
    main.run(
        UpOptions(
            Path(sys.argv[1]), "127.0.0.1:0", None, 0, False, None, log_format=log_format
        )
    )
)
"""


def _supervise(folder: Path, service: str, log_format: str = "text") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SUPERVISE, str(folder), service, log_format],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_parent_starts_a_dead_service_again_and_says_why_it_died(
    tmp_path: Path, log_format: str
) -> None:
    died = tmp_path / "died"
    service = (
        f"import os, pathlib; p = pathlib.Path({str(died)!r})\n"
        "if p.exists(): os._exit(0)\n"
        "p.touch(); os.kill(os.getpid(), 9)"
    )
    parent = _supervise(tmp_path, service, log_format)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 0
    line = json.loads(said)["message"] if log_format == "json" else said.strip()
    assert line.removeprefix("longshore up: ") == "the service died (SIGKILL); starting it again"


def test_the_parent_does_not_repeat_what_would_fail_again(tmp_path: Path) -> None:
    parent = _supervise(tmp_path, "import os; os._exit(2)")
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 2
    assert said == ""
    private = [tmp_path / "artifacts", tmp_path / "scratch"]
    assert [folder.stat().st_mode & 0o777 for folder in private] == [0o700, 0o700]


def test_what_a_killed_service_leaves_is_ended_by_the_parent(tmp_path: Path) -> None:
    service = _FAMILY.format(then="import os; os._exit(2)")
    parent = _supervise(tmp_path, service)
    out, _ = parent.communicate(timeout=60)
    assert not alive(int(out))
