# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The command; see the package."""

import sys

from tests.vectors.second.steps import main

raise SystemExit(main(sys.argv[1:]))
