# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The local disk: durable files, OCI layout folders, the record spool, state."""
