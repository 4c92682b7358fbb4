# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What every device flow needs: configuration, state, models, trust policy, TPM, clock and boot id.

Everything is opened when first asked for, so that a flow pays only for what it uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeprov._dataclass import dataclass
from edgeprov.config import Config, load_config
from edgeprov.errors import ConfigError, StoreError
from edgeprov.formats.mediatypes import DEVICE_URN_PREFIX
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import exists, load_bytes, make_dirs, translate

if TYPE_CHECKING:
    from edgeprov.store.state import State
    from edgeprov.tpm.boot_tpm import BootTpm
    from edgeprov.tpm.device import Tpm
    from edgeprov.tpm.tcti import TpmSettings
    from edgeprov.verify.policy import TrustPolicy

UPLOAD_LOCK: Final = "upload"
"""Held by whoever takes artifacts out of the outbox, and until they have left the layout too."""

_KERNEL_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_CLOCK_BEFORE_2000: Final = 946_684_800  # a clock that says so was never set


@dataclass(frozen=True, slots=True)
class Context:
    """One device's view of the world. Cheap to make; holds no open file."""

    config: Config

    @property
    def serial(self) -> str:
        """The device id.

        Raises:
            ConfigError: Not configured.
        """
        if not self.config.device.serial:
            raise ConfigError("device.serial is not set", advice="Set it in /etc/edgeprov/edgeprov.toml.d/.")
        return self.config.device.serial

    @property
    def urn(self) -> str:
        """The device's URN, as kits and certificates name it."""
        return DEVICE_URN_PREFIX + self.serial

    @property
    def enrollment(self) -> bytes:
        """The id (32 bytes) of the enrollment that this device records under.

        Raises:
            IdentityError: No enrollment request was made yet.
        """
        from edgeprov.device.identity import load_enrollment

        return load_enrollment(self.state(write=False)).id

    @property
    def bin(self) -> str | None:
        """The part of a repository name that the enroller chose for this device; None without one."""
        from edgeprov.device.identity import load_bin

        return load_bin(self.state(write=False))

    @property
    def state_dir(self) -> Path:
        """Where this device keeps what must survive a power cut."""
        return self.config.device.state_dir

    @property
    def tpm_dir(self) -> Path:
        """Public parts of the identity, and the simulator where there is no TPM."""
        return self.state_dir / "tpm"

    @property
    def simulated(self) -> bool:
        """Whether this device's TPM has been a simulator."""
        return exists(self.tpm_dir / "simulator.boot")

    @property
    def run_dir(self) -> Path:
        """Where this boot's stamp and event log are; a tmpfs on a real device."""
        return self.config.device.run_dir

    def make_run_dir(self) -> Path:
        """The run folder, made when missing.

        Raises:
            StoreError: It cannot be made.
        """
        make_dirs(self.run_dir, 0o755)
        return self.run_dir

    def state(self, *, write: bool = True) -> State:
        """Open the state folder; the first writer creates it.

        Raises:
            StateNewer: Written by a newer version.
            StoreError: Missing, or not writable.
        """
        from edgeprov.store.state import State  # an application beside the device service has none

        return State.open(self.state_dir, write=write, run_dir=self.run_dir)

    def policy(self) -> TrustPolicy:
        """Read trust.d; an empty or missing folder gives a policy that denies everything.

        Raises:
            ConfigError: A file cannot be read or is malformed.
        """
        from edgeprov.verify.policy import parse_policy

        return parse_policy(self.trust_files())

    def trust_files(self) -> dict[str, bytes]:
        """The files of trust.d by name.

        Raises:
            ConfigError: A file cannot be read.
        """
        folder = self.config.trust.dir
        try:
            paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
            return {path.name: load_bytes(path, max_bytes=LIMITS.trust_file_bytes, what=str(path)) for path in paths}
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from error
        except StoreError as error:
            raise ConfigError(error.message) from error

    @contextmanager
    def tpm(self) -> Iterator[Tpm]:
        """Open the TPM for the body.

        Raises:
            TpmUnavailable: There is none, or it does not answer.
        """
        from edgeprov.tpm.device import open_tpm

        make_dirs(self.tpm_dir, 0o700)
        with open_tpm(self._tpm_settings()) as tpm:
            yield tpm

    @contextmanager
    def boot_tpm(self) -> Iterator[BootTpm]:
        """Open the TPM for the body, for what needs no key: PCRs and floors. Needs neither library nor state folder.

        Raises:
            TpmUnavailable: There is none, or it does not answer.
        """
        from edgeprov.tpm.boot_tpm import BootTpm

        with BootTpm(self._tpm_settings()) as tpm:
            yield tpm

    def _tpm_settings(self) -> TpmSettings:
        from edgeprov.tpm.tcti import TpmSettings

        settings = self.config.tpm
        return TpmSettings(
            tcti=settings.tcti,
            state_dir=self.tpm_dir,
            pcr=settings.pcr,
            quote_pcrs=settings.quote_pcrs,
            slots=self.config.device.slots,
            lock_path=self.make_run_dir() / "tpm.lock",
            allow_simulator=settings.allow_simulator,
            bus_protection=settings.bus_protection,
        )

    def boot_id(self) -> str:
        """The id of this boot: the kernel's, or that of the simulated boot where the TPM is simulated.

        Raises:
            StoreError: The kernel does not tell.
        """
        if self.simulated:
            from edgeprov.tpm.simulator import boot_id

            # None: it is off, and no boot is going on. The kernel's id fits no stamp of a simulated boot.
            if (simulated := boot_id(self.tpm_dir)) is not None:
                return simulated
        try:
            return _KERNEL_BOOT_ID.read_bytes().decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise StoreError(f"{_KERNEL_BOOT_ID}: cannot be read; is /proc mounted?") from error

    def now(self) -> datetime:
        """The wall clock, but never before the floor that the image's maker set: for checking certificates.

        A device without a battery-backed clock starts in 1970, where every certificate is "not yet valid".
        """
        return max(datetime.now(UTC), self.config.trust.time_floor)

    def clock_doubts(self) -> tuple[str, ...]:
        """Why the wall clock cannot be right; empty when nothing speaks against it."""
        now = time.time()
        if now < _CLOCK_BEFORE_2000:
            return (f"the clock says {datetime.fromtimestamp(now, UTC):%Y-%m-%d}: it was never set",)
        if datetime.now(UTC) < self.config.trust.time_floor:
            return (f"the clock says {datetime.now(UTC):%Y-%m-%d}, before {self.config.trust.time_floor:%Y-%m-%d}",)
        return ()


def load_context() -> Context:
    """The context of the configuration that applies to this process.

    Raises:
        ConfigError: A configuration file is wrong.
    """
    return Context(load_config())


def free_bytes(path: Path) -> int:
    """Bytes that this process may still write on the file system of ``path``.

    Raises:
        StoreError: The file system does not tell.
    """
    try:
        info = os.statvfs(path)
    except OSError as error:
        raise translate(error, f"free space of {path}") from error
    return info.f_bavail * info.f_frsize
