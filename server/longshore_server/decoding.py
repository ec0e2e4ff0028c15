"""Requests that are not what they should be: bytes that protobuf cannot read.

grpc would answer UNKNOWN without any detail. Here what cannot be read becomes a value of its own,
which the handler's decorator refuses like any other bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands in for a request that could not be read."""

    why: str


class DecodingServer:
    """What `add_...Servicer_to_server` is given instead of the server itself."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same handlers come by the other method, by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers the handlers with a decoder that does not raise."""
        wrapped = {name: _wrapped(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self._server.add_generic_rpc_handlers((generic,))


def _wrapped(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    decode = _lenient(handler.request_deserializer)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            handler.unary_stream, decode, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        handler.unary_unary, decode, handler.response_serializer
    )


def _lenient(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as error:
            return Undecodable(str(error))

    return decoded
