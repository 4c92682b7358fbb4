# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A world of devices, carriers, registries and desks without cryptography, which attacks the conclusion."""
