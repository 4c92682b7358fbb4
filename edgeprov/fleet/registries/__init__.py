# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Access to the registries of a fleet: sources, kits in them, what refers to them."""
