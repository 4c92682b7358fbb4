# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The program `edgeprov` as an image starts it. Run as a script: PACKAGES EDGEPROV WORD ..., every import counts."""

import sys

sys.path += sys.argv[1:3]  # behind the standard library, as a .pth file places them
del sys.argv[1:3]
from edgeprov.cli.device_main import main  # noqa: E402

sys.exit(main())
