# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The layer's Python. ``settings`` runs inside BitBake, ``bake`` in the build's native Python."""

# BitBake imports these, and puts the functions that recipes call into task signatures.
BBIMPORTS = ["settings"]
