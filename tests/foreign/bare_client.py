"""A client that has stubs by grpcio-tools alone: python bare_client.py TARGET STUBS

Submits a job, watches it to its end whatever becomes of the connection, is refused, and prints a
line of JSON for each thing it learns.
"""

import json
import sys
import time

target, stubs = sys.argv[1:]
sys.path.insert(0, stubs)

import grpc  # noqa: E402
from google.protobuf.json_format import MessageToDict  # noqa: E402
from google.rpc import status_pb2  # noqa: E402

from longshore.v1 import errors_pb2, job_pb2, job_service_pb2, job_service_pb2_grpc  # noqa: E402

assert job_pb2.__file__.startswith(stubs), job_pb2.__file__
assert hasattr(errors_pb2, "ErrorDetails"), "without it the details of errors are not known"
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def follow(jobs: job_service_pb2_grpc.JobServiceStub, job_id: str) -> None:
    """Watches until the terminal event, from the cursor on after each cut."""
    request = job_service_pb2.WatchProgressRequest(job_id=job_id, include_logs=True)
    while True:
        try:
            for message in jobs.WatchProgress(request, timeout=60):
                request.after_sequence = message.sequence
                say(event=message.WhichOneof("event") or "", sequence=message.sequence)
                if message.HasField("terminal"):
                    say(result=message.terminal.job.result.value)
                    return
        except grpc.RpcError as error:
            if error.code() not in AGAIN:
                raise
        say(cut=request.after_sequence)
        time.sleep(0.05)


def explain(error: grpc.RpcError) -> list[dict[str, object]]:
    """The details of an error: every Any by the type that it names, which generated code has."""
    status = status_pb2.Status()
    for entry in error.trailing_metadata():
        if entry.key == "grpc-status-details-bin":
            status.ParseFromString(entry.value)
    found = (MessageToDict(detail) for detail in status.details)
    return [{"type": one.pop("@type").rpartition(".")[2], **one} for one in found]


def main() -> None:
    with grpc.insecure_channel(target) as channel:
        jobs = job_service_pb2_grpc.JobServiceStub(channel)
        spec = job_pb2.JobSpec(task="echo", payload='{"text":"from python"}')
        request = job_service_pb2.SubmitRequest(spec=spec, idempotency_key="bare-1")
        job_id = jobs.Submit(request, timeout=60).job.job_id
        say(submitted=job_id)
        follow(jobs, job_id)
        again = jobs.Submit(request, timeout=60)
        say(again=again.job.job_id, created=again.created)
        wrong = job_pb2.JobSpec(task="ecko", labels={"Wrong": "x"})
        try:
            jobs.Submit(job_service_pb2.SubmitRequest(spec=wrong), timeout=60)
        except grpc.RpcError as error:
            say(refused=error.code().name, details=explain(error))


main()
