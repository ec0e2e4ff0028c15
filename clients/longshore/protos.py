"""The .proto files of the contract, for compilers of other languages.

    python -m longshore.protos FOLDER
        writes them all there, with the files of google/rpc that they import
    protoc $(python -m longshore.protos) --go_out=out longshore/v1/job_service.proto
        without a folder it prints the include paths where they lie

The installed package holds ours beside the stubs. Those of google/rpc come with
googleapis-common-protos, which Longshore depends on.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

IMPORTED = ("google/rpc/error_details.proto", "google/rpc/status.proto")


def include_paths() -> tuple[Path, Path]:
    """The include path of longshore/v1, and that of google/rpc."""
    google = find_spec("google.rpc")
    assert google is not None, "googleapis-common-protos is not installed"
    assert google.submodule_search_locations is not None
    return _own(), Path(google.submodule_search_locations[0]).parents[1]


def write(folder: Path) -> None:
    """Copies every file that a compiler needs; google/protobuf comes with the compiler."""
    own, google = include_paths()
    files = [(own, path.relative_to(own)) for path in own.glob("longshore/v1/*.proto")]
    for source, name in [*files, *((google, Path(name)) for name in IMPORTED)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _own() -> Path:
    beside = Path(__file__).resolve().parents[1]
    if (beside / "longshore/v1/job.proto").is_file():
        return beside
    return beside.parent / "protos"  # a checkout


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:
        print(*(f"-I{path}" for path in include_paths()))  # noqa: T201  # for a shell
