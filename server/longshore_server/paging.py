"""Pages: sizes, and opaque tokens that are good for one query only."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from longshore_server.refusals import Faults, refuse_field

LARGEST_PAGE = 1000
PAGE_BYTES = 3 * 1024 * 1024
"""A grpc client takes 4 MiB unless it is told otherwise."""

_MARK = 8
T = TypeVar("T")
M = TypeVar("M", bound=Message)


class PageRequest(Protocol):
    """A request of a list."""

    page_size: int
    page_token: str


def page_size(given: int, default: int, faults: Faults) -> int:
    """How many a page holds: 0 is the default, more than 1000 is 1000 (AIP-158)."""
    if given < 0:
        faults.add("page_size", f"is {given}; give 1 to {LARGEST_PAGE}, or 0 for {default}")
    return min(given, LARGEST_PAGE) or default


def make_token(after: str, *query: str) -> str:
    """The token of the page that follows `after` in this query."""
    return base64.urlsafe_b64encode(_mark(query) + after.encode()).decode().rstrip("=")


def read_token(token: str, faults: Faults, *query: str) -> str | None:
    """What the page follows, or None for the first page."""
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        after = raw[_MARK:].decode()
    except (binascii.Error, ValueError):
        faults.add("page_token", "is not a token of this service; begin without one")
        return None
    if raw[:_MARK] != _mark(query) or "\0" in after:
        text = "belongs to another query; repeat filter and order_by, or begin without a token"
        faults.add("page_token", text)
        return None
    return after


def _mark(query: Sequence[str]) -> bytes:
    digest = sha256()
    for part in query:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.digest()[:_MARK]


def named_page(
    rows: Sequence[T],
    name: Callable[[T], str],
    render: Callable[[T], M],
    request: PageRequest,
    *query: str,
) -> tuple[list[M], str]:
    """One page of rows that are sorted by name and wholly at hand, as messages, and the next
    token. It ends early at 3 MiB, so that a client can receive it."""
    faults = Faults()
    limit = page_size(request.page_size, 100, faults)
    after = read_token(request.page_token, faults, *query)
    faults.check()
    left = [row for row in rows if after is None or name(row) > after]
    page: list[M] = []
    size = 0
    for row in left[:limit]:
        message = render(row)
        size += message.ByteSize()
        if page and size > PAGE_BYTES:
            break
        page.append(message)
    more = len(left) > len(page)
    return page, make_token(name(left[len(page) - 1]), *query) if more else ""


def check_name(value: str, field: str) -> None:
    """A name that must be given."""
    if not value:
        refuse_field(field, "is empty; give a name")
