# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Where a data set goes: a folder, a URL in this process, an S3 server. The same bytes, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from edgeprov.fleet.dataset import parquet_file
from tests.support.fleet import fleet
from tests.support.namespaces import unshare
from tests.support.readers import readers_python
from tests.support.s3 import Bucket, s3_bucket

STATEMENT = "_edgeprov/statement.json"


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1784000000")
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def expected(full, tmp_path) -> dict[str, bytes]:
    """What a folder gets."""
    full.sync()
    assert full.run("collect", "-o", tmp_path / "expected").code == 0
    files = files_of(tmp_path / "expected")
    assert STATEMENT in files
    assert len(files) == 6
    return files


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_memory(prefix: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("memory")
    return {path.removeprefix(f"/{prefix}/"): fs.cat_file(path) for path in fs.find(f"/{prefix}")}


def test_a_url_gets_the_same_bytes(full, expected, tmp_path):
    run = full.run("collect", "-o", "memory://set/one", "--json")
    assert run.code == 0, run.err
    assert in_memory("set/one") == expected
    assert run.last("collected")["folder"] == "memory://set/one"
    assert full.run("collect", "-o", f"file://{tmp_path}/url").code == 0
    assert files_of(tmp_path / "url") == expected


def test_a_second_run_rewrites_what_changed_only(full, expected):
    full.run("collect", "-o", "memory://set")
    fs = fsspec.filesystem("memory")
    one, other = sorted(path for path in fs.find("/set") if path.endswith(".parquet"))
    fs.pipe_file(one, b"rubbish")
    fs.pipe_file("/set/model=00/device=gone/part-0.parquet", b"of an older query")
    fs.pipe_file(f"{other.rpartition('/')[0]}/.edgeprov-tmp-1-part-0.parquet.part", b"left by a killed run")
    run = full.run("collect", "-o", "memory://set", "--json")
    assert run.last("collected")["reused"] == 1
    assert in_memory("set") == expected


@pytest.mark.parametrize("name", ["memory://set", "DIR"])
def test_an_interrupted_run_shows_as_such_and_is_finished_by_the_next(full, expected, tmp_path, monkeypatch, name):
    name = name.replace("DIR", f"{tmp_path}/set")
    files = lambda: in_memory("set") if "://" in name else files_of(tmp_path / "set")  # noqa: E731
    assert full.run("collect", "-o", name, "--device", "a1").code == 0
    assert STATEMENT in files()
    whole = parquet_file._PartitionWork.write
    left = [1]

    def die(work: parquet_file._PartitionWork, path: Path) -> object:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return whole(work, path)

    monkeypatch.setattr(parquet_file._PartitionWork, "write", die)
    full.run("collect", "-o", name, "--no-inputs")
    after = files()
    assert STATEMENT not in after
    assert "_edgeprov/unfinished" in after
    assert all(not path.startswith(".") for path in after)
    assert fleet("publish", tmp_path, "--dataset", name, "--to", "oci:x", "--key", "y").code != 0
    monkeypatch.undo()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1784000000")
    assert full.run("collect", "-o", name).code == 0
    assert files() == expected


class Refusing(MemoryFileSystem):
    """A remote system that has an errno for every upload."""

    protocol = "refusing"
    store = {}
    pseudo_dirs = [""]
    reason = 0

    def put_file(self, *_args: object, **_options: object) -> None:
        raise OSError(self.reason, os.strerror(self.reason))


@pytest.mark.parametrize(
    ("reason", "code", "says"),
    [
        (errno.ENOSPC, 30, "Make room there"),
        (errno.EACCES, 34, "Give this account the right"),
        (errno.ENOENT, 35, "Create the bucket or folder first"),
        (errno.ECONNRESET, 34, "Check address, network and keys"),
    ],
)
def test_a_refusal_is_one_line(full, monkeypatch, reason, code, says):
    monkeypatch.setattr(Refusing, "reason", reason)
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    full.sync()
    run = full.run("collect", "-o", "refusing://set")
    assert run.code == code, run.err
    assert says in run.err
    assert os.strerror(reason) in run.err
    assert len(run.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nosuch://bucket/set", "no protocol that fsspec knows"),
        ("gs://bucket/set", "the package for gs:// is not installed"),
        ("sftp://user:secret@host/set", "a password in the URL"),
    ],
)
def test_urls_that_cannot_work(full, name, says):
    full.sync()
    run = full.run("collect", "-o", name)
    assert run.code == 2
    assert says in run.err
    assert "secret" not in run.err


def test_a_host_that_does_not_answer_is_told_in_one_line(full):
    full.sync()
    run = full.run("collect", "-o", "ftp://127.0.0.1:9/set")
    assert run.code == 34
    assert "Connection refused" in run.err
    assert "Check address, network and keys" in run.err
    assert len(run.err.splitlines()) == 2


def test_a_folder_that_cannot_be_written_is_told_in_one_line(full, tmp_path):
    (tmp_path / "letter").write_text("dear")
    full.sync()
    run = full.run("collect", "-o", tmp_path / "letter" / "set")
    assert run.code == 34
    assert "Not a directory" in run.err
    assert "Name a folder that this account can write" in run.err
    assert len(run.err.splitlines()) == 2


