# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Handles of our keys and indices as the TPM library writes them, so that a new process need not ask for them.

Looking a handle up costs one TPM command in each process, 0.3 s on a slow chip. A handle that is no longer
right is found out by its use: the key or the index is gone, or does not accept our authValue.

Spec: TCG TSS 2.0 Enhanced System API, Esys_TR_Serialize.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edgeprov.errors import FormatError, StoreError
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.tpm.esys import Connection, tss
from edgeprov.tpm.saved_documents import load_document, save_document

HANDLES_FILE: Final = "handles.json"


class SavedHandles:
    """Handles by label, in memory and in a file that may be lost at any time."""

    def __init__(self, connection: Connection, state_dir: Path) -> None:
        """Nothing is read yet."""
        self._connection = connection
        self._path = state_dir / HANDLES_FILE
        self._document: dict[str, Any] | None = None

    def get(self, label: str, name: bytes) -> Any | None:
        """The saved handle of the object with this Name; None when there is none. Asks the TPM nothing."""
        document = self._load()
        if label not in document:
            return None
        try:
            handle = self._connection.esys.tr_deserialize(get_b64(document, label, self._path.name))
            if bytes(self._connection.esys.tr_get_name(handle).marshal())[2:] == name:
                return handle
        except (FormatError, tss.TSS2_Exception, ValueError, TypeError, RuntimeError):
            pass  # written by another version of the library: it is looked up again
        return None

    def put(self, label: str, handle: Any) -> None:
        """Keep a handle that was looked up; a folder that cannot be written costs speed only."""
        raw = bytes(self._connection.esys.tr_serialize(handle))
        document = {**self._load(), "v": 1, label: b64(raw)}
        if document != self._document:
            self._document = document
            with suppress(StoreError):
                save_document(self._path, document)

    def forget(self) -> None:
        """Look all handles up again."""
        self._document = {}

    def _load(self) -> dict[str, Any]:
        if self._document is None:
            self._document = load_document(self._path) or {}
        return self._document
