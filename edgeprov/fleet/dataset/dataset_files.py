# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What this user's own runs of `collect` wrote, file by file, kept in the index and not beside the data.

A later run takes a file over only when its bytes have the digest that stands here: whoever can write
where the data lie can change them, footer and all, but not this. Losing it costs time, nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from edgeprov.fleet.dataset.label_types import LabelType, join_kinds
from edgeprov.fleet.dataset.parquet_file import Written
from edgeprov.fleet.index.database import Index


class KnownFiles:
    """The files of one data set."""

    def __init__(self, index: Index, folder: str) -> None:
        """Open for writing ``index``; ``folder`` is the data set's name."""
        self._index = index
        self._folder = folder

    def label_type(self) -> LabelType | None:
        """The type that held all labels of what is written, None where nothing is."""
        rows = self._index.rows("SELECT DISTINCT label_type FROM data_files WHERE folder = ?", (self._folder,))
        return join_kinds(cast("LabelType", row["label_type"]) for row in rows) if rows else None

    def find(self, path: str, key: str) -> Written | None:
        """The file that was made of what ``key`` names."""
        rows = self._index.rows(
            "SELECT * FROM data_files WHERE folder = ? AND path = ? AND key = ?", (self._folder, path, key)
        )
        if not rows:
            return None
        return Written(**{name: rows[0][name] for name in rows[0].keys() if name != "folder"})  # noqa: SIM118 - a Row

    def keep(self, written: Collection[Written]) -> None:
        """Remember files. One that lacks a kit is not kept: the next run looks whether the kit is back."""
        with self._index.transaction():
            for item in written:
                if item.left_out:
                    self._index.rows("DELETE FROM data_files WHERE folder = ? AND path = ?", (self._folder, item.path))
                    continue
                self._index.put(
                    "data_files", folder=self._folder, path=item.path, key=item.key, model=item.model,
                    device=item.device, digest=item.digest, bytes=item.bytes, rows=item.rows, labelled=item.labelled,
                    duplicates=item.duplicates, label_type=item.label_type,
                )  # fmt: skip

    def forget(self, paths: Collection[str]) -> None:
        """Drop files that are gone."""
        with self._index.transaction():
            for path in paths:
                self._index.rows("DELETE FROM data_files WHERE folder = ? AND path = ?", (self._folder, path))
