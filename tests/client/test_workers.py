"""Taking workers out of service: the client, and the commands."""

from __future__ import annotations

import json

import grpc
import pytest
from typer.testing import CliRunner, Result

from longshore import AsyncClient
from longshore.cli.app import app
from longshore.v1 import pool_service_pb2
from tests.client.fake import FakeService, Refusal

CORDONED = pool_service_pb2.WORKER_STATE_CORDONED


def run(target: str, *words: str, **env: str) -> Result:
    env = {"LONGSHORE_TARGET": target, "COLUMNS": "200", **env}
    return CliRunner().invoke(app, words, env=env)


async def test_a_drain_names_its_workers_and_has_time_for_its_grace(
    service: FakeService, client: AsyncClient
) -> None:
    left: list[float] = []
    service.on_enter = lambda context: left.append(context.time_remaining())
    done = await client.drain_workers(["w1", "w2"], pool="cpu", node="n", grace=600)
    assert [worker.worker_id for worker in done.workers] == ["w1", "w2"]
    (request,) = service.requests["DrainWorkers"]
    assert list(request.worker_ids) == ["w1", "w2"]
    assert (request.pool, request.node, request.grace.seconds) == ("cpu", "n", 600)
    assert left[0] > 650
    await client.drain_workers(pool="cpu", timeout=50)
    assert left[1] < 51


async def test_a_worker_is_cordoned_and_given_work_again(
    service: FakeService, client: AsyncClient
) -> None:
    assert (await client.cordon_worker("w1")).state == CORDONED
    assert (await client.cordon_worker("w1", cordoned=False)).state != CORDONED
    assert [request.cordoned for request in service.requests["CordonWorker"]] == [True, False]


def test_drain_shows_the_workers(service: FakeService, target: str) -> None:
    result = run(target, "drain", "w1", "w2", "--grace", "1m30s")
    assert result.exit_code == 0
    assert [line.split("\t")[:3] for line in result.stdout.splitlines()[1:]] == [
        ["w1", "", "DRAINING"],
        ["w2", "", "DRAINING"],
    ]
    (request,) = service.requests["DrainWorkers"]
    assert request.grace.seconds == 90
    result = run(target, "--json", "drain", "--pool", "cpu", "--node", "n")
    assert json.loads(result.stdout)["finished_attempts"] == 2
    request = service.requests["DrainWorkers"][1]
    assert (request.pool, request.node, request.grace.seconds) == ("cpu", "n", 30)


def test_drain_of_an_empty_node_says_so(service: FakeService, target: str) -> None:
    service.drained = []
    result = run(target, "drain", "--node", "n-tpyo", TTY_COMPATIBLE="1")
    assert result.exit_code == 0
    assert "no worker is on node 'n-tpyo'" in result.stderr


def test_drain_needs_a_choice(service: FakeService, target: str) -> None:
    result = run(target, "drain")
    assert result.exit_code == 2
    assert "--pool" in result.stderr
    assert not service.requests["DrainWorkers"]


@pytest.mark.parametrize(("word", "state"), [("cordon", "CORDONED"), ("uncordon", "READY")])
def test_cordon_and_uncordon(service: FakeService, target: str, word: str, state: str) -> None:
    result = run(target, word, "w1")
    assert (result.exit_code, result.stdout.splitlines()[1].split("\t")[2]) == (0, state)
    assert service.requests["CordonWorker"][0].worker_id == "w1"


def test_an_unknown_pool_is_an_error(service: FakeService, target: str) -> None:
    message = "pool: there is no pool 'nope'; there are: cpu"
    service.refusals["ListWorkers"].append(Refusal(grpc.StatusCode.NOT_FOUND, message))
    result = run(target, "workers", "--pool", "nope")
    assert result.exit_code == 3
    assert "there are: cpu" in result.stderr
