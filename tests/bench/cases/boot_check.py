# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A floor of `edgeprov boot-check`: the TPM answered from memory. Run as a script: PACKAGES EDGEPROV, every import counts."""

import sys
from contextlib import contextmanager
from hashlib import sha256


class NoTpm:
    pcr = bytes(32)

    @contextmanager
    def group(self):
        yield

    def close_platform(self):
        pass

    def floor(self, _slot):
        return 0

    def read_pcr(self):
        return self.pcr

    def pcr_event(self, data):
        self.pcr = sha256(self.pcr + sha256(data).digest()).digest()


@contextmanager
def boot_tpm(_settings):
    yield NoTpm()


# In the place of the TPM client. Of edgeprov nothing is imported before main does.
sys.modules["edgeprov.tpm.boot_tpm"] = stand_in = type(sys)("edgeprov.tpm.boot_tpm")
stand_in.BootTpm = boot_tpm

sys.path += sys.argv[1:]  # behind the standard library, as a .pth file places them
del sys.argv[1:]
from edgeprov.cli.device_main import main  # noqa: E402

sys.argv.append("boot-check")
sys.exit(main())
