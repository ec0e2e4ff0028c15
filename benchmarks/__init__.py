"""Measurements, each beside a limit measured in the same run. No test depends on them."""
