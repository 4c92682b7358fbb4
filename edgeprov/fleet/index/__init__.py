# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The local index of a fleet: its tables, questions to it, and lineage."""
