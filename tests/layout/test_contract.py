"""The contract as others meet it: it compiles as shipped, and says what the code does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from longshore.protos import include_paths, write
from longshore.v1 import errors_pb2, job_service_pb2
from longshore_store.states import (
    DEAD_LETTER,
    DEMOTE,
    EXPIRE_ATTEMPT,
    FAIL,
    RELEASE,
    RETRY,
    TRANSITIONS,
)
from tests.layout.tree import ROOT

PROTOS = ROOT / "protos"
OF_AN_ERROR = {t.reason for t in (FAIL, RETRY, DEAD_LETTER, RELEASE, DEMOTE, EXPIRE_ATTEMPT)}
RELEASED = PROTOS / "released.binpb"
NAMES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


def compiled(tmp_path: Path) -> FileDescriptorSet:
    """What protoc makes of the protos, given the include paths that a user is told of."""
    out = tmp_path / "descriptors.binpb"
    printed = subprocess.run(
        [sys.executable, "-m", "longshore.protos"], check=True, capture_output=True, text=True
    )
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *printed.stdout.split(), *NAMES,
         f"--descriptor_set_out={out}"],
        check=True,
        cwd=tmp_path,
    )  # fmt: skip
    return FileDescriptorSet.FromString(out.read_bytes())


def test_protoc_compiles_them_with_the_paths_that_are_printed(tmp_path: Path) -> None:
    assert sorted(file.name for file in compiled(tmp_path).file) == NAMES


def test_generators_for_go_and_java_find_their_options(tmp_path: Path) -> None:
    outer = set()
    for file in compiled(tmp_path).file:
        assert file.options.go_package == "longshore.dev/go/longshore/v1;longshorev1"
        assert file.options.java_package == "dev.longshore.v1"
        assert file.options.java_multiple_files
        outer.add(file.options.java_outer_classname)
    assert len(outer) == len(NAMES)


def test_buf_builds_them_beside_their_dependency(tmp_path: Path) -> None:
    """What `buf dep update` would fetch is the same files as those of googleapis-common-protos."""
    _, google = include_paths()
    shutil.copytree(PROTOS / "longshore", tmp_path / "ours/longshore")
    (tmp_path / "theirs/google/rpc").mkdir(parents=True)
    for path in (google / "google/rpc").glob("*.proto"):
        shutil.copy(path, tmp_path / "theirs/google/rpc")
    (tmp_path / "buf.yaml").write_text("version: v2\nmodules:\n  - path: ours\n  - path: theirs\n")
    buf = Path(sys.executable).with_name("buf")
    subprocess.run([buf, "build", "-o", str(tmp_path / "image.binpb")], cwd=tmp_path, check=True)
    assert "buf.build/googleapis/googleapis" in (PROTOS / "buf.yaml").read_text()


def test_one_folder_can_hold_all_that_a_compiler_needs(tmp_path: Path) -> None:
    write(tmp_path / "all")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}/all", *NAMES,
         f"--descriptor_set_out={tmp_path}/out.binpb"],
        check=True,
        cwd=tmp_path,
    )  # fmt: skip


def test_the_lock_of_the_javascript_client_names_no_registry() -> None:
    lock = (ROOT / "tests/foreign/package-lock.json").read_text()
    assert '"integrity"' in lock
    assert '"resolved"' not in lock


def test_the_details_of_errors_are_in_generated_code() -> None:
    names = {file.name for file in errors_pb2.DESCRIPTOR.dependencies}
    assert names == {"google/rpc/error_details.proto"}


def test_the_contract_of_the_last_release_holds_no_path_of_a_machine() -> None:
    released = FileDescriptorSet.FromString(RELEASED.read_bytes())
    names = {file.name for file in released.file}
    assert {"longshore/v1/job_service.proto", "google/rpc/status.proto"} <= names
    assert all(re.match(r"(longshore/v1|google/(rpc|protobuf))/\w+\.proto$", n) for n in names)
    assert not any(file.HasField("source_code_info") for file in released.file)


def test_every_reason_is_in_the_contract_and_every_one_there_is_given() -> None:
    """That the code gives no other is asserted where a refusal is made."""
    listed = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()[1:]}
    code = "".join(p.read_text() for p in (ROOT / "server/longshore_server").rglob("*.py"))
    kinds = re.findall(r'"longshore\.v1\.(\w+)"', code)
    given = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)*)"', code))
    given |= {f"{kind.upper()}_NOT_FOUND" for kind in kinds}
    assert sorted(listed - given) == []


def test_the_reasons_of_state_changes_are_those_that_the_contract_names() -> None:
    text = (PROTOS / "longshore/v1/watch.proto").read_text()
    comment = re.search(r"// A stable reason(.*?)string reason", text, re.DOTALL)
    assert comment
    named = set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", comment[1]))
    own = {transition.reason for transition in TRANSITIONS} - OF_AN_ERROR
    assert own | {"SUBMITTED", "REPLACED"} == named


@pytest.mark.parametrize("name", ["Submit", "Status", "WatchProgress"])
def test_names_that_callers_know_stay(name: str) -> None:
    assert name in job_service_pb2.DESCRIPTOR.services_by_name["JobService"].methods_by_name
