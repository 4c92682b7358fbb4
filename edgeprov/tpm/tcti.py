# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The setting tpm.tcti: which TPM a device uses, and the transport to it."""

from __future__ import annotations

from pathlib import Path

from edgeprov._dataclass import dataclass
from edgeprov.errors import ConfigError, TpmUnavailable
from edgeprov.tpm.identity_file import load_identity
from edgeprov.tpm.transport import RESOURCE_MANAGER, DeviceTransport, SocketTransport, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmSettings:
    """Which TPM, and what this device keeps about it.

    Attributes:
        tcti: ``auto`` (the kernel's resource manager, else a simulator), ``device:PATH``,
            ``swtpm:path=SOCKET``, ``simulator:DIR`` (background swtpm of a simulated device), or
            ``private:DIR`` (a swtpm of this process alone).
        state_dir: Folder of the identity; also the simulator's with ``auto``.
        pcr: The model PCR.
        quote_pcrs: Further PCRs that each quote covers.
        slots: Names of the device's slots, for which the TPM holds floors.
        lock_path: Lock file that all edgeprov processes of this device share.
        allow_simulator: False makes ``auto`` fail on a machine without a TPM.
        bus_protection: Encrypt enrollment secrets between the TPM and the processor.
    """

    tcti: str = "auto"
    state_dir: Path
    pcr: int = 14
    quote_pcrs: tuple[int, ...] = ()
    slots: tuple[str, ...] = ()
    lock_path: Path
    allow_simulator: bool = True
    bus_protection: bool = False


def open_transport(settings: TpmSettings) -> tuple[Transport, bool, bool]:
    """Open what ``tcti`` names.

    Returns:
        The transport, whether it is behind a resource manager, and whether it is a simulator of ours.

    Raises:
        TpmUnavailable: There is none.
        ConfigError: ``tcti`` is not one of the known forms.
    """
    form, _, rest = settings.tcti.partition(":")
    if settings.tcti == "auto":
        return _open_auto(settings)
    if form == "device" and rest:
        return DeviceTransport(Path(rest)), Path(rest).name.startswith("tpmrm"), False
    if form == "swtpm" and rest.startswith("path="):
        return SocketTransport(Path(rest.removeprefix("path="))), False, True
    if form in ("simulator", "private") and rest:
        from edgeprov.tpm import simulator  # subprocess and uuid: nothing for the boot check of a real device

        return (simulator.start if form == "simulator" else simulator.PrivateSimulator)(Path(rest)), False, True
    raise ConfigError(
        f"tpm.tcti: {settings.tcti!r} is not known",
        advice="Use auto, device:/dev/tpmrm0, swtpm:path=SOCKET or simulator:DIR.",
    )


def _open_auto(settings: TpmSettings) -> tuple[Transport, bool, bool]:
    if RESOURCE_MANAGER.exists():
        return DeviceTransport(), True, False
    stored = load_identity(settings.state_dir)
    if stored is not None and not stored.simulated:
        raise TpmUnavailable(
            f"{RESOURCE_MANAGER} is gone, and this device was enrolled with it",
            advice="Check the firmware set-up and the kernel log; a simulator never replaces an enrolled TPM.",
        )
    if not settings.allow_simulator:
        raise TpmUnavailable(f"this machine has no TPM at {RESOURCE_MANAGER}, and the simulator is not allowed")
    from edgeprov.tpm import simulator

    return simulator.start(settings.state_dir), False, True


def simulator_folder(settings: TpmSettings) -> Path | None:
    """Folder of the simulator that ``tcti`` may start; None where it names another TPM."""
    form, _, rest = settings.tcti.partition(":")
    if form == "auto":
        return settings.state_dir
    return Path(rest) if form == "simulator" else None
