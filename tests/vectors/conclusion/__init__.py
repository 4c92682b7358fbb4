# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Histories with the word that they get: vectors of FORMAT.md part "Conclusion"."""
