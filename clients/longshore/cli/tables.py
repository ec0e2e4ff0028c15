"""Tables that fit a terminal: a cell is cut, never folded, and what is spare is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size

T = TypeVar("T")
GAP = "  "
LEAST = 12
"""Cells that an elastic column needs before a spare one may stay beside it."""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table.

    Attributes:
        title: its head.
        cell: its text for a message.
        elastic: True lets a narrow terminal cut its cells.
        spare: True lets a narrow terminal leave it out.
    """

    title: str
    cell: Callable[[T], str]
    elastic: bool = False
    spare: bool = False

    def text(self, message: T) -> str:
        """The cell on one line."""
        return " ".join(self.cell(message).split())


Columns = Sequence[Column[T]]


def rows(columns: Columns[T], messages: Iterable[T], width: int | None) -> list[str]:
    """The head and a line for each message; None for `width` leaves nothing out."""
    found = list(messages)
    texts = {c.title: [c.title, *(c.text(each) for each in found)] for c in columns}
    needed = {title: max(map(cell_len, cells)) for title, cells in texts.items()}
    shown = list(columns)
    if width is not None:
        shown = _without_spare(shown, needed, width)
        _shrink(shown, needed, width)
    return [
        GAP.join(_cut(texts[c.title][n], needed[c.title]) for c in shown).rstrip()
        for n in range(len(found) + 1)
    ]


def _total(columns: Columns[T], widths: dict[str, int]) -> int:
    return sum(widths[c.title] for c in columns) + len(GAP) * (len(columns) - 1)


def _without_spare(columns: list[Column[T]], needed: dict[str, int], width: int) -> list[Column[T]]:
    least = {
        c.title: min(needed[c.title], LEAST) if c.elastic else needed[c.title] for c in columns
    }
    while _total(columns, least) > width:
        spare = next((c for c in columns if c.spare), None)  # from the left
        if spare is None:
            break
        columns = [c for c in columns if c is not spare]
    return columns


def _shrink(columns: list[Column[T]], widths: dict[str, int], width: int) -> None:
    """Takes from the widest elastic column, cell by cell, until all fit."""
    elastic = [c.title for c in columns if c.elastic]
    while _total(columns, widths) > width and elastic:
        widest = max(elastic, key=lambda title: widths[title])
        if widths[widest] <= 4:  # too narrow a terminal for any table
            break
        widths[widest] -= 1


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"
