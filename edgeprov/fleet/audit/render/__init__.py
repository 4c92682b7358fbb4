# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of an audit report: text, page, commands to repeat it."""
