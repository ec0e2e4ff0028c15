"""How a failure is kept: as JSON text beside the attempt and the job."""

from __future__ import annotations

import json
from typing import NamedTuple

from longshore.sdk.failures import FailureClass


class Counted(NamedTuple):
    """How many attempts of this run ended in each class that has a bound."""

    attempts: int = 0
    crashes: int = 0
    ooms: int = 0
    interruptions: int = 0


class FailureRecord(NamedTuple):
    """Why an attempt or a job ended without a result. `code` is a canonical status code."""

    failure_class: FailureClass
    code: int
    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()
    violations: tuple[tuple[str, str], ...] = ()
    traceback: str = ""

    def to_json(self) -> str:
        """The text that the store keeps."""
        return json.dumps(
            {
                "class": int(self.failure_class),
                "code": self.code,
                "reason": self.reason,
                "message": self.message,
                "metadata": dict(self.metadata),
                "violations": [list(v) for v in self.violations],
                "traceback": self.traceback,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> FailureRecord:
        """The record that `to_json` wrote."""
        values = json.loads(text)
        return cls(
            failure_class=FailureClass(values["class"]),
            code=values["code"],
            reason=values["reason"],
            message=values["message"],
            metadata=tuple(values["metadata"].items()),
            violations=tuple((path, text) for path, text in values["violations"]),
            traceback=values["traceback"],
        )
