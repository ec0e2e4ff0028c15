"""A grpc.aio server whose Submit does nothing: the limit that Submit is compared with."""

from __future__ import annotations

import asyncio
import os

import grpc

from longshore.v1 import job_service_pb2


async def _submit(
    _request: job_service_pb2.SubmitRequest, _context: object
) -> job_service_pb2.SubmitResponse:
    return job_service_pb2.SubmitResponse()


async def main() -> None:
    """Prints its port, serves until its parent is gone."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _submit,
        request_deserializer=job_service_pb2.SubmitRequest.FromString,
        response_serializer=job_service_pb2.SubmitResponse.SerializeToString,
    )
    methods = {"Submit": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("longshore.v1.JobService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.5)


asyncio.run(main())
