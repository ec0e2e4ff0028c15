"""`longshore up`: what it refuses, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from longshore import AsyncClient
from tests.e2e.service import LONGSHORE, Service, gone
from tests.e2e.waiting import until_started


def _refused(*options: str | Path) -> str:
    """Runs `longshore up`, which must refuse, and returns what it said."""
    done = subprocess.run(
        [LONGSHORE, "up", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


async def test_sigterm_finishes_what_runs_hands_back_what_waits_and_leaves_no_process(
    own: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    own.start()
    async with AsyncClient(own.target) as client:
        await (await client.submit("echo", {})).result(timeout=60)
        running = await client.submit("gate", {"path": str(gate)})
        await until_started(running)
    pids = own.processes()
    own.tell_to_stop()
    # Longer than the three seconds after which Ray's handler of SIGTERM used to abort; most of the
    # ten of the grace are left.
    await asyncio.sleep(3.2)
    gate.touch()
    assert own.ended() == 0
    gone(pids, 60)
    own.start()
    async with AsyncClient(own.target) as client:
        job = await (await client.get(running.id)).wait(60)
    assert job.result.value == "1"
    assert len(job.attempts) == 1, "it was to finish within the grace"


def test_a_second_service_on_the_data_gets_one_clear_line(shared: Service) -> None:
    said = _refused("--data", shared.data, "--listen", "127.0.0.1:0")
    assert said.count("\n") == 1
    assert "in use by another Longshore process" in said


def test_a_taken_port_gets_one_clear_line(shared: Service, tmp_path: Path) -> None:
    said = _refused("--data", tmp_path, "--listen", shared.target)
    assert said.count("\n") == 1
    assert shared.target in said


@pytest.mark.parametrize("listen", ["0.0.0.0:7300", "[::]:7300", "example.org:7300"])
def test_it_does_not_listen_beyond_loopback_unless_told(tmp_path: Path, listen: str) -> None:
    assert "--insecure" in _refused("--data", tmp_path, "--listen", listen)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[queues.default]\nmaximum_wating = 3", "queues.default.maximum_wating: no such setting"),
        ('[queues.a]\noverflow_to = "b"\n[queues.b]', "queues.a has overflow_to 'b' and no"),
        ("[queues", "not TOML"),
        ('tasks = ["no_such_module"]', "no_such_module"),
    ],
)
def test_settings_that_cannot_be_used_name_what_is_to_blame(
    tmp_path: Path, settings: str, said: str
) -> None:
    config = tmp_path / "longshore.toml"
    config.write_text(settings)
    assert said in _refused(
        "--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--config", config
    )
