"""A grpc.aio server whose Submit does nothing: the limit that Submit is compared with."""

from __future__ import annotations

import asyncio
import os

import grpc

from longshore.v1 import job_service_pb2, job_service_pb2_grpc


class _Empty(job_service_pb2_grpc.JobServiceServicer):
    async def Submit(  # noqa: N802 - the name is the contract's
        self, request: job_service_pb2.SubmitRequest, context: object
    ) -> job_service_pb2.SubmitResponse:
        return job_service_pb2.SubmitResponse()


async def main() -> None:
    """Prints its port, serves until its parent is gone."""
    server = grpc.aio.server()
    job_service_pb2_grpc.add_JobServiceServicer_to_server(_Empty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


asyncio.run(main())
