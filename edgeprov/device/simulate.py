# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Reboots of a simulated device: its TPM is reset, and what belongs to a boot goes with it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from edgeprov.errors import StoreError, UsageError
from edgeprov.tpm import simulator

if TYPE_CHECKING:
    from edgeprov.device.context import Context


def reboot(context: Context, *, power_cut: bool = False) -> str:
    """Reset the simulated TPM and empty the run folder, as a reboot does.

    Args:
        context: The device.
        power_cut: Kill the TPM as a pulled plug would.

    Returns:
        The new boot id.

    Raises:
        UsageError: This device's TPM is not simulated.
        TpmUnavailable: The simulator does not start.
        StoreError: The run folder cannot be emptied.
    """
    _verify_simulated(context)
    try:
        for path in context.run_dir.iterdir() if context.run_dir.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise StoreError(f"{context.run_dir}: cannot be emptied: {error.strerror}") from error
    return simulator.reboot(context.tpm_dir, power_cut=power_cut)


def stop(context: Context) -> None:
    """End the simulated TPM; its persistent state stays.

    Raises:
        UsageError: This device's TPM is not simulated.
        TpmUnavailable: It does not end.
    """
    _verify_simulated(context)
    simulator.stop(context.tpm_dir)


def _verify_simulated(context: Context) -> None:
    if not context.simulated:
        raise UsageError("this device's TPM is not simulated", advice="Reboot the device itself.")
