# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The attester, in flow order: install, boot, runtime, recorder, seal, upload."""
