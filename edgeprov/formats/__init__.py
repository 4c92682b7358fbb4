# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes to frozen values and back; no file, socket, clock or randomness. FORMAT.md is the specification."""
