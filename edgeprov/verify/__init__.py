# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Decisions on parsed values: who signed, what the TPM saw, whether the series is whole. Pure."""
