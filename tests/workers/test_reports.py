"""What tasks say while they run: progress, output, checkpoints; and files that go in and out."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.outbox import Outbox
from longshore_cpu_workers.runner.channel import PROGRESS_INTERVAL
from longshore_cpu_workers.runner.inputs import InputRefused, open_input
from longshore_cpu_workers.runner.pacing import Allowance, Conflator
from longshore_cpu_workers.wire import (
    ArtifactRef,
    Checkpointed,
    Failed,
    Failure,
    InputRef,
    Logged,
    Progressed,
    Succeeded,
)
from tests.workers.harness import Bench, job


async def test_progress_is_merged_and_the_last_value_arrives(one: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    await one.assign(job("a", "much_progress", {"path": str(flag)}))

    def last_arrived() -> bool:
        bodies = [json.loads(report.body) for report in one.of(Progressed, "a")]
        return bool(bodies) and bodies[-1].get("completed") == 1000

    await one.until(last_arrived)  # the task is quiet now, and still runs
    assert not one.outcomes()
    assert json.loads(one.of(Progressed)[-1].body) == {
        "fraction": 1.0,
        "completed": 1000,
        "total": 1000,
        "unit": "steps",
    }
    times = [report.at for report in one.of(Progressed)]
    assert all(later - earlier > PROGRESS_INTERVAL - 1e-6 for earlier, later in pairwise(times))
    flag.touch()
    await one.outcome("a")


def test_a_conflator_lets_one_through_per_interval_and_keeps_the_newest() -> None:
    conflator = Conflator[str](0.1)
    assert conflator.offer("a", 0.0) == "a"
    assert conflator.offer("b", 0.05) is None
    assert conflator.offer("c", 0.09) is None
    assert conflator.due(0.09) is None
    assert conflator.due(0.1) == "c"
    assert conflator.due(0.3) is None
    assert conflator.offer("d", 0.15) is None
    assert conflator.last(0.15) == "d"


def test_an_allowance_refills_with_time() -> None:
    allowance = Allowance(10.0, 0.0)
    assert sum(allowance.take(0.0) for _ in range(20)) == 10
    assert sum(allowance.take(0.5) for _ in range(20)) == 5


async def test_output_of_every_kind_is_captured(one: Bench) -> None:
    await one.assign(job("a", "talkative"))
    await one.outcome("a")
    lines = {line for report in one.of(Logged, "a") for line in report.lines}
    assert lines == {
        "from print",
        "from stderr",
        "WARNING from logging",
        "from C",
        "from a child",
        "no end",
    }
    assert isinstance(one.reports[-1], Succeeded), "output comes before the outcome"


async def test_a_flood_of_output_is_bounded_and_counted(one: Bench) -> None:
    outcome = await one.run(job("a", "flood", {"value": 5000}))
    assert isinstance(outcome, Succeeded)
    reports = one.of(Logged, "a")
    kept = sum(len(report.lines) for report in reports)
    assert kept + sum(report.dropped for report in reports) == 5001
    assert 200 <= kept <= 200 + 200 * outcome.seconds + 1
    assert all(len(report.lines) <= 100 for report in reports)


async def test_long_lines_are_cut(one: Bench) -> None:
    await one.assign(job("a", "flood"))
    await one.outcome("a")
    lines = [line for report in one.of(Logged, "a") for line in report.lines]
    assert max(len(line.encode()) for line in lines) <= 4096


async def test_a_checkpoint_returns_once_it_is_acknowledged(one: Bench) -> None:
    await one.assign(job("a", "saves", {"value": 7}, checkpoint='{"page":6}'))
    while not any(isinstance(r, Checkpointed) for r in await one.poll(acknowledge=False)):
        pass
    waiting = await one.poll(acknowledge=False)
    assert not any(isinstance(r, Succeeded | Failed) for r in waiting)
    assert await one.value("a") == {"page": 6}
    assert json.loads(one.of(Checkpointed)[0].value) == {"page": 7}


async def test_a_checkpoint_that_nobody_acknowledges_times_out(one: Bench) -> None:
    await one.assign(job("a", "saves", {"value": 1}))
    reports: list[Any] = []
    while not any(isinstance(r, Failed) for r in reports):
        reports = await one.poll(acknowledge=False)
    (failed,) = [r for r in reports if isinstance(r, Failed)]
    assert failed.failure.reason == "TIMEOUT_ERROR"


async def test_a_checkpoint_has_a_bound(one: Bench) -> None:
    await one.assign(job("a", "saves", {"value": -1}))
    failure = (await one.failed("a")).failure
    assert failure.reason == "VALUE_ERROR"
    assert "262144" in failure.message


async def test_a_checkpoint_that_is_too_large_harms_nothing(two: Bench) -> None:
    await two.assign(job("b", "saves_too_much"), job("a", "double", {"value": 3}))
    message = await two.value("b")
    assert message.startswith("the checkpoint has 300002 bytes as JSON, more than 262144; ")
    assert "write large state to a file" in message
    assert [json.loads(c.value) for c in two.of(Checkpointed)] == ["small", "smaller"]
    assert await two.value("a") == 6


async def test_artifacts_are_of_winners_only(one: Bench) -> None:
    await one.assign(job("a", "writes", fence=3), job("b", "writes", {"value": 1}))
    outcome = await one.outcome("a")
    assert isinstance(outcome, Succeeded)
    (ref,) = outcome.artifacts
    path = one.artifacts / "a" / "3" / "out.txt"
    assert (ref.name, ref.uri, ref.size) == ("out.txt", path.as_uri(), 5)
    assert ref.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert ref.media_type == "text/plain"
    assert path.read_text() == "hello"
    await one.failed("b")
    assert not (one.artifacts / "b").exists()
    assert not list(one.scratch.iterdir())


async def test_inputs_are_checked_before_the_task_begins(one: Bench, tmp_path: Path) -> None:
    file = tmp_path / "in put.txt"
    file.write_text("hello")
    digest = hashlib.sha256(b"hello").hexdigest()

    def reading(job_id: str, uri: str, size: int = 0, sha256: str = "") -> Any:
        return job(job_id, "reads", inputs=(InputRef("text", uri, size, sha256),))

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    await one.assign(
        reading("pipe", pipe.as_uri()),
        reading("good", file.as_uri(), 5, digest),
        reading("missing", "file:///nowhere/x"),
        reading("size", file.as_uri(), 6),
        reading("hash", file.as_uri(), 5, "00"),
        reading("remote", "https://host/x"),
    )
    assert await one.value("good") == "hello"
    expected = {
        "missing": (5, "INPUT_NOT_FOUND"),
        "pipe": (5, "INPUT_NOT_FOUND"),
        "size": (15, "INPUT_MISMATCH"),
        "hash": (15, "INPUT_MISMATCH"),
        "remote": (3, "INPUT_NOT_SUPPORTED"),
    }
    for job_id, (code, reason) in expected.items():
        failed = await one.failed(job_id)
        assert (failed.failure.code, failed.failure.reason) == (code, reason)
        assert failed.failure.failure_class is FailureClass.PERMANENT
        assert failed.failure.metadata == (("input", "text"),)
        assert failed.seconds is None


def test_an_unreadable_input_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by a double, not by the file's mode: root may read everything."""
    file = tmp_path / "x"
    file.write_text("x")

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("longshore_cpu_workers.runner.inputs.os.open", refuse)
    with pytest.raises(InputRefused) as refused:
        open_input("text", file.as_uri(), 0, "", lambda: False)
    assert (refused.value.told.reason, refused.value.told.code) == ("PERMISSION_DENIED", 7)
    assert str(file) in str(refused.value)


