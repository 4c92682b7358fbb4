# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The small files that remember what this TPM is: public parts of the keys, their secret, handles, floors.

A damaged file is moved aside, never deleted and never trusted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprov.errors import FormatError, StoreError, StoreFull
from edgeprov.formats.jsonx import encode_json, parse_json_object
from edgeprov.limits import LIMITS

_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT


def load_document(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when there is none, or when it was damaged and moved to ``<name>.damaged``.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.tpm_document_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        return parse_json_object(raw, path.name, max_bytes=LIMITS.tpm_document_bytes)
    except FormatError:
        set_aside(path)
        return None


def set_aside(path: Path) -> None:
    """Keep a damaged file for analysis under another name.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        path.replace(path.with_name(path.name + ".damaged"))
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be moved aside: {error.strerror}") from error


def save_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file durably, as `save_file`.

    Raises:
        StoreFull: No space.
        StoreError: The folder cannot be written.
    """
    save_file(path, encode_json(dict(document)))


def save_file(path: Path, data: bytes) -> None:
    """Replace a file that only this user may read: after a power cut the old or the new one is there, whole.

    Raises:
        StoreFull: No space.
        StoreError: The folder cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        kind = StoreFull if error.errno in _NO_SPACE else StoreError
        raise kind(f"{path}: {error.strerror}") from error
