# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Durable files: old or new content, never a mixture, and an error that says which."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgeprov.errors import LimitError, NotStored, StoreError, StoreFull
from edgeprov.store.atomic import (
    DurableFile,
    load_bytes,
    make_dirs,
    open_replace,
    open_temporary,
    save_bytes,
    sweep,
    translate,
)

CHANGES = ["create", "write", "sync", "rename", "sync_dir"]


def test_a_saved_file_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_bytes(tmp_path / "a", b"one")
    save_bytes(tmp_path / "a", b"two")
    assert load_bytes(tmp_path / "a", max_bytes=3, what="a") == b"two"
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_the_order_of_a_durable_replace(tmp_path: Path, fail_at) -> None:
    with fail_at(99) as seen:
        save_bytes(tmp_path / "a", b"x")
    assert seen == CHANGES


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_failed_replace_keeps_the_old_content_or_has_the_new_one(tmp_path: Path, fail_at, number, code) -> None:
    path = tmp_path / "a"
    save_bytes(path, b"old")
    kind = StoreFull if code in (errno.ENOSPC, errno.EDQUOT) else StoreError
    with fail_at(number, code), pytest.raises(kind) as caught:
        save_bytes(path, b"new")
    assert str(tmp_path) in caught.value.message
    assert path.read_bytes() == (b"new" if number == CHANGES.index("sync_dir") else b"old")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (errno.ENOSPC, StoreFull, 30),
        (errno.EDQUOT, StoreFull, 30),
        (errno.EFBIG, StoreFull, 30),
        (errno.EROFS, StoreError, 34),
        (errno.EACCES, StoreError, 34),
        (errno.EIO, StoreError, 34),
        (errno.ENOENT, NotStored, 35),
    ],
)
def test_each_system_error_has_its_own_class(code, kind, exit_code) -> None:
    error = translate(OSError(code, os.strerror(code)), "the file")
    assert type(error) is kind
    assert error.exit_code == exit_code
    assert error.message.startswith("the file: ")


def test_an_error_in_the_body_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), open_replace(tmp_path / "a") as file:
        file.write(b"x")
        raise ValueError("mine")
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(StoreError):
            load_bytes(tmp_path / name, max_bytes=10_000, what=name)


def test_a_file_larger_than_its_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(LimitError):
        load_bytes(tmp_path / "a", max_bytes=4, what="a")
    with pytest.raises(NotStored):
        load_bytes(tmp_path / "b", max_bytes=4, what="b")


def test_the_sweep_removes_dead_temporaries_only(tmp_path: Path) -> None:
    alive = open_temporary(tmp_path)
    dead = open_temporary(tmp_path)
    dead.close()
    (tmp_path / "other").write_bytes(b"")
    assert sweep(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([alive.path.name, "other"])
    alive.close()
    assert sweep(tmp_path) == 1


def test_folders_are_made_down_to_the_last_and_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    make_dirs(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        make_dirs(tmp_path / "file" / "x")
    with pytest.raises(StoreError):
        make_dirs(tmp_path / "file")


def test_a_durable_file_never_overwrites_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    with DurableFile(tmp_path / "a", create=True) as file:
        file.write(b"abc")
    with pytest.raises(StoreError):
        DurableFile(tmp_path / "a", create=True)
    with DurableFile(tmp_path / "a", create=False) as file:
        assert file.size == 3
        file.write(b"def")
        file.allocate(4096)
        file.truncate(5)
        file.write(b"!")
        file.sync()
    assert (tmp_path / "a").read_bytes() == b"abcde!"
