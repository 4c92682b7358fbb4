# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Layer archives: the same bytes as the real kit writes, and nothing unsafe is read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.digest import digest_of
from edgeprov.formats.names import check_path
from edgeprov.formats.tarball import iter_tar, tar_header, tar_prefix, tar_suffix
from tests.support.kits import KITS, encode_tar, golden_kit

# What `kit pack` (1.11, uncompressed) gave for these folders; made once with the real kit.
ODD_NAMES = {
    "data/" + "n" * 120 + ".bin": b"1" * 700,
    "data/é/ü.txt": b"hello",
    "data/" + "d" * 60 + "/" + "e" * 90 + "/f.txt": b"x" * 512,
    "data/a-b": b"1",
    "data/a/c": b"2",
    "data/a.b": b"",
    "data/" + "d" * 160 + "/" + "z" * 30: b"zz",
}
ODD_NAMES_DIGEST = "sha256:51cf9c4ee2028d0964105cb47fb50bc295a4d53d87c1009a16b885873b09f96f"
WITH_EMPTY_FOLDER_DIGEST = "sha256:852872e3407174bb18d9d4cfe3c55269380b6b6d66bd7de8bfd33c928bab1694"
EXECUTABLE_DIGEST = "sha256:f75dc3b2260b0d6a074725dce4b2ddd10e72dda06ab6594ebdcead25ff1afe80"


def walk(data: bytes) -> dict[str, bytes]:
    return {member.path: b"".join(content) for member, content in iter_tar(io.BytesIO(data).read) if not member.is_dir}


@pytest.mark.parametrize("kit", ["kit-1.7-tar", "kit-1.11-tar"])
def test_layers_have_the_digests_that_kit_pack_gave(kit: str) -> None:
    manifest, _, _ = golden_kit(kit)
    for layer, names in zip(
        manifest.layers,
        (["model/wdbc_int8.tflite"], ["code/preprocess.py", "code/scaling.json"], ["README.md"]),
        strict=True,
    ):
        assert digest_of(encode_tar({name: (KITS / "source" / name).read_bytes() for name in names})) == layer.digest


def test_long_and_foreign_names_are_written_as_kit_writes_them() -> None:
    assert str(digest_of(encode_tar(ODD_NAMES))) == ODD_NAMES_DIGEST
    assert str(digest_of(encode_tar(ODD_NAMES, folders=["data/empty"]))) == WITH_EMPTY_FOLDER_DIGEST
    script = {"exe/run.sh": b"#!/bin/sh\n"}
    assert str(digest_of(encode_tar(script, modes={"exe/run.sh": 0o755}))) == EXECUTABLE_DIGEST


def test_what_we_write_is_read_by_us_and_by_others() -> None:
    data = encode_tar(ODD_NAMES)
    assert walk(data) == ODD_NAMES
    with tarfile.open(fileobj=io.BytesIO(data)) as other:
        assert {item.name: other.extractfile(item).read() for item in other if item.isfile()} == ODD_NAMES  # type: ignore[union-attr]


def test_a_layer_of_one_file_can_be_written_in_three_pieces() -> None:
    body = b"q" * 1000
    assert tar_prefix("records/000001.bin", 1000) + body + tar_suffix(1000) == encode_tar({"records/000001.bin": body})


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5_000])
def test_a_layer_of_one_file_is_read_at_any_size(size: int) -> None:
    path, body = "records/000001.msgpack.zst", b"x" * size
    assert walk(tar_prefix(path, size) + body + tar_suffix(size))[path] == body


def test_members_know_their_place() -> None:
    data = encode_tar({"a/b": b"hello", "c": b"x" * 600})
    members = [member for member, _ in iter_tar(io.BytesIO(data).read)]
    assert [(m.path, m.is_dir, m.size, m.mode) for m in members] == [
        ("a", True, 0, 0o755),
        ("a/b", False, 5, 0o644),
        ("c", False, 600, 0o644),
    ]
    assert data[members[2].offset :][:600] == b"x" * 600


def test_reading_goes_on_where_the_caller_stopped() -> None:
    data = encode_tar({"a": b"1" * 200_000, "b": b"2"})
    seen = []
    for member, content in iter_tar(io.BytesIO(data).read):
        seen.append(member.path)
        if member.path == "a":
            assert len(next(content)) == 64 * 1024
    assert seen == ["a", "b"]


