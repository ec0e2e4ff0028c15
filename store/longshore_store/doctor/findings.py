"""What the doctor hands over: one Finding for each thing that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_FINDINGS = 100
"""Findings of one check that are kept; the rest is counted."""


class Finding(NamedTuple):
    """One thing that is wrong.

    subject: what it is about, such as "job 0190...". found, expected: what is, and what should be.
    repairable: `repair` mends it. hint: odd, but by itself no harm.
    """

    check: str
    subject: str
    found: str
    expected: str
    repairable: bool = False
    hint: bool = False

    def __str__(self) -> str:
        kind = "hint " if self.hint else "DRIFT"
        return f"{kind} {self.check} {self.subject} {self.found}, should be {self.expected}"


@dataclass(slots=True)
class Examined:
    """One check, done. `looked_at` says on how much, such as "20,113 jobs"."""

    check: str
    looked_at: str = ""
    findings: list[Finding] = field(default_factory=list)
    unlisted: int = 0

    def add(self, findings: Iterable[Finding]) -> None:
        """Keeps the first findings and counts the others."""
        for finding in findings:
            if len(self.findings) < MOST_FINDINGS:
                self.findings.append(finding)
            else:
                self.unlisted += 1

    @property
    def drift(self) -> int:
        """How many findings are more than hints."""
        return sum(not finding.hint for finding in self.findings) + self.unlisted

    def lines(self) -> list[str]:
        """For people: one line where all is well, else one for each finding."""
        lines = [str(finding) for finding in self.findings]
        if self.unlisted:
            lines.append(f"DRIFT {self.check} and {self.unlisted:,} more")
        return lines or [f"ok    {self.check} {self.looked_at}".rstrip()]
