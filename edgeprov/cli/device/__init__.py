# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""One module per verb of `edgeprov`: `arguments(parser)` and `run(args, out)`; flows are imported when called."""
