# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verification: kits, the artifacts that they depend on, attested heads, proofs."""
