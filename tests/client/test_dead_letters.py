"""Dead letters through the clients and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc import error_details_pb2 as rpc
from typer.testing import CliRunner, Result

from longshore import AsyncClient, Client, errors
from longshore.cli import columns
from longshore.cli.app import app
from longshore.v1 import job_pb2, queue_service_pb2
from tests.client.fake import FakeService, Refusal, unavailable

Run = Callable[..., Result]
CRASH = job_pb2.FAILURE_CLASS_CRASH
SINCE = datetime(2026, 1, 31, 18, tzinfo=UTC)


@pytest.fixture
def run(target: str) -> Run:
    def invoke(*words: str) -> Result:
        environment = {"LONGSHORE_TARGET": target, "COLUMNS": "200"}
        return CliRunner().invoke(app, ["dead-letters", *words], env=environment)

    return invoke


@pytest.fixture
def blocking(target: str) -> Iterator[Client]:
    with Client(target) as client:
        yield client


async def test_every_page_of_a_selection(service: FakeService, client: AsyncClient) -> None:
    found = [
        job.job_id
        async for job in client.dead_letters(
            queue="fast", task="resize", failure_class=CRASH, ended_after=SINCE, page_size=1
        )
    ]
    assert found == ["dead-1", "dead-2"]
    first, second = service.requests["ListDeadLetters"]
    assert (first.page_size, second.page_token) == (1, "2")
    assert first.selection == second.selection
    expected = queue_service_pb2.DeadLetterSelection(
        queue="fast", task="resize", failure_class=CRASH
    )
    expected.ended_after.FromDatetime(SINCE)
    assert first.selection == expected


async def test_a_time_needs_a_zone(client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        await client.redrive(ended_before=datetime(2026, 1, 31), dry_run=True)  # noqa: DTZ001


async def test_a_redrive_is_begun_once(service: FakeService, client: AsyncClient) -> None:
    answer = await client.redrive(rate=2.5, reason="mended", maximum_failure_share=0.1)
    assert answer.redrive_id == "redrive-1"
    [request] = service.requests["Redrive"]
    assert (request.rate, request.reason, request.maximum_failure_share) == (2.5, "mended", 0.1)
    service.refusals["Redrive"].append(unavailable())
    await client.redrive(rate=1, reason="mended")
    first, repeat = service.requests["Redrive"][1:]
    assert first.idempotency_key == repeat.idempotency_key != request.idempotency_key
    assert first.idempotency_key


async def test_what_changes_nothing_is_repeated(service: FakeService, client: AsyncClient) -> None:
    for name in ("Redrive", "PurgeDeadLetters", "ListRedrives", "StopRedrive"):
        service.refusals[name].append(unavailable())
    assert (await client.redrive(dry_run=True)).count == 2
    assert await client.purge_dead_letters(dry_run=True) == 2
    assert [r.redrive_id async for r in client.redrives()] == ["redrive-1"]
    assert (await client.stop_redrive("redrive-1", "enough")).stop_reason == "enough"
    assert [len(service.requests[name]) for name in ("Redrive", "StopRedrive")] == [2, 2]


async def test_a_purge_goes_on_until_it_is_done(service: FakeService, client: AsyncClient) -> None:
    assert await client.purge_dead_letters(reason="old", task="resize") == 4
    first, second = service.requests["PurgeDeadLetters"]
    assert first == second
    service.refusals["PurgeDeadLetters"].append(unavailable())
    with pytest.raises(errors.Unavailable):
        await client.purge_dead_letters(reason="old")


async def test_a_task_that_is_gone(service: FakeService, client: AsyncClient) -> None:
    failure = rpc.PreconditionFailure()
    failure.violations.add(type="TASK_NOT_FOUND", subject="resize", description="2 of the jobs")
    info = rpc.ErrorInfo(reason="TASK_NOT_FOUND", domain="longshore.dev")
    service.refusals["Redrive"].append(
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "task 'resize' is gone", (info, failure))
    )
    with pytest.raises(errors.PreconditionFailed) as refused:
        await client.redrive(dry_run=True)
    assert refused.value.reason == "TASK_NOT_FOUND"


def test_the_blocking_client(blocking: Client) -> None:
    assert [job.job_id for job in blocking.dead_letters(task="resize")] == ["dead-1", "dead-2"]
    assert blocking.redrive(rate=1, reason="mended").redrive_id == "redrive-1"
    assert [redrive.total for redrive in blocking.redrives()] == [2]
    assert blocking.stop_redrive("redrive-1").redrive_id == "redrive-1"
    assert blocking.purge_dead_letters(reason="old") == 4


def test_list(service: FakeService, run: Run) -> None:
    result = run(
        "list", "--queue", "fast", "--task", "resize", "--failure-class", "crash",
        "--ended-after", "2026-01-31T18:00:00Z", "--ended-before", "2h",
    )  # fmt: skip
    assert result.exit_code == 0
    header, first, _ = (line.split("\t") for line in result.stdout.splitlines())
    assert header == ["ID", "TASK", "QUEUE", "RUN", "CAUSE", "ENDED", "DETAIL"]
    assert first == ["dead-1", "resize", "-", "1", "CRASH", "-", "bad video"]
    selection = service.requests["ListDeadLetters"][0].selection
    assert (selection.queue, selection.task, selection.failure_class) == ("fast", "resize", CRASH)
    assert selection.ended_after.ToDatetime(UTC) == SINCE
    ago = datetime.now(UTC) - selection.ended_before.ToDatetime(UTC)
    assert timedelta(hours=2) <= ago < timedelta(hours=3)


def test_list_as_json_stops_at_its_limit(service: FakeService, run: Run) -> None:
    result = run("list", "--limit", "1", "--json")
    [job] = map(json.loads, result.stdout.splitlines())
    assert job["job_id"] == "dead-1"
    assert service.requests["ListDeadLetters"][0].page_size == 2  # one more: are there more?
    assert "there are more" in json.loads(result.stderr)["note"]


def test_redrive_shows_first_and_does_with_yes(service: FakeService, run: Run) -> None:
    words = ("redrive", "--task", "resize", "--rate", "2", "--reason", "mended")
    result = run(*words, "--maximum-failure-share", "0.2")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "2 would be queued again; add --yes"
    assert "dead-1" in result.stdout
    result = run(*words, "--yes")
    assert (result.exit_code, result.stdout) == (0, "redrive-1\n")
    dry, real = service.requests["Redrive"]
    assert (dry.dry_run, real.dry_run) == (True, False)
    assert (dry.maximum_failure_share, real.rate, real.reason) == (0.2, 2.0, "mended")
    [answer] = map(json.loads, run(*words, "--json").stdout.splitlines())
    assert (answer["count"], answer["sample"][0]["job_id"]) == ("2", "dead-1")


def test_purge_counts_first_and_does_with_yes(service: FakeService, run: Run) -> None:
    assert run("purge").stdout == "2 would be deleted; add --yes\n"
    service.requests.clear()
    assert run("purge", "--reason", "old", "--yes").stdout == "4 deleted\n"
    [answer] = map(json.loads, run("purge", "--json").stdout.splitlines())
    assert answer == {"count": 2, "dry_run": True}


@pytest.mark.parametrize(
    ("failed", "expected"), [(0, "COMPLETED"), (1, "SOME FAILED"), (3, "ALL FAILED")]
)
def test_a_redrive_whose_letters_fail_again_does_not_read_as_success(
    failed: int, expected: str
) -> None:
    redrive = queue_service_pb2.Redrive(
        state=queue_service_pb2.REDRIVE_STATE_COMPLETED, total=3, redriven=3, failed=failed
    )
    (column,) = [column for column in columns.REDRIVE if column.title == "STATE"]
    assert column.cell(redrive) == expected


def test_redrives_and_stop(service: FakeService, run: Run) -> None:
    result = run("redrives")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split("\t")[:4] == ["redrive-1", "RUNNING", "1 of 2", "0"]
    result = run("stop", "redrive-1", "--reason", "enough")
    assert "STOPPED" in result.stdout
    assert service.requests["StopRedrive"][0].reason == "enough"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--failure-class", "bad"],
        ["list", "--ended-after", "tomorrow"],
        ["list", "--limit", "-1"],
        ["redrive", "--rate", "fast"],
        ["stop"],
        [],
    ],
)
def test_wrong_usage_exits_with_2(service: FakeService, run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2
    assert not service.requests


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
    ],
)
def test_refusals_have_their_exit_statuses(
    service: FakeService, run: Run, code: grpc.StatusCode, status: int
) -> None:
    service.refusals["Redrive"].append(Refusal(code, "no"))
    result = run("redrive")
    assert result.exit_code == status
    assert result.stderr.startswith("longshore: ")


def test_an_unknown_redrive_exits_with_3(service: FakeService, run: Run) -> None:
    service.refusals["StopRedrive"].append(Refusal(grpc.StatusCode.NOT_FOUND, "there is none"))
    assert run("stop", "nope").exit_code == 3


def test_watch_says_who_ordered_a_new_run(service: FakeService, target: str) -> None:
    history = service.add().state(job_pb2.JOB_STATE_QUEUED, "REDRIVEN")
    history.events[-1].state_change.order.actor = "ann"
    history.events[-1].state_change.order.reason = "mended"
    history.end(job_pb2.JOB_STATE_SUCCEEDED, "1")
    result = CliRunner().invoke(app, ["watch", "job-1"], env={"LONGSHORE_TARGET": target})
    assert "job-1 QUEUED REDRIVEN by ann: mended" in result.stdout.splitlines()
