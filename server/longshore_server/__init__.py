"""The gRPC server of Longshore: admission, watching, and the services of longshore.v1."""

from longshore_server.server import ListenError, LongshoreServer, PortTaken
from longshore_server.services import SERVICE_NAMES, Services, add_services

__all__ = [
    "SERVICE_NAMES",
    "ListenError",
    "LongshoreServer",
    "PortTaken",
    "Services",
    "add_services",
]