def test_fsspec_is_not_needed_for_folders_and_asked_for_by_name_else(full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    full.sync()
    assert full.run("collect", "-o", tmp_path / "out").code == 0
    run = full.run("collect", "-o", "s3://bucket/other")
    assert run.code == 2
    assert "pip install edgeprov[remote]" in run.err


def test_something_else_is_not_touched(full):
    full.sync()
    fsspec.filesystem("memory").pipe_file("/mine/letter.txt", b"dear")
    assert full.run("collect", "-o", "memory://mine").code == 2
    assert in_memory("mine") == {"letter.txt": b"dear"}


def test_what_workers_wrote_elsewhere_is_noticed(full, monkeypatch, tmp_path):
    """As where -o names a folder that each machine of a cluster has for itself."""
    full.sync()
    real = parquet_file.open_destination
    monkeypatch.setattr(parquet_file, "open_destination", lambda name: real(f"{tmp_path}/of-another-machine"))
    run = full.run("collect", "-o", tmp_path / "out")
    assert run.code == 34
    assert "2 files that workers wrote are not seen from here" in run.err
    assert not (tmp_path / "out" / STATEMENT).exists()


@pytest.mark.parametrize("size_kb", [4, 24])
def test_a_full_disk_ends_the_run_and_blames_no_kit(full, expected, tmp_path, size_kb):
    """A real one: a small file system of its own."""
    place = tmp_path / "small"
    place.mkdir()
    collect = [sys.executable, "-m", "edgeprov.cli.fleet_main", "collect", "-o", place / "set", "--fleet", full.fleet]
    collect += ["--trust", full.trust, "--workers", "1"]
    alone = unshare("--mount", probe="mount -t tmpfs none /mnt")
    script = f'mount -t tmpfs -o size={size_kb}k none "$0" && "$@"; code=$?; ls -A "$0/set/_edgeprov"; exit $code'
    run = subprocess.run([*alone, "bash", "-c", script, place, *collect], capture_output=True, text=True)
    assert run.returncode == 30, run.stdout + run.stderr
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr
    assert "statement.json" not in run.stdout.split()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    readers_python()
    with s3_bucket(dict(os.environ)) as bucket:
        yield bucket


def on_s3(bucket: Bucket, full, name: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        s3_command(full, name, *more), env={**bucket.environment, "SOURCE_DATE_EPOCH": "1784000000", **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def s3_command(full, name: str, *more: str) -> list[object]:
    program = [readers_python(), "-m", "edgeprov.cli.fleet_main", "collect", "-o", name]
    return [*program, "--fleet", full.fleet, "--trust", full.trust, "--workers", "1", *more]


@pytest.mark.slow
def test_s3_gets_the_same_bytes_and_lineage_closes_over_it(full, expected, bucket, tmp_path):
    run = on_s3(bucket, full, "s3://data/one/set")
    assert run.returncode == 0, run.stderr
    assert bucket.files("one/set", tmp_path / "got") == expected
    again = on_s3(bucket, full, "s3://data/one/set", "--json")
    assert '"reused": 2' in again.stdout
    assert bucket.files("one/set", tmp_path / "again") == expected
    frame = (
        "import sys, fsspec, pandas as pd; print(len(pd.read_parquet(sys.argv[1], filesystem=fsspec.filesystem('s3'))))"
    )
    assert bucket.program(frame, "data/one/set").split() == ["160"]
    read = "import sys; from edgeprov.fleet.publishing.publish import load_collection as c; print(len(c(sys.argv[1]).inputs))"
    assert int(bucket.program(read, "s3://data/one/set")) == len(expected["_edgeprov/inputs.jsonl"])


@pytest.mark.slow
def test_a_kill_on_the_way_to_s3_is_finished_by_the_next_run(full, expected, bucket, tmp_path):
    with subprocess.Popen(
        s3_command(full, "s3://data/two"), env={**bucket.environment, "SOURCE_DATE_EPOCH": "1784000000"}
    ) as process:
        listing = "import sys, fsspec; print(*fsspec.filesystem('s3').find(sys.argv[1]))"
        deadline = time.monotonic() + 60
        while ".parquet" not in bucket.program(listing, "data/two") and time.monotonic() < deadline:
            assert process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    left = bucket.files("two", tmp_path / "left")
    assert any(path.endswith(".parquet") for path in left)
    for path, data in left.items():
        assert data == expected.get(path, b""), path  # whole, or not there; `unfinished` is empty
    assert on_s3(bucket, full, "s3://data/two").returncode == 0
    assert bucket.files("two", tmp_path / "got") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment", "code", "says"),
    [
        ("s3://nowhere/set", {}, 35, "Create the bucket"),
        ("s3://data/set", {"FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, 34, "Check address, network and keys"),
    ],
)
def test_s3_that_does_not_work_is_told_in_one_line(full, bucket, name, environment, code, says):
    full.sync()
    run = on_s3(bucket, full, name, **environment)
    assert run.returncode == code, run.stderr
    assert says in run.stderr
    assert len(run.stderr.splitlines()) == 2, run.stderr


@pytest.mark.slow
def test_s3_without_rights_is_told_in_one_line(full):
    full.sync()
    readers_python()
    with s3_bucket(dict(os.environ), locked=True) as closed:
        run = on_s3(closed, full, "s3://data/set")
    assert run.returncode == 34, run.stderr
    assert "Give this account the right" in run.stderr
    assert len(run.stderr.splitlines()) == 2, run.stderr
