# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A trust folder as bytes: what verdicts are cached under, and what travels to workers.

Apart from check.py, because a query needs no more of it than its digest, and must not wait for
``cryptography`` to load.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprov.errors import NotStored
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes

if TYPE_CHECKING:
    from edgeprov.verify.policy import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The files of a trust folder. ``digest`` names it in the index."""

    files: tuple[tuple[str, bytes], ...] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents (cached)."""
        return _digest(self.files)

    @property
    def policy(self) -> TrustPolicy:
        """The parsed policy (cached).

        Raises:
            ConfigError: A file is malformed.
        """
        return _policy(self.files)


def load_trust(folder: Path, *, parse: bool = True) -> Trust:
    """Read a trust folder.

    Args:
        folder: With publisher*.pem, device*.pem and policy.toml.
        parse: Check its files now and not when they are used.

    Raises:
        NotStored: No such folder.
        ConfigError: It holds a malformed file.
    """
    if not folder.is_dir():
        raise NotStored(
            f"{folder} is not a trust folder",
            advice="Name the folder with publisher*.pem, device*.pem and policy.toml.",
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".pem", ".toml"))
    files = tuple((name, load_bytes(folder / name, max_bytes=LIMITS.trust_file_bytes, what=name)) for name in names)
    trust = Trust(files=files)
    if parse:
        _ = trust.policy
    return trust


@lru_cache(maxsize=4)
def _digest(files: tuple[tuple[str, bytes], ...]) -> str:
    state = hashlib.sha256()
    for name, data in files:
        state.update(len(name).to_bytes(4, "big") + name.encode() + len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


@lru_cache(maxsize=4)
def _policy(files: tuple[tuple[str, bytes], ...]) -> TrustPolicy:
    from edgeprov.verify.policy import parse_policy

    return parse_policy(dict(files))