async def test_the_outbox_merges_only_what_was_never_sent() -> None:
    acknowledged: list[Checkpointed] = []
    outbox = Outbox(acknowledged.append, limit=4)
    outbox.replace(Progressed("a", 1, 0.0, "1"))
    first = await outbox.poll(0, 0.0)
    outbox.replace(Progressed("a", 1, 0.0, "2"))
    outbox.replace(Progressed("a", 1, 0.0, "3"))
    outbox.replace(Checkpointed("a", 1, 0.0, "{}"))
    second = await outbox.poll(0, 0.0)
    assert [r.body for r in second.reports if isinstance(r, Progressed)] == ["1", "3"]
    assert (first.last, second.last) == (1, 3)
    assert not acknowledged
    third = await outbox.poll(3, 0.0)
    assert (third.last, third.reports, len(acknowledged)) == (3, (), 1)


async def test_the_outbox_counts_the_lines_it_drops() -> None:
    outbox = Outbox(lambda report: None, max_lines=150)
    for _ in range(4):
        outbox.log(Logged("a", 1, 0.0, tuple("x" * 50)))
    reply = await outbox.poll(0, 0.0)
    logs = [r for r in reply.reports if isinstance(r, Logged)]
    assert sum(len(r.lines) for r in logs) == 150
    assert sum(r.dropped for r in logs) == 50
    assert all(len(r.lines) <= 100 for r in logs)


async def test_what_belongs_to_a_report_counts_for_the_bound_of_a_reply() -> None:
    outbox = Outbox(lambda report: None, max_bytes=1000)
    refs = (ArtifactRef("a", "file:///" + "x" * 100, 1, "", ""),) * 20
    pairs = (("path", "x" * 100),) * 20
    failure = Failure(FailureClass.TASK_ERROR, 10, "X", "x", pairs, pairs)
    for number in range(4):
        outbox.add(Succeeded(f"s{number}", 1, 0.0, 0.0, "1", refs))
        outbox.add(Failed(f"f{number}", 1, 0.0, 0.0, failure))
    for ack in range(8):
        assert len((await outbox.poll(ack, 0.0)).reports) == 1


async def test_a_reply_has_a_bound() -> None:
    outbox = Outbox(lambda report: None, limit=10, max_bytes=100)
    for number in range(30):
        outbox.add(Succeeded(f"{number}", 1, 0.0, 0.0, "x" * 30))
    seen: list[str] = []
    ack = 0
    while reply := (await outbox.poll(ack, 0.0)):
        if not reply.reports:
            break
        assert len(reply.reports) <= 4
        seen += [r.job_id for r in reply.reports]
        ack = reply.last
    assert seen == [str(number) for number in range(30)]
