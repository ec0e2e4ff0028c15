"""What all tests share: how hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: these tests run on small shared machines, where a slow example is not a wrong one.
settings.register_profile("longshore", deadline=None)
# In a pipeline the same commit gives the same examples; searching for new ones is done at a desk.
settings.register_profile(
    "longshore-ci", deadline=None, derandomize=True, database=None, print_blob=True
)
settings.load_profile("longshore-ci" if os.environ.get("CI") else "longshore")
