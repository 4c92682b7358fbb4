# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The trust folder, the signers at the desk, and the export of trust for other tools."""
