"""What all tests share: how hypothesis searches, and that Ctrl-C can be sent to children."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# No deadline: these tests run on small shared machines, where a slow example is not a wrong one.
settings.register_profile("longshore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In a pipeline the same commit gives the same examples; searching for new ones is done at a desk.
settings.register_profile(
    "longshore-ci",
    settings.get_profile("longshore"),
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.load_profile("longshore-ci" if os.environ.get("CI") else "longshore")

# A pipeline may start the tests in the background, where a shell has SIGINT ignored; children would
# inherit that, and the tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
