"""What people see of jobs: logs, times, tables and bars that fit a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as rpc
from rich.cells import cell_len

from longshore.cli import columns, tables, times
from longshore.v1 import job_pb2, pool_service_pb2
from tests.client.command import TERMINAL, Run, documents, ran
from tests.client.fake import FakeService, History

ID = "01a21cf9-c6a7-7111-b885-86ce9f5215f2"
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
NARROW = {**TERMINAL, "COLUMNS": "80"}


def talked(history: History) -> History:
    """Two attempts with output; 460 lines were lost in between."""
    history.log("first").events[-1].attempt = 1
    history.log("second", "third")
    history.events[-1].attempt, history.events[-1].log_chunk.dropped = 2, 460
    history.events[-1].event_time.FromSeconds(1_800_000_000)
    return history


def test_logs_of_an_ended_job_are_all_there(service: FakeService, run: Run) -> None:
    talked(service.add()).end(SUCCEEDED, "1")
    result = run("logs", "job-1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["first", "… 460 lines dropped", "second", "third"]
    (request,) = service.requests["WatchProgress"]
    assert request.HasField("after_sequence")
    assert request.include_logs
    assert run("logs", "job-1", "--attempt", "1").stdout == "first\n"
    stamped = run("logs", "job-1", "--timestamps", "--attempt", "2").stdout.splitlines()[-1]
    assert datetime.fromisoformat(stamped.split()[0]) == datetime.fromtimestamp(1_800_000_000, UTC)
    assert [chunk["sequence"] for chunk in documents(run("logs", "job-1", "--json"))] == ["1", "2"]


def test_logs_of_a_running_job_end_with_what_there_is(service: FakeService, run: Run) -> None:
    history = talked(service.add()).log("later")
    history.job.state, history.job.latest_sequence = job_pb2.JOB_STATE_RUNNING, 2
    assert run("logs", "job-1").stdout.splitlines()[-1] == "third"
    history.end(SUCCEEDED, "1")
    assert run("logs", "job-1", "--follow").stdout.splitlines()[-1] == "later"


def test_logs_say_what_is_gone(service: FakeService, run: Run) -> None:
    talked(service.add()).end(SUCCEEDED, "1")
    service.trims.append(1)
    assert run("logs", "job-1").stdout.startswith("… events 1 to 1 are gone: RETENTION\n")
    assert run("logs", "nobody").exit_code == 3


def test_a_watch_says_how_many_lines_were_dropped_and_when(service: FakeService, run: Run) -> None:
    history = talked(service.add()).end(SUCCEEDED, "1")
    lines = run("watch", "job-1", "--logs").stdout.splitlines()
    at = times.clock(history.events[1].event_time)
    assert f"job-1 {at} | … 460 lines dropped" in lines


def test_status_tells_times_and_what_was_asked_for(service: FakeService, run: Run) -> None:
    history = service.add(payload='{"n": 1}', labels={"team": "ads"}, priority=70)
    job = history.job
    job.spec.inputs["video"].uri = "file:///v.mp4"
    job.spec.timeouts.total.seconds = 7200
    job.spec.schedule_time.FromSeconds(1_700_000_000)
    job.create_time.FromSeconds(1_699_999_000)
    job.start_time.FromSeconds(1_700_000_005)
    job.end_time.FromSeconds(1_700_000_017)
    job.progress.fraction = 0.95
    job.attempts.add(number=1, worker_id="w1", start_time=job.start_time, end_time=job.end_time)
    history.end(SUCCEEDED, "1")
    facts = dict(
        re.split(r" +", line, maxsplit=1) for line in run("status", "job-1").stdout.splitlines()
    )
    assert "progress" not in facts  # 95 % of a job that has succeeded
    assert facts["ended"].startswith(f"{times.local(job.end_time)} (")
    assert {"created", "scheduled", "started"} <= facts.keys()
    assert (facts["ran"], facts["priority"], facts["labels"]) == ("12s", "70", "team=ads")
    assert (facts["payload"], facts["input"]) == ('{"n": 1}', "video file:///v.mp4")
    assert facts["timeouts"] == "total 2h00m"
    assert facts["attempt"] == f"1 on w1 at {times.clock(job.start_time)}, ran 12s"


def test_the_traceback_of_an_attempt_is_kept_when_a_later_one_succeeds(
    service: FakeService, run: Run
) -> None:
    job = ran(service.add()).ended
    failed = job.attempts.add(number=1, failure_class=job_pb2.FAILURE_CLASS_TASK_ERROR)
    failed.error.message = "loss is NaN"
    failed.error.details.add().Pack(rpc.DebugInfo(stack_entries=["Traceback:", "  line 7"]))
    assert "traceback" not in run("status", "job-1").stdout
    assert "traceback\n  Traceback:\n    line 7\n" in run("status", "job-1", "--verbose").stdout


def test_every_attempt_is_shown_of_a_job_that_has_many(service: FakeService, run: Run) -> None:
    history = ran(service.add())
    service.attempts = [job_pb2.Attempt(number=n, worker_id="w1") for n in range(1, 31)]
    history.ended.attempts.extend(service.attempts[20:])
    history.ended.attempt_count = 30
    newest = run("status", "job-1").stdout
    assert newest.count("attempt   ") == 10
    assert "30 in all" in newest
    every = run("status", "job-1", "--verbose").stdout
    assert [f"attempt   {n} on w1" for n in range(1, 31)] == every.splitlines()[-30:]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.35, "350ms"), (3.24, "3.2s"), (12, "12s"), (59.99, "1m00s"), (312, "5m12s"),
     (7500, "2h05m"), (273_600, "3d4h")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert times.lasting(seconds) == words


def dead_letter() -> job_pb2.Job:
    job = job_pb2.Job(job_id=ID, queue="default", run=2, state=job_pb2.JOB_STATE_DEAD_LETTERED)
    job.spec.task = "train-the-larger-model"
    job.create_time.CopyFrom(Timestamp(seconds=1_700_000_000))
    job.attempts.add(failure_class=job_pb2.FAILURE_CLASS_TASK_ERROR)
    job.error.message = "ValueError: /bad/value/42/token=***/ " + "(errors 2 of 2) 日本語 " * 5
    return job


@pytest.mark.parametrize("shape", [columns.JOB, columns.DEAD_LETTER])
@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_a_row_is_one_line_of_a_terminal(shape: tables.Columns[job_pb2.Job], width: int) -> None:
    head, row = tables.rows(shape, [dead_letter()], width)
    assert cell_len(head) <= width
    assert cell_len(row) <= width
    assert ID in row
    assert "…" in row


def test_at_80_columns_spare_columns_go_and_words_stay() -> None:
    head, row = tables.rows(columns.DEAD_LETTER, [dead_letter()], 80)
    assert head.split() == ["ID", "TASK", "CAUSE", "ENDED", "DETAIL"]
    assert "TASK_ERROR" in row
    wide, whole = tables.rows(columns.DEAD_LETTER, [dead_letter()], None)
    assert "RUN" in wide
    assert whole.endswith("日本語")


def test_wide_is_a_global_option(service: FakeService, run: Run) -> None:
    service.add(ID, task="train-the-larger-model-again-and-again-until-it-converges-at-last")
    narrow = run("list", **NARROW).stdout
    assert max(len(line) for line in narrow.splitlines()[1:]) <= 80  # the head is bold
    assert "at-last" in run("list", "--wide", **NARROW).stdout


def test_the_bar_of_one_job_has_room_at_80_columns(service: FakeService, run: Run) -> None:
    history = service.add(ID).state(job_pb2.JOB_STATE_RUNNING)
    history.progress(0.33, "10 of 30 steps").end(SUCCEEDED, "1")
    shown = run("watch", ID, **NARROW).stdout
    last = [line for line in shown.replace("\r", "\n").splitlines() if "━" in line][-1]
    assert "━" * 16 in last
    assert ID not in last
    assert re.search(r"\d:\d\d:\d\d", last)
    service.add("b" * 36).end(SUCCEEDED, "1")
    both = run("watch", ID, "b" * 36, **NARROW).stdout
    assert f"…{ID[-8:]}" in both


def test_a_worker_is_one_line_and_its_host_is_there() -> None:
    node = f"gpu-host-7/{'f' * 56}"
    draining = pool_service_pb2.WORKER_STATE_DRAINING
    worker = pool_service_pb2.Worker(
        worker_id="cpu-9a46", pool="cpu", node=node, state=draining, drained=True
    )
    _, row = tables.rows(columns.WORKER, [worker], 80)
    assert cell_len(row) <= 80
    assert "gpu-host-7/ffffffff " in row
    assert "DRAINED" in row, "nothing runs on it any more"


def test_people_are_told_who_leads_and_programs_get_the_table_alone(run: Run) -> None:
    assert "scheduler host:1 leads in term 7" in run("pools", **TERMINAL).stderr
    piped = run("pools")
    assert piped.stderr == ""
    assert len(piped.stdout.splitlines()) == 2
