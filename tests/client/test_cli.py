"""The command line, through its front door."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2 as rpc
from google.rpc import status_pb2
from typer.testing import CliRunner

from longshore.cli import columns
from longshore.cli.app import app
from longshore.cli.up import UpOptions
from longshore.v1 import job_pb2
from tests.client.command import Run, documents, ran
from tests.client.fake import DEADLINE, FakeService, Refusal, queue_full

SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED


def test_submit_prints_the_id(service: FakeService, run: Run) -> None:
    result = run("submit", "known", "--payload", '{"n": 1}')
    assert (result.exit_code, result.stdout) == (0, "job-1\n")


def test_submit_says_all_it_was_told(service: FakeService, run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"n": 2}')
    words = f"""submit resize --payload @{tmp_path}/p.json --input video={tmp_path}/v.mp4
        --queue fast --priority 9 --label team=ads --label env=a=b --gpu 0.5 --cpu 2
        --memory 2GiB --gpu-memory 500MB --key k1 --at 2026-01-31T18:00:00Z --max-attempts 3
        --attempt-timeout 1h30m --validate-only"""
    assert run(*words.split()).exit_code == 0
    (request,) = service.requests["Submit"]
    spec = request.spec
    assert (request.idempotency_key, request.validate_only) == ("k1", True)
    assert (spec.payload, spec.queue, spec.priority) == ('{"n": 2}', "fast", 9)
    assert spec.inputs["video"].uri == f"file://{tmp_path}/v.mp4"
    assert spec.labels == {"team": "ads", "env": "a=b"}
    assert spec.resources == job_pb2.Resources(
        cpu_millis=2000, memory_bytes=2**31, gpu_millis=500, gpu_memory_bytes=500_000_000
    )
    assert spec.schedule_time.ToJsonString() == "2026-01-31T18:00:00Z"
    assert spec.retry_policy == job_pb2.RetryPolicy(maximum_attempts=3)
    assert spec.timeouts.attempt.seconds == 5400
    assert not spec.timeouts.HasField("total")


def test_submit_takes_the_payload_from_stdin(service: FakeService, run: Run) -> None:
    assert run("submit", "resize", "--payload", "-", stdin="[1]").exit_code == 0
    assert service.requests["Submit"][0].spec.payload == "[1]"


def test_submit_as_json(run: Run) -> None:
    (document,) = documents(run("submit", "known", "--json"))
    assert document["job"]["job_id"] == "job-1"
    assert document["placement"]["approximate_position"] == "3"


@pytest.mark.parametrize(
    "words",
    [
        ["--payload", "{"],
        ["--payload", "@no-such-file"],
        ["--in", "10x"],
        ["--in", "10m", "--at", "2026-01-31"],
        ["--at", "tomorrow"],
        ["--memory", "much"],
        ["--label", "nothing"],
        ["--priority", "high"],
        ["--watch", "--wait"],
        ["--priority", "99999999999"],
        ["--validate-only", "--watch"],
        ["--label", "a=1", "--label", "a=2"],
        ["--in", "999999999999999999d"],
        ["--attempt-timeout", "9999999d"],
        ["--memory", "999999999999TiB"],
        ["--cpu", "nan"],
        ["--gpu", "inf"],
        ["--cpu", "0"],
        ["--max-attempts", "0"],
        ["--max-attempts", "99999999999"],
        ["--payload", "[" * 100_000],
        ["--timeout", "inf"],
        ["--target", ""],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_wrong_usage_exits_with_2(service: FakeService, run: Run, words: list[str]) -> None:
    result = run("submit", "resize", *words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stderr
    assert service.requests["Submit"] == []


def test_a_payload_without_an_end_is_refused(run: Run) -> None:
    result = run("submit", "resize", "--payload", "@/dev/zero")
    assert result.exit_code == 2
    assert "give what is large by --input" in result.stderr


def test_wait_prints_the_result(service: FakeService, run: Run) -> None:
    ran(service.add())
    result = run("submit", "known", "--wait")
    assert (result.exit_code, result.stdout, result.stderr) == (0, '{"ok":true}\n', "job-1\n")
    (document,) = documents(run("submit", "known", "--wait", "--json"))
    assert document["result"]["value"] == '{"ok":true}'


def test_wait_exits_with_1_where_the_job_fails(service: FakeService, run: Run) -> None:
    service.add().end(job_pb2.JOB_STATE_FAILED, error=status_pb2.Status(message="bad video"))
    result = run("submit", "known", "--wait")
    assert result.exit_code == 1
    assert result.stderr == "job-1\nlongshore: job job-1 failed: bad video\n"


def test_watch_in_a_pipe_is_plain_lines(service: FakeService, run: Run) -> None:
    ran(service.add())
    result = run("watch", "job-1", "--logs")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "job-1 QUEUED",
        "job-1 RUNNING STARTED",
        "job-1 RUNNING 40% cropped",
        "job-1 | a [b] line",
        "job-1 SUCCEEDED TEST",
        "job-1 ended SUCCEEDED",
    ]


def test_watch_as_json_names_the_job(service: FakeService, run: Run) -> None:
    ran(service.add())
    service.add("job-2").end(SUCCEEDED, "1")
    events = documents(run("--json", "watch", "job-1", "job-2"))
    assert {event["job_id"] for event in events} == {"job-1", "job-2"}
    ends = [event["terminal"]["job"]["state"] for event in events if "terminal" in event]
    assert ends == ["JOB_STATE_SUCCEEDED"] * 2


def test_watch_at_a_terminal_shows_bars(service: FakeService, run: Run) -> None:
    ran(service.add())
    service.add("job-2").end(SUCCEEDED, "1")
    result = run("watch", "job-1", "job-2", "--logs", FORCE_COLOR="1")
    assert result.exit_code == 0
    assert "SUCCEEDED" in result.stdout
    assert "━" in result.stdout
    assert "a [b] line" in result.stdout


def test_watch_exits_with_1_where_one_did_not_succeed(service: FakeService, run: Run) -> None:
    ran(service.add())
    service.add("job-2").end(job_pb2.JOB_STATE_CANCELLED, error=status_pb2.Status(message="by me"))
    result = run("watch", "job-1", "job-2")
    assert result.exit_code == 1
    assert "job-2 ended CANCELLED by me" in result.stdout


def test_an_unknown_job_exits_with_3_and_the_others_are_watched(
    service: FakeService, run: Run
) -> None:
    ran(service.add())
    result = run("watch", "job-1", "nobody")
    assert result.exit_code == 3
    assert "ended SUCCEEDED" in result.stdout
    assert result.stderr == "longshore: job 'nobody' is unknown\n"


def test_an_unknown_job_is_told_while_the_others_are_watched(
    service: FakeService, target: str
) -> None:
    service.add()
    service.holds = True
    code = "from longshore.cli import main; main()"
    command = [sys.executable, "-c", code, "--target", target, "watch", "job-1", "nobody"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "longshore: job 'nobody' is unknown\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.parametrize("command", ["status", "cancel", "retry"])
def test_unknown_ids_exit_with_3(service: FakeService, run: Run, command: str) -> None:
    service.add()
    result = run(command, "job-1", "nobody")
    assert result.exit_code == 3
    assert "job-1" in result.stdout


def test_status_of_one_tells_all(service: FakeService, run: Run) -> None:
    job = ran(service.add(queue="fast")).ended
    thumb = job.result.artifacts["thumb.png"]
    thumb.uri, thumb.size_bytes, thumb.sha256 = "file:///thumb.png", 2048, b"\xab" * 32
    job.attempts.add(
        number=1, worker_id="w1", devices=["H100"], failure_class=1, error={"message": "oops"}
    )
    result = run("status", "job-1")
    assert result.exit_code == 0
    assert 'result    {"ok":true}' in result.stdout
    artifact = f"artifact  thumb.png (2 KiB) file:///thumb.png sha256:{'ab' * 32}"
    assert artifact in result.stdout
    assert "attempt   1 on w1 H100 TASK_ERROR: oops" in result.stdout


def test_status_of_a_failed_job_shows_where_it_failed(service: FakeService, run: Run) -> None:
    info = rpc.DebugInfo(stack_entries=["Traceback:", '  File "t.py", line 1', "ValueError: no"])
    status = status_pb2.Status(message="no")
    status.details.add().Pack(rpc.ErrorInfo(reason="VALUE_ERROR"))
    status.details.add().Pack(info)
    service.add().end(job_pb2.JOB_STATE_DEAD_LETTERED, error=status)
    lines = run("status", "job-1").stdout.splitlines()
    assert lines[-4:] == [
        "traceback",
        "  Traceback:",
        '    File "t.py", line 1',
        "  ValueError: no",
    ]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"fraction": 0.4, "phase": "decode", "message": "cropped"}, "40% decode: cropped"),
        ({"fraction": 1.0, "phase": "done", "message": "done"}, "100% done"),
        ({"fraction": 0.14, "message": "2.8 of 20.0 s", "completed": 84, "unit": "frames"},
         "14% 2.8 of 20.0 s"),
        ({"fraction": 0.4, "completed": 2000, "total": 5000, "unit": "pages", "phase": "render"},
         "40% render: 2,000 of 5,000 pages"),
        ({"completed": 7}, "7"),
        ({}, ""),
    ],
)  # fmt: skip
def test_progress_in_words(report: dict[str, Any], expected: str) -> None:
    assert columns.progress(job_pb2.Progress(**report)) == expected


def test_status_as_json(service: FakeService, run: Run) -> None:
    ran(service.add())
    (document,) = documents(run("status", "job-1", "--json"))
    assert document["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert document["job"]["result"]["value"] == '{"ok":true}'


def test_ctrl_c_exits_with_130(service: FakeService, target: str) -> None:
    service.add()
    service.holds = True
    code = "from longshore.cli import main; main()"
    command = [sys.executable, "-c", code, "--target", target, "watch", "job-1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "job-1 QUEUED\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE) == ("", "")
    assert process.returncode == 130


def test_a_detail_of_an_unknown_type_is_left_out(service: FakeService, run: Run) -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/longshore.v9.New", value=b"x")
    status = status_pb2.Status(message="no", details=[unknown])
    service.add().end(job_pb2.JOB_STATE_FAILED, error=status)
    (document,) = documents(run("status", "job-1", "--json"))
    assert document["job"]["error"] == {"message": "no"}


def test_list_builds_a_filter(service: FakeService, run: Run) -> None:
    service.add()
    words = "list --state running --state queued --queue fast --label team=ads --filter a=1"
    assert run(*words.split()).exit_code == 0
    assert service.requests["ListJobs"][0].filter == (
        'a=1 AND state:(RUNNING, QUEUED) AND queue = "fast" AND labels.team = "ads"'
    )


def test_list_stops_at_its_limit(service: FakeService, run: Run) -> None:
    for number in range(7):
        service.add(f"job-{number}")
    assert len(documents(run("list", "--limit", "3", "--json"))) == 3
    assert len(documents(run("list", "--limit", "0", "--json"))) == 7
    lines = run("list", "--limit", "2").stdout.splitlines()
    assert lines[0].split("\t") == ["ID", "TASK", "QUEUE", "STATE", "AGE", "RAN", "DETAIL"]
    assert lines[1].split("\t")[:4] == ["job-0", "resize", "-", "QUEUED"]


def test_tables_at_a_terminal(service: FakeService, run: Run) -> None:
    service.add("job-with-a-long-id", labels={"a": "[red]"})
    result = run("list", FORCE_COLOR="1", NO_COLOR="1")
    assert "job-with-a-long-id" in result.stdout
    assert "\t" not in result.stdout


def test_cancel_and_retry(service: FakeService, run: Run) -> None:
    service.add()
    assert "CANCELLING" in run("cancel", "job-1", "--reason", "old", "--force").stdout
    assert (service.requests["Cancel"][0].reason, service.requests["Cancel"][0].force) == (
        "old",
        True,
    )
    assert run("retry", "job-1", "--reason", "new code").exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["queues"], ["fast", "slow"]),
        (["queues", "pause", "fast", "--reason", "deploy"], ["fast", "deploy"]),
        (["queues", "resume", "fast"], ["fast"]),
        (["pools"], ["cpu", "1.5 cpu, 2 GiB", "simulated"]),
        (["workers", "--pool", "gpu"], ["w1", "gpu", "READY"]),
        (["tasks"], ["resize", "Makes images smaller."]),
        (["tasks", "resize"], ["resize", '"type": "object"']),
    ],
)
def test_the_service_is_shown(run: Run, words: Sequence[str], expected: Sequence[str]) -> None:
    result = run(*words)
    assert result.exit_code == 0
    assert all(text in result.stdout for text in expected)
    assert documents(run("--json", *words))


def test_a_refused_request_is_one_line_and_its_fields(service: FakeService, run: Run) -> None:
    bad = rpc.BadRequest(
        field_violations=[
            {"field": "spec.task", "description": "unknown"},
            {"field": "spec.priority", "description": "101 is above 100"},
        ]
    )
    refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "2 fields are wrong", (bad,))
    service.refusals["Submit"].extend([refusal, refusal])

    result = run("submit", "resize")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "longshore: 2 fields are wrong",
        "  spec.task: unknown",
        "  spec.priority: 101 is above 100",
    ]
    error = json.loads(run("submit", "resize", "--json").stderr)["error"]
    assert error["type"] == "InvalidJob"
    assert error["violations"][0] == {"field": "spec.task", "description": "unknown"}


def test_the_only_wrong_field_is_named_once(service: FakeService, run: Run) -> None:
    bad = rpc.BadRequest(field_violations=[{"field": "spec.task", "description": "is empty"}])
    refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "spec.task: is empty", (bad,))
    service.refusals["Submit"].append(refusal)
    assert run("submit", "resize").stderr == "longshore: spec.task: is empty\n"


def test_a_full_queue_exits_with_5(service: FakeService, run: Run) -> None:
    service.refusals["Submit"].append(queue_full(60))
    result = run("submit", "resize", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stderr)["error"]["retry_after"] == 60


@pytest.mark.parametrize("command", ["queues", "list", "pools"])
def test_no_server_exits_with_4(command: str) -> None:
    words = ["--target", "127.0.0.1:1", "--timeout", "0.2", command]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 4
    assert "127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_global_options_may_stand_anywhere_but_behind_two_dashes(
    service: FakeService, run: Run
) -> None:
    assert documents(run("tasks", "--json"))[0]["name"] == "resize"
    assert run("tasks", "--", "--json").stdout.startswith("task")


def test_the_help_documents_the_exit_statuses(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(line in result.stdout for line in ("0    success", "3    not found", "5    ref"))


def test_up_runs_the_embedded_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[UpOptions] = []

    def start(options: UpOptions) -> int:
        given.append(options)
        return 7

    embedded = ModuleType("longshore_embedded.main")
    embedded.run = start  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "longshore_embedded.main", embedded)

    words = ["up", "--data", str(tmp_path), "--simulate-gpus", "2", "--insecure"]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 7
    assert given == [UpOptions(tmp_path, "127.0.0.1:7233", None, 2, True, None)]


def test_up_without_the_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "longshore_embedded.main", None)
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == 2
    assert "pip install 'longshore[all]" in result.stderr
    assert len(result.stderr.splitlines()) == 1
