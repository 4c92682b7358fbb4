# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets: rows collected from verified kits into Parquet, and the check of such a set."""
