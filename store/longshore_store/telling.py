"""Errors in logs: where and what kind, and never what they quote."""

from __future__ import annotations

import traceback


def without_values(error: BaseException) -> str:
    """The types of an exception and of what caused it, each with its frames.

    Their texts are left out: a database quotes the row that it refuses, a library the payload
    that it cannot read, and a client the URL that it cannot reach.
    """
    told: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = "".join(traceback.format_tb(link.__traceback__))
        told.append(f"{type(link).__module__}.{type(link).__qualname__}\n{frames}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "caused by ".join(told).rstrip()
