# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs of `edgeprov-fleet`, one module each."""
