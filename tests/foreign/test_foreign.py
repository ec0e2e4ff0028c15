"""Clients of other languages: they submit, watch, are cut, resume without loss, read details."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from longshore.protos import write
from tests.foreign.proxy import proxied
from tests.server.harness import DEADLINE, Harness, make_settings, opened

HERE = Path(__file__).parent
CUTS = 3


class Client:
    """A program that prints lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []

    async def line(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        raw = await asyncio.wait_for(self._process.stdout.readline(), 2 * DEADLINE)
        assert raw, f"it ended after {self.lines}"
        self.lines.append(json.loads(raw))
        if "event" in self.lines[-1]:  # in JavaScript it is stateChange
            event = self.lines[-1]["event"]
            self.lines[-1]["event"] = event.lower().replace("_", "")
        return self.lines[-1]

    async def until(self, key: str, least: int = 0) -> Any:
        """The value of a key in the first line that has it, or has as much of it."""
        while True:
            line = await self.line()
            if key in line and (not least or line[key] >= least):
                return line[key]


@asynccontextmanager
async def running(*command: str, cwd: Path) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    try:
        yield Client(process)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Heartbeats in between: a client that takes their cursor must not lose its place."""
    async with opened(tmp_path, make_settings(heartbeat_interval=0.05)) as harness:
        yield harness


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    write(tmp_path / "protos")
    return tmp_path / "protos"


async def meets_the_contract(harness: Harness, command: list[str], argument: Path) -> None:
    async with proxied(harness.server.port) as proxy:
        target = f"127.0.0.1:{proxy.port}"
        async with running(*command, target, str(argument), cwd=HERE) as client:
            job_id = await client.until("submitted")
            await client.until("event")
            fence = await harness.start(job_id)
            last = 3
            for _ in range(CUTS):
                for _ in range(5):
                    last += 1
                    await harness.log(job_id, fence, f"line {last}")
                await client.until("sequence", last)
                while (await client.line()).get("event") != "heartbeat":
                    pass
                assert proxy.cut() > 0
                last += 1
                await harness.log(job_id, fence, f"line {last}")
                await client.until("cut")
            await harness.complete(job_id, fence)
            assert await client.until("result") == '{"text":"done"}'
            again = await client.line()
            refused = await client.line()
    assert again == {"again": job_id, "created": False}
    events = [line for line in client.lines if "event" in line]
    assert events[0] == {"event": "snapshot", "sequence": 1}
    durable = [e["sequence"] for e in events if e["event"] in ("statechange", "logchunk")]
    assert durable == list(range(2, last + 2))
    assert [e["event"] for e in events].count("terminal") == 1
    cursors = [event["sequence"] for event in events]
    assert cursors == sorted(cursors)
    _knows_the_details(refused)


def _knows_the_details(refused: dict[str, Any]) -> None:
    assert refused["refused"] == "INVALID_ARGUMENT"
    info, *rest = refused["details"]
    assert (info["type"], info["domain"]) == ("ErrorInfo", "longshore.dev")
    assert info["reason"] == "INVALID_FIELDS"
    (bad,) = rest
    assert bad["type"] == "BadRequest"
    fields = {violation["field"] for violation in bad["fieldViolations"]}
    assert fields == {"spec.task", "spec.labels['Wrong']"}


async def test_python_with_stubs_by_grpcio_tools_alone(
    harness: Harness, protos: Path, tmp_path: Path
) -> None:
    stubs = tmp_path / "stubs"
    names = [p.relative_to(protos).as_posix() for p in protos.glob("longshore/v1/*.proto")]
    (stubs / "longshore/v1").mkdir(parents=True)
    for folder in ("longshore", "longshore/v1"):  # before our own package, which this Python has
        (stubs / folder / "__init__.py").touch()
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--python_out={stubs}",
         f"--grpc_python_out={stubs}", *names],
        check=True,
    )  # fmt: skip
    command = [sys.executable, "-P", "bare_client.py"]
    await meets_the_contract(harness, command, stubs)


async def test_node_with_the_shipped_protos(harness: Harness, protos: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not here")
    if not (HERE / "node_modules/.package-lock.json").is_file():
        pytest.skip("npm could not install the packages of tests/foreign: see make setup-node")
    await meets_the_contract(harness, [node, "client.js"], protos)
