"""A task module whose import fails at length."""

raise RuntimeError("no licence\0\ud800 " + "x" * 100_000)
