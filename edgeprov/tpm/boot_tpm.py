# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM as a boot check sees it: the model PCR and the floors, without a key and without the TPM library."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from edgeprov.tpm.client import Client
from edgeprov.tpm.floor import FloorReader
from edgeprov.tpm.identity_file import load_identity
from edgeprov.tpm.tcti import TpmSettings, open_transport


class BootTpm:
    """An open TPM. One thread at a time; use it as a context manager."""

    def __init__(self, settings: TpmSettings) -> None:
        """Open the TPM that ``settings`` name. Nothing else is ever probed.

        Raises:
            TpmUnavailable: There is none.
            ConfigError: ``tcti`` is not one of the known forms.
        """
        link, shared, _ = open_transport(settings)
        self._client = Client(link, lock_path=settings.lock_path, shared=shared)
        self._pcr = settings.pcr
        self._state_dir = settings.state_dir
        self._floors = FloorReader(self._client, settings.state_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def group(self) -> AbstractContextManager[None]:
        """Keep other edgeprov processes off the TPM for the body; may be nested.

        Raises:
            TpmBusy: Another process keeps the lock.
        """
        return self._client.group()

    def read_pcr(self) -> bytes:
        """The model PCR, 32 bytes.

        Raises:
            TpmError: The TPM refused.
        """
        return self._client.read_pcr(self._pcr)

    def pcr_event(self, data: bytes) -> None:
        """Measure ``data`` into the model PCR.

        Raises:
            TpmError: The TPM refused.
        """
        self._client.pcr_event(self._pcr, data)

    def close_platform(self) -> None:
        """Close the platform hierarchy for this boot, on a device whose TPM was protected at enrollment.

        Raises:
            TpmError: The TPM refused.
        """
        stored = load_identity(self._state_dir)
        if stored is not None and stored.protected:
            self._client.close_platform()

    def floor(self, slot: str) -> int:
        """The lowest securityVersion that may run in a slot; 0 when none was ever set.

        Raises:
            TpmError: The TPM refused.
        """
        return self._floors.read(slot)
