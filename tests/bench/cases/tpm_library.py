# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Loads the TPM library and ends. Run as a script: PACKAGES."""

import os
import sys

sys.path.append(sys.argv[1])
os.environ["TSS2_LOG"] = "all+none"
import tpm2_pytss  # noqa: F401

os._exit(0)
