"""A caller that has nothing but the generated stubs: submits, watches, prints the outcome.

python stub_client.py TARGET TASK PAYLOAD
"""

from __future__ import annotations

import sys

import grpc

from longshore.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc


def main(target: str, task: str, payload: str) -> None:
    """Prints each event's name, then the value of the result."""
    with grpc.insecure_channel(target) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        request = job_service_pb2.SubmitRequest(
            idempotency_key="stub-client", spec=job_pb2.JobSpec(task=task, payload=payload)
        )
        job = stub.Submit(request, timeout=60).job
        watch = job_service_pb2.WatchProgressRequest(job_id=job.job_id)
        for event in stub.WatchProgress(watch, timeout=60):
            print(event.WhichOneof("event"))
            if event.HasField("terminal"):
                print(event.terminal.job.result.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
