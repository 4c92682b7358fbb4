# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A second, independent checker of proofs, written from FORMAT.md alone: standard library and ``cryptography`` only.

    python -m tests.vectors.second FILE --trust DIR --at 2026-03-01T00:00:00Z

It imports nothing of edgeprov on purpose, so that a mistake in one of the two shows as a difference. It prints one
JSON object, {"verified": true} or {"verified": false, "step": N, "why": ...}, and exits with 0 or 10. Without zstd in
the standard library it compares the evidence layer by digest, and its content only where the frame is stored.
"""

from tests.vectors.second.base import Bad, Policy
from tests.vectors.second.items import check_item
from tests.vectors.second.steps import check

__all__ = ["Bad", "Policy", "check", "check_item"]
