"""Server reflection, for callers without stubs: version 1, and the alpha that older tools ask."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"
NAMES = (reflection.SERVICE_NAME, V1)


def reflect(server: grpc.aio.Server, names: Iterable[str]) -> None:
    """Adds reflection of these services and of itself."""
    names = (*names, *NAMES)
    reflection.enable_server_reflection(names, server)
    # The messages of both versions are the same on the wire; grpcio has those of the alpha only.
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handlers,))
