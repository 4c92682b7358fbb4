# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of CONCLUSION.md: written from the page alone, over the plain JSON form.

It shares no module with the product. It works with sets of integers for each enrollment and slot where the product
works with ranges, so that one mistake is not made twice.
"""

from __future__ import annotations

from tests.secondjudge.answer import conclude

__all__ = ["conclude"]
