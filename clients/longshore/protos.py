"""Where the .proto files of the contract lie, for compilers of other languages.

    protoc $(python -m longshore.protos) --go_out=out longshore/v1/job_service.proto

The installed package holds them beside the stubs. The files of google/rpc that they import come
with googleapis-common-protos, which Longshore depends on.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def include_paths() -> tuple[Path, Path]:
    """The include path of longshore/v1, and that of google/rpc."""
    google = find_spec("google.rpc")
    assert google is not None, "googleapis-common-protos is not installed"
    assert google.submodule_search_locations is not None
    return _own(), Path(google.submodule_search_locations[0]).parents[1]


def _own() -> Path:
    beside = Path(__file__).resolve().parents[1]
    if (beside / "longshore/v1/job.proto").is_file():
        return beside
    return beside.parent / "protos"  # a checkout


if __name__ == "__main__":
    print(*(f"-I{path}" for path in include_paths()))  # noqa: T201  # for a shell
