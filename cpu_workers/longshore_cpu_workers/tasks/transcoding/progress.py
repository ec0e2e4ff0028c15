"""Reads ffmpeg's own reports: `-progress pipe:1` writes blocks of key=value lines."""

from __future__ import annotations

from typing import NamedTuple


class Report(NamedTuple):
    """One block. out_time is seconds of output written, speed a multiple of real time."""

    out_time: float = 0.0
    frame: int = 0
    fps: float = 0.0
    speed: float = 0.0
    ended: bool = False


class ReportParser:
    """Collects the lines of a block; a value that is not a number ("N/A") counts as 0."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def feed(self, line: str) -> Report | None:
        """Takes a line; returns the report that it completes, or None."""
        key, _, value = line.partition("=")
        if key.strip() != "progress":
            self._values[key.strip()] = value.strip()
            return None
        values, self._values = self._values, {}
        return Report(
            out_time=_number(values.get("out_time_us", "")) / 1_000_000,
            frame=int(_number(values.get("frame", ""))),
            fps=_number(values.get("fps", "")),
            speed=_number(values.get("speed", "").removesuffix("x")),
            ended=value.strip() == "end",
        )


def _number(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