def test_a_source_may_return_less_than_asked_for() -> None:
    stream = io.BytesIO(encode_tar({"a": b"hello"}))
    assert [b"".join(content) for _, content in iter_tar(lambda n: stream.read(min(n, 7)))] == [b"hello"]


def archive(build: Callable[[tarfile.TarFile], None], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        build(tar)
    return stream.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, body: bytes = b"", **more: object
) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(body)
        for key, value in more.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(body))

    return add


def both(*builders: Callable[[tarfile.TarFile], None]) -> Callable[[tarfile.TarFile], None]:
    return lambda tar: [build(tar) for build in builders] and None


@pytest.mark.parametrize(
    "build",
    [
        entry("../x"), entry("a/../../x"), entry("/etc/passwd"), entry("a/./b"), entry("./a"), entry("a//b"), entry("."),
        entry("a\\b"), entry("a\nb"), entry("a\x1b[0m"),
        entry("l", tarfile.SYMTYPE, linkname="/etc/passwd"), entry("l", tarfile.LNKTYPE, linkname="a"),
        entry("d", tarfile.CHRTYPE, devmajor=1), entry("d", tarfile.BLKTYPE), entry("f", tarfile.FIFOTYPE), entry("c", tarfile.CONTTYPE),
        both(entry("a"), entry("a")),
        both(entry("a", tarfile.DIRTYPE), entry("a")),
        both(entry("a"), entry("a/b")),
        both(entry("a/b"), entry("a")),
        both(entry("a/b"), entry("a", tarfile.DIRTYPE), entry("a", tarfile.DIRTYPE)),
        entry("ok", pax_headers={"path": "../x"}),
        entry("ok", pax_headers={"path": "/abs"}),
        entry("ok", pax_headers={"linkpath": "/abs"}),
        entry("ok", pax_headers={"GNU.sparse.name": "x"}),
        entry("ok", pax_headers={"size": "-1"}),
        entry("ok", pax_headers={"size": "99999999999999"}),
        entry("ok", pax_headers={"SCHILY.xattr.security.capability": "x"}),
        both(entry("a"), entry("ok", pax_headers={"path": "a"})),
    ],
)  # fmt: skip
def test_unsafe_archives_are_refused_as_a_whole(build: Callable[[tarfile.TarFile], None]) -> None:
    with pytest.raises(FormatError):
        walk(archive(build))


def test_gnu_long_names_and_global_headers_are_refused() -> None:
    with pytest.raises(FormatError):
        walk(archive(entry("n" * 300), tarfile.GNU_FORMAT))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as tar:
        entry("a")(tar)
    with pytest.raises(FormatError):
        walk(stream.getvalue())


def test_pax_names_and_padding_of_other_writers_are_read() -> None:
    data = archive(both(entry("d", tarfile.DIRTYPE), entry("d/ü" + "n" * 200, body=b"hello")))
    assert len(data) % 10240 == 0
    assert walk(data) == {"d/ü" + "n" * 200: b"hello"}
    assert walk(archive(entry("a", body=b"1", mtime=12.5))) == {"a": b"1"}


GOOD = encode_tar({"a/b": b"hello" * 200})


@pytest.mark.parametrize(
    "data",
    [
        b"", GOOD[:100], GOOD[:512], GOOD[:1100], GOOD[:-1024], GOOD[:-512], GOOD[:-1],
        GOOD + b"x", GOOD + bytes(512) + b"x" * 512,
        GOOD[:512] + bytes(512) + GOOD[512:],
        GOOD[:257] + b"xstar" + GOOD[262:],
        GOOD[:124] + b"0000000000x\0" + GOOD[136:],
    ],
)  # fmt: skip
def test_damaged_archives_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        walk(data)


def test_every_changed_header_byte_is_noticed() -> None:
    for position in range(512):
        changed = GOOD[:position] + bytes((GOOD[position] ^ 1,)) + GOOD[position + 1 :]
        with pytest.raises(FormatError):
            walk(changed)


def test_endless_padding_is_refused() -> None:
    with pytest.raises(LimitError):
        walk(GOOD + bytes(2 * 1024 * 1024))


def test_a_path_that_would_be_refused_is_not_written() -> None:
    for path in ("", "/a", "../a", "a/", "a\0b", "\ud800", "x" * 2000):
        with pytest.raises(FormatError):
            tar_header(path, 0)
        with pytest.raises(FormatError):
            check_path(path)
    with pytest.raises(LimitError):
        tar_header("a", 8 * 1024**3)
