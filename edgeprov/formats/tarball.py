# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Layer archives: written byte for byte as ``kit pack`` writes them, read with suspicion.

Writing: ustar, parent directories as entries without trailing slash, uid 1000, gid 0, no names, no
times, lexical walk, two zero blocks at the end; a name that ustar cannot hold gets a PAX record as
Go's archive/tar makes it. The layer digest is therefore the one that kit gives the same folder.

Reading: only regular files and directories with clean relative paths, each once. An archive that a
careful extractor would have to think about is refused as a whole.

Spec: POSIX.1-2017 pax, "ustar Interchange Format"; FORMAT.md section "Layer archives".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import FormatError, LimitError
from edgeprov.formats.names import check_path
from edgeprov.limits import LIMITS

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644

_NAME: Final = 100
_PREFIX: Final = 155
_OCTAL_MAX: Final = 0o77777777777  # 8 GiB - 1: eleven octal digits
_PIECE: Final = 64 * 1024  # cache-sized pieces hash fastest
_PAX_BYTES: Final = 16 * 1024
_PADDING_BLOCKS: Final = 2_048  # tar -b up to 1 MiB: zero blocks after the end mark
_MAGICS: Final = (b"ustar\x0000", b"ustar  \x00")
# Keys that change what or where a member is, other than its path and size, are refused; times and
# owners are skipped, because nothing here ever uses them.
_PAX_SKIPPED: Final = frozenset(("atime", "ctime", "mtime", "uid", "gid", "uname", "gname", "comment", "charset"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of an archive. ``size`` and ``offset`` (of the content in the archive) in bytes."""

    path: str
    size: int
    is_dir: bool
    mode: int
    offset: int


# -- writing --------------------------------------------------------------------------------------


def tar_header(path: str, size: int, *, directory: bool = False, mode: int | None = None) -> bytes:
    """The header of one entry: 512 bytes, or 1,536 and more where the name needs a PAX record.

    Args:
        path: Relative path, no trailing slash.
        size: Bytes of content (0 for a directory).
        directory: Whether the entry is a directory.
        mode: Permission bits; default 0755 for directories, 0644 for files.

    Raises:
        FormatError: A path that the reader would refuse.
        LimitError: Size over 8 GiB.
    """
    check_path(path)
    if not 0 <= size <= _OCTAL_MAX:
        raise LimitError(f"{path} has {size} bytes; a layer holds files up to {_OCTAL_MAX}")
    bits = mode if mode is not None else (DIRECTORY_MODE if directory else FILE_MODE)
    kind = b"5" if directory else b"0"
    raw = path.encode()
    if path.isascii() and len(raw) <= _NAME:
        return _block(raw, b"", bits, size, kind)
    if (cut := _split(path)) is not None:
        return _block(raw[cut + 1 :], raw[:cut], bits, size, kind)
    folder, _, name = path.rpartition("/")
    pax_name = _ascii(f"{folder}/PaxHeaders.0/{name}" if folder else f"PaxHeaders.0/{name}")
    record = _pax_record("path", raw)
    header = _block(pax_name[:_NAME].rstrip(b"/"), b"", 0, len(record), b"x", owner=0, devices=b"")
    return header + record + tar_padding(len(record)) + _block(_ascii(path)[:_NAME], b"", bits, size, kind)


def tar_padding(size: int) -> bytes:
    """Zeros up to the next block."""
    return bytes(-size % BLOCK)


def tar_prefix(path: str, size: int) -> bytes:
    """All that stands before the content in a layer of one file: parent directories, then its header."""
    return _parents(path) + tar_header(path, size)


def tar_suffix(size: int) -> bytes:
    """All that stands behind ``size`` bytes of content in a layer of one file."""
    return tar_padding(size) + END


# -- reading --------------------------------------------------------------------------------------


def iter_tar(read: Callable[[int], bytes]) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Walk an uncompressed archive once, in constant memory (names aside).

    Each item is the member and its content in pieces of at most 64 KiB; what the caller leaves
    unread of a member is read past. After the last member the archive must end cleanly.

    Args:
        read: As a binary file's ``read``: at most n bytes, b"" at the end.

    Raises:
        FormatError: Damaged or cut short; or a member that is no regular file or directory, has an
            unsafe path, or is there twice.
        LimitError: More members, longer paths or more bytes than allowed.
    """
    source = _Source(read)
    files: set[str] = set()
    folders: set[str] = set()
    total = 0
    while True:
        header, pax = _next_header(source)
        if header is None:
            return
        member = _member(header, pax, source.offset)
        _record_path(member, files, folders)
        total += member.size
        if len(files) + len(folders) > LIMITS.tar_members:
            raise LimitError(f"archive has more than {LIMITS.tar_members} members")
        if total > LIMITS.unpacked_bytes:
            raise LimitError(f"archive unpacks to more than {LIMITS.unpacked_bytes} bytes")
        content = _content(source, member.size)
        yield member, content
        for _ in content:
            pass
        source.exactly(-member.size % BLOCK)


class _Source:
    """Counts what is read and never returns less than asked for."""

    __slots__ = ("_read", "offset")

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.offset = 0

    def upto(self, size: int) -> bytes:
        data = self._read(size)
        self.offset += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        if not size:
            return b""
        data = self.upto(size)
        while len(data) < size:
            more = self.upto(size - len(data))
            if not more:
                raise FormatError("archive is cut short")
            data += more
        return data


def _next_header(source: _Source) -> tuple[bytes | None, dict[str, str]]:
    pax: dict[str, str] = {}
    while True:
        header = source.exactly(BLOCK)
        if not any(header):
            if pax:
                raise FormatError("archive ends behind a PAX header")
            _verify_end(source)
            return None, pax
        _verify_header(header)
        kind = header[156:157]
        if kind != b"x":
            return header, pax
        if pax:
            raise FormatError("archive has two PAX headers for one member")
        size = _octal(header[124:136], "size")
        if size > _PAX_BYTES:
            raise LimitError(f"PAX header has {size} bytes, more than {_PAX_BYTES}")
        pax = _parse_pax(source.exactly(size))
        source.exactly(-size % BLOCK)


def _verify_end(source: _Source) -> None:
    if any(source.exactly(BLOCK)):
        raise FormatError("archive has one zero block between members")
    for _ in range(_PADDING_BLOCKS):
        rest = source.upto(BLOCK)
        if not rest:
            return
        if any(rest):
            raise FormatError("archive has data behind its end")
    raise LimitError("archive has too much padding behind its end")


def _verify_header(header: bytes) -> None:
    if header[257:265] not in _MAGICS:
        raise FormatError("archive member has no ustar header")
    checksum = sum(header) - sum(header[148:156]) + 8 * 0x20
    if _octal(header[148:156], "checksum") != checksum:
        raise FormatError("archive header has a wrong checksum")


def _member(header: bytes, pax: dict[str, str], offset: int) -> Member:
    kind = header[156:157]
    if kind not in {b"0", b"\0", b"5"}:
        name = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a FIFO"}
        raise FormatError(f"archive holds {name.get(kind, f'an entry of type {kind!r}')}")
    is_dir = kind == b"5"
    path = pax.get("path")
    if path is None:
        try:
            path = _cstring(header[:100]).decode()
            # In the old GNU layout these bytes are no prefix.
            prefix = _cstring(header[345:500]).decode() if header[257:265] == _MAGICS[0] else ""
        except UnicodeDecodeError:
            raise FormatError("archive has a path that is not UTF-8") from None
        path = f"{prefix}/{path}" if prefix else path
    if is_dir:
        path = path.removesuffix("/")
    size = _octal(header[124:136], "size")
    if "size" in pax:
        size = _decimal(pax["size"])
    if is_dir and size:
        raise FormatError(f"directory {path[:80]!r} has content")
    if size > LIMITS.unpacked_bytes:
        raise LimitError(f"{path[:80]!r} has {size} bytes, more than {LIMITS.unpacked_bytes}")
    mode = _octal(header[100:108], "mode") & 0o777
    return Member(path=check_path(path), size=size, is_dir=is_dir, mode=mode, offset=offset)


def _record_path(member: Member, files: set[str], folders: set[str]) -> None:
    path = member.path
    if path in files or (path in folders and not member.is_dir):
        raise FormatError(f"archive holds {path[:80]!r} twice")
    parent = path.rpartition("/")[0]
    while parent and parent not in folders:
        if parent in files:
            raise FormatError(f"archive holds {parent[:80]!r} as a file and as a directory")
        folders.add(parent)
        parent = parent.rpartition("/")[0]
    if not member.is_dir:
        files.add(path)
        return
    # An explicit directory is kept under a name that no path can have, so that it may come once only.
    if path + "/" in files:
        raise FormatError(f"archive holds {path[:80]!r} twice")
    files.add(path + "/")
    folders.add(path)


def _content(source: _Source, size: int) -> Iterator[bytes]:
    while size:
        piece = source.exactly(min(size, _PIECE))
        size -= len(piece)
        yield piece


def _parse_pax(data: bytes) -> dict[str, str]:
    result: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not 0 < len(length) <= 5 or not length.isdigit() or length.startswith(b"0"):
            raise FormatError("PAX record has no length")
        end = int(length)
        record, data = data[len(length) + 1 : end], data[end:]
        key, equals, value = record[:-1].partition(b"=")
        if end <= len(length) + 1 or not record.endswith(b"\n") or not equals or len(record) != end - len(length) - 1:
            raise FormatError("PAX record is malformed")
        try:
            name, text = key.decode(), value.decode()
        except UnicodeDecodeError:
            raise FormatError("PAX record is not UTF-8") from None
        if name in result:
            raise FormatError(f"PAX header has {name[:40]!r} twice")
        if name not in {"path", "size"} and name not in _PAX_SKIPPED:
            raise FormatError(f"PAX key {name[:40]!r} is not accepted")
        result[name] = text
    return result


def _octal(field: bytes, what: str) -> int:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if len(digits) > 12 or not all(0x30 <= byte <= 0x37 for byte in digits):
        raise FormatError(f"archive header: {what} is not an octal number")
    return int(digits, 8)


def _decimal(text: str) -> int:
    if not 0 < len(text) <= 15 or not text.isascii() or not text.isdigit():
        raise FormatError("PAX size is not a number")
    return int(text)


def _cstring(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _block(
    name: bytes, prefix: bytes, mode: int, size: int, kind: bytes, *, owner: int = 1000, devices: bytes = b"0000000\0"
) -> bytes:
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME, b"\0"), mode, owner, 0, size, 0)
    tail = kind.ljust(101, b"\0") + _MAGICS[0] + bytes(64) + devices.ljust(8, b"\0") * 2 + prefix.ljust(167, b"\0")
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 0x20) + tail


def _parents(path: str) -> bytes:
    parts = path.split("/")
    return b"".join(tar_header("/".join(parts[:depth]), 0, directory=True) for depth in range(1, len(parts)))


def _split(path: str) -> int | None:
    # Go's splitUSTARPath: the last slash that leaves a prefix of at most 155 and a name of at most 100.
    if not path.isascii():
        return None
    cut = path.rfind("/", 0, min(len(path), _PREFIX + 1))
    if cut <= 0 or len(path) - cut - 1 > _NAME:
        return None
    return cut


def _ascii(text: str) -> bytes:
    # Go drops what is not ASCII.
    return text.encode("ascii", "ignore")


def _pax_record(key: str, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key.encode(), value)
    size = len(body) + 1
    while len(b"%d" % size) + len(body) != size:
        size = len(b"%d" % size) + len(body)
    return b"%d%s" % (size, body)
